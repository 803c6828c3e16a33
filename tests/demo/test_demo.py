"""The demo as a browser meets it: uploads, verdicts, neighbours, mistakes, and the page in headless Chromium."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image, ImageDraw

from alignet_ray.cli import main
from alignet_ray.demo import server
from alignet_ray.demo.compare import FEATURES, MODELS, ModelComparison
from alignet_ray.demo.encoded import KnownPictures
from alignet_ray.demo.pictures import Pictures, list_folder
from alignet_ray.images.decode import decode
from alignet_ray.models.embedding_network import make_network, save_network
from alignet_ray.screen import Screen

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def picture(seed: int, form: str = "PNG") -> bytes:
    """A coloured shape on a coloured ground."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 3)).tolist()
    image = Image.new("RGB", (60, 40), tuple(colours[0]))
    ImageDraw.Draw(image).regular_polygon((30, 20, 15), 3 + seed % 5, fill=tuple(colours[1]))
    buffer = BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's folder, and a folder with twelve pictures of two classes and one broken file."""
    root = tmp_path_factory.mktemp("demo")
    for seed in range(12):
        file = root / "images" / ("sharp" if seed % 2 else "round") / f"{seed:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(seed))
    (root / "images" / "round" / "broken.jpg").write_text("<html>")
    (root / "student").mkdir()
    save_network(root / "student", make_network("random:test_efficientnet", 32, 8, seed=1), {})
    return root


@pytest.fixture(scope="module")
def pictures(place: Path) -> Pictures:
    comparison = ModelComparison.open(str(place / "student"))
    pictures = Pictures(comparison, list_folder(str(place / "images"), 100), KnownPictures())
    pictures.embed_folder(Screen())
    return pictures


@contextmanager
def served(pictures: Pictures) -> Iterator[str]:
    """The demo's address, served by a thread."""
    listener = socket.create_server((server.HOST, 0))
    web = uvicorn.Server(uvicorn.Config(server.application(pictures), log_level="warning"))
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]})
    thread.start()
    while not web.started:
        time.sleep(0.01)
    yield f"http://{server.HOST}:{listener.getsockname()[1]}"
    web.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def url(pictures: Pictures) -> Iterator[str]:
    with served(pictures) as address:
        yield address


def ask(url: str, data: bytes | None = None, kind: str = "application/octet-stream") -> Any:
    """Status and answer (JSON, or bytes)."""
    request = urllib.request.Request(url, data, {"Content-Type": kind} if data is not None else {})
    try:
        with urllib.request.urlopen(request) as answer:
            body, status, found = answer.read(), answer.status, answer.headers.get_content_type()
    except HTTPError as error:
        body, status, found = error.read(), error.code, error.headers.get_content_type()
    return status, json.loads(body) if found == "application/json" else body


def verdict(url: str, names: list[str], space: str = "head") -> Any:
    status, answer = ask(f"{url}/verdict?{urlencode({**dict(zip('abc', names, strict=True)), 'space': space})}")
    assert status == 200, answer
    return answer


def test_verdicts_are_the_models_own(url: str, pictures: Pictures) -> None:
    data = [picture(100, "JPEG"), picture(101), picture(102)]
    names = [ask(f"{url}/pictures", d)[1]["name"] for d in data]
    answer = verdict(url, names)
    comparison = pictures.comparison
    for name, model, scale in (("aligned", comparison.student, 1.0), ("base", comparison.base, comparison.temperature)):
        model.tau, before = model.tau * scale, model.tau
        expected = model.odd_one_out(*(model.preprocess(decode(d))[None] for d in data))[0]
        model.tau = before
        torch.testing.assert_close(torch.tensor(answer[name]["odd"]), expected, atol=1e-5, rtol=0)
    swapped = verdict(url, [names[2], names[0], names[1]])
    assert swapped["base"]["odd"] == pytest.approx([answer["base"]["odd"][i] for i in (2, 0, 1)], abs=1e-6)


