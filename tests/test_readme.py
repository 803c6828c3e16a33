"""README.md is true: its commands and code run after the quickstart, in a folder that holds nothing else."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from pathlib import Path

import psutil
import pytest
from support.code_links import with_current_lines
from support.smoke_run import SmokeRun

from alignet_ray.config import Config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob(".github/*.md")])


def blocks(language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


def commands() -> list[str]:
    """Every command of the bash blocks, without its comment."""
    found = []
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*", "", line)
            found.append(" ".join(command.split()))
    return found


COMMANDS = commands()
INSTALL = ("bash jobs/quickstart.sh", "source .venv")
SERVERS = ("alignet-ray demo",)
LONG = ("alignet-ray run sample",)
CLUSTER = ("export RAY_AUTH_MODE", "ray ")
QUICK = [command for command in COMMANDS if not command.startswith((*INSTALL, *SERVERS, *LONG, *CLUSTER))]


@pytest.fixture(scope="module")
def folder(smoke: SmokeRun) -> Path:
    """Where the quickstart ran, with the files that the README asks of its reader."""
    pictures = sorted((smoke.world / "images").rglob("*.png"))
    for path in pictures[::4]:
        copied = smoke.folder / "IMAGES" / path.relative_to(smoke.world / "images")
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copied)
    for picture, name in zip(pictures, ("dog.jpg", "cat.jpg", "car.jpg"), strict=False):
        shutil.copy(picture, smoke.folder / name)
    for name in ("objects.csv", "triplets.txt"):
        shutil.copy(smoke.world / name, smoke.folder / name)

    script = smoke.folder / "bin" / "alignet-ray"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m alignet_ray.cli "$@"\n')
    script.chmod(0o755)
    return smoke.folder


def environment(folder: Path) -> dict[str, str]:
    """Environment of the reader: the command is found, and no tracking server is named."""
    named = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return named | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def run(command: list[str], folder: Path, timeout: int = 300) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_the_quickstart_is_the_run_that_the_other_tests_look_at() -> None:
    script = (ROOT / "jobs" / "quickstart.sh").read_text().splitlines()
    assert script[-1] == 'alignet-ray run smoke "$@"'


def test_the_extras_exist() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installs = [command for command in COMMANDS if "pip install" in command]
    assert installs
    for command in installs:
        extras = re.search(r"\[([\w,]+)\]", command)
        assert extras
        assert set(extras.group(1).split(",")) <= set(known)


@pytest.mark.parametrize("command", QUICK)
def test_every_quick_command_runs(command: str, folder: Path) -> None:
    assert run(["bash", "-c", command], folder) or ">" in command


@pytest.mark.parametrize("code", blocks("python"))
def test_every_python_block_runs(code: str, folder: Path) -> None:
    printed = run([sys.executable, "-c", code], folder)
    assert len(re.findall(r"Neighbour\(name=", printed)) == 5


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith(SERVERS)])
def test_the_demo_page_opens(command: str, folder: Path) -> None:
    log = folder.parent / "demo.log"
    shell = ["bash", "-c", f"exec {command} --port 0"]
    with log.open("w") as output:
        server = subprocess.Popen(shell, cwd=folder, env=environment(folder), stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 240
        while not (address := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        with urllib.request.urlopen(address.group(), timeout=60) as page:
            assert b"<html" in page.read().lower()
    finally:
        server.send_signal(signal.SIGTERM)  # Ctrl-C is ignored where the tests run in the background
        server.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith(LONG)])
def test_the_run_on_own_images_finishes(command: str, folder: Path) -> None:
    printed = run(["bash", "-c", command], folder, timeout=5400)
    assert "aligned student" in printed
    assert "models:/alignet-student@candidate is version 2" in printed


@pytest.mark.slow
def test_the_lines_for_a_cluster_work_in_their_order(folder: Path, tmp_path: Path) -> None:
    """A reader without a token, and without any of Ray's settings, copies all of them at once."""
    for port in (6379, 8265, 52365):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"another Ray listens at port {port}")
    lines = [command for command in COMMANDS if command.startswith(CLUSTER)]
    home, sessions = tmp_path / "home", Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    home.mkdir()
    env = {name: value for name, value in environment(folder).items() if not name.startswith("RAY_")}
    env |= {"HOME": str(home), "RAY_TMPDIR": str(sessions), "RAY_USAGE_STATS_ENABLED": "0"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    try:
        script = "set -e\n" + "\n".join(lines)
        done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "nothing to do: all 14 steps are finished" in done.stdout
    finally:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(sessions) in " ".join(process.cmdline()) or process.environ().get("HOME") == str(home):
                    process.kill()
        shutil.rmtree(sessions, ignore_errors=True)


def test_the_commands_write_nothing_that_the_page_does_not_name(folder: Path) -> None:
    """Reading a model makes no database: only `runs` and what the commands were told to write."""
    given = {"IMAGES", "dog.jpg", "cat.jpg", "car.jpg", "objects.csv", "triplets.txt", "bin"}
    assert {path.name for path in folder.iterdir()} - given <= {"runs", "run.yaml", "EXPORTED"}


def test_every_option_in_the_text_exists() -> None:
    fields = {f"--{name.replace('_', '-')}" for name in Config().flat()}
    text = "\n".join(re.findall(r"`([^`\n]+)`", README))
    named = set(re.findall(r"--[a-z]+\.[\w.-]*\w", text))
    assert named
    assert {name for name in named if not name.startswith("--on.")} <= fields


def test_the_page_is_short_and_shows_pictures_that_are_small() -> None:
    assert len(README.splitlines()) <= 150
    for path in re.findall(r'<img src="([^"]+)"', README):
        assert (ROOT / path).stat().st_size < 300_000, path


def test_the_map_names_every_folder_of_the_package() -> None:
    table = README.split("## Map of the package")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    folders = {path.parent.name for path in (ROOT / "alignet_ray").glob("*/__init__.py")}
    assert named == folders


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    for target in targets:
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor and linked.suffix == ".md":
            headings = re.findall(r"^#+ (.*)", linked.read_text(), re.M)
            anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page.name}: {target}"


def test_links_to_code_point_to_the_line_of_their_symbol() -> None:
    page = ROOT / "alignet_ray" / "README.md"
    assert page.read_text() == with_current_lines(page), "run `python tests/support/code_links.py`"
