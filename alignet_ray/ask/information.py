"""Which triplets would tell most: the information that an answer is expected to give about a model of people."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64
from scipy.special import entr, softmax

from alignet_ray.core.triplets import gram_similarities, set_keys


def random_triplets(objects: int, count: int, rng: np.random.Generator) -> Int64[np.ndarray, "n 3"]:
    """Different random sets of three objects; fewer than `count` where some were drawn twice."""
    drawn = rng.integers(0, objects, (count, 3))
    first, second, third = drawn.T
    drawn = drawn[(first != second) & (first != third) & (second != third)]
    _, positions = np.unique(set_keys(drawn), return_index=True)
    return np.asarray(drawn[np.sort(positions)], dtype=np.int64)


def unseen(triplets: Int64[np.ndarray, "n 3"], seen: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, "u 3"]:
    """Those of the triplets whose set is not among `seen` (keys of `set_keys`)."""
    return triplets[~np.isin(set_keys(triplets), seen)]


def expected_information(
    samples: Float32[np.ndarray, "s m d"], triplets: Int64[np.ndarray, "n 3"]
) -> Float[np.ndarray, " n"]:
    """Information in nats that an answer is expected to give about the embedding: what the samples disagree on.

    This is the mutual information between answer and posterior (BALD; Houlsby et al., 2011): the entropy of the mean
    prediction less the mean entropy of the predictions. A question on which people are known to disagree has a high
    entropy and brings nothing.

    Args:
        samples: samples of the posterior, as the model multiplies them (after its ReLU).
        triplets: candidate questions.
    """
    total = np.zeros((len(triplets), 3))
    entropy = np.zeros(len(triplets))
    for sample in samples:
        similarities = gram_similarities(sample @ sample.T, triplets)
        probabilities = softmax(similarities.astype(np.float64), axis=1)
        total += probabilities
        entropy += entr(probabilities).sum(axis=1)
    count = len(samples)
    return np.asarray(entr(total / count).sum(axis=1) - entropy / count)


class Chosen(NamedTuple):
    """Triplets with the information that was expected of each, in nats."""

    triplets: Int64[np.ndarray, "n 3"]
    information: Float[np.ndarray, " n"]


def most_informative(
    candidates: Int64[np.ndarray, "n 3"],
    information: Float[np.ndarray, " n"],
    count: int,
    per_object: int,
) -> Chosen:
    """The most informative triplets, in which no object takes part more than `per_object` times.

    Without this limit a batch asks about the few least known objects over and over, before any answer has come.

    Args:
        candidates: questions that may be asked.
        information: what each is expected to bring.
        count: how many are wanted; fewer where the limit leaves no more.
        per_object: the limit.
    """
    used: dict[int, int] = {}
    kept: list[int] = []
    for row in np.argsort(-information, kind="stable").tolist():
        members = candidates[row].tolist()
        if any(used.get(member, 0) >= per_object for member in members):
            continue
        for member in members:
            used[member] = used.get(member, 0) + 1
        kept.append(row)
        if len(kept) == count:
            break
    return Chosen(candidates[kept], information[kept])
