"""A web server in a thread, on loopback, that has one file and behaves as badly as it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What the server has, and how it behaves.

    Attributes:
        content: the file.
        etag: its ETag; empty: the server sends none.
        modified: its Last-Modified; empty: the server sends none.
        kind: its Content-Type.
        encoding: its Content-Encoding; empty: the server sends none.
        breaks_after: bytes after which the connection of each of the next requests breaks off.
        statuses: what each of the next requests is answered instead of the file.
        knows_ranges: whether it can send a part of the file.
        knows_if_range: whether it notices that the part is of another version.
        repeats_version: whether it names the version of a part that it sends.
        says_length: whether it says how long the file is.
        moved_to: another address, to which it sends every request.
        asked: the headers Range and If-Range of all requests, None where there was none.
        sent: bytes of the file that it sent, by request.
        url: address of the file.
    """

    content: bytes
    etag: str = '"one"'
    modified: str = ""
    kind: str = "application/octet-stream"
    encoding: str = ""
    breaks_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    knows_ranges: bool = True
    knows_if_range: bool = True
    repeats_version: bool = True
    says_length: bool = True
    moved_to: str = ""
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    """Answers for `files`, which a subclass names."""

    files: FileServer

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        files = self.files
        files.asked.append((self.headers.get("Range"), self.headers.get("If-Range")))
        if files.statuses:
            self.refuse(files.statuses.pop(0))
            return
        if files.moved_to:
            self.send_response(302)
            self.send_header("Location", files.moved_to)
            self.end_headers()
            return

        start = self.first_byte()
        if start > 0 and start >= len(files.content):
            self.refuse(416)
            return
        self.send_file(start)

    def refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def first_byte(self) -> int:
        """Where the answer begins."""
        wanted = self.headers.get("Range")
        if wanted is None or not self.files.knows_ranges:
            return 0
        version = self.headers.get("If-Range")
        if version and self.files.knows_if_range and version not in (self.files.etag, self.files.modified):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def send_file(self, start: int) -> None:
        files = self.files
        body = files.content[start:]
        status = 200
        if start:
            status = 206
        self.send_response(status)
        named = {"ETag": files.etag, "Last-Modified": files.modified, "Content-Encoding": files.encoding}
        for name, value in named.items():
            if value and (files.repeats_version or not start):
                self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(files.content) - 1}/{len(files.content)}")
        if files.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", files.kind)
        self.end_headers()

        if files.breaks_after:
            body = body[: files.breaks_after.pop(0)]
        # Counted before: who asked for it may be done, and look here, before the write returns.
        files.sent.append(len(body))
        self.wfile.write(body)


@contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """The server, until the block ends."""
    files = FileServer(content)
    handler = type("Handler", (_Handler,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    files.url = f"http://127.0.0.1:{server.server_address[1]}/answers.csv"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
