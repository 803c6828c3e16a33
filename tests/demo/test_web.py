"""Sockets and requirements of the pages."""

import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from alignet_ray.demo import web
from alignet_ray.errors import UserError


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server((web.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} cannot be used \(.*\): choose another with --port"):
            web.bind(port)


@pytest.mark.parametrize(("port", "host"), [(70_000, web.HOST), (0, "203.0.113.1")])
def test_what_cannot_be_listened_on_is_one_line(port: int, host: str) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        web.bind(port, host)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    web.require_extra()
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"alignet-ray\[demo\]"):
        web.require_extra()


SERVER = textwrap.dedent(
    """
    import asyncio, sys
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from alignet_ray.demo import web

    async def upload(request):
        print("began", flush=True)
        size = len(await request.body())
        return PlainTextResponse(str(size))

    listener = web.bind(0)
    listener.listen(web.WAITING)
    print(listener.getsockname()[1], flush=True)
    web.serve(Starlette(routes=[Route("/", upload, methods=["POST"])]), listener)
    """
)

HALF_AN_UPLOAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf"


@pytest.mark.parametrize("leaves", [True, False])
def test_half_an_upload_is_no_error_and_does_not_hold_the_server(leaves: bool) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert server.stdout is not None
    place = (web.HOST, int(server.stdout.readline()))
    browser = socket.create_connection(place)
    browser.sendall(HALF_AN_UPLOAD)
    assert server.stdout.readline() == "began\n"
    if leaves:
        browser.close()
        # A whole upload behind it: once it is answered, the server has seen that the first browser left.
        with socket.create_connection(place) as second:
            second.sendall(HALF_AN_UPLOAD.replace(b"1000", b"4"))
            assert second.recv(100).startswith(b"HTTP/1.1 200")

    server.send_signal(signal.SIGTERM)
    _, errors = server.communicate(timeout=60)
    browser.close()
    assert "Traceback" not in errors
