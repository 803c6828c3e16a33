"""Web server of the demo: the page and its requests, over HTTP on 127.0.0.1 only."""

import secrets
import threading
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignet_ray.demo import stored, web
from alignet_ray.demo.compare import FEATURES, MODELS, ModelComparison, ModelView, stacked
from alignet_ray.demo.encoded import KnownPictures
from alignet_ray.demo.pictures import MIN_PICTURES, ImageFolder, Pictures, list_folder
from alignet_ray.demo.web import HOST
from alignet_ray.errors import UserError, require_named
from alignet_ray.screen import Screen
from alignet_ray.store import JsonObject

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MAX_UPLOAD = 64 * 2**20
"""Largest upload in bytes."""

NEIGHBOURS = 6
"""Nearest images that are shown for each image."""

CONTENT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
"""The page may load nothing but its own images and scripts."""

FORGOTTEN = "this picture is no longer remembered: drop it again"


NOT_YET = "the folder's pictures are still being embedded"

SPACES = ("head", "features")
"""What an aligned student with a head can answer by: the head, or the features under it."""


def serve(
    model: str,
    *,
    base: str | None,
    images: str | None,
    most: int,
    port: int,
    cache: Path | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Load both models and serve the page until Ctrl-C; a folder's pictures are embedded meanwhile.

    Args:
        model: a student's folder, or models:/NAME@ALIAS.
        base: the network before alignment; None: the one that the student started from.
        images: folder whose pictures are searched for neighbours.
        most: largest number of these pictures.
        port: port of the page; 0: any free one.
        cache: folder in which the pictures' vectors are kept for next time; None: they are not.
        tracking_uri: MLflow server of a `models:/` name.

    Raises:
        UserError: a model or folder that cannot be used, a port that is taken, or the extra is not installed.
    """
    web.require_extra()
    if images is not None:
        require_named(images, "the pictures")
    if most < MIN_PICTURES:
        raise UserError(f"--most {most}: the page compares three pictures, so give {MIN_PICTURES} or more")

    # The port first: loading models takes a while, and a port that is taken should be told at once.
    listener = web.bind(port)
    screen = Screen()
    comparison = ModelComparison.open(model, base, tracking_uri)
    if images is None:
        pictures = Pictures(comparison)
    else:
        listing = list_folder(images, most)
        known = KnownPictures.of(comparison, cache)
        pictures = Pictures(comparison, listing, known, stored.find(comparison, images, listing.paths))

    # Whoever is quicker than the server's start waits in the queue, and is not refused.
    listener.listen(web.WAITING)
    screen.line(f"http://{HOST}:{listener.getsockname()[1]}   (Ctrl-C stops it)")
    if pictures.listing is not None:
        # A daemon: Ctrl-C does not wait until all pictures are embedded.
        threading.Thread(target=pictures.embed_folder, args=(screen,), daemon=True).start()
    try:
        web.serve(application(pictures), listener)
    except KeyboardInterrupt:
        screen.line()


def application(pictures: Pictures) -> "Starlette":
    """The web application.

        GET  /                               the page
        GET  /about                          names of the models and of the folder, and how far it is embedded
        POST /pictures                       upload of an image's bytes; the answer is its name
        GET  /pictures/NAME                  a preview
        GET  /triplet?kind=random|disputed   three names
        GET  /verdict?a=NAME&b=NAME&c=NAME&space=head|features
                                             both models' odd one out of three images, and their neighbours

    An error is answered as {"error": text}. Pages of other sites cannot use it: browsers do not let them read the
    answers or send this content type unasked, and requests to another host name are refused.
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

    # Another site's name that leads to this address (DNS rebinding) would make it one site for the browser.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


class _Page:
    """Handlers of the requests; slow work runs in a thread."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def html(self, request: "Request") -> "Response":
        from starlette.responses import HTMLResponse

        # Read anew for each request, so that a change to the page shows at a reload.
        text = files("alignet_ray.demo").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(
            text, headers={"Content-Security-Policy": CONTENT_POLICY, "X-Content-Type-Options": "nosniff"}
        )

    def about(self, request: "Request") -> "Response":
        pictures = self.pictures
        comparison = pictures.comparison
        # Without a triplet head the models have their features alone.
        spaces = [space for space in SPACES if space == "features" or comparison.has_head]
        answer: JsonObject = {
            "labels": comparison.labels,
            "size": comparison.student.backbone.size,
            "temperature": comparison.temperature,
            "spaces": spaces,
            "folder": None,
        }

        # The page asks again and again while the folder is being embedded.
        if pictures.listing is not None:
            answer["folder"] = {
                "uri": pictures.listing.uri,
                "total": len(pictures.listing.paths),
                "embedded": pictures.embedded,
                "ready": pictures.folder is not None,
                "problem": pictures.why_unusable,
            }
        return _json(answer)

    async def add(self, request: "Request") -> "Response":
        from starlette.concurrency import run_in_threadpool

        # Forms of other sites cannot send this type, see `application`.
        if request.headers.get("content-type") != "application/octet-stream":
            return _error("send the picture's bytes as application/octet-stream", 415)

        # The declared length cannot be trusted, so the bytes are counted as they arrive.
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > MAX_UPLOAD:
                return _error(f"larger than {MAX_UPLOAD >> 20} MB", 413)

        try:
            name = await run_in_threadpool(self.pictures.add, bytes(data))
        except ValueError as error:
            return _error(str(error), 422)
        return _json({"name": name})

    def preview(self, request: "Request") -> "Response":
        from starlette.responses import Response

        try:
            data = self.pictures.jpeg(request.path_params["name"])
        except KeyError:
            return _error(FORGOTTEN, 404)
        except (ValueError, OSError) as error:
            return _error(str(error), 404)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})

    def triplet(self, request: "Request") -> "Response":
        kind = request.query_params.get("kind", "random")
        try:
            names = self.pictures.triplet(kind, secrets.randbelow(2**31))
        except KeyError:
            if self.pictures.listing is None:
                return _error("there is no folder: start the demo with --images DIR", 404)
            return _error(self.pictures.why_unusable or NOT_YET, 404)
        if not names:
            return _error("the two models agree on every triplet that was drawn", 404)
        return _json({"names": names})

    def verdict(self, request: "Request") -> "Response":
        names = [request.query_params.get(slot, "") for slot in "abc"]
        space = request.query_params.get("space", SPACES[0])
        if space not in SPACES:
            return _error(f"space {space!r}: one of {', '.join(SPACES)}", 400)
        try:
            verdicts = verdict(self.pictures, names, space)
        except KeyError:
            return _error(FORGOTTEN, 404)

        answers = {}
        for model, model_verdict in verdicts.items():
            answers[model] = asdict(model_verdict)
        return _json(answers)


@dataclass(frozen=True)
class Neighbour:
    """A picture of the folder near to a query."""

    name: str
    label: str


@dataclass(frozen=True)
class Verdict:
    """What one model says of three images.

    Attributes:
        odd: probability of each that it is the odd one out.
        neighbours: the folder's nearest images to each, by the same similarity; empty without a folder.
    """

    odd: list[float]
    neighbours: list[list[Neighbour]]


def verdict(pictures: Pictures, names: list[str], space: str = SPACES[0]) -> dict[str, Verdict]:
    """Both models' odd-one-out probabilities of three images, and the nearest images of the folder to each.

    Args:
        pictures: where the images are.
        names: of three images.
        space: what the student answers by; a student without a head answers by its features.

    Raises:
        KeyError: one of the images is not known.
    """
    # All three are looked up before any work, so that a forgotten one costs nothing.
    three = [pictures.views(name) for name in names]
    verdicts = {}
    for model in MODELS:
        view = model
        if model == "aligned" and space == "features" and pictures.comparison.has_head:
            view = FEATURES
        queries = [views[view] for views in three]
        neighbours = []
        if pictures.folder is not None:
            neighbours = [_neighbours(pictures.folder, view, query) for query in queries]

        # A table of one triplet: the three images stand in the order of their names.
        odd = stacked(queries).odd_probabilities(np.array([[0, 1, 2]]))[0]
        verdicts[model] = Verdict(odd.tolist(), neighbours)
    return verdicts


def _neighbours(folder: ImageFolder, view: str, query: ModelView) -> list[Neighbour]:
    """The folder's images nearest to an image, as the page shows them."""
    rows = folder.views[view].nearest(query, NEIGHBOURS)
    return [Neighbour(f"f{row}", folder.labels[row]) for row in rows.tolist()]


def _json(value: Any) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse(value)


def _error(text: str, status: int) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse({"error": text}, status)
