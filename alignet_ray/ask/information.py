"""Which questions would tell most: the information that an answer is expected to give about a model of people."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64
from scipy.special import entr, softmax

from alignet_ray.ask.forms import FORMS
from alignet_ray.ask.study_file import Mode
from alignet_ray.core.triplet_rows import set_keys
from alignet_ray.core.triplets import gram_similarities

BITS = 21
"""Bits of an object's number in a key: enough for two million objects."""


def question_keys(questions: Int64[np.ndarray, "n 3"], mode: Mode) -> Int64[np.ndarray, " n"]:
    """One integer per question, equal for equal questions: the order of what people choose from does not matter."""
    if mode == "odd":
        return np.asarray(set_keys(questions))
    reference, first, second = questions.T
    return np.asarray(reference << 2 * BITS | np.minimum(first, second) << BITS | np.maximum(first, second))


def random_questions(objects: int, count: int, rng: np.random.Generator, mode: Mode) -> Int64[np.ndarray, "n 3"]:
    """Different random questions about three objects; fewer than `count` where some were drawn twice."""
    drawn = rng.integers(0, objects, (count, 3))
    first, second, third = drawn.T
    drawn = drawn[(first != second) & (first != third) & (second != third)]
    _, positions = np.unique(question_keys(drawn, mode), return_index=True)
    return np.asarray(drawn[np.sort(positions)], dtype=np.int64)


def unseen(questions: Int64[np.ndarray, "n 3"], seen: Int64[np.ndarray, " k"], mode: Mode) -> Int64[np.ndarray, "u 3"]:
    """Those of the questions whose key (`question_keys`) is not among `seen`."""
    return questions[~np.isin(question_keys(questions, mode), seen)]


def choice_probabilities(
    gram: Float[np.ndarray, "m m"], questions: Int64[np.ndarray, "n 3"], mode: Mode
) -> Float[np.ndarray, "n c"]:
    """How likely people are to choose each of the pairs that compete, in the order of `core.triplet_rows.PAIRS`.

    In a reference comparison the two pairs with the reference compete, which are the first ones.

    Args:
        gram: similarities of all objects.
        questions: three objects each, a reference first.
        mode: the form of the questions.
    """
    similarities = gram_similarities(gram, questions)[:, : FORMS[mode].pairs]
    return np.asarray(softmax(similarities.astype(np.float64), axis=1))


def expected_information(
    samples: Float32[np.ndarray, "s m d"], questions: Int64[np.ndarray, "n 3"], mode: Mode
) -> Float[np.ndarray, " n"]:
    """Information in nats that an answer is expected to give about the embedding: what the samples disagree on.

    This is the mutual information between answer and posterior (BALD; Houlsby et al., 2011): the entropy of the mean
    prediction less the mean entropy of the predictions. A question on which people are known to disagree has a high
    entropy and brings nothing.

    Args:
        samples: samples of the posterior, as the model multiplies them (after its ReLU).
        questions: candidate questions.
        mode: their form.
    """
    total = np.zeros((len(questions), FORMS[mode].pairs))
    entropy = np.zeros(len(questions))
    for sample in samples:
        probabilities = choice_probabilities(sample @ sample.T, questions, mode)
        total += probabilities
        entropy += entr(probabilities).sum(axis=1)
    count = len(samples)
    return np.asarray(entr(total / count).sum(axis=1) - entropy / count)


class Chosen(NamedTuple):
    """Questions with the information that was expected of each, in nats."""

    questions: Int64[np.ndarray, "n 3"]
    information: Float[np.ndarray, " n"]


def most_informative(
    candidates: Int64[np.ndarray, "n 3"],
    information: Float[np.ndarray, " n"],
    count: int,
    per_object: int,
) -> Chosen:
    """The most informative questions, in which no object takes part more than `per_object` times.

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
