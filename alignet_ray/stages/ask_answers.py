"""Answers of a study in place of a file (`--human.triplets ask:NAME`), read as they are when a run begins."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from alignet_ray.ask.export import Snapshot, find_snapshot, people_left_out, snapshot
from alignet_ray.ask.folder import StudyFolder, open_folder
from alignet_ray.ask.forms import FORMS
from alignet_ray.ask.study_file import StudyFile
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen
from alignet_ray.store import JsonObject

PREFIX = "ask:"


@dataclass(frozen=True)
class NamedStudy:
    """A study that stands in the place of a file of answers.

    Attributes:
        option: the setting that names it, such as human.triplets.
        folder: the study's folder.
        pinned: the snapshot that is named too; "" where none is.
        study: the study's file, open.
    """

    option: str
    folder: StudyFolder
    pinned: str
    study: StudyFile

    @property
    def field(self) -> str:
        """The setting as `Config.replace` names it."""
        return self.option.replace(".", "__")


def resolve(cfg: Config, screen: Screen, place: Path | None = None) -> Config:
    """Replace `ask:NAME` by the files of a snapshot, which is made here, and the objects by those of the study.

    Odd-one-out answers are read by `human.triplets`, reference comparisons by `human.comparisons`.
    `ask:NAME@SNAPSHOT` reads an earlier snapshot again. Images of the study take the place of `objects.path` and
    `corpus.path` where these are not given.

    Args:
        cfg: the configuration.
        screen: says how many answers are read, and of whom none.
        place: where a new snapshot goes. Default: the study's folder.

    Raises:
        UserError: no such study or snapshot, a study of the other form, two studies of different images, or no answer
            that counts.
    """
    changes: JsonObject = {}
    with _opened(cfg) as studies:
        # One is enough for the objects: all have the same.
        for named in reversed(studies):
            found = _snapshot(named, screen, place)
            changes |= _inputs(cfg, found, named.study.settings.images) | {named.field: str(found.responses)}
    if not changes:
        return cfg
    return cfg.replace(**changes)


def _snapshot(named: NamedStudy, screen: Screen, place: Path | None) -> Snapshot:
    """The snapshot that is named, or one of now."""
    folder = named.folder
    if named.pinned:
        found = find_snapshot(folder, named.pinned)
    else:
        found = snapshot(named.study, folder, place)
        for line in people_left_out(named.study):
            screen.line(f"   {line}")
    screen.line(f"   {found.rows:,} answers of the study {folder.name}, as {PREFIX}{folder.name}@{found.name}")
    return found


def pin(cfg: Config) -> Config:
    """The configuration with the answers of now, for whatever makes several runs: `ask:NAME` as `ask:NAME@SNAPSHOT`.

    Raises:
        UserError: as `resolve`.
    """
    changes: JsonObject = {}
    with _opened(cfg) as studies:
        for named in studies:
            if not named.pinned:
                name = snapshot(named.study, named.folder).name
                changes[named.field] = f"{PREFIX}{named.folder.name}@{name}"
    if not changes:
        return cfg
    return cfg.replace(**changes)


@contextmanager
def _opened(cfg: Config) -> Iterator[list[NamedStudy]]:
    """The studies that the configuration names, open.

    Raises:
        UserError: as `resolve`.
    """
    given = {"human.triplets": cfg.human.triplets, "human.comparisons": cfg.human.comparisons}
    with ExitStack() as stack:
        studies: list[NamedStudy] = []
        for option, value in given.items():
            if value and value.startswith(PREFIX):
                named = _open(cfg, option, value)
                stack.enter_context(closing(named.study))
                _require_form(named)
                studies.append(named)

        _require_same_images(studies)
        yield studies


def _open(cfg: Config, option: str, value: str) -> NamedStudy:
    """The study that a setting names."""
    name, _, pinned = value.removeprefix(PREFIX).partition("@")
    if not name:
        raise UserError(f"--{option} {PREFIX}: name a study, as {PREFIX}NAME")
    folder = open_folder(name, cfg.store.root, cfg.state_dir)
    return NamedStudy(option, folder, pinned, StudyFile.open(folder.require().file))


def _require_form(named: NamedStudy) -> None:
    """Refuse a study whose answers another setting reads."""
    form = FORMS[named.study.settings.mode]
    if form.option != named.option:
        raise UserError(
            f"--{named.option} {PREFIX}{named.folder.name}: this study asks {form.name}: give it as --{form.option} "
            f"{PREFIX}{named.folder.name}"
        )


def _require_same_images(studies: Sequence[NamedStudy]) -> None:
    """Refuse to mix studies whose object numbers mean different things."""
    for named in studies[1:]:
        first = studies[0]
        if named.study.objects() != first.study.objects() or named.study.images() != first.study.images():
            raise UserError(
                f"the studies {first.folder.name} and {named.folder.name} show different images, and cannot be read "
                "together: begin both with the same folder, or give one of them alone"
            )


def _inputs(cfg: Config, found: Snapshot, images: str) -> JsonObject:
    """The objects and images that a study brings, where none are given."""
    # Whoever gives a table knows which images show the objects.
    if cfg.objects.table:
        return {}
    inputs: JsonObject = {
        "objects__table": str(found.objects),
        "objects__concepts": cfg.objects.concepts or str(found.concepts),
    }
    if cfg.embed.from_ or cfg.objects.path:
        return inputs

    # The paths of the table are those under the study's folder of images.
    if cfg.corpus.path is None:
        inputs["corpus__path"] = images
    elif str(Path(cfg.corpus.path).expanduser().resolve()) != images and cfg.corpus.path != images:
        inputs["objects__path"] = images
    return inputs
