"""Begins a study from a folder of images, opens one that is there, and serves it."""

import contextlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alignet_ray.ask import page_text, pictures
from alignet_ray.ask.dealer import Dealer
from alignet_ray.ask.export import people_left_out
from alignet_ray.ask.folder import StudyFolder, forget_snapshots, served_once
from alignet_ray.ask.forms import FORMS, count_questions
from alignet_ray.ask.participants import NAME_PARAMETERS, personal_link
from alignet_ray.ask.server import Service, allowed_hosts, application
from alignet_ray.ask.study_file import StudyFile, StudySettings
from alignet_ray.data.files import plain_text
from alignet_ray.demo import web
from alignet_ray.errors import UserError
from alignet_ray.locations import read_bytes
from alignet_ray.screen import Screen
from alignet_ray.store import JsonObject

TOKEN = "ALIGNET_ASK_TOKEN"
"""Environment variable with a token for the researcher's page that stays the same. Default: a new one every start."""

TOKEN_FORM = re.compile(r"[A-Za-z0-9_.~-]{16,}")
"""What a token may be: long enough, and the same in an address as it is."""

CHECK_SECONDS = 300
"""Seconds between two checks of the folder of images."""

STOP_SECONDS = 10
"""How long the end of a study waits for what works in the background."""

MAX_SHARE = 0.5
"""Largest share of catch trials, and of repeats."""


def read_instructions(path: str) -> str:
    """Instructions and consent from a Markdown file.

    Raises:
        UserError: it cannot be read, or is no text.
    """
    text = plain_text(read_bytes(path), path).decode()
    if not text.strip():
        raise UserError(f"{path} is empty: write instructions and consent in Markdown")
    return text


def check_settings(settings: StudySettings) -> None:
    """Refuse settings that make no study.

    Raises:
        UserError: naming the option.
    """
    if settings.trials < 1:
        raise UserError(f"--trials {settings.trials}: give one question or more")
    if settings.break_every < 0:
        raise UserError(f"--break-every {settings.break_every}: give a number of questions, or 0 for no breaks")

    # Questions that test a person say nothing about the images: they may not be the most of what is paid for.
    for option, share in (("--catch", settings.catch), ("--repeats", settings.repeats)):
        if not 0 <= share <= MAX_SHARE:
            raise UserError(f"{option} {share}: give a share from 0 to {MAX_SHARE}")
    if not 0 <= settings.random_share <= 1:
        raise UserError(f"--random-share {settings.random_share}: give a share from 0 to 1")

    # A browser would follow `javascript:` as well.
    if settings.redirect and urlsplit(settings.redirect).scheme not in ("http", "https"):
        raise UserError(f"--redirect {settings.redirect}: give an address that begins with https://")


def begin(folder: StudyFolder, images: str, options: Mapping[str, Any], screen: Screen) -> StudyFile:
    """Begin a study: copy its images, and make its file.

    Args:
        folder: where the study will be.
        images: folder (or URL) of its images.
        options: other fields of its settings.
        screen: shows progress.

    Raises:
        UserError: settings that make no study, too few images, or fewer questions than a person is to be asked.
    """
    settings = StudySettings(images, **options)
    if not settings.text:
        instructions: JsonObject = {"text": page_text.default_instructions(settings.mode)}
        settings = replace(settings, **instructions)
    check_settings(settings)
    # Another process may begin the same study now.
    with served_once(folder), _removed_if_refused(folder):
        prepared = pictures.prepare(images, settings.objects, folder, screen)
        _require_questions(len(prepared.objects), settings)
        for entry in prepared.left_out[: pictures.MAX_NAMED]:
            screen.line(f"left out: {entry.path} ({entry.reason})")
        if len(prepared.left_out) > pictures.MAX_NAMED:
            more = len(prepared.left_out) - pictures.MAX_NAMED
            screen.line(f"left out: {more} more; the researcher's page lists them")
        complete = replace(settings, fingerprint=prepared.fingerprint)
        return StudyFile.create(folder.file, complete, prepared.objects, prepared.images, prepared.left_out)


@contextlib.contextmanager
def _removed_if_refused(folder: StudyFolder) -> Iterator[None]:
    """Within it, an error removes the folder of a study that was not begun; after a wrong path nobody wants one."""
    try:
        yield
    except BaseException:
        if not folder.exists:
            shutil.rmtree(folder.path, ignore_errors=True)
            # Only empty ones go: the root may hold other studies and runs.
            with contextlib.suppress(OSError):
                folder.path.parent.rmdir()
                folder.path.parent.parent.rmdir()
        raise


def _require_questions(objects: int, settings: StudySettings) -> None:
    """Refuse to ask a person more than there is to ask."""
    asked = settings.trials * (1 - settings.catch - settings.repeats)
    questions = count_questions(objects, settings.mode)
    if asked > questions:
        raise UserError(
            f"{objects} objects make {questions} {FORMS[settings.mode].name}, and a person is to be asked {asked:.0f}: "
            f"lower --trials to {questions}"
        )


