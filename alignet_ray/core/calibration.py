"""Does a model know how sure people are? Temperatures, entropies, expected calibration error."""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar

from alignet_ray.core.triplets import TIE


def softmax(logits: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, "t 3"]:
    """Probabilities of the three pairs, safe for large logits."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def cross_entropy(logits: Float[np.ndarray, "t 3"], people: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, " t"]:
    """-sum people log softmax(logits) per triplet, in nats; never below the entropy of `people`."""
    top = logits.max(axis=1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return np.asarray(-(people * log_p).sum(axis=1))


def entropy(probabilities: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, " t"]:
    """Entropy per triplet in nats, 0 to ln 3."""
    p = probabilities.astype(np.float64)
    return np.asarray(-(p * np.log(np.maximum(p, 1e-300))).sum(axis=1))


def fit_temperature(similarities: Float[np.ndarray, "t 3"], people: Float[np.ndarray, "t 3"]) -> float:
    """The temperature at which softmax(similarities / temperature) is nearest to people's probabilities.

    Least mean cross-entropy (Guo et al. 2017), searched over eight decades around the spread of the similarities. A
    model that knows nothing gets a very high one: its probabilities are all a third.
    """
    s = similarities.astype(np.float64)
    scale = float(s.std(axis=1).mean()) or 1.0

    def loss(log_t: float) -> float:
        return float(cross_entropy(s / (scale * np.exp(log_t)), people).mean())

    grid = np.linspace(-8, 8, 33)
    best = grid[int(np.argmin([loss(g) for g in grid]))]
    found = minimize_scalar(loss, bounds=(best - 0.5, best + 0.5), method="bounded", options={"xatol": 1e-4})
    return scale * float(np.exp(found.x))


def reliability(
    confidence: Float[np.ndarray, " t"], hits: Float[np.ndarray, " t"], bins: int = 15
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"], Int[np.ndarray, " b"]]:
    """Mean confidence, mean agreement and number of triplets per equally wide bin of confidence; empty bins left out.

    Args:
        confidence: probability that the model gives its choice.
        hits: expected agreement of that choice with people (0-1).
        bins: bins between 0 and 1.
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    used = count > 0
    sums = (np.bincount(place, v.astype(np.float64), minlength=bins)[used] / count[used] for v in (confidence, hits))
    x, y = sums
    return x, y, count[used]


def calibration_error(confidence: Float[np.ndarray, " t"], hits: Float[np.ndarray, " t"], bins: int = 15) -> float:
    """Expected calibration error: mean |confidence - agreement| over bins, weighted by their size."""
    x, y, count = reliability(confidence, hits, bins)
    return float((np.abs(x - y) * count).sum() / count.sum())


def confidence(probabilities: Float[np.ndarray, "t 3"], choice: Int[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """Probability of the chosen pair; a third for a tie."""
    chosen = np.take_along_axis(probabilities, np.maximum(choice, 0)[:, None], axis=1)[:, 0]
    return np.where(choice == TIE, 1 / 3, chosen)
