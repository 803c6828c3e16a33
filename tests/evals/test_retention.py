from dataclasses import replace

import numpy as np
import pytest

from alignet_ray.artifacts.distill import InterpolatedStudent, ScoreChange
from alignet_ray.evals import retention


def point(share: float, agreement: float, loss: float, half_width: float = 0.02) -> InterpolatedStudent:
    """A point whose one kept score has lost this much against the pretrained network."""
    change = ScoreChange(0.5 - loss, -loss, -loss - half_width, -loss + half_width)
    return InterpolatedStudent(share, agreement, agreement + 0.02, 1 - share / 5, {"few_shot_1": change}, change)


START = point(0, 0.39, 0)


def test_the_point_nearest_to_people_among_those_that_lose_a_point_at_most() -> None:
    points = [START, point(0.3, 0.42, -0.02), point(0.6, 0.46, 0.009), point(1, 0.49, 0.05)]
    assert retention.choose(points).interpolation == 0.6
    # Further along the way agreement may fall again: the best point counts, not the last one.
    assert retention.choose([*points[:2], point(0.8, 0.40, 0.0)]).interpolation == 0.3


def test_the_head_counts_beside_the_embedding() -> None:
    head_heavy = replace(point(0.4, 0.42, 0), head_agreement=0.52)
    assert retention.choose([START, head_heavy, point(0.8, 0.43, 0)]).interpolation == 0.4
    assert retention.choose([START, replace(head_heavy, head_agreement=None)]).interpolation == 0.4


def test_where_every_point_loses_more_the_first_one_is_taken() -> None:
    choice = retention.choose([START, point(0.2, 0.4, 0.02), point(1, 0.49, 0.05)])
    assert choice.interpolation == 0.2
    assert choice.reason == (
        "every point loses more than 1 point of telling objects apart or keeps less than 66% of neighbours: "
        "the shortest way"
    )


def test_most_neighbours_must_be_kept() -> None:
    points = [START, point(0.3, 0.42, 0), replace(point(0.6, 0.46, 0), neighbours_kept=0.65)]
    assert retention.choose(points).interpolation == 0.3

    # New neighbours are no loss where objects are surely told apart better.
    better = replace(point(0.6, 0.46, -0.1, half_width=0.09), neighbours_kept=0.2)
    choice = retention.choose([*points[:2], better])
    assert choice.interpolation == 0.6
    assert choice.reason == "nearest to people of those allowed, and better at telling objects apart"


@pytest.mark.parametrize("change", [None, ScoreChange(0.5, 0.0, -0.2, 0.2)])
def test_a_loss_that_cannot_be_judged_keeps_the_safer_half(change: ScoreChange | None) -> None:
    points = [replace(point(share, 0.4 + share / 10, 0), mean_change=change) for share in (0, 0.3, 0.5, 0.8, 1)]
    choice = retention.choose(points)
    assert choice.interpolation == 0.5
    assert "cannot tell" in choice.reason


def test_the_safer_half_holds_only_points_that_keep() -> None:
    """The first point is nearer to people, and has lost more than is allowed."""
    wide = {"half_width": 0.2}
    points = [START, point(0.2, 0.47, 0.05, **wide), point(0.4, 0.46, 0.0, **wide), point(0.8, 0.48, 0.0, **wide)]
    choice = retention.choose(points)
    assert choice.interpolation == 0.4
    assert "cannot tell" in choice.reason


def test_scores_follow_what_tells_objects_apart() -> None:
    """Embeddings that know the object score 1, and random ones chance; objects with one image are candidates only."""
    rng = np.random.default_rng(0)
    images = [np.arange(8 * number, 8 * number + 8) for number in range(24)] + [np.array([192])]
    ids = np.arange(193)
    own = np.repeat(np.eye(25, 32), [8] * 24 + [1], axis=0) + 0.01 * rng.normal(size=(193, 32))
    knows = retention.object_scores(ids, own.astype(np.float32), images, seed=0)
    guesses = retention.object_scores(ids, rng.normal(size=(193, 32)).astype(np.float32), images, seed=0)
    assert set(knows) == {"few_shot_1", "few_shot_5", "same_object"}
    for name, values in knows.items():
        assert np.isnan(values).tolist() == [False] * 24 + [True]
        assert np.nanmean(values) > 0.99, name
        assert np.nanmean(guesses[name]) < 0.2, name
    changed = retention.changes(knows, guesses, seed=0)
    assert changed["same_object"].change == pytest.approx(np.nanmean(guesses["same_object"]) - 1, abs=0.01)
    assert changed["same_object"].low <= changed["same_object"].change <= changed["same_object"].high


def test_the_mean_of_an_objects_scores_counts_those_that_it_has() -> None:
    """Worked by hand: changes of .2 and 0 for the first object, -.1 for the second; the third has no score."""
    nan = np.nan
    base = {"few_shot_1": np.array([0.5, 0.5, nan]), "few_shot_5": np.array([0.5, nan, nan])}
    point = {"few_shot_1": np.array([0.7, 0.4, nan]), "few_shot_5": np.array([0.5, nan, nan])}
    found = retention.mean_change(base, point, seed=0)
    assert found is not None
    assert found.value == pytest.approx((0.6 + 0.4) / 2)
    assert found.change == pytest.approx((0.1 - 0.1) / 2)
    assert retention.mean_change({}, {}, seed=0) is None


def test_few_objects_give_no_scores() -> None:
    images = [np.array([2 * number, 2 * number + 1]) for number in range(retention.MIN_OBJECTS - 1)]
    embeddings = np.eye(2 * len(images), dtype=np.float32)
    assert retention.object_scores(np.arange(len(embeddings)), embeddings, images, seed=0) == {}
    assert retention.object_scores(np.arange(3), embeddings[:3], [np.array([n]) for n in range(3)], seed=0) == {}
