"""Judgements from outside the run: odd-one-out answers by level (Levels), two-alternative choices (NIGHTS), matrices.

None of them is the run's training data; the images they speak of were embedded with the judged objects'.
"""

import numpy as np
from jaxtyping import Float, Int

from alignet_ray.core import calibration, scores, similarity
from alignet_ray.core.noise_ceiling import noise_ceilings, repeated
from alignet_ray.core.scores import Score
from alignet_ray.evals import paired, rsa
from alignet_ray.evals.inputs import AnnotatedObjects, Space
from alignet_ray.human.matrices import mean

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
    right = {}
    for space in spaces:
        s = triplet_similarities(space, triplets)
        choice = scores.choices(s)
        right[space.model, space.layer] = (choice == 0).astype(np.float64)
        ties = float((choice == scores.TIE).mean())
        rows.append(Score(space.model, space.layer, "answers", "ties", ties, n=len(s), split="", seed=seed))
        if timed.sum() > 2:
            certain = np.tile(np.array([1.0, 0.0, 0.0]), (len(s), 1))
            p = calibration.softmax(s / calibration.fit_temperature(s, certain))
            value = similarity.correlation(calibration.entropy(p)[timed], times[timed])
            n = int(timed.sum())
            rows.append(Score(space.model, space.layer, "answers", "entropy_time", value, n=n, split="", seed=seed))
    for level, chosen in groups.items():
        found = {name: values[chosen] for name, values in right.items()}
        rows += paired.rows(found, "answers", "odd_one_out", seed, level=level, split="")
        if repeated(triplets[chosen]):
            top = noise_ceilings(triplets[chosen])["leave_one_out"]
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
    agree = {}
    for space in spaces:
        s = triplet_similarities(space, np.stack([reference, left, right], axis=1))
        share = np.where(s[:, 0] > s[:, 1], votes_left, 1 - votes_left)
        agree[space.model, space.layer] = np.where(s[:, 0] == s[:, 1], 0.0, share)
    agree["human", ""] = np.maximum(votes_left, 1 - votes_left)
    return paired.rows(agree, "choices", "two_afc", seed, split="")


def evaluate_matrix(
    spaces: list[Space], judged: AnnotatedObjects, people: Float[np.ndarray, "p m m"], seed: int
) -> list[Score]:
    """RSA with people's similarities between the judged objects (rows): their mean, and single people if several."""
    rows = rsa.evaluate(spaces, judged, 100, seed, mean(people, "evaluate.matrix"), "matrix")
    return rows + (rsa.evaluate_people(spaces, judged, people, seed) if len(people) > 1 else [])