def test_the_base_is_as_sure_as_the_student(pictures: Pictures) -> None:
    assert pictures.folder is not None
    triplets = np.array([(i, j, k) for i in range(12) for j in range(i) for k in range(j)])
    sure = {name: pictures.folder.views[name].odd_probabilities(triplets).max(1).mean() for name in MODELS}
    assert sure["base"] == pytest.approx(sure["aligned"], abs=0.02)


def test_neighbours_are_near_and_never_the_picture_itself(url: str, pictures: Pictures) -> None:
    folder = pictures.folder
    assert folder is not None
    assert len(folder.paths) == 12  # the broken file is left out
    name = ask(f"{url}/pictures", picture(5))[1]["name"]  # the same bytes as the folder's sixth
    near = verdict(url, [name, "f1", "f2"])["aligned"]["neighbours"][0]
    shown = [folder.paths[int(n["name"][1:])] for n in near]
    assert "sharp/05.png" not in shown
    assert len(shown) == server.NEIGHBOURS
    row = folder.paths.index("sharp/05.png")
    # By the head, as the verdict; by the features if these are asked for.
    for space, view in (("head", "aligned"), ("features", FEATURES)):
        near = verdict(url, [name, "f1", "f2"], space)["aligned"]["neighbours"][0]
        logits = folder.views[view].choice @ folder.views[view].choice[row]
        order = [number for number in np.argsort(-logits) if number != row]
        assert [n["name"] for n in near] == [f"f{number}" for number in order[: server.NEIGHBOURS]]


def test_disputed_triplets_are_disputed(url: str) -> None:
    status, answer = ask(f"{url}/triplet?kind=disputed")
    assert status == 200, answer
    odd = verdict(url, answer["names"])
    assert np.argmax(odd["base"]["odd"]) != np.argmax(odd["aligned"]["odd"])
    preview = ask(f"{url}/pictures/{answer['names'][0]}")[1]
    assert decode(preview).size == (60, 40)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"hello", "not an image"),
        (b"<svg></svg>", "text or HTML"),
        (picture(1)[:90], "truncated|broken"),
    ],
)
def test_bad_uploads_say_why(url: str, data: bytes, message: str) -> None:
    status, answer = ask(f"{url}/pictures", data)
    assert status == 422
    assert any(part in answer["error"] for part in message.split("|"))


def test_other_mistakes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(f"{url}/pictures", picture(1), "text/plain")[0] == 415  # what a foreign page could send unasked
    assert ask(f"{url}/verdict?a=f0&b=f1&c=f99")[0] == 404
    assert ask(f"{url}/pictures/u..%2f..%2fetc%2fpasswd")[0] == 404
    assert ask(f"{url.replace('127.0.0.1', 'localhost')}/about")[0] == 200
    request = urllib.request.Request(f"{url}/about", headers={"Host": "elsewhere.example"})
    with pytest.raises(HTTPError, match="400"):
        urllib.request.urlopen(request)
    monkeypatch.setattr(server, "MAX_UPLOAD", 50)
    status, answer = ask(f"{url}/pictures", picture(1))
    assert (status, "larger" in answer["error"]) == (413, True)


