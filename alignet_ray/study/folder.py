"""The folder of a study, `<root>/study/<id>/`: its settings, written before the first fold, and its results."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import yaml

from alignet_ray.artifacts.base import from_rows, to_rows
from alignet_ray.config import Config, yaml_file
from alignet_ray.errors import first_line
from alignet_ray.store import Draft
from alignet_ray.study.pooling import PooledScore

SETTINGS = "settings.yaml"
SCORES = "study.parquet"
PAGE = "study.html"
MARKDOWN = "study.md"
LATEX = "study.tex"

NO_DIFFERENCE = ("study.chosen", "objects.fold", "objects.folds", "store.root")
"""Settings that make no other study."""

FROZEN = "# frozen "
"""Beginning of the first line of SETTINGS, before the time at which they were written."""


class FrozenSettings(NamedTuple):
    """A study's settings as they were written down before its first fold.

    Attributes:
        when: they were written.
        chosen: how they were chosen, in the words of who ran the study; may be empty.
        text: all of them, as YAML.
    """

    when: str
    chosen: str
    text: str


@dataclass(frozen=True)
class StudyFolder:
    """A study's files; every write is atomic, and only the settings are never written twice.

    Attributes:
        draft: the folder.
    """

    draft: Draft

    def freeze(self, cfg: Config) -> FrozenSettings:
        """Write the settings if they are not there yet; returns what was written first.

        Raises:
            UserError: what was written first is damaged.
        """
        # A study that goes on must not look as if its settings had been chosen after its first results.
        if not self.draft.has(SETTINGS):
            now = time.strftime("%Y-%m-%d %H:%M")
            self.draft.write_bytes(SETTINGS, f"{FROZEN}{now}\n{cfg.to_yaml()}".encode())

        try:
            heading, _, text = self.draft.read_bytes(SETTINGS).decode().partition("\n")
            chosen = yaml.safe_load(text)["study"]["chosen"]
        except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
            raise self.draft.damaged(SETTINGS, first_line(error)) from error
        if not heading.startswith(FROZEN):
            raise self.draft.damaged(SETTINGS, "its first line does not say when it was written")
        return FrozenSettings(heading.removeprefix(FROZEN).strip(), str(chosen), text)

    @property
    def is_begun(self) -> bool:
        """Whether its settings are written down."""
        return self.draft.has(SETTINGS)

    def differences(self, cfg: Config) -> list[str] | None:
        """Fields in which its settings differ from others; None if they have another name, or are damaged."""
        try:
            settings = Config.model_validate(yaml_file.parse(self.draft.read_bytes(SETTINGS).decode()))
        except ValueError:  # of pydantic, UTF-8 and ours alike: settings of another version, too
            return None
        if settings.name != cfg.name:
            return None
        ours = settings.flat()
        theirs = cfg.flat()
        return sorted(name for name in ours if ours[name] != theirs[name] and name not in NO_DIFFERENCE)

    def write(self, scores: Sequence[PooledScore], page: str, markdown: str, latex: str) -> None:
        """Write the results so far: the table of all scores, and the page with its tables in two other formats."""
        self.draft.write_table(SCORES, pa.Table.from_pylist(to_rows(scores)))
        self.draft.write_bytes(MARKDOWN, markdown.encode())
        self.draft.write_bytes(LATEX, latex.encode())
        self.draft.write_bytes(PAGE, page.encode())

    def scores(self) -> list[PooledScore]:
        """All scores of the study so far."""
        return from_rows(PooledScore, self.draft.read_table(SCORES).to_pylist())

    def page_uri(self) -> str:
        """Path or URL of the page."""
        return f"{self.draft.uri}/{PAGE}"

    def page_file(self) -> Path:
        """The page as a local file."""
        return self.draft.local(PAGE)
