"""Odd-one-out agreement: how often a model picks the pair of a triplet that people pick."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from alignet_ray.core import noise_ceiling, scores, similarity
from alignet_ray.core.scores import Score
from alignet_ray.core.triplet_rows import TIE
from alignet_ray.core.triplets import choices, expected_agreement, gram_similarities
from alignet_ray.evals.annotated_objects import AnnotatedObjects, TripletTrials
from alignet_ray.evals.spaces import EmbeddingSpace

DATASET = "objects"
NAN = float("nan")

MIN_TRIALS = 20
"""Trials below which a part of them is not scored."""

MIN_RESPONSES = 100
"""Single responses, or triplets that several people saw, below which no share of them is given: it would be noise."""

LEVEL_DRAWS = 300
"""Resamplings behind the intervals of parts of the trials, at most."""


class SpaceResponses(NamedTuple):
    """What one space chooses: mean agreement per trial, share of ties, and the choices at the first draw of images."""

    agreement: Float[np.ndarray, " t"]
    ties: float
    choice: Int[np.ndarray, " t"]


@dataclass(frozen=True)
class HeldOutResponses:
    """What all spaces choose on the same trials, a column for each.

    Attributes:
        names: (model, layer) of each column; the last one is the human model itself, which is the noise ceiling.
        agreement: expected agreement with people per trial, averaged over draws of images.
        ties: share of trials in which a model could not choose.
        choice: the pair chosen at the first draw of images (TIE where none was).
    """

    names: list[tuple[str, str]]
    agreement: Float[np.ndarray, "t s"]
    ties: Float[np.ndarray, " s"]
    choice: Int[np.ndarray, "t s"]


def respond(space: EmbeddingSpace, image_draws: Int[np.ndarray, "draws m"], trials: TripletTrials) -> SpaceResponses:
    """Choices of one space, with a random image for each object in every draw."""
    agreement = np.zeros(len(trials))
    ties = 0.0
    first_choice = np.full(len(trials), TIE)
    for draw, image_ids in enumerate(image_draws):
        # One matrix a draw serves all triplets: there are far fewer pairs of objects than triplets.
        matrix = similarity.similarity_matrix(space.rows(image_ids), space.kind)
        choice = choices(gram_similarities(matrix, trials.triplets))
        agreement += expected_agreement(choice, trials.probabilities)
        ties += float((choice == TIE).mean())
        # The report shows a triplet with one image for each object, those of the first draw.
        if draw == 0:
            first_choice = choice
    return SpaceResponses(agreement / len(image_draws), ties / len(image_draws), first_choice)


def respond_all(
    spaces: Sequence[EmbeddingSpace], image_draws: Int[np.ndarray, "draws m"], trials: TripletTrials
) -> HeldOutResponses:
    """Choices of all spaces and, last, the most likely choices of people."""
    names = [space.name for space in spaces]
    columns = [respond(space, image_draws, trials) for space in spaces]

    # The best that any model can do is to make the most frequent human choice.
    names.append(("human", ""))
    columns.append(SpaceResponses(scores.ceiling(trials.probabilities), 0.0, trials.probabilities.argmax(axis=1)))
    return HeldOutResponses(
        names,
        agreement=np.stack([column.agreement for column in columns], axis=1),
        ties=np.array([column.ties for column in columns]),
        choice=np.stack([column.choice for column in columns], axis=1),
    )


def evaluate(
    responses: HeldOutResponses, trials: TripletTrials, annotated: AnnotatedObjects, draws: int, seed: int
) -> list[Score]:
    """Agreement with intervals over objects: raw, chance-corrected, ceiling-normalised; ties; gains; by part.

    Args:
        responses: what the spaces choose.
        trials: the triplets and the probabilities of human choices.
        annotated: the objects of the triplets.
        draws: resamplings of the objects behind an interval.
        seed: of these.
    """
    # All models in one call: the same resamplings for all are what makes differences between them paired.
    means = responses.agreement.mean(axis=0)
    resampled = scores.object_bootstrap(responses.agreement, trials.triplets, len(annotated), draws, seed)
    rows: list[Score] = []
    for column, (model, layer) in enumerate(responses.names):
        low, high = scores.interval(resampled[:, column])
        raw = Score(model, layer, DATASET, "odd_one_out", float(means[column]), low, high, len(trials), seed=seed)
        rows += [
            raw,
            _chance_corrected(raw),
            _ceiling_normalised(raw, float(means[-1]), resampled[:, column], resampled[:, -1]),
            replace(raw, metric="odd_one_out_ties", value=float(responses.ties[column]), low=NAN, high=NAN),
        ]
    rows += gains(responses, resampled, seed)
    rows += by_level(responses, trials, annotated, draws, seed)
    return rows


def _chance_corrected(raw: Score) -> Score:
    return replace(
        raw,
        metric="odd_one_out_corrected",
        value=scores.chance_corrected(raw.value),
        low=scores.chance_corrected(raw.low),
        high=scores.chance_corrected(raw.high),
    )


def _ceiling_normalised(
    raw: Score, ceiling: float, resampled: Float[np.ndarray, " b"], resampled_ceiling: Float[np.ndarray, " b"]
) -> Score:
    # Every draw of objects has its own ceiling, so each is normalised by it before the interval is taken.
    normalised = [scores.ceiling_normalised(*draw) for draw in zip(resampled, resampled_ceiling, strict=True)]
    low, high = scores.interval(np.array(normalised))
    value = scores.ceiling_normalised(raw.value, ceiling)
    return replace(raw, metric="odd_one_out_normalised", value=value, low=low, high=high)


def gains(responses: HeldOutResponses, resampled: Float[np.ndarray, "draws s"], seed: int) -> list[Score]:
    """Differences to base and control on the same trials and the same resamplings; p values after Holm's correction.

    The base is compared by its backbone, the control by the same layer.
    """
    columns = dict(zip(responses.names, range(len(responses.names)), strict=True))
    means = responses.agreement.mean(axis=0)
    trials = len(responses.agreement)
    rows: list[Score] = []
    p_values: list[float] = []
    for (model, layer), column in columns.items():
        if model in ("base", "human"):
            continue

        for other in (("base", "pre_logits"), ("control", layer)):
            if model == other[0] or other not in columns:
                continue

            # Paired bootstrap (Efron and Tibshirani 1993): the difference within each draw of objects.
            other_column = columns[other]
            differences = resampled[:, column] - resampled[:, other_column]
            low, high = scores.interval(differences)
            value = float(means[column] - means[other_column])
            level = f"over:{other[0]}"
            rows.append(Score(model, layer, DATASET, "odd_one_out_gain", value, low, high, trials, level, seed=seed))
            p_values.append(scores.paired_p_value(differences))

    # All comparisons are one family of tests.
    adjusted = scores.holm(np.array(p_values))
    tests = []
    for row, p_value in zip(rows, adjusted, strict=True):
        tests.append(replace(row, metric="odd_one_out_gain_p", value=float(p_value), low=NAN, high=NAN))
    return rows + tests


def by_level(
    responses: HeldOutResponses, trials: TripletTrials, annotated: AnnotatedObjects, draws: int, seed: int
) -> list[Score]:
    """Agreement on parts of the trials: by how sure people are, how categories mix, and for each category."""
    rows = []
    for level, members in levels(trials, annotated.categories).items():
        agreement = responses.agreement[members]
        triplets = trials.triplets[members]
        # Fewer draws than for the whole: there may be dozens of parts, and their intervals are wide anyway.
        resampled = scores.object_bootstrap(agreement, triplets, len(annotated), min(draws, LEVEL_DRAWS), seed)
        for column, (model, layer) in enumerate(responses.names):
            low, high = scores.interval(resampled[:, column])
            mean = float(agreement[:, column].mean())
            rows.append(Score(model, layer, DATASET, "odd_one_out", mean, low, high, len(triplets), level, seed=seed))
    return rows


def levels(
    trials: TripletTrials, categories: list[str], min_trials: int = MIN_TRIALS
) -> dict[str, Bool[np.ndarray, " t"]]:
    """Named parts of the trials (masks) with at least `min_trials` members.

    margin: the gap between the likeliest and the second likeliest pair, in thirds. categories: three different ones
    (between), two and another (border), one (within). category: trials with at least two objects of it.
    """
    parts = _margin_levels(trials.probabilities)
    # With one category all triplets are within it.
    if len(set(categories) - {""}) > 1:
        parts |= _category_levels(trials.triplets, categories)
    return {level: members for level, members in parts.items() if members.sum() >= min_trials}


def _margin_levels(probabilities: Float[np.ndarray, "t 3"]) -> dict[str, Bool[np.ndarray, " t"]]:
    # Thirds of these trials, not fixed bounds: how sure people are depends on the objects that were chosen.
    ascending = np.sort(probabilities, axis=1)
    margin = ascending[:, 2] - ascending[:, 1]
    third = np.searchsorted(np.quantile(margin, [1 / 3, 2 / 3]), margin)
    return {"margin:low": third == 0, "margin:middle": third == 1, "margin:high": third == 2}


def _category_levels(triplets: Int[np.ndarray, "t 3"], categories: list[str]) -> dict[str, Bool[np.ndarray, " t"]]:
    names, code = np.unique(categories, return_inverse=True)
    # Sorted codes: equal categories stand next to each other, so that two objects that share one share the middle one.
    first, middle, last = np.sort(code[triplets], axis=1).T
    distinct = 1 + (first != middle).astype(int) + (middle != last)

    # An object without a category may belong to any, so its triplets are of no kind.
    has_category = names[code] != ""
    known = has_category[triplets].all(axis=1)
    parts = {
        "categories:within": known & (distinct == 1),
        "categories:border": known & (distinct == 2),
        "categories:between": known & (distinct == 3),
    }
    for number, name in enumerate(names):
        if name:
            parts[f"category:{name}"] = (middle == number) & (distinct < 3)
    return parts


def noise_ceilings(responses: Int[np.ndarray, "n 3"], seed: int) -> list[Score]:
    """Both noise ceilings of all human responses (pair, pair, odd), where several people saw the same triplets.

    odd_one_out_raw_ceiling: how well other people predict a response; _modal: how well the most frequent one does.
    """
    if not noise_ceiling.repeated(responses):
        return []
    ceilings = noise_ceiling.noise_ceilings(responses)
    if ceilings["modal"].triplets < MIN_RESPONSES:
        return []
    rows = []
    for kind, metric in (("leave_one_out", "odd_one_out_raw_ceiling"), ("modal", "odd_one_out_raw_ceiling_modal")):
        top = ceilings[kind]
        rows.append(Score("human", "", DATASET, metric, top.value, top.low, top.high, top.answers, split="", seed=seed))
    return rows


def evaluate_raw(
    spaces: Sequence[EmbeddingSpace],
    image_draws: Int[np.ndarray, "draws m"],
    annotated: AnnotatedObjects,
    responses: Int[np.ndarray, "n 3"],
    draws: int,
    seed: int,
) -> list[Score]:
    """Agreement with single human responses (pair, pair, odd) whose objects are all among the annotated ones.

    Not of the human model: it was fitted to these very responses.
    """
    known = np.isin(responses, annotated.objects).all(axis=1)
    if known.sum() < MIN_RESPONSES:
        return []

    # From object numbers to rows of the annotated objects, which need not be in ascending order.
    ascending = np.argsort(annotated.objects)
    triplets = ascending[np.searchsorted(annotated.objects, responses[known], sorter=ascending)]

    # A single response gives its first pair probability 1; with that it is a trial like any other.
    certain = np.tile(np.array([1.0, 0.0, 0.0], np.float32), (len(triplets), 1))
    chosen = respond_all(spaces, image_draws, TripletTrials(triplets, certain))

    resampled = scores.object_bootstrap(chosen.agreement, triplets, len(annotated), draws, seed)
    rows = []
    for column, (model, layer) in enumerate(chosen.names[:-1]):
        low, high = scores.interval(resampled[:, column])
        value = float(chosen.agreement[:, column].mean())
        rows.append(Score(model, layer, DATASET, "odd_one_out_raw", value, low, high, len(triplets), seed=seed))
    return rows
