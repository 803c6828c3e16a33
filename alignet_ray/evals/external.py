"""Agreement with judgements from outside the run: odd-one-out responses, two-alternative choices, and matrices.

They train nothing; their images were embedded with those of the annotated objects, or are a set's own.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import softmax

from alignet_ray.core import calibration, labelling, scores, similarity
from alignet_ray.core.comparisons import CANDIDATES, Comparisons, majority_share, vote_agreement
from alignet_ray.core.noise_ceiling import noise_ceilings, repeated
from alignet_ray.core.scores import Score
from alignet_ray.core.triplet_rows import TIE, set_keys
from alignet_ray.core.triplets import choices
from alignet_ray.evals import paired, rsa
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace
from alignet_ray.human.matrices import mean

MATRIX_DRAWS = 100
"""Resamplings of objects behind the interval of a correlation with a matrix."""


def evaluate_responses(
    spaces: Sequence[EmbeddingSpace],
    triplets: Int[np.ndarray, "n 3"],
    levels: Sequence[str],
    times: Float[np.ndarray, " n"],
    seed: int,
    participants: Sequence[str] = (),
    dataset: str = "answers",
) -> list[Score]:
    """Share of odd-one-out responses that a space predicts, over all and by level (Levels); ties are wrong.

    The ceiling (human) is how well other people predict a response to the same triplet, where triplets repeat.
    Where participants are known, `odd_one_out_participants` is the mean of their shares, with an interval over people.
    Where response times are known: the rank correlation of the space's entropy with them (people take longer where a
    model that sees as they do is unsure); its temperature is the one at which it predicts the responses best.

    Args:
        spaces: to be evaluated.
        triplets: image_ids (pair, pair, odd) of each response.
        levels: kind of each triplet; "" where unknown.
        times: response times; NaN where unknown.
        seed: of the resamplings.
        participants: who gave each response; "" where unknown.
        dataset: name in the scores table.
    """
    rows: list[Score] = []
    correct = {}
    for space in spaces:
        similarities = triplet_similarities(space, triplets)
        choice = choices(similarities)
        # The first two images of a response are the pair that was kept together.
        correct[space.name] = (choice == 0).astype(np.float64)
        ties = float((choice == TIE).mean())
        rows.append(Score(space.model, space.layer, dataset, "ties", ties, n=len(triplets), split="", seed=seed))
        rows += _entropy_and_time(space, similarities, times, seed, dataset)

    # The level "" is all responses together.
    groups = {"": np.ones(len(triplets), dtype=bool)}
    level_names = np.array(levels)
    for level in sorted(set(levels) - {""}):
        groups[level] = level_names == level

    for level, members in groups.items():
        values = {name: items[members] for name, items in correct.items()}
        rows += paired.rows(values, dataset, "odd_one_out", seed, level=level, split="")
        first = members & _first_by_person(triplets, participants)
        rows += _ceiling(triplets[first], level, seed, dataset)
    return rows + _by_participant(correct, participants, dataset, seed)


def _first_by_person(triplets: Int[np.ndarray, "n 3"], participants: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Which responses are the first of a person to their triplet: a ceiling is about other people's answers."""
    first = np.ones(len(triplets), dtype=bool)
    if not any(participants):
        return first
    seen: set[tuple[str, int]] = set()
    for row, asked in enumerate(zip(participants, set_keys(triplets).tolist(), strict=True)):
        # Responses of nobody in particular are of as many people.
        first[row] = not asked[0] or asked not in seen
        seen.add(asked)
    return first


def _by_participant(
    correct: Mapping[tuple[str, str], Float[np.ndarray, " n"]], participants: Sequence[str], dataset: str, seed: int
) -> list[Score]:
    """The mean over participants of the share of their responses that a space predicts; nothing of less than two."""
    names, owner = np.unique(np.array(participants, dtype=np.str_), return_inverse=True)
    is_known = names != ""
    if is_known.sum() < 2:
        return []
    rows = []
    for (model, layer), items in correct.items():
        # People are the sample: the responses of one person are not independent.
        shares = (np.bincount(owner, items) / np.bincount(owner))[is_known]
        low, high = scores.mean_interval(shares, seed=seed)
        mean_share = float(shares.mean())
        metric = "odd_one_out_participants"
        rows.append(Score(model, layer, dataset, metric, mean_share, low, high, len(shares), split="", seed=seed))
    return rows


def _entropy_and_time(
    space: EmbeddingSpace,
    similarities: Float[np.ndarray, "n 3"],
    times: Float[np.ndarray, " n"],
    seed: int,
    dataset: str,
) -> list[Score]:
    """Rank correlation of entropies with response times; nothing with fewer than three of them."""
    is_timed = np.isfinite(times)
    count = int(is_timed.sum())
    if count < 3:
        return []

    # A single response says for sure that the first pair was chosen: the target of the fit is one-hot.
    certain = np.tile(np.array([1.0, 0.0, 0.0]), (len(similarities), 1))
    temperature = calibration.fit_temperature(similarities, certain)

    # Rank correlation, since neither scale means anything by itself.
    entropy = calibration.entropy(softmax(similarities / temperature, axis=1))
    value = similarity.correlation(entropy[is_timed], times[is_timed])
    return [Score(space.model, space.layer, dataset, "entropy_time", value, n=count, split="", seed=seed)]


def _ceiling(triplets: Int[np.ndarray, "n 3"], level: str, seed: int, dataset: str) -> list[Score]:
    if not repeated(triplets):
        return []

    # A response is predicted from the other people's alone, or each would be compared with itself.
    top = noise_ceilings(triplets)["leave_one_out"]
    return [Score("human", "", dataset, "odd_one_out", top.value, top.low, top.high, top.answers, level, "", seed)]


def triplet_similarities(space: EmbeddingSpace, triplets: Int[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Similarities of the pairs (01, 02, 12) of triplets of image_ids; every image is looked up once."""
    # A popular image is in hundreds of triplets, and its embedding may lie in a memory-mapped file.
    image_ids, position = np.unique(triplets, return_inverse=True)
    position = position.reshape(triplets.shape)
    return labelling.similarities(space.features(image_ids), position)


def evaluate_choices(
    spaces: Sequence[EmbeddingSpace], asked: Comparisons, seed: int, dataset: str = "choices"
) -> list[Score]:
    """Two-alternative forced choice (NIGHTS): which of two images is more like a reference?

    A score is the share of people who choose as the space does; `human` is the largest possible share.

    Args:
        spaces: to be evaluated.
        asked: image_ids (reference, left, right), and people's votes for left and right.
        seed: of the resamplings.
        dataset: name in the scores table.
    """
    agreement = {}
    for space in spaces:
        # The third pair, of the two candidates, is not asked about.
        similarities = triplet_similarities(space, asked.rows)[:, :CANDIDATES]
        agreement[space.name] = vote_agreement(similarities, asked.votes)
    agreement["human", ""] = majority_share(asked.votes)
    return paired.rows(agreement, dataset, "two_afc", seed, split="")


def evaluate_matrix(
    spaces: Sequence[EmbeddingSpace],
    annotated: AnnotatedObjects,
    participants: Float[np.ndarray, "p m m"],
    seed: int,
) -> list[Score]:
    """RSA with similarity matrices of the annotated objects: with their mean and, if several, with each one's."""
    # Two questions: how near a space comes to people on average, and how near to each one of them.
    human = mean(participants, "evaluate.matrix")
    rows = rsa.evaluate(spaces, annotated, MATRIX_DRAWS, seed, human, "matrix")
    if len(participants) > 1:
        rows += rsa.evaluate_participants(spaces, annotated, participants, seed)
    return rows
