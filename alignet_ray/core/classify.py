"""Probes of frozen features: logistic regression for many small problems at once, k-nearest-neighbour votes, AUROC."""

import numpy as np
from jaxtyping import Bool, Float, Int


def coordinates(
    features: Float[np.ndarray, "n d"], fitted: Int[np.ndarray, " k"] | None = None, max_dims: int = 256
) -> Float[np.ndarray, "n r"]:
    """Standardised features in principal axes, at a mean squared length of 1.

    Linear classifiers with an L2 penalty give the same answers there as on the standardised features, only faster.
    Dimensions beyond the `max_dims` largest principal ones are left out.

    Args:
        features: of images.
        fitted: rows that mean, standard deviation and axes are taken from, those that a classifier will be fitted on;
            None: all rows.
        max_dims: number of axes, at most.
    """
    rows: slice | Int[np.ndarray, " k"] = slice(None)
    if fitted is not None:
        rows = fitted

    # The floors keep constant features, which tell nothing, from a division by 0.
    centred = (features - features[rows].mean(axis=0)).astype(np.float64)
    standardised = centred / np.maximum(centred[rows].std(axis=0), 1e-6)
    scaled = standardised / max(float(np.sqrt((standardised[rows] ** 2).sum(axis=1).mean())), 1e-12)

    # Rotation changes neither scores nor the L2 norm of weights, and directions without variance get no weight.
    _, singular, axes = np.linalg.svd(scaled[rows], full_matrices=False)
    spanned = singular > 1e-6 * max(singular.max(), 1e-12)
    return np.asarray(scaled @ axes[spanned][:max_dims].T, dtype=np.float32)


def fit_logistic(
    features: Float[np.ndarray, "b n d"],
    labels: Int[np.ndarray, "b n"],
    classes: int,
    penalty: Float[np.ndarray, " b"],
    steps: int = 100,
) -> tuple[Float[np.ndarray, "b d c"], Float[np.ndarray, "b 1 c"]]:
    """Multinomial logistic regression for `b` problems at once: mean cross-entropy + penalty / 2 |W|^2 (bias free).

    L-BFGS on the sum of all problems' objectives, which share no parameters.

    Returns:
        weights and biases; scores are features @ weights + biases.
    """
    # Late: training processes import this module when they start, and need scipy at their end, if at all.
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    problems, n, width = features.shape
    with_bias = np.concatenate([features, np.ones((problems, n, 1))], axis=2)
    target = np.eye(classes)[labels]
    penalised = np.append(np.ones(width), 0.0)  # all weights, but not the bias
    decay = penalty[:, None, None] * penalised[:, None]

    def objective(flat: Float[np.ndarray, " w"]) -> tuple[float, Float[np.ndarray, " w"]]:
        weights = flat.reshape(problems, width + 1, classes)
        log_probabilities = log_softmax(with_bias @ weights, axis=2)
        loss = -(log_probabilities * target).sum() / n + (decay * weights**2).sum() / 2

        residual = np.exp(log_probabilities) - target
        gradient = with_bias.transpose(0, 2, 1) @ residual / n + decay * weights
        return loss, gradient.ravel()

    start = np.zeros(problems * (width + 1) * classes)
    optimum = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": steps})
    weights = optimum.x.reshape(problems, width + 1, classes)
    return weights[:, :-1], weights[:, -1:]


def logistic_predictions(
    train: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], test: Float[np.ndarray, "k d"], penalty: float
) -> Int[np.ndarray, " k"]:
    """Labels that a logistic regression on `train` predicts for `test`."""
    classes, class_index = np.unique(labels, return_inverse=True)
    weights, bias = fit_logistic(train[None], class_index[None], len(classes), np.array([penalty]))
    scores = test @ weights[0] + bias[0]
    return np.asarray(classes[scores.argmax(axis=1)])


def knn_predictions(
    similarity: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " k"], neighbours: int
) -> Int[np.ndarray, " n"]:
    """Majority vote among the `neighbours` most similar references of each row; ties go to the nearest of them.

    Entries of -inf are never neighbours.
    """
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
    usable = np.isfinite(np.take_along_axis(similarity, nearest, axis=1))
    votes = np.zeros((len(similarity), int(labels.max()) + 1))
    rows = np.arange(len(votes))

    for rank in range(nearest.shape[1]):
        # The small bonus of nearer references breaks ties and cannot outvote a whole vote.
        weight = usable[:, rank] * (1 + 1e-6 * (nearest.shape[1] - rank))
        np.add.at(votes, (rows, labels[nearest[:, rank]]), weight)
    return np.asarray(votes.argmax(axis=1))


def auroc(score: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: probability that a positive scores higher than a negative (ties count half).

    NaN without both kinds.
    """
    positives = int(positive.sum())
    negatives = int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    from scipy.stats import rankdata

    # The Mann-Whitney U statistic of the positives, as a share of all pairs.
    rank_sum = rankdata(score)[positive].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))
