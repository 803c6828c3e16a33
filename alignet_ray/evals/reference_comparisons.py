"""Reference comparisons of test objects: how often a model finds the same object more alike as people do."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from alignet_ray.core import comparisons, scores, similarity
from alignet_ray.core.comparisons import CANDIDATES, Comparisons
from alignet_ray.core.scores import Score
from alignet_ray.core.triplets import gram_similarities
from alignet_ray.evals.annotated_objects import AnnotatedObjects, joined
from alignet_ray.evals.paired import BASE
from alignet_ray.evals.spaces import EmbeddingSpace, each_space

DATASET = "objects"
VOTES = "comparison_votes"
MAJORITY = "comparison_majority"
KNOWN = "_known"
"""End of the metrics of questions whose reference alone is a test object."""

HUMAN = ("human", "")
"""The best possible answer, which knows all votes."""

OTHERS = ("human", "others")
OTHERS_TITLE = "other people"
"""Other people: how well the majority of the other votes predicts a vote."""

NAN = float("nan")

MIN_QUESTIONS = 20
"""Comparisons below which no share of them is given: it would be noise."""


class Questions(NamedTuple):
    """Questions about objects with images.

    Attributes:
        rows: row of the reference and of both candidates among the objects.
        votes: of people, for each candidate.
    """

    rows: Int[np.ndarray, "n 3"]
    votes: Float[np.ndarray, "n 2"]

    def where(self, selected: Bool[np.ndarray, " n"]) -> "Questions":
        """The questions that a mask selects."""
        return Questions(self.rows[selected], self.votes[selected])


def evaluate(
    spaces: Sequence[EmbeddingSpace],
    test: AnnotatedObjects,
    others: Sequence[AnnotatedObjects],
    asked: Comparisons,
    image_draws: int,
    draws: int,
    seed: int,
) -> list[Score]:
    """Agreement with people's own comparisons of test objects.

    `comparison_votes`: share of the votes for the object that a space chooses, a mean over questions. `human` is the
    share of the side with more votes, which no model can exceed; with the layer `others`, the share that the majority
    of the other votes predicts, where questions have several. `comparison_majority`: share of the questions in which a
    space chooses the side with more votes; questions that people left undecided are not counted. Both are about
    questions whose three objects are test objects; with `_known` behind them, about those whose reference is one: a new
    object among known ones. Ties are wrong. Intervals resample objects; `_gain` is the difference to the base in the
    same resamplings, `_gain_p` its p value after Holm's correction.

    Args:
        spaces: to be evaluated.
        test: the test objects.
        others: all other objects, whose images training may have seen.
        asked: people's comparisons of objects, by their numbers.
        image_draws: random images for each object.
        draws: resamplings of the objects.
        seed: of both.
    """
    annotated = joined([test, *others])
    questions = _about(annotated, asked)
    is_test = questions.rows < len(test)
    parts = {"": questions.where(np.asarray(is_test.all(axis=1))), KNOWN: questions.where(is_test[:, 0])}

    found: list[Score] = []
    images = annotated.draw_images(image_draws, seed)
    for part, asked_here in parts.items():
        if len(asked_here.rows) >= MIN_QUESTIONS:
            found += _scores(part, spaces, images, asked_here, draws, seed)
    return found


def _about(annotated: AnnotatedObjects, asked: Comparisons) -> Questions:
    """The questions whose objects all have images, with rows of the objects in place of their numbers."""
    known = asked.among(annotated.objects)
    # The objects need not be in ascending order.
    ascending = np.argsort(annotated.objects)
    rows = ascending[np.searchsorted(annotated.objects, known.rows, sorter=ascending)]
    return Questions(rows.reshape(-1, 3), known.votes)


def _scores(
    part: str,
    spaces: Sequence[EmbeddingSpace],
    images: Int[np.ndarray, "draws m"],
    asked: Questions,
    draws: int,
    seed: int,
) -> list[Score]:
    """Both metrics of one part of the questions, with the ceiling of each."""

    def agreement(space: EmbeddingSpace) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        return _agreement(space, images, asked.rows, asked.votes)

    agreements = each_space(agreement, spaces)
    names = [space.name for space in spaces]
    with_votes = [votes for votes, _ in agreements]
    with_majority = [majority for _, majority in agreements]
    objects = images.shape[1]

    voted = list(names)
    # Of one vote each, every question has a best answer that all agree with, which says nothing of people.
    if ((asked.votes.sum(axis=1) > 1) | (asked.votes.min(axis=1) > 0)).any():
        with_votes.append(comparisons.majority_share(asked.votes))
        voted.append(HUMAN)
    found = _rows(VOTES + part, voted, np.stack(with_votes, axis=1), asked.rows, objects, draws, seed)
    found += _predicted_by_others(VOTES + part, asked, objects, draws, seed)
    decided = comparisons.has_majority(asked.votes)
    if decided.sum() >= MIN_QUESTIONS:
        values = np.stack(with_majority, axis=1)[decided]
        found += _rows(MAJORITY + part, names, values, asked.rows[decided], objects, draws, seed)
    return found


def _agreement(
    space: EmbeddingSpace,
    image_draws: Int[np.ndarray, "draws m"],
    rows: Int[np.ndarray, "n 3"],
    votes: Float[np.ndarray, "n 2"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Agreement of one space with votes and with majorities, each a mean over draws of images."""
    with_votes = np.zeros(len(rows))
    with_majority = np.zeros(len(rows))
    for image_ids in image_draws:
        matrix = similarity.similarity_matrix(space.rows(image_ids), space.kind)
        # The third pair, of the two candidates, is not asked about.
        to_candidates = gram_similarities(matrix, rows)[:, :CANDIDATES]
        with_votes += comparisons.vote_agreement(to_candidates, votes) / len(image_draws)
        with_majority += comparisons.majority_agreement(to_candidates, votes) / len(image_draws)
    return with_votes, with_majority


