"""Answers of a study in place of a file: `--human.triplets ask:NAME`, read as they are when a run begins."""

from pathlib import Path

from alignet_ray.ask.export import Snapshot, find_snapshot, people_left_out, snapshot
from alignet_ray.ask.folder import StudyFolder, open_folder
from alignet_ray.ask.study_file import StudyFile
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen
from alignet_ray.store import JsonObject

PREFIX = "ask:"


def is_named(cfg: Config) -> bool:
    """Whether the responses are those of a study."""
    return (cfg.human.triplets or "").startswith(PREFIX)


def resolve(cfg: Config, screen: Screen, place: Path | None = None) -> Config:
    """Replace `ask:NAME` by the files of a snapshot, which is made here, and the objects by those of the study.

    `ask:NAME@SNAPSHOT` reads an earlier snapshot again. Images of the study take the place of `objects.path` and
    `corpus.path` where these are not given.

    Args:
        cfg: the configuration.
        screen: says how many answers are read, and of whom none.
        place: where a new snapshot goes. Default: the study's folder.

    Raises:
        UserError: no such study or snapshot, or no answer that counts.
    """
    if not is_named(cfg):
        return cfg
    folder, pinned = _study(cfg)
    study = StudyFile.open(folder.require().file)
    try:
        if pinned:
            found = find_snapshot(folder, pinned)
        else:
            found = snapshot(study, folder, place)
            for line in people_left_out(study):
                screen.line(f"   {line}")
        screen.line(f"   {found.rows:,} answers of the study {folder.name}, as {PREFIX}{folder.name}@{found.name}")
        return cfg.replace(**_inputs(cfg, found, study.settings.images))
    finally:
        study.close()


def pin(cfg: Config) -> Config:
    """The configuration with the answers of now, for whatever makes several runs: `ask:NAME` as `ask:NAME@SNAPSHOT`.

    Raises:
        UserError: as `resolve`.
    """
    if not is_named(cfg):
        return cfg
    folder, pinned = _study(cfg)
    if pinned:
        return cfg
    study = StudyFile.open(folder.require().file)
    try:
        name = snapshot(study, folder).name
    finally:
        study.close()
    return cfg.replace(human__triplets=f"{PREFIX}{folder.name}@{name}")


def _study(cfg: Config) -> tuple[StudyFolder, str]:
    """The folder of the study that is named, and the snapshot; "" where none is named."""
    name, _, pinned = str(cfg.human.triplets).removeprefix(PREFIX).partition("@")
    if not name:
        raise UserError(f"--human.triplets {PREFIX}: name a study, as {PREFIX}NAME")
    return open_folder(name, cfg.store.root, cfg.state_dir), pinned


def _inputs(cfg: Config, found: Snapshot, images: str) -> JsonObject:
    """The inputs that stand in for the study's name."""
    inputs: JsonObject = {"human__triplets": str(found.responses)}
    # Whoever gives a table knows which images show the objects.
    if cfg.objects.table:
        return inputs
    inputs |= {"objects__table": str(found.objects), "objects__concepts": cfg.objects.concepts or str(found.concepts)}
    if cfg.embed.from_ or cfg.objects.path:
        return inputs

    # The paths of the table are those under the study's folder of images.
    if cfg.corpus.path is None:
        inputs["corpus__path"] = images
    elif str(Path(cfg.corpus.path).expanduser().resolve()) != images and cfg.corpus.path != images:
        inputs["objects__path"] = images
    return inputs
