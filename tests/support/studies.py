"""Small studies: made-up ones without a server, and served ones with real pictures."""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import uvicorn
from PIL import Image, ImageDraw

from alignet_ray.ask import launch
from alignet_ray.ask.dealer import Dealer
from alignet_ray.ask.folder import StudyFolder
from alignet_ray.ask.server import Service, allowed_hosts, application
from alignet_ray.ask.study_file import LeftOutImage, NewTrial, Person, StudyFile, StudyImage, StudySettings, Trial
from alignet_ray.demo import web
from alignet_ray.screen import Screen

TOKEN = "the-researchers-own-token"


def make_study(folder: Path, objects: int = 12, per_object: int = 1, **settings: Any) -> StudyFile:
    """A study of made-up objects, each with some images."""
    names = [f"object {number}" for number in range(objects)]
    of_image = [image // per_object for image in range(objects * per_object)]
    images = [StudyImage(image, of, f"class{of}/{image}.jpg", 100 + image) for image, of in enumerate(of_image)]
    folder.mkdir(parents=True, exist_ok=True)
    left_out = [LeftOutImage("class0/broken.jpg", "truncated")]
    return StudyFile.create(folder / "study.sqlite", StudySettings("images", **settings), names, images, left_out)


def join(study: StudyFile, name: str = "anna") -> Person:
    """A new person."""
    return study.add_person(name, {})[0]


def ask(study: StudyFile, person: Person, *images: int, kind: str = "random", **others: Any) -> Trial:
    """A question of the study's form about three images."""
    first, second, third = images
    question = NewTrial(study.settings.mode, kind, (first, second, third), **others)  # type: ignore[arg-type]
    return study.deal(person.person, [question])[0]


def write_pictures(folder: Path, count: int = 12) -> Path:
    """Pictures of two classes, each of its own form and colour, and a broken file."""
    for number in range(count):
        file = folder / ("sharp" if number % 2 else "round") / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (80 + number, 60), (250, 250, 245))
        colour = (20 * number % 256, 255 - 15 * number, 90)
        ImageDraw.Draw(image).regular_polygon((40, 30, 22), 3 + number % 6, fill=colour)
        image.save(file)
    (folder / "round" / "broken.jpg").write_text("<html>")
    return folder


def begin_study(base: Path, count: int = 12, **settings: Any) -> tuple[StudyFolder, StudyFile]:
    """A study of real pictures under `base`."""
    images = write_pictures(base / "images", count)
    folder = StudyFolder(base / "runs" / "ask" / "pilot")
    return folder, launch.begin(folder, str(images), settings, Screen())


@contextmanager
def served(folder: StudyFolder, study: StudyFile) -> Iterator[tuple[str, Service]]:
    """A study's address and service, served by a thread."""
    service = Service(study, folder, Dealer(study, seed=0), TOKEN)
    listener = web.bind(0)
    listener.listen(web.WAITING)
    app = application(service, allowed_hosts(web.HOST, ""))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://{web.HOST}:{listener.getsockname()[1]}", service
    finally:
        server.should_exit = True
        thread.join(30)


def request(url: str, body: Any = None, secret: str = "", **headers: str) -> tuple[int, Any, Any]:
    """Status, answer (JSON, or bytes) and headers of a request; with a body it is a POST of JSON."""
    data = None
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    if secret:
        headers["Authorization"] = f"Bearer {secret}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
            content, status, found = answer.read(), answer.status, answer.headers
    except HTTPError as error:
        content, status, found = error.read(), error.code, error.headers
    if found.get_content_type() == "application/json":
        return status, json.loads(content), found
    return status, content, found


class Browser:
    """Somebody who takes part, as the page does it."""

    def __init__(self, url: str, **parameters: str) -> None:
        self.url = url
        status, self.state, _ = request(f"{url}/start", {"parameters": parameters, "key": ""})
        assert status == 200, self.state
        self.session = self.state["session"]

    def answer(self, choice: int, rt: float | None = 800.0) -> None:
        """Answer the next question."""
        body = {"token": self.state["next"][0]["token"], "choice": choice, "rt": rt}
        status, self.state, _ = request(f"{self.url}/answers", body, self.session)
        assert status == 200, self.state
