"""Calibration against human choices: temperature, entropy, reliability and expected calibration error."""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr, log_softmax

from alignet_ray.core.triplet_rows import TIE


def cross_entropy(logits: Float[np.ndarray, "t 3"], human: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, " t"]:
    """Cross-entropy of softmax(logits) with human choice probabilities per triplet, in nats.

    It is never below the entropy of the human probabilities.
    """
    return np.asarray(-(human * log_softmax(logits, axis=1)).sum(axis=1))


def entropy(probabilities: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, " t"]:
    """Entropy per triplet in nats, from 0 to ln 3."""
    return np.asarray(entr(probabilities.astype(np.float64)).sum(axis=1))


def fit_temperature(similarities: Float[np.ndarray, "t 3"], human: Float[np.ndarray, "t 3"]) -> float:
    """The temperature at which softmax(similarities / temperature) fits the human probabilities best.

    Temperature scaling (Guo et al., "On calibration of modern neural networks", ICML 2017): the mean cross-entropy is
    minimised over seven decades around the spread of the similarities. A model that knows nothing gets a very high
    temperature, at which all its probabilities are a third.
    """
    # Commands that only plan need no optimiser, and its import takes a while.
    from scipy.optimize import minimize_scalar

    wide = similarities.astype(np.float64)
    scale = float(wide.std(axis=1).mean()) or 1.0

    def loss(log_temperature: float) -> float:
        return float(cross_entropy(wide / (scale * np.exp(log_temperature)), human).mean())

    # The grid keeps the bounded search out of the flat ends of the curve.
    grid = np.linspace(-8, 8, 33)
    start = grid[int(np.argmin([loss(point) for point in grid]))]
    minimum = minimize_scalar(loss, bounds=(start - 0.5, start + 0.5), method="bounded", options={"xatol": 1e-4})
    return scale * float(np.exp(minimum.x))


def reliability(
    confidence: Float[np.ndarray, " t"], agreement: Float[np.ndarray, " t"], bins: int = 15
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"], Int[np.ndarray, " b"]]:
    """The reliability diagram: mean confidence, mean agreement and number of triplets of each bin that is not empty.

    Args:
        confidence: probability that the model gives its choice.
        agreement: expected agreement of that choice with people (0-1).
        bins: number of equally wide bins of confidence between 0 and 1.
    """
    # Bins are (low, high], so that full confidence falls into the last one.
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    filled = counts > 0

    confidence_sums = np.bincount(place, confidence.astype(np.float64), minlength=bins)
    agreement_sums = np.bincount(place, agreement.astype(np.float64), minlength=bins)
    return (
        confidence_sums[filled] / counts[filled],
        agreement_sums[filled] / counts[filled],
        counts[filled],
    )


def calibration_error(confidence: Float[np.ndarray, " t"], agreement: Float[np.ndarray, " t"], bins: int = 15) -> float:
    """Expected calibration error: mean |confidence - agreement| over bins, weighted by their size."""
    mean_confidence, mean_agreement, counts = reliability(confidence, agreement, bins)
    return float((np.abs(mean_confidence - mean_agreement) * counts).sum() / counts.sum())


def confidence(probabilities: Float[np.ndarray, "t 3"], choice: Int[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """Probability of the chosen pair per triplet; a third for a tie."""
    chosen = np.take_along_axis(probabilities, np.maximum(choice, 0)[:, None], axis=1)[:, 0]
    return np.where(choice == TIE, 1 / 3, chosen)
