"""`alignet-ray demo`: the page and what it asks for, by HTTP on 127.0.0.1 alone."""

import logging
import secrets
import socket
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from alignet_ray.demo.compare import NAMES, ModelComparison, join
from alignet_ray.demo.pictures import Pictures, see_folder
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
LARGEST = 64 * 2**20  # bytes of a dropped file
NEAR = 6  # neighbours that are shown
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
GONE = "this picture is no longer remembered: drop it again"


def serve(
    model: str, *, base: str | None, images: str | None, most: int, port: int, tracking_uri: str | None = None
) -> None:
    """Load both models, embed the folder's pictures, and serve the page until Ctrl-C.

    Args:
        model: a student's folder, or models:/NAME@ALIAS.
        base: the network before alignment; None: the one that the student started from.
        images: folder whose pictures are searched for neighbours.
        most: largest number of these pictures.
        port: port of the page; 0: any free one.
        tracking_uri: MLflow server of a `models:/` name.

    Raises:
        UserError: a model or folder that cannot be used, a port that is taken, or the extra is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise UserError("the page needs its extra: pip install 'alignet-ray[demo]'") from error
    listener = _listen(port)
    screen = Screen()
    judges = ModelComparison.open(model, base, tracking_uri)
    folder = see_folder(judges, images, most, screen) if images else None
    screen.line(f"http://{HOST}:{listener.getsockname()[1]}   (Ctrl-C stops it)")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server = uvicorn.Server(uvicorn.Config(application(Pictures(judges, folder)), log_level="warning"))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        screen.line()


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"port {port} cannot be used ({reason}): choose another with --port") from error
    return listener


def application(pictures: Pictures) -> "Starlette":
    """The web application.

    GET / is the page; GET /about says what it shows; POST /pictures takes a picture's bytes and gives its name;
    GET /pictures/NAME is a preview; GET /triplet?kind=random|disputed gives three names;
    GET /verdict?a=NAME&b=NAME&c=NAME judges three. A mistake is answered as {"error": text}. Foreign pages cannot use
    it: browsers keep answers from them, send this content type for them only if allowed, and other hosts' names are
    refused.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    page = _Page(pictures)
    routes = [
        Route("/", page.html),
        Route("/about", page.about),
        Route("/pictures", page.add, methods=["POST"]),
        Route("/pictures/{name}", page.preview),
        Route("/triplet", page.triplet),
        Route("/verdict", page.verdict),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


class _Page:
    """The answers; whatever takes time runs in a thread."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def html(self, request: "Request") -> "Response":
        from starlette.responses import HTMLResponse

        text = files("alignet_ray.demo").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"})

    def about(self, request: "Request") -> "Response":
        folder = self.pictures.folder
        judges = self.pictures.judges
        return _json(
            {
                "labels": judges.labels,
                "size": judges.student.backbone.size,
                "temperature": judges.temperature,
                "folder": folder and folder.uri,
                "pictures": len(folder.paths) if folder else 0,
            }
        )

    async def add(self, request: "Request") -> "Response":
        from starlette.concurrency import run_in_threadpool

        if request.headers.get("content-type") != "application/octet-stream":
            return _mistake("send the picture's bytes as application/octet-stream", 415)
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > LARGEST:
                return _mistake(f"larger than {LARGEST >> 20} MB", 413)
        try:
            return _json({"name": await run_in_threadpool(self.pictures.add, bytes(data))})
        except ValueError as error:
            return _mistake(str(error), 422)

    def preview(self, request: "Request") -> "Response":
        from starlette.responses import Response

        try:
            data = self.pictures.jpeg(request.path_params["name"])
        except KeyError:
            return _mistake(GONE, 404)
        except (ValueError, OSError) as error:
            return _mistake(str(error), 404)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})

    def triplet(self, request: "Request") -> "Response":
        try:
            names = self.pictures.triplet(request.query_params.get("kind", "random"), secrets.randbelow(2**31))
        except KeyError:
            return _mistake("there is no folder: start the demo with --images DIR", 404)
        return _json({"names": names}) if names else _mistake("the two agree on every triplet that was tried", 404)

    def verdict(self, request: "Request") -> "Response":
        names = [request.query_params.get(slot, "") for slot in "abc"]
        try:
            return _json(verdict(self.pictures, names))
        except KeyError:
            return _mistake(GONE, 404)


def verdict(pictures: Pictures, names: list[str]) -> dict[str, Any]:
    """What both models say about three pictures: odd-one-out probabilities, cosines of the pairs, and neighbours.

    Raises:
        KeyError: one of the pictures is not known.
    """
    three = [pictures.sights(name) for name in names]
    together = join(three)
    answer: dict[str, Any] = {}
    for name in NAMES:
        sight = together[name]
        near = [_near(pictures, name, i, one[name]) for i, one in enumerate(three)] if pictures.folder else []
        answer[name] = {"odd": sight.odd(np.array([[0, 1, 2]]))[0].tolist(), "neighbours": near}
    return answer


def _near(pictures: Pictures, model: str, position: int, one: Any) -> list[dict[str, Any]]:
    folder = pictures.folder
    assert folder is not None
    rows, cosines = folder.sights[model].nearest(one, NEAR)
    return [
        {"name": f"f{row}", "label": folder.labels[row], "cosine": round(float(cosine), 3)}
        for row, cosine in zip(rows.tolist(), cosines, strict=True)
    ]


def _json(value: Any) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse(value)


def _mistake(text: str, status: int) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse({"error": text}, status)
