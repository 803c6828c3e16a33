"""When to stop asking: how well answers are predicted by their number, and what more of them would bring."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from alignet_ray.artifacts.base import to_rows
from alignet_ray.ask.active import by_kind, chosen_first
from alignet_ray.ask.forms import FORMS
from alignet_ray.ask.quality import counted
from alignet_ray.ask.study_file import Answer, Mode, StudyFile
from alignet_ray.core import learning_curve, trace_norm, vice
from alignet_ray.core.answer_rows import AnswerRows
from alignet_ray.core.learning_curve import Forecast, HeldOut, Point, Verdict
from alignet_ray.store import JsonObject

GROWTH = 1.25
"""The curve is drawn anew when there are a quarter more answers."""

ADVICE: dict[Verdict, str] = {
    "helps": "go on: {more:,} more answers would help",
    "cannot tell": "cannot tell yet whether {more:,} more answers would change much",
    "hardly helps": "you may stop: {more:,} more answers about these objects would hardly change anything",
}
"""Whether to go on, as a sentence."""

CHECK_SECONDS = 5.0
"""Seconds between two checks for new answers."""


@dataclass(frozen=True)
class Outlook:
    """How well the answers so far predict held-out ones, and what more answers would bring.

    Attributes:
        points: agreement with held-out answers by the number of answers that the model saw.
        forecast: what more answers are expected to bring.
        tested: held-out answers to random questions behind each point.
        chance: agreement of guesses.
    """

    points: list[Point]
    forecast: Forecast
    tested: int
    chance: float

    @property
    def advice(self) -> str:
        """Whether to go on, in a sentence."""
        if self.points[-1].low <= self.chance:
            return "go on: held-out answers are not predicted better than by chance yet"
        return ADVICE[self.forecast.verdict].format(more=self.forecast.more)

    def as_json(self) -> JsonObject:
        """For the researcher's page."""
        return {
            "points": to_rows(self.points),
            "forecast": self.forecast._asdict(),
            "tested": self.tested,
            "advice": self.advice,
        }


def measure(answers: Sequence[Answer], object_of: Sequence[int], objects: int, mode: Mode, seed: int) -> Outlook | None:
    """The outlook on a study; None where there are too few answers to hold some out.

    Args:
        answers: those that count.
        object_of: image -> object.
        objects: number of objects.
        mode: the form of the questions.
        seed: of the division and the fits.
    """
    if len(answers) < learning_curve.MIN_ANSWERS:
        return None
    rows = chosen_first(answers, object_of, mode)
    is_random = np.array([answer.kind == "random" for answer in answers])

    sizes: list[int] = []
    hits: list[Bool[np.ndarray, "s t"]] = []
    for division in learning_curve.divisions(len(answers), seed):
        sizes = learning_curve.sizes(len(division.fitted))
        # Questions that a model has chosen are harder than others, and say nothing about these.
        tested = rows[division.tested[is_random[division.tested]]]
        hits.append(np.stack([_hits(rows, division, size, tested, objects, mode, seed) for size in sizes]))
    together = np.concatenate(hits, axis=1)
    if not together.shape[1]:
        return None
    points = learning_curve.points(together, sizes)
    return Outlook(
        points, learning_curve.forecast(together, sizes, learning_curve.MORE), together.shape[1], FORMS[mode].chance
    )


def _hits(
    rows: Int64[np.ndarray, "n 3"],
    division: HeldOut,
    size: int,
    tested: Int64[np.ndarray, "t 3"],
    objects: int,
    mode: Mode,
    seed: int,
) -> Bool[np.ndarray, " t"]:
    """Which held-out answers a model predicts that saw `size` others."""
    model = trace_norm.fit(AnswerRows(*by_kind(rows[division.fitted[:size]], mode)), objects, seed)
    return vice.predict(model.mean, np.zeros_like(model.mean), *by_kind(tested, mode), 1, 0).is_hit


class OutlookWorker:
    """Keeps the outlook of a study up to date while people answer.

    Attributes:
        outlook: the newest one; None before the first.
    """

    def __init__(self, study: StudyFile, seed: int = 0) -> None:
        self.outlook: Outlook | None = None
        self._study = study
        self._seed = seed
        self._object_of = [image.object for image in study.images()]
        self._objects = len(study.objects())
        self._last = 0

    def step(self) -> bool:
        """Measure if there are enough new answers; returns whether there were."""
        answers = counted(self._study.people(), self._study.answers())
        if len(answers) < max(learning_curve.MIN_ANSWERS, GROWTH * self._last):
            return False
        mode = self._study.settings.mode
        self.outlook = measure(answers, self._object_of, self._objects, mode, self._seed)
        self._last = len(answers)
        return True

    def run(self, stop: threading.Event) -> None:
        """Work until the study stops."""
        import torch

        # One thread: the other cores answer people.
        torch.set_num_threads(1)
        while not stop.wait(CHECK_SECONDS):
            self.step()
