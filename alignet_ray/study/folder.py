"""The folder of a study, `<root>/study/<id>/`: its settings, written before the first fold, and its results."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from alignet_ray.config import Config
from alignet_ray.store import Draft
from alignet_ray.study.pooling import PooledScore

SETTINGS = "settings.yaml"
SCORES = "study.parquet"
PAGE = "study.html"
MARKDOWN = "study.md"
LATEX = "study.tex"

FROZEN = "# frozen "
"""Beginning of the first line of SETTINGS, before the time at which they were written."""


@dataclass(frozen=True)
class StudyFolder:
    """A study's files; every write is atomic, and only the settings are never written twice.

    Attributes:
        draft: the folder.
    """

    draft: Draft

    def freeze(self, cfg: Config) -> str:
        """Write the settings if they are not there yet; returns when they were written."""
        # A study that goes on must not look as if its settings had been chosen after its first results.
        if not self.draft.has(SETTINGS):
            now = time.strftime("%Y-%m-%d %H:%M")
            self.draft.write_bytes(SETTINGS, f"{FROZEN}{now}\n{cfg.to_yaml()}".encode())
        first_line = self.draft.read_bytes(SETTINGS).decode().splitlines()[0]
        return first_line.removeprefix(FROZEN)

    def write(self, scores: Sequence[PooledScore], page: str, markdown: str, latex: str) -> None:
        """Write the results so far: the table of all scores, and the page with its tables in two other formats."""
        self.draft.write_table(SCORES, pa.Table.from_pylist([asdict(score) for score in scores]))
        self.draft.write_bytes(MARKDOWN, markdown.encode())
        self.draft.write_bytes(LATEX, latex.encode())
        self.draft.write_bytes(PAGE, page.encode())

    def scores(self) -> list[PooledScore]:
        """All scores of the study so far."""
        return [PooledScore(**row) for row in self.draft.read_table(SCORES).to_pylist()]

    def page_uri(self) -> str:
        """Path or URL of the page."""
        return f"{self.draft.uri}/{PAGE}"

    def page_file(self) -> Path:
        """The page as a local file."""
        return self.draft.local(PAGE)
