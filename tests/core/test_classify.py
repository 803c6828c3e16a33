import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from alignet_ray.core import classify


def blobs(seed: int, n: int = 60, d: int = 5, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return rng.normal(size=(classes, d))[y] + 0.7 * rng.normal(size=(n, d)), y


@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
def test_many_problems_at_once_equal_sklearn_one_by_one(penalty: float) -> None:
    problems = [blobs(seed) for seed in range(3)]
    x, y = (np.stack(values) for values in zip(*problems, strict=True))
    weights, bias = classify.fit_logistic(x, y, 4, np.full(3, penalty), steps=500)
    for i in range(3):
        oracle = LogisticRegression(C=1 / (penalty * 60), max_iter=5000, tol=1e-8).fit(x[i], y[i])
        ours = x[i] @ weights[i] + bias[i]
        theirs = oracle.decision_function(x[i])
        centred = ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True)
        assert centred[0] == pytest.approx(centred[1], abs=2e-2 * np.abs(theirs).max())
        assert (ours.argmax(1) == oracle.predict(x[i])).mean() > 0.98


def test_problems_do_not_touch_each_other() -> None:
    x, y = blobs(0)
    alone = classify.fit_logistic(x[None], y[None], 4, np.array([0.01]), 500)
    other_x, other_y = blobs(1)
    together = classify.fit_logistic(np.stack([x, other_x]), np.stack([y, other_y]), 4, np.array([0.01, 0.3]), 500)
    assert together[0][0] == pytest.approx(alone[0][0], abs=1e-2)


def test_predictions_carry_the_given_labels() -> None:
    x, y = blobs(3)
    found = classify.logistic_predictions(x[:40], y[:40] * 10 + 5, x[40:], 1e-2)
    assert set(found.tolist()) <= {5, 15, 25, 35}
    assert (found == y[40:] * 10 + 5).mean() > 0.7


def test_coordinates_keep_all_standardised_distances() -> None:
    x = np.random.default_rng(0).normal(3, 2, (20, 50)).astype(np.float32)
    z = classify.coordinates(x)
    assert z.shape == (20, 19)
    expected = StandardScaler().fit_transform(x)
    expected /= np.sqrt((expected**2).sum(1).mean())
    assert z @ z.T == pytest.approx(expected @ expected.T, abs=1e-4)
    assert classify.coordinates(x, max_dims=4).shape == (20, 4)
    assert np.isfinite(classify.coordinates(np.ones((5, 3), np.float32))).all()


def test_coordinates_of_other_rows_are_those_of_the_fitted_ones() -> None:
    """Rows that a classifier is not fitted on change nothing: a probe must not be scaled by what it is tested on."""
    rng = np.random.default_rng(1)
    x = rng.normal(3, 2, (30, 6)).astype(np.float32)
    moved = x.copy()
    moved[20:] = 100 * moved[20:] + 7
    fitted = np.arange(20)
    np.testing.assert_allclose(classify.coordinates(moved, fitted)[:20], classify.coordinates(x, fitted)[:20])

    scaler = StandardScaler().fit(x[:20])
    length = np.sqrt((scaler.transform(x[:20]) ** 2).sum(1).mean())
    expected = scaler.transform(x) / length
    z = classify.coordinates(x, fitted)
    assert z @ z.T == pytest.approx(expected @ expected.T, abs=1e-4)


def test_nearest_neighbours_equal_sklearn() -> None:
    x, y = blobs(5, n=90)
    train, test = x[:60], x[60:]
    distance = ((test[:, None] - train[None]) ** 2).sum(-1)
    oracle = KNeighborsClassifier(1).fit(train, y[:60]).predict(test)
    assert classify.knn_predictions(-distance, y[:60], 1).tolist() == oracle.tolist()
    votes = classify.knn_predictions(-distance, y[:60], 5)
    assert (votes == KNeighborsClassifier(5).fit(train, y[:60]).predict(test)).mean() > 0.9  # ties differ


def test_votes_ignore_what_may_not_be_a_neighbour() -> None:
    similarity = np.array([[-np.inf, 0.2, 0.1, -np.inf]])
    assert classify.knn_predictions(similarity, np.array([0, 1, 1, 0]), 4).tolist() == [1]


def test_auroc_equals_sklearn() -> None:
    rng = np.random.default_rng(0)
    score, positive = np.round(rng.normal(size=200), 1), rng.random(200) < 0.3
    assert classify.auroc(score, positive) == pytest.approx(roc_auc_score(positive, score))
    assert np.isnan(classify.auroc(score, np.zeros(200, bool)))
