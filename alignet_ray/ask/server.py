"""The web server of a study: the participants' page, their questions and answers, and the researcher's page."""

import hmac
import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from alignet_ray.ask import page_text
from alignet_ray.ask.dealer import Dealer
from alignet_ray.ask.folder import StudyFolder
from alignet_ray.ask.forms import FORMS
from alignet_ray.ask.limits import RateLimit
from alignet_ray.ask.participants import enter
from alignet_ray.ask.progress import overview
from alignet_ray.ask.study_file import NotSaved, Person, Refused, StudyFile
from alignet_ray.store import JsonObject, digest

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from alignet_ray.ask.active import ActiveChoice
    from alignet_ray.ask.outlook import OutlookWorker

LOOPBACK = ("127.0.0.1", "localhost")

MAX_BODY = 8192
"""Bytes of a request's body, at most."""

MAX_RT = 3_600_000
"""Response times above an hour are no response times."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Sent with every response: a page may load nothing but its own files, and no other page may show it."""

ASSETS = {"page.js": "text/javascript", "researcher.js": "text/javascript", "page.css": "text/css"}
"""Files of the pages, and their types."""

NOT_SAVED = "Not saved, try again. (The disk of the study's computer is full or cannot be written.)"

UNKNOWN_SESSION = "this session has ended: open the link of the study again"

Message: TypeAlias = MutableMapping[str, Any]


class BadRequest(Exception):
    """A request that no page of ours sends; the message says what is wrong with it."""


class TooFast(Exception):
    """More requests than a person can make."""


class Service:
    """What the requests of a study need.

    Attributes:
        study: the file of the study.
        folder: where its pictures are.
        dealer: deals the questions.
        token: what opens the researcher's page.
        notes: what the researcher should know; may be changed at any time.
        active: chooses informative questions in the background; None where all are random.
        outlook: says in the background when to stop; None where nothing does.
        form: what the study's questions are like.
    """

    def __init__(self, study: StudyFile, folder: StudyFolder, dealer: Dealer, token: str) -> None:
        self.study = study
        self.folder = folder
        self.dealer = dealer
        self.token = token
        self.notes: list[str] = []
        self.active: ActiveChoice | None = None
        self.outlook: OutlookWorker | None = None
        self.form = FORMS[study.settings.mode]
        self._images = len(study.images())

        # People need seconds for an answer; a token must not be found by trying.
        self._starts = RateLimit(burst=100, per_second=2)
        self._answers = RateLimit(burst=20, per_second=4)
        self._tokens = RateLimit(burst=10, per_second=0.2)

    # Participants

    def start(self, body: JsonObject, session: str, address: str) -> JsonObject:
        """Begin or go on.

        Raises:
            BadRequest, TooFast, Refused, NotSaved: nothing was stored.
        """
        if not self._starts.allows(address):
            raise TooFast("too many people begin at once: try again in a minute")
        parameters = body.get("parameters")
        key = body.get("key", "")
        is_text = isinstance(parameters, dict) and all(isinstance(value, str) for value in parameters.values())
        if not is_text or not isinstance(key, str):
            raise BadRequest("parameters and key are texts")
        person, session = enter(self.study, body["parameters"], key, session)
        return self._state(person) | {"session": session}

    def answer(self, body: JsonObject, session: str, address: str) -> JsonObject:
        """Store an answer, then say what comes next.

        Raises:
            BadRequest, TooFast, Refused, NotSaved: nothing was stored.
        """
        person = self.study.person_of(session)
        if person is None:
            raise PermissionError(UNKNOWN_SESSION)

        # For Python True is 1, and would pass as a position.
        token = body.get("token")
        choice = body.get("choice")
        positions = self.form.positions
        if not isinstance(token, str) or isinstance(choice, bool) or choice not in positions:
            *others, last = map(str, positions)
            raise BadRequest(f"an answer has a token and a choice of {', '.join(others)} or {last}")

        if not self._answers.allows(str(person.person)):
            raise TooFast("too fast: not saved, try again")
        self.study.answer(person.person, token, int(choice), _response_time(body.get("rt")))
        return self._state(person)

    def _state(self, person: Person) -> JsonObject:
        settings = self.study.settings
        waiting = self.dealer.ahead(person.person)
        answered = self.study.answered(person.person)
        state: JsonObject = {
            "answered": answered,
            "total": settings.trials,
            "break_every": settings.break_every,
            "finished": not waiting,
            "next": [{"token": trial.token, "mode": trial.mode, "images": trial.images} for trial in waiting],
        }
        # Nobody learns the code before the end.
        if not waiting:
            state |= {"code": settings.code, "redirect": settings.redirect}
        return state

    # The researcher

    def require_token(self, given: str, address: str) -> None:
        """Let nobody pass but who has the researcher's token.

        Raises:
            PermissionError: another token.
            TooFast: too many wrong ones.
        """
        if hmac.compare_digest(given.encode(), self.token.encode()):
            return
        if not self._tokens.allows(address):
            raise TooFast("too many wrong tokens: wait a minute")
        raise PermissionError("this is not the token of this study")

    def data(self) -> JsonObject:
        """What the researcher's page shows."""
        found = overview(self.study, self.notes)
        found["chance"] = self.form.chance
        if self.active is not None:
            found["model"] = self.active.agreement()
        if self.outlook is not None and self.outlook.outlook is not None:
            found["outlook"] = self.outlook.outlook.as_json()
        return found

    def decide(self, body: JsonObject) -> JsonObject:
        """Keep somebody's answers or leave them out.

        Raises:
            BadRequest: no such person or decision.
        """
        people = [person.person for person in self.study.people()]
        if body.get("person") not in people or body.get("decision") not in ("", "keep", "leave out"):
            raise BadRequest("no such person or decision")
        self.study.decide(body["person"], body["decision"])
        return {}

    def has_image(self, image: int) -> bool:
        """Whether there is an image of this number."""
        return 0 <= image < self._images