def require_same(stored: StudySettings, images: str, options: Mapping[str, Any], given: Collection[str]) -> None:
    """Refuse options that would change a study that people take part in.

    Args:
        stored: the study's settings.
        images: folder of images that the command names; "" if it names none.
        options: fields of the settings, as the options say.
        given: the options that stand on the command line.

    Raises:
        UserError: one of them differs.
    """
    if images and images != stored.images:
        raise UserError(f"this study was begun with the images of {stored.images}: begin another with --name")
    for field, value in options.items():
        option = "--" + field.replace("_", "-")
        if field == "text":
            option = "--instructions"
        if option in given and value != getattr(stored, field):
            raise UserError(
                f"{option} differs from what this study was begun with, which stays: begin another with --name"
            )


def personal_links(study: StudyFile, address: str, count: int) -> list[str]:
    """Links for `count` people, named p001, p002 and so on; the same ones every time."""
    return [personal_link(study, address, f"p{number:03d}") for number in range(1, count + 1)]


def researcher_token() -> str:
    """The token of the researcher's page: the one in the environment, or a new one.

    Raises:
        UserError: the given one can be guessed, or cannot stand in an address.
    """
    given = os.environ.get(TOKEN, "")
    if given and not TOKEN_FORM.fullmatch(given):
        raise UserError(f"{TOKEN}: give 16 or more letters, digits and . _ ~ -")
    return given or secrets.token_urlsafe(24)


def serve(folder: StudyFolder, study: StudyFile, host: str, port: int, public_url: str, screen: Screen) -> None:
    """Serve a study until Ctrl-C.

    Raises:
        UserError: another process serves it, the port is taken, or the extra is not installed.
    """
    token = researcher_token()
    with served_once(folder):
        listener = web.bind(port, host)
        # Whoever is quicker than the server's start waits in the queue, and is not refused.
        listener.listen(web.WAITING)
        service = Service(study, folder, Dealer(study), token)
        address = public_url.rstrip("/") or f"http://{host}:{listener.getsockname()[1]}"
        tell(folder, study, address, token, screen)

        stop = threading.Event()
        workers = [
            threading.Thread(target=_watch_folder, args=(service, stop, screen), daemon=True),
            threading.Thread(target=_watch_answers, args=(service, stop), daemon=True),
        ]
        if study.settings.sampler == "active":
            # Imported late: torch takes seconds, and a study of random questions can begin before.
            from alignet_ray.ask.active import ActiveChoice

            service.active = ActiveChoice(study, service.dealer)
            workers.append(threading.Thread(target=service.active.run, args=(stop,), daemon=True))
        for worker in workers:
            worker.start()
        try:
            web.serve(application(service, allowed_hosts(host, public_url)), listener)
        except KeyboardInterrupt:
            screen.line()
        finally:
            stop.set()
            # A fit that is under way reads the study; a folder far away may take longer to list.
            for worker in workers:
                worker.join(STOP_SECONDS)
            study.close()


def tell(folder: StudyFolder, study: StudyFile, address: str, token: str, screen: Screen) -> None:
    """Say where the study is, and how to use what people answer."""
    settings = study.settings
    form = FORMS[settings.mode]
    objects = len(study.objects())
    screen.line(f"study       {folder.name}: {objects:,} objects, {settings.trials} {form.name} a person")

    if settings.links_only:
        screen.line(f"people      personal links only: alignet-ray ask {folder.name} --links 20")
    else:
        names = ", ".join(f"?{name}=" for name in NAME_PARAMETERS)
        screen.line(f"people      {address}/   (who it is: {names})")

    # Browsers do not send what stands behind `#`: the token is in no server's log.
    screen.line(f"researcher  {address}/researcher#{token}")
    screen.line(f"answers     {study.last_number():,} so far in {folder.file}")
    screen.line(f"use them    --{form.option} ask:{folder.name}   (Ctrl-C stops the study; the same command goes on)")
    for line in people_left_out(study):
        screen.line(f"left out    {line}")


def _watch_folder(service: Service, stop: threading.Event, screen: Screen) -> None:
    """Note, now and every few minutes, whether the folder of the images has changed since the study began."""
    settings = service.study.settings
    images = service.study.images()
    left_out = service.study.left_out()
    while True:
        note = pictures.changes(settings.images, settings.fingerprint, images, left_out)
        if note and note not in service.notes:
            screen.line(f"warning: {note}")
        service.notes = list(filter(None, [note]))
        if stop.wait(CHECK_SECONDS):
            return


def _watch_answers(service: Service, stop: threading.Event) -> None:
    """Keep the researcher's page up to date about when to stop."""
    # Imported late: torch takes seconds, in which people can begin already.
    from alignet_ray.ask.outlook import OutlookWorker

    service.outlook = OutlookWorker(service.study)
    service.outlook.run(stop)


def withdraw(folder: StudyFolder, study: StudyFile, person: int) -> int:
    """Delete a person's answers, and the snapshots that hold them; returns the number of answers."""
    count = study.withdraw(person)
    # Snapshots say nothing of people, but the answers are theirs.
    forget_snapshots(folder)
    return count


def study_name(images: str) -> str:
    """The name of a study of these images, if none is given: that of the folder."""
    return Path(images.rstrip("/")).name or "study"
