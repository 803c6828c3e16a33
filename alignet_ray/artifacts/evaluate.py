"""The evaluate artifact: tidy scores of all models and the report."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.base import ArtifactView, from_rows, to_rows
from alignet_ray.core.scores import Score

SCORES = "scores.parquet"
REPORT = "report.html"


@dataclass(frozen=True)
class SetFacts:
    """A set of human judgements from outside, and what of it counts.

    Attributes:
        name: data set in the scores table.
        kind: odd_one_out, matrix or choices.
        images: images with judgements.
        seen: those of them that training saw as well, which are left out.
        unreadable: those that some model could not embed, which are left out.
        judgements: answers, choices or rated pairs that count.
        left_out: judgements about images that are left out.
        people: participants of what counts; 0 where they are unknown.
        citation, licence: as its description gives them.
    """

    name: str
    kind: str
    images: int
    seen: int
    unreadable: int
    judgements: int
    left_out: int
    people: int
    citation: str = ""
    licence: str = ""


@dataclass(frozen=True)
class EvaluateFacts:
    """What artifact.json says of an evaluation.

    Attributes:
        table: lines of the table of scores that a run ends with.
        test_objects: objects that the scores are about.
        verdict: whether the student may become the champion: yes, no, or cannot tell.
        reasons: why, a sentence for each criterion.
        scores: overall scores by `METRIC_MODEL_LAYER`.
        sets: sets of human judgements from outside; None without any.
    """

    table: list[str]
    test_objects: int
    verdict: str
    reasons: list[str]
    scores: dict[str, float]
    sets: list[SetFacts] | None = None


@dataclass(frozen=True)
class EvaluateArtifact(ArtifactView):
    """Scores of base, teacher, student and control."""

    def scores(self) -> pa.Table:
        """Table SCORES, one row a score.

        Raises:
            UserError: it is damaged.
        """
        # A study pools these rows: half of them would give other means, and no error.
        self.files.require_size(SCORES)
        table = self.files.read_table(SCORES)
        if set(table.schema.names) != set(schemas.SCORES.names):
            raise self.files.damaged(SCORES, f"its columns are {', '.join(table.schema.names)}")
        return table

    def write_scores(self, scores: Sequence[Score]) -> None:
        """Write the scores."""
        table = pa.Table.from_pylist(to_rows(scores), schema=schemas.SCORES)
        self.draft.write_table(SCORES, schemas.check(table, schemas.SCORES))

    def facts(self) -> EvaluateFacts:
        """What artifact.json says of the evaluation."""
        # artifact.json may hold facts that later versions add; only the known ones are taken.
        stored = self.files.read_manifest().facts
        known = {}
        for entry in fields(EvaluateFacts):
            # Facts that are None are not stored.
            if entry.name in stored:
                known[entry.name] = stored[entry.name]
        if known.get("sets"):
            known["sets"] = from_rows(SetFacts, known["sets"])
        return EvaluateFacts(**known)

    def report_uri(self) -> str:
        """Path or URL of the report."""
        return f"{self.files.uri}/{REPORT}"

    def report(self) -> str:
        """The report, one self-contained page."""
        return self.files.read_bytes(REPORT).decode()

    def report_file(self) -> Path:
        """The report as a local file."""
        return self.files.local(REPORT)

    def write_report(self, html: str) -> None:
        """Write the report, one self-contained page."""
        self.draft.write_bytes(REPORT, html.encode())
