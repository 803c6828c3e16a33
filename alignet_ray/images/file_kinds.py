"""What counts as an image, a shard or a class list by its name, and the count of all that is left out of a listing."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from alignet_ray.artifacts.spans import NO_OFFSET

if TYPE_CHECKING:
    # The store needs pyarrow, which a machine that only uses a student may not have.
    from alignet_ray.store import JsonObject

IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".avifs", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".jpf", ".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".qoi"),
)
"""Suffixes of files that are listed as images, whatever is in them."""

IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")
"""First bytes of an image file: JPEG, PNG, GIF, WebP, TIFF (twice) and BMP. They tell what a name without suffix is."""

START_BYTES = 16
"""Bytes that are read of a file without suffix."""

SYSTEM_FOLDERS = (
    *("@eadir", "@__thumb", "@synoresource", "@tmp"),
    *("#snapshot", "~snapshot", "@recently-snapshot"),
    *("#recycle", "@recycle", "$recycle.bin", "network trash folder", "lost+found"),
    *("__macosx", "temporary items", "system volume information"),
)
"""Folders that file servers and systems make, in small letters: thumbnails, earlier states of all files, deleted files,
attributes. Their pictures are nobody's, or stand elsewhere in the listing."""

SHARDS = (".tar", ".parquet")
"""Suffixes of files that are opened as folders of images."""

CLASS_LIST_FOLDERS = ("", "val/", "valid/", "validation/")

CLASS_LIST_NAMES = ("LOC_val_solution.csv", "val_annotations.txt", "imagenet_2012_validation_synset_labels.txt")
"""Files that give the classes of a flat folder of validation images: Kaggle's, tiny ImageNet's, TensorFlow's."""

CLASS_LISTS = tuple(folder + name for folder, name in product(CLASS_LIST_FOLDERS, CLASS_LIST_NAMES))
"""Their paths, under the root of a corpus or in the folder of the validation images."""

SPLITS = ("train", "val", "valid", "validation", "test")
"""Top folders that are splits and not classes: the class folder is the one below."""

UNKNOWN_CLASSES = ("", "-1", "-1.0")
"""Texts that say that a class is not known: test splits whose classes are withheld have -1."""

MAX_KINDS = 4
"""Kinds of files that a message names before it says "others"."""


class Member(NamedTuple):
    """An image of a source.

    Attributes:
        path: under the source's root.
        label: its class; "" where nothing says it.
        size: bytes (in Parquet the mean of the file).
        offset: where it begins in its tar file; `NO_OFFSET` for all others.
    """

    path: str
    label: str
    size: int
    offset: int = NO_OFFSET


def is_image(path: str, start: Callable[[], bytes]) -> bool:
    """Whether a file is listed as an image: by its suffix, or without one by its first bytes, which `start` reads."""
    # Text alone, without an object of a path: this is asked for every file of a listing.
    name = path.rpartition("/")[2]
    return name.lower().endswith(IMAGES) or ("." not in name and start().startswith(IMAGE_STARTS))


def is_shard(path: str) -> bool:
    """Whether a file is opened as a folder of images."""
    return path.lower().endswith(SHARDS)


def is_class_list(path: str) -> bool:
    """Whether a file lists the classes of validation images."""
    # Asked for every file of a listing: one look at the suffix settles most of them.
    return path.endswith((".csv", ".txt")) and path.endswith(CLASS_LISTS)


def known_class(text: str) -> str:
    """A class that a shard gives; "" where its text says that the class is not known."""
    text = text.strip()
    if text in UNKNOWN_CLASSES:
        return ""
    return text


def is_hidden(path: str) -> bool:
    """Whether a name in a path begins with a dot, or is one that file servers and systems give."""
    return any(part.startswith(".") or part.lower() in SYSTEM_FOLDERS for part in path.split("/"))


def folder_class(path: str) -> str:
    """The class folder in an image's path; "" if it lies in no folder."""
    *folders, _ = path.split("/")
    if len(folders) > 1 and folders[0].lower() in SPLITS:
        return folders[1]
    if not folders:
        return ""
    return folders[0]


