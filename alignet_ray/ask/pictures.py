"""Pictures of a study: copies of the images that every browser can show, made before the study begins."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

from PIL import Image

from alignet_ray.ask.folder import StudyFolder
from alignet_ray.ask.study_file import LeftOutImage, StudyImage
from alignet_ray.data.files import replacing
from alignet_ray.errors import UserError
from alignet_ray.images.decode import decode
from alignet_ray.images.file_kinds import LeftOut
from alignet_ray.images.listing import fingerprint, list_images, read_bytes
from alignet_ray.screen import Screen

SIDE = 640
"""Longer side of a copy in pixels: a third of a wide screen, and twice a phone's share of points."""

QUALITY = 90
"""JPEG quality of a copy."""

CHUNK = 64
"""Images between two updates of the progress line."""

MAX_NAMED = 20
"""Images that are left out and named on the screen."""

MIN_OBJECTS = 4
"""Objects that a study needs: three make a single question."""


class PreparedImages(NamedTuple):
    """What a study will show.

    Attributes:
        objects: names, by number.
        images: the images that can be shown; numbers without gaps.
        left_out: those that cannot.
        fingerprint: what the folder held.
    """

    objects: list[str]
    images: list[StudyImage]
    left_out: list[LeftOutImage]
    fingerprint: str


def prepare(uri: str, kind: Literal["images", "folders"], folder: StudyFolder, screen: Screen) -> PreparedImages:
    """Copy all images into the study's folder; those that cannot be read are left out, and named.

    Args:
        uri: folder (or URL) of images, in any layout that the pipeline reads.
        kind: whether every image is an object, or every folder with all its images.
        folder: where the copies go.
        screen: shows progress.

    Raises:
        UserError: fewer than four objects with a readable image, or images that lie in no folder.
    """
    before = fingerprint(uri)["sha256"]
    others = LeftOut()
    listing = list_images(uri, others)
    if others.text():
        screen.line(others.text())
    paths = listing["path"].to_pylist()
    labels = listing["label"].to_pylist()
    if kind == "folders" and "" in labels:
        raise UserError(f"{uri}: {paths[labels.index('')]!r} lies in no folder: ask about --objects images")

    # Copied under the listing's numbers first; what cannot be read leaves gaps, which are closed below.
    reasons = _copy_all(uri, paths, folder, screen)
    readable = [number for number, reason in enumerate(reasons) if not reason]
    names = _object_names(kind, paths, labels, readable)
    if len(names) < MIN_OBJECTS:
        raise UserError(f"{uri} has {len(names)} objects with a readable image: a study needs {MIN_OBJECTS} or more")

    number_of = {name: number for number, name in enumerate(names)}
    images: list[StudyImage] = []
    for image, number in enumerate(readable):
        folder.picture(number).rename(folder.picture(image))
        name = paths[number]
        if kind == "folders":
            name = labels[number]
        images.append(StudyImage(image, number_of[name], paths[number], listing["bytes"][number].as_py()))
    left_out = [LeftOutImage(paths[number], reason) for number, reason in enumerate(reasons) if reason]
    return PreparedImages(names, images, left_out, before)


def _copy_all(uri: str, paths: Sequence[str], folder: StudyFolder, screen: Screen) -> list[str]:
    """Copy all images; for each the reason why it cannot be read, or ""."""
    folder.pictures.mkdir(parents=True, exist_ok=True)
    reasons: list[str] = []

    def copy(number: int) -> str:
        try:
            data = jpeg(decode(read_bytes(uri, paths[number])))
        except (ValueError, OSError) as error:
            return str(error)
        with replacing(folder.picture(number)) as draft:
            draft.write_bytes(data)
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool, screen.progress(len(paths), "pictures") as progress:
        for start in range(0, len(paths), CHUNK):
            chunk = range(start, min(start + CHUNK, len(paths)))
            reasons += pool.map(copy, chunk)
            progress.add(len(chunk))
    return reasons


def _object_names(kind: str, paths: Sequence[str], labels: Sequence[str], readable: Sequence[int]) -> list[str]:
    """Names of the objects in the order in which their images are listed."""
    names = paths
    if kind == "folders":
        names = labels
    return list(dict.fromkeys(names[number] for number in readable))


def jpeg(image: Image.Image) -> bytes:
    """An image as a JPEG of at most `SIDE` pixels, without whatever else its file said (place, camera, names)."""
    # A copy without the info dictionary: Pillow would write comments and profiles of the original.
    small = Image.new("RGB", image.size)
    small.paste(image)
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def changes(uri: str, before: str, images: Sequence[StudyImage], left_out: Sequence[LeftOutImage]) -> str:
    """What has changed in the folder since the study began, in one line; empty if nothing has.

    The study goes on with its copies: people see what those before them saw.

    Args:
        uri: folder of the images.
        before: its fingerprint when the study began.
        images, left_out: what it held then.
    """
    try:
        if fingerprint(uri)["sha256"] == before:
            return ""
        listing = list_images(uri)
    except (UserError, OSError) as error:
        return f"the images cannot be listed any more ({error}); the study goes on with its copies"

    sizes = dict(zip(listing["path"].to_pylist(), listing["bytes"].to_pylist(), strict=True))
    known = {image.path: image.bytes for image in images}

    # Images that could not be read when the study began are no news.
    added = sizes.keys() - known.keys() - {image.path for image in left_out}
    removed = known.keys() - sizes.keys()
    resized = [path for path in known.keys() & sizes.keys() if known[path] != sizes[path]]

    # All three may be empty: the fingerprint counts times of modification too.
    counts = f"{len(added)} added, {len(removed)} removed, {len(resized)} of another size"
    changed = sorted([*added, *removed, *resized])
    if changed:
        counts += f"; first: {changed[0]!r}"
    return f"the folder of images has changed since the study began ({counts}); the study goes on with its copies"
