"""Judgements from outside the run: odd-one-out answers by level (Levels), two-alternative choices (NIGHTS), matrices.

None of them is the run's training data; the images they speak of were embedded with the judged objects'.
"""

import numpy as np
from jaxtyping import Float, Int

from alignet_ray.core import calibration, scores, similarity
from alignet_ray.core.ceilings import noise_ceilings
from alignet_ray.core.scores import Score
from alignet_ray.evals.human_similarity import object_similarity
from alignet_ray.evals.spaces import Judged, Space

CHUNK = 65_536


def evaluate_answers(
    spaces: list[Space],
    triplets: Int[np.ndarray, "n 3"],
    levels: list[str],
    times: Float[np.ndarray, " n"],
    seed: int,
) -> list[Score]:
    """Share of answers (image_ids: pair, pair, odd) that a space gives, too, over all and by level; ties are wrong.

    The ceiling (human) is how well other people's answers to the same triplet predict an answer, where triplets repeat.
    Where response times are known: the rank correlation of the space's entropy with them (people take longer where a
    model that sees as they do is unsure); its temperature is the one at which it predicts the answers best.
    """
    rows: list[Score] = []
    groups = {"": np.ones(len(triplets), dtype=bool)}
    groups |= {level: np.array([name == level for name in levels]) for level in sorted(set(levels) - {""})}
    timed = np.isfinite(times)
    for space in spaces:
        s = triplet_similarities(space, triplets)
        choice = scores.choices(s)
        right = (choice == 0).astype(np.float64)
        for level, chosen in groups.items():
            low, high = scores.mean_interval(right[chosen], seed=seed)
            value, n = float(right[chosen].mean()), int(chosen.sum())
            rows.append(Score(space.model, space.layer, "answers", "odd_one_out", value, low, high, n, level, "", seed))
        ties = float((choice == scores.TIE).mean())
        rows.append(Score(space.model, space.layer, "answers", "ties", ties, n=len(s), split="", seed=seed))
        if timed.sum() > 2:
            certain = np.tile(np.array([1.0, 0.0, 0.0]), (len(s), 1))
            p = calibration.softmax(s / calibration.fit_temperature(s, certain))
            value = similarity.correlation(calibration.entropy(p)[timed], times[timed])
            n = int(timed.sum())
            rows.append(Score(space.model, space.layer, "answers", "entropy_time", value, n=n, split="", seed=seed))
    for level, chosen in groups.items():
        if len(np.unique(np.sort(triplets[chosen], axis=1), axis=0)) < chosen.sum():
            top = noise_ceilings(triplets[chosen].astype(np.int64))["leave_one_out"]
            rows.append(
                Score("human", "", "answers", "odd_one_out", top.value, top.low, top.high, top.answers, level, "", seed)
            )
    return rows


def triplet_similarities(space: Space, triplets: Int[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Similarities of the pairs (01, 02, 12) of triplets of image_ids; every image is looked up once."""
    ids, place = np.unique(triplets, return_inverse=True)
    x, place = space.features(ids), place.reshape(triplets.shape)
    parts = []
    for start in range(0, len(place), CHUNK):
        a, b, c = (x[column] for column in place[start : start + CHUNK].T)
        parts.append(np.stack([(a * b).sum(1), (a * c).sum(1), (b * c).sum(1)], axis=1))
    return np.concatenate(parts)


def evaluate_choices(
    spaces: list[Space],
    reference: Int[np.ndarray, " n"],
    left: Int[np.ndarray, " n"],
    right: Int[np.ndarray, " n"],
    votes_left: Float[np.ndarray, " n"],
    seed: int,
) -> list[Score]:
    """Two-alternative forced choice: the share of people who choose as the space does, and the best possible share."""
    rows = []
    best = np.maximum(votes_left, 1 - votes_left)
    for space in spaces:
        s = triplet_similarities(space, np.stack([reference, left, right], axis=1))
        agree = np.where(s[:, 0] > s[:, 1], votes_left, 1 - votes_left)
        agree = np.where(s[:, 0] == s[:, 1], 0.0, agree)
        low, high = scores.mean_interval(agree, seed=seed)
        value = float(agree.mean())
        rows.append(Score(space.model, space.layer, "choices", "two_afc", value, low, high, len(agree), "", "", seed))
    low, high = scores.mean_interval(best, seed=seed)
    return [*rows, Score("human", "", "choices", "two_afc", float(best.mean()), low, high, len(best), "", "", seed)]


def evaluate_matrix(spaces: list[Space], judged: Judged, matrix: Float[np.ndarray, "m m"], seed: int) -> list[Score]:
    """RSA with a matrix of people's similarities between the judged objects (its rows): Spearman and Pearson."""
    rows = []
    pairs = len(judged) * (len(judged) - 1) // 2
    for space in spaces:
        ours = object_similarity(space, judged)
        for method in ("spearman", "pearson"):
            value = similarity.rsa(ours, matrix, method)
            low, high = scores.interval(similarity.rsa_bootstrap(ours, matrix, 100, seed, method))
            rows.append(Score(space.model, space.layer, "matrix", f"rsa_{method}", value, low, high, pairs, seed=seed))
    return rows
