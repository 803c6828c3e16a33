"""Simple readers of frozen features: logistic regression for many small problems at once, nearest neighbours, AUROC."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.stats import rankdata


def coordinates(x: Float[np.ndarray, "n d"], most: int = 256) -> Float[np.ndarray, "n r"]:
    """Standardised features in as few dimensions as they span, at a mean squared length of 1.

    Linear classifiers with an L2 penalty give the same answers there as on the standardised features, only faster;
    beyond `most` principal dimensions the rest is left out.
    """
    centred = (x - x.mean(axis=0)).astype(np.float64)
    centred /= np.maximum(centred.std(axis=0), 1e-6)
    centred /= max(float(np.sqrt((centred**2).sum(axis=1).mean())), 1e-12)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    keep = s > 1e-6 * max(s.max(), 1e-12)
    return np.asarray((u * s)[:, keep][:, :most], dtype=np.float32)


def fit_logistic(
    x: Float[np.ndarray, "b n d"],
    y: Int[np.ndarray, "b n"],
    classes: int,
    penalty: Float[np.ndarray, " b"],
    steps: int = 100,
) -> tuple[Float[np.ndarray, "b d c"], Float[np.ndarray, "b 1 c"]]:
    """Multinomial logistic regression for `b` problems at once: mean cross-entropy + penalty / 2 |W|^2 (bias free).

    L-BFGS on the sum of all problems' objectives, which share no parameters.

    Returns:
        weights and biases; scores are x @ weights + biases.
    """
    b, n, d = x.shape
    z = np.concatenate([x, np.ones((b, n, 1))], axis=2)
    target = np.eye(classes)[y]
    decay = penalty[:, None, None] * np.append(np.ones(d), 0.0)[:, None]

    def objective(flat: Float[np.ndarray, " w"]) -> tuple[float, Float[np.ndarray, " w"]]:
        weights = flat.reshape(b, d + 1, classes)
        log_p = log_softmax(z @ weights, axis=2)
        gradient = z.transpose(0, 2, 1) @ (np.exp(log_p) - target) / n + decay * weights
        return -(log_p * target).sum() / n + (decay * weights**2).sum() / 2, gradient.ravel()

    start = np.zeros(b * (d + 1) * classes)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": steps})
    weights = found.x.reshape(b, d + 1, classes)
    return weights[:, :-1], weights[:, -1:]


def logistic_predictions(
    train: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], test: Float[np.ndarray, "k d"], penalty: float
) -> Int[np.ndarray, " k"]:
    """Labels that a logistic regression on `train` gives to `test`."""
    names, y = np.unique(labels, return_inverse=True)
    weights, bias = fit_logistic(train[None], y[None], len(names), np.array([penalty]))
    return np.asarray(names[(test @ weights[0] + bias[0]).argmax(axis=1)])


def knn_predictions(
    similarity: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " k"], neighbours: int
) -> Int[np.ndarray, " n"]:
    """Majority vote among the `neighbours` most similar references of each row; ties go to the nearest of them.

    Entries of -inf are never neighbours.
    """
    near = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
    usable = np.isfinite(np.take_along_axis(similarity, near, axis=1))
    votes = np.zeros((len(similarity), int(labels.max()) + 1))
    for rank in range(near.shape[1]):
        weight = usable[:, rank] * (1 + 1e-6 * (near.shape[1] - rank))
        np.add.at(votes, (np.arange(len(votes)), labels[near[:, rank]]), weight)
    return np.asarray(votes.argmax(axis=1))


def auroc(score: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Probability that a positive scores higher than a negative (ties count half); NaN without both."""
    up, down = int(positive.sum()), int((~positive).sum())
    if not up or not down:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[positive].sum() - up * (up + 1) / 2) / (up * down))
