"""Serves a web application of this package on a socket, until Ctrl-C."""

import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

from alignet_ray.errors import UserError

HOST = "127.0.0.1"
"""This machine alone."""

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: people look at pictures for longer than the server's five seconds."""

WAITING = 128
"""Connections that wait while the server is busy."""

LAST_ANSWERS_SECONDS = 3
"""How long Ctrl-C waits for requests that are under way: an upload that stands still would hold the server for ever."""

Application = Callable[..., Awaitable[None]]
"""An ASGI application."""


def require_extra() -> None:
    """Refuse to go on without the extra that serves pages.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise UserError("the page needs its extra: pip install 'alignet-ray[demo]'")


def bind(port: int, host: str = HOST) -> socket.socket:
    """A socket that will be listened on.

    Raises:
        UserError: the port is taken, or the host is none of this machine.
    """
    listener = socket.socket()
    # Without this option a port stays taken for a minute after a server was stopped.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"port {port} cannot be used ({reason}): choose another with --port") from error
    return listener


def forgiving(application: Application) -> Application:
    """The application, for which a browser that leaves in the middle of an upload is no error of the server."""
    from starlette.requests import ClientDisconnect

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        # Nobody is left to answer; a traceback on the terminal would look like a fault of the page.
        with suppress(ClientDisconnect):
            await application(scope, receive, send)

    return answer


def serve(application: Application, listener: socket.socket) -> None:
    """Answer requests until Ctrl-C. Nothing is logged about them: neither addresses of people nor what they ask for."""
    import uvicorn

    # uvicorn would print its own start and stop around the line with the address.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # A shell starts background jobs with Ctrl-C ignored; uvicorn would take it all the same.
            in_background = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            with super().capture_signals():
                if in_background:
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
                yield

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Requests that are cut off now are no errors, and uvicorn would print a traceback of each.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    config = uvicorn.Config(
        forgiving(application),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_ANSWERS_SECONDS,
    )
    Server(config).run(sockets=[listener])
