"""Reference comparisons of test objects: how often a model finds the same object more alike as people do."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from alignet_ray.core import comparisons, scores, similarity
from alignet_ray.core.comparisons import CANDIDATES, Comparisons
from alignet_ray.core.scores import Score
from alignet_ray.core.triplets import gram_similarities
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.paired import BASE
from alignet_ray.evals.spaces import EmbeddingSpace, each_space

DATASET = "objects"
VOTES = "comparison_votes"
MAJORITY = "comparison_majority"
HUMAN = ("human", "")
NAN = float("nan")

MIN_QUESTIONS = 20
"""Comparisons below which no share of them is given: it would be noise."""


def evaluate(
    spaces: Sequence[EmbeddingSpace],
    image_draws: Int[np.ndarray, "draws m"],
    annotated: AnnotatedObjects,
    asked: Comparisons,
    draws: int,
    seed: int,
) -> list[Score]:
    """Agreement with people's own comparisons, all three objects of which are among the annotated ones.

    `comparison_votes`: share of the votes for the object that a space chooses, a mean over questions. `human` is the
    share of the side with more votes, which no model can exceed. `comparison_majority`: share of the questions in which
    a space chooses the side with more votes; questions that people left undecided are not counted. `human` is how well
    the other people's majority predicts a vote, where questions have several. Ties are wrong. Intervals resample
    objects; `_gain` is the difference to the base in the same resamplings, `_gain_p` its p value after Holm's
    correction.

    Args:
        spaces: to be evaluated.
        image_draws: a random image_id of every object in every draw.
        annotated: the objects.
        asked: people's comparisons of objects, by their numbers.
        draws: resamplings of the objects.
        seed: of these.
    """
    known = asked.among(annotated.objects)
    if len(known.rows) < MIN_QUESTIONS:
        return []

    # From object numbers to rows of the annotated objects, which need not be in ascending order.
    ascending = np.argsort(annotated.objects)
    rows = ascending[np.searchsorted(annotated.objects, known.rows, sorter=ascending)]

    def agreement(space: EmbeddingSpace) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        return _agreement(space, image_draws, rows, known.votes)

    agreements = each_space(agreement, spaces)
    names = [space.name for space in spaces]
    with_votes = [votes for votes, _ in agreements]
    with_majority = [majority for _, majority in agreements]

    # The best possible answer knows the votes; a fair prediction of a vote knows the others alone.
    with_votes.append(comparisons.majority_share(known.votes))
    found = _rows(VOTES, [*names, HUMAN], np.stack(with_votes, axis=1), rows, len(annotated), draws, seed)
    decided = comparisons.has_majority(known.votes)
    if decided.sum() >= MIN_QUESTIONS:
        values = np.stack(with_majority, axis=1)[decided]
        found += _rows(MAJORITY, names, values, rows[decided], len(annotated), draws, seed)
        found += _ceiling(known, rows, len(annotated), draws, seed)
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
        if column == base or (model, layer) == HUMAN:
            continue
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


def _ceiling(known: Comparisons, rows: Int[np.ndarray, "n 3"], objects: int, draws: int, seed: int) -> list[Score]:
    """How well the majority of the other people predicts a vote, where questions were asked several times."""
    repeated = known.votes.sum(axis=1) >= 2
    if repeated.sum() < MIN_QUESTIONS:
        return []
    values = comparisons.predicted_by_others(known.votes[repeated])
    return _rows(MAJORITY, [HUMAN], values[:, None], rows[repeated], objects, draws, seed)
