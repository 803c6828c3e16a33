"""Images needed for a loss, on known curves."""

from math import inf

import pytest

from alignet_ray.sweep.learning_curves import LearningCurve, best_of_groups, commonly_reached_loss


def curve(number: int, group: str, loss: list[float], seed: int = 0) -> LearningCurve:
    return LearningCurve(number, seed, group, [100.0 * n for n in range(len(loss))], loss, [0.5] * len(loss))


@pytest.mark.parametrize(("target", "images"), [(1.0, 0), (0.5, 50), (0.0, 100), (-0.5, 250), (-2, inf)])
def test_images_are_interpolated_between_validations(target: float, images: float) -> None:
    assert curve(0, "a", [1.0, 0.0, 0.0, -1.0]).images_to_reach(target) == images


def test_each_alternative_is_compared_at_its_best_over_all_seeds() -> None:
    fast = [curve(0, "fast", [1.0, 0.2]), curve(1, "fast", [1.0, 0.1]), curve(1, "fast", [1.0, 0.15], seed=1)]
    slow = [curve(2, "slow", [1.0, 0.6, 0.4])]
    groups = best_of_groups([*fast, *slow], 0)
    assert {name: [(c.number, c.seed) for c in curves] for name, curves in groups.items()} == {
        "fast": [(1, 0), (1, 1)],
        "slow": [(2, 0)],
    }
    assert commonly_reached_loss(groups) == 0.4
    assert groups["slow"][0].images_to_reach(0.4) == 200
    assert groups["fast"][0].images_to_reach(0.4) == pytest.approx(100 * 0.6 / 0.9)
