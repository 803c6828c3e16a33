"""A Hugging Face hub in a thread, on loopback: the few calls that fetching and uploading a small repository needs."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "c" * 40


class Hub:
    """What the server holds.

    Attributes:
        repositories: OWNER/NAME -> file name -> content.
        private: repositories that were made private.
        tokens: all tokens that it saw.
        url: its address.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.tokens: set[str] = set()
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    """Answers for `hub`, which a subclass names."""

    hub: Hub

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, content: object) -> None:
        self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def path_parts(self) -> list[str]:
        if token := self.headers.get("Authorization"):
            self.hub.tokens.add(token.removeprefix("Bearer "))
        return unquote(urlparse(self.path).path).strip("/").split("/")

    def do_GET(self) -> None:
        parts = self.path_parts()
        if parts[:2] == ["api", "models"]:
            self.describe("/".join(parts[2:4]), "tree" in parts)
            return
        content = self.hub.repositories.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))
        if content is None:
            self.answer(404, X_Error_Code="EntryNotFound")
        else:
            self.answer(200, content, ETag=f'"{_checksum(content)}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def describe(self, name: str, as_tree: bool) -> None:
        files = self.hub.repositories.get(name)
        if files is None:
            self.answer(404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        elif as_tree:
            entries = []
            for path, content in files.items():
                entries.append({"type": "file", "path": path, "size": len(content), "oid": _checksum(content)})
            self.answer_json(entries)
        else:
            self.answer_json({"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]})

    def do_POST(self) -> None:
        parts = self.path_parts()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if parts == ["api", "repos", "create"]:
            self.create(json.loads(body))
        elif "preupload" in parts:
            paths = [file["path"] for file in json.loads(body)["files"]]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer_json({"files": [{"path": path, **mode} for path in paths]})
        elif "commit" in parts:
            self.commit("/".join(parts[2:4]), body)
        else:
            self.answer(200, b"{}")

    def create(self, wanted: dict[str, str]) -> None:
        name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
        self.hub.repositories.setdefault(name, {})
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.add(name)
        self.answer_json({"url": f"{self.hub.url}/{name}"})

    def commit(self, name: str, lines: bytes) -> None:
        for line in lines.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.hub.repositories[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        self.answer_json({"commitUrl": f"{self.hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})


def _checksum(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """The server, until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