def _rows(
    metric: str,
    names: Sequence[tuple[str, str]],
    values: Float[np.ndarray, "n s"],
    rows: Int[np.ndarray, "n 3"],
    objects: int,
    draws: int,
    seed: int,
) -> list[Score]:
    """Means with intervals over objects, and paired differences to the base."""
    resampled = scores.object_bootstrap(values, rows, objects, draws, seed)
    means = values.mean(axis=0)
    found = []
    for column, (model, layer) in enumerate(names):
        low, high = scores.interval(resampled[:, column])
        found.append(Score(model, layer, DATASET, metric, float(means[column]), low, high, len(values), seed=seed))
    if BASE not in names:
        return found

    base = list(names).index(BASE)
    gains = []
    p_values = []
    for column, (model, layer) in enumerate(names):
        if column == base or model == "human":
            continue

        # The same resamplings of the objects for both: the difference is paired.
        differences = resampled[:, column] - resampled[:, base]
        low, high = scores.interval(differences)
        gain = float(means[column] - means[base])
        gains.append(
            Score(model, layer, DATASET, f"{metric}_gain", gain, low, high, len(values), "over:base", seed=seed)
        )
        p_values.append(scores.paired_p_value(differences))

    # All models of one metric are one family of tests.
    for gain_row, p_value in zip(gains, scores.holm(np.array(p_values)), strict=True):
        p_row = replace(gain_row, metric=f"{metric}_gain_p", value=float(p_value), low=NAN, high=NAN)
        found += [gain_row, p_row]
    return found


def _predicted_by_others(metric: str, asked: Questions, objects: int, draws: int, seed: int) -> list[Score]:
    """How well the majority of the other votes predicts a vote, where questions were asked several times."""
    repeated = asked.where(asked.votes.sum(axis=1) >= 2)
    if len(repeated.rows) < MIN_QUESTIONS:
        return []
    values = comparisons.predicted_by_others(repeated.votes)
    return _rows(metric, [OTHERS], values[:, None], repeated.rows, objects, draws, seed)