def test_the_command_reports_mistakes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = str(place / "student")
    with socket.create_server((server.HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        for args, fix in (
            ([student, "--port", port], "--port"),
            (["random:test_efficientnet", "--port", "0"], "--base NAME"),
            ([student, "--base", "nothing", "--port", "0"], "--base"),
            ([student, "--images", str(place / "student"), "--port", "0"], "no images"),
            ([student, "--images", "", "--port", "0"], "the path of the pictures is empty"),
            ([student, "--images", str(place / "images"), "--most", "2", "--port", "0"], "--most 2: "),
            ([student, "--most=-1", "--port", "0"], "--most -1: "),
        ):
            with pytest.raises(SystemExit) as stop:
                main(["demo", *args])
            message = capsys.readouterr().err
            assert stop.value.code == 2, message
            assert fix in message


def test_the_page_is_there_before_the_folder_is_embedded(place: Path, pictures: Pictures) -> None:
    comparison = pictures.comparison
    waiting = Pictures(comparison, list_folder(str(place / "images"), 100))
    with served(waiting) as url:
        about = ask(f"{url}/about")[1]
        assert about["folder"] == {
            "uri": str(place / "images"),
            "total": 13,
            "embedded": 0,
            "ready": False,
            "problem": "",
        }
        assert about["spaces"] == ["head", "features"]
        assert ask(f"{url}/triplet?kind=random") == (404, {"error": server.NOT_YET})
        # Pictures of one's own can be tried at once.
        names = [ask(f"{url}/pictures", picture(seed))[1]["name"] for seed in (100, 101, 102)]
        assert verdict(url, names)["aligned"]["neighbours"] == []
        waiting.embed_folder(Screen())
        assert ask(f"{url}/about")[1]["folder"]["ready"]
        assert len(verdict(url, names)["aligned"]["neighbours"][0]) == server.NEIGHBOURS
        assert ask(f"{url}/verdict?a=f0&b=f1&c=f2&space=tail")[0] == 400


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_the_page_in_a_browser(url: str, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        errors: list[str] = []
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(url)
            inputs = page.locator(".slot input")
            inputs.nth(0).set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"})
            page.get_by_role("alert").get_by_text("notes.txt: not an image").wait_for()
            files = [{"name": f"{i}.png", "mimeType": "image/png", "buffer": picture(200 + i)} for i in range(3)]
            inputs.nth(0).set_input_files(files)
            # The person chooses first, here with the keyboard, whose focus moves on to the answer.
            page.get_by_role("button", name="C", exact=True).press("Enter")
            page.locator("#aligned .three").wait_for()
            assert page.evaluate("document.activeElement.id") == "result-heading"
            assert re.fullmatch(
                r"Base: [ABC], \d+ % sure. Aligned: [ABC], \d+ % sure.", page.get_by_role("status").first.inner_text()
            )
            assert page.get_by_role("button", name="B has a picture; choose another").count() == 1
            assert page.locator("img:not([alt]), img[alt='']").count() == 0
            assert page.locator("#yours").inner_text().startswith("You chose C.")
            assert page.locator("#problem").is_hidden()
            names = [ask(f"{url}/pictures", f["buffer"])[1]["name"] for f in files]
            answer = verdict(url, names)
            for model in MODELS:
                odd = int(np.argmax(answer[model]["odd"]))
                assert page.locator(f"#{model}").get_attribute("data-odd") == "ABC"[odd]
                assert f"{100 * answer[model]['odd'][odd]:.0f} %" in page.locator(f"#{model} .odd").inner_text()
            assert page.locator("#neighbours .near").count() == 3
            page.get_by_label("its features").check()
            by_features = verdict(url, names, "features")
            odd = int(np.argmax(by_features["aligned"]["odd"]))
            percent = f"{100 * by_features['aligned']['odd'][odd]:.0f} %"
            page.locator("#aligned .odd", has_text=percent).wait_for()
            page.get_by_label("its head").check()
            page.get_by_label("I choose first").uncheck()
            page.get_by_role("button", name="disagree").click()
            page.locator("#base img[src^='/pictures/f']").first.wait_for()
            picks = [page.locator(f"#{model}").get_attribute("data-odd") for model in MODELS]
            assert picks[0] != picks[1]
            page.wait_for_load_state("networkidle")
            broken = page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length")
            assert broken == 0
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.screenshot(path=tmp_path / f"demo-{width}.png", full_page=True)
        assert not errors
        browser.close()


def test_a_demo_in_the_background_ignores_ctrl_c_as_a_run_does(place: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "alignet_ray", "demo", str(place / "student"), "--port", "0"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
        )
    try:
        deadline = time.monotonic() + 120
        while not (address := re.search(r"http://127\.0\.0\.1:\d+", (tmp_path / "log").read_text())):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        with urllib.request.urlopen(address.group(), timeout=60):
            pass
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        with urllib.request.urlopen(address.group(), timeout=60) as page:
            assert page.status == 200
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