@dataclass
class Tally:
    """How many things there are of a kind, and the first of them for messages."""

    count: int = 0
    first: str = ""

    def add(self, name: str) -> None:
        """Count one."""
        self.first = self.first or name
        self.count += 1

    def add_all(self, other: "Tally") -> None:
        """Count all that another tally counted."""
        self.first = self.first or other.first
        self.count += other.count


@dataclass
class LeftOut:
    """What a listing does not hold, counted: whatever is left out is told to the user.

    Attributes:
        files: files that are no images.
        kinds: suffix -> number of these files.
        folders: folders without any image.
        copies: names that stand in a tar more than once; the last content is read.
        nested_classes: Parquet files whose column of classes holds lists: their images have no class.
        hidden: names that begin with a dot or that systems give.
    """

    files: Tally = field(default_factory=Tally)
    kinds: Counter[str] = field(default_factory=Counter)
    folders: Tally = field(default_factory=Tally)
    copies: Tally = field(default_factory=Tally)
    nested_classes: Tally = field(default_factory=Tally)
    hidden: Tally = field(default_factory=Tally)

    def add(self, path: str) -> None:
        """Count a file that is no image; of hidden ones only those that would be listed under another name."""
        if not is_hidden(path):
            self.files.add(path)
            self.kinds[PurePosixPath(path).suffix.lower() or "no suffix"] += 1
        elif path.lower().endswith((*IMAGES, *SHARDS)):
            self.hidden.add(path)

    def add_all(self, other: "LeftOut") -> None:
        """Count all that another listing left out."""
        self.kinds.update(other.kinds)
        for entry in fields(self):
            tally = getattr(self, entry.name)
            if isinstance(tally, Tally):
                tally.add_all(getattr(other, entry.name))

    def to_json(self) -> "JsonObject":
        """All counts, for a listing that is kept."""
        counts: JsonObject = {"kinds": dict(self.kinds)}
        for name, value in vars(self).items():
            if isinstance(value, Tally):
                counts[name] = vars(value)
        return counts

    @classmethod
    def from_json(cls, stored: "JsonObject") -> "LeftOut":
        """Inverse of `to_json`."""
        tallies: dict[str, Tally] = {}
        for name, tally in stored.items():
            if name != "kinds":
                tallies[name] = Tally(**tally)
        return cls(kinds=Counter(stored["kinds"]), **tallies)

    @property
    def concerns_user(self) -> bool:
        """Whether something is left out that the user may have wanted: hidden names are mostly nobody's."""
        return any(tally.count for tally in (self.files, self.folders, self.copies, self.nested_classes))

    def text(self) -> str:
        """One line for the user; empty if nothing was left out."""
        parts: list[str] = []
        if self.files.count:
            parts.append(
                f"{self.files.count:,} files are no images and left out: {self._kinds()} (first: {self.files.first!r})"
            )
        if self.folders.count:
            parts.append(f"{self.folders.count:,} folders hold no image (first: {self.folders.first!r})")

        # Of archives: a tar may hold a name twice, a table several classes for an image.
        if self.copies.count:
            parts.append(f"{self.copies.count:,} names stand in a tar more than once (first: {self.copies.first!r})")
        if self.nested_classes.count:
            first = self.nested_classes.first
            parts.append(
                f"{self.nested_classes.count:,} tables give lists of classes, which are not read (first: {first})"
            )

        if self.hidden.count:
            parts.append(f"{self.hidden.count:,} hidden or system names are left out (first: {self.hidden.first!r})")
        return "; ".join(parts)

    def _kinds(self) -> str:
        """The most frequent suffixes of files that are no images, with their numbers."""
        kinds = [f"{count:,} {suffix}" for suffix, count in self.kinds.most_common(MAX_KINDS)]
        if len(self.kinds) > MAX_KINDS:
            kinds.append("others")
        return ", ".join(kinds)
