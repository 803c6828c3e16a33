"""The soften artifact: the objects and their split, the model of human choices, and the responses it was fitted to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import safetensors.numpy
from jaxtyping import Float32, Int64

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.base import ArtifactView, from_rows, part_name, safetensors_of, to_rows
from alignet_ray.core import comparisons
from alignet_ray.core.comparisons import Comparisons
from alignet_ray.core.learning_curve import Forecast, Point
from alignet_ray.core.participants import PersonFit
from alignet_ray.store import JsonObject

OBJECTS = "objects.parquet"
POSTERIOR = "embedding.safetensors"
COMPARISONS = "comparisons.parquet"
LEARNING_CURVE = "learning_curve.json"
PEOPLE = "people.parquet"

ROWS_PER_PART = 1_000_000
"""Softened responses in one part."""


class Posterior(NamedTuple):
    """Posterior of the human embedding: every entry is normal and independent of the others.

    Attributes:
        mu: means, one row an object.
        sigma: standard deviations; zeros for a published embedding, which has none.
    """

    mu: Float32[np.ndarray, "m d"]
    sigma: Float32[np.ndarray, "m d"]


@dataclass(frozen=True)
class LearningCurve:
    """How well a model of people predicts answers that it was not fitted to, by the number of answers.

    Attributes:
        model: the model of people.
        tested: held-out answers.
        points: accuracy at every number of answers, ascending.
        forecasts: what more answers are expected to bring; the last one: as many as there are.
    """

    model: str
    tested: int
    points: list[Point]
    forecasts: list[Forecast]

    def to_json(self) -> JsonObject:
        """As a JSON object."""
        return {
            "model": self.model,
            "tested": self.tested,
            "points": to_rows(self.points),
            "forecasts": to_rows(self.forecasts),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "LearningCurve":
        """What `to_json` gave."""
        points = from_rows(Point, stored["points"])
        forecasts = from_rows(Forecast, stored["forecasts"])
        return cls(stored["model"], stored["tested"], points, forecasts)


@dataclass(frozen=True)
class SoftenArtifact(ArtifactView):
    """What people said about the objects, and who is in which split."""

    def objects(self, columns: list[str] | None = None) -> pa.Table:
        """Table OBJECTS: every object of the human data, its split and its images."""
        return self.files.read_table(OBJECTS, columns)

    def write_objects(self, table: pa.Table) -> None:
        """Write the table OBJECTS."""
        self.draft.write_table(OBJECTS, schemas.check(table, schemas.OBJECTS))

    def annotated_image_ids(self) -> Int64[np.ndarray, " n"]:
        """image_ids of all images that show an annotated object, ascending."""
        # An image may show several objects, and counts once.
        ids: set[int] = set()
        for image_ids in self.objects(["image_ids"])["image_ids"].to_pylist():
            ids.update(image_ids)
        return np.array(sorted(ids), dtype=np.int64)

    def held_out_image_ids(self) -> Int64[np.ndarray, " n"]:
        """image_ids of validation and test objects, ascending: no stage may learn from them.

        An image that also shows a training object is held out all the same.
        """
        return self._image_ids_of({"validation", "test"})

    def test_image_ids(self) -> Int64[np.ndarray, " n"]:
        """image_ids of test objects, ascending: nothing learns from them, and nothing is chosen by them."""
        return self._image_ids_of({"test"})

    def _image_ids_of(self, splits: Collection[str]) -> Int64[np.ndarray, " n"]:
        table = self.objects(["split", "image_ids"])
        ids: set[int] = set()
        for split, image_ids in zip(table["split"].to_pylist(), table["image_ids"].to_pylist(), strict=True):
            if split in splits:
                ids.update(image_ids)
        return np.array(sorted(ids), dtype=np.int64)

    def posterior(self) -> Posterior:
        """The model of human choices."""
        stored = safetensors.numpy.load(self.files.read_bytes(POSTERIOR))
        return Posterior(stored["mu"], stored["sigma"])

    def write_posterior(self, posterior: Posterior) -> None:
        """Write the model of human choices."""
        self.draft.write_bytes(POSTERIOR, safetensors_of(posterior._asdict()))

    def responses(self) -> Int64[np.ndarray, "n 3"]:
        """The responses as people gave them: objects (pair, pair, odd)."""
        # The probabilities lie in the same table and are not read.
        columns = ["i", "j", "k"]
        return schemas.column_matrix(self.files.read_parts(columns=columns), columns)

    def comparisons(self) -> Comparisons:
        """The reference comparisons, one row a question; none where people were not asked any."""
        if not self.files.has(COMPARISONS):
            return comparisons.no_comparisons()
        table = self.files.read_table(COMPARISONS)
        rows = schemas.column_matrix(table, ("reference", "a", "b"))
        votes = schemas.column_matrix(table, ("votes_a", "votes_b"))
        return Comparisons(rows, votes)

    def write_comparisons(self, asked: Comparisons, probabilities: Float32[np.ndarray, " n"]) -> None:
        """Write the table COMPARISONS.

        Args:
            asked: the comparisons, one row a question.
            probabilities: that people find a more like the reference, by the human model.
        """
        columns = [*asked.rows.T.copy(), *asked.votes.T.copy(), probabilities]
        table = pa.table(columns, schema=schemas.COMPARISONS)
        self.draft.write_table(COMPARISONS, schemas.check(table, schemas.COMPARISONS))

    def write_soft_responses(
        self, part: int, responses: Int64[np.ndarray, "n 3"], probabilities: Float32[np.ndarray, "n 3"]
    ) -> None:
        """Write some responses with the probabilities of their pairs 01, 02, 12 as one part of the table SOFT."""
        # Arrow wants columns whose values lie one after the other, hence the copies.
        table = pa.table([*responses.T.copy(), *probabilities.T.copy()], schema=schemas.SOFT)
        self.draft.write_table(part_name(part), schemas.check(table, schemas.SOFT))

    def people(self) -> list[PersonFit]:
        """How every participant's answers fit the model of all; none where the responses name nobody."""
        if not self.files.has(PEOPLE):
            return []
        return from_rows(PersonFit, self.files.read_table(PEOPLE).to_pylist())

    def write_people(self, people: Sequence[PersonFit]) -> None:
        """Write the table PEOPLE."""
        table = pa.Table.from_pylist(to_rows(people), schema=schemas.PEOPLE)
        self.draft.write_table(PEOPLE, schemas.check(table, schemas.PEOPLE))

    def learning_curve(self) -> LearningCurve | None:
        """How far more answers would help; None where it was not measured."""
        if not self.files.has(LEARNING_CURVE):
            return None
        return LearningCurve.from_json(self.files.read_json(LEARNING_CURVE))

    def write_learning_curve(self, curve: LearningCurve) -> None:
        """Write how far more answers would help."""
        self.draft.write_json(LEARNING_CURVE, curve.to_json())