def _response_time(value: Any) -> float | None:
    """Milliseconds as a browser gives them; None where they cannot be."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # The comparison is false for NaN.
    if is_number and 0 <= value <= MAX_RT:
        return float(value)
    return None


def application(service: Service, hosts: list[str]) -> "Starlette":
    """The web application.

        GET  /                       the participants' page
        POST /start                  {parameters, key} -> the session's secret and the next questions
        POST /answers                {token, choice, rt} -> the next questions; the answer is on the disk
        GET  /images/NUMBER          an image
        GET  /researcher             the researcher's page, without any data
        GET  /researcher/data        the data, for the token alone
        POST /researcher/decision    {person, decision}

    Secrets travel in the header `Authorization`: neither in addresses, which are logged, nor in cookies, which browsers
    send on behalf of other sites. An error is answered as {"error": text}.

    Args:
        service: the study.
        hosts: names that the server may be called by; ["*"]: any.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    assets = [Route(f"/{name}", partial(_asset, name)) for name in ASSETS]
    routes = [
        Route("/", partial(_page, service)),
        Route("/start", _posted(service.start), methods=["POST"]),
        Route("/answers", _posted(service.answer), methods=["POST"]),
        Route("/images/{image:int}", partial(_image, service)),
        Route("/researcher", partial(_researcher, service)),
        Route("/researcher/data", partial(_data, service)),
        Route("/researcher/decision", _posted(partial(_decide, service)), methods=["POST"]),
        *assets,
    ]

    # The headers come first, so that a refused host name is answered with them as well.
    middleware = [Middleware(_SafeHeaders), Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
    return Starlette(routes=routes, middleware=middleware)


class _SafeHeaders:
    """Adds `HEADERS` to every response, those of errors included."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        await self.app(scope, receive, with_headers)


def _posted(handle: Callable[[JsonObject, str, str], JsonObject]) -> Callable[["Request"], Awaitable["Response"]]:
    """A handler of requests from one that takes body, secret and address and returns a JSON object."""

    async def endpoint(request: "Request") -> "Response":
        from starlette.concurrency import run_in_threadpool

        # Forms of other sites cannot send this type without the browser asking first, which is refused.
        if request.headers.get("content-type") != "application/json":
            return _json({"error": "send application/json"}, 415)

        # Read piece by piece: the length that a request states may be wrong, and its body may fill the memory.
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > MAX_BODY:
                return _json({"error": "too long"}, 413)

        # Deeply nested lists exceed Python's recursion limit.
        try:
            body = json.loads(bytes(data))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return _json({"error": "send a JSON object"}, 400)

        return await run_in_threadpool(_answered, partial(handle, body, _secret(request), _address(request)))

    return endpoint


def _answered(handle: Callable[[], JsonObject]) -> "Response":
    """The response to a request, whatever comes of it."""
    try:
        return _json(handle())
    except BadRequest as error:
        return _json({"error": str(error)}, 400)
    except PermissionError as error:
        return _json({"error": str(error)}, 401)
    except Refused as error:
        return _json({"error": str(error)}, 409)
    except TooFast as error:
        return _json({"error": str(error)}, 429)
    except (NotSaved, sqlite3.Error):
        return _json({"error": NOT_SAVED}, 507)


def _secret(request: "Request") -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ").strip()


def _address(request: "Request") -> str:
    """Where a request comes from: for rate limits, in memory alone."""
    if request.client is None:
        return ""
    return str(request.client.host)


async def _page(service: Service, request: "Request") -> "Response":
    settings = service.study.settings
    return _html(
        page_text.render(
            "page.html",
            study=digest(service.study.secret.hex()),
            title=page_text.title(settings.text, service.form.title),
            mode=settings.mode,
            positions=service.form.positions,
            instructions=page_text.markdown(settings.text),
        )
    )


async def _researcher(service: Service, request: "Request") -> "Response":
    return _html(page_text.render("researcher.html", name=service.folder.name))


def _data(service: Service, request: "Request") -> "Response":
    def read() -> JsonObject:
        service.require_token(_secret(request), _address(request))
        return service.data()

    return _answered(read)


def _decide(service: Service, body: JsonObject, secret: str, address: str) -> JsonObject:
    service.require_token(secret, address)
    return service.decide(body)


def _image(service: Service, request: "Request") -> "Response":
    from starlette.responses import FileResponse

    # A number, which the study knows: nothing of the address becomes part of a path.
    image = int(request.path_params["image"])
    if not service.has_image(image):
        return _json({"error": "no such image"}, 404)
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return FileResponse(service.folder.picture(image), media_type="image/jpeg", headers=headers)


async def _asset(name: str, request: "Request") -> "Response":
    from starlette.responses import Response

    return Response(page_text.asset(name), media_type=ASSETS[name], headers={"Cache-Control": "no-cache"})


def _html(text: str) -> "Response":
    from starlette.responses import HTMLResponse

    return HTMLResponse(text, headers={"Cache-Control": "no-store"})


def _json(value: Mapping[str, Any], status: int = 200) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse(value, status, headers={"Cache-Control": "no-store"})


def allowed_hosts(host: str, public_url: str) -> list[str]:
    """Names that the server may be called by.

    A page of another site can make its own name mean 127.0.0.1 (DNS rebinding); so a server that is there for this
    machine, or for one public address, answers to no other name.
    """
    if public_url:
        return [*LOOPBACK, urlsplit(public_url).hostname or ""]
    if host in LOOPBACK:
        return list(LOOPBACK)
    return ["*"]
