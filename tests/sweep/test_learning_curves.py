"""How many images a goal took, on curves that are known."""

from math import inf

import pytest

from alignet_ray.sweep.learning_curves import Course, best_of_groups, within_reach


def course(number: int, group: str, loss: list[float], seed: int = 0) -> Course:
    return Course(number, seed, group, [100.0 * n for n in range(len(loss))], loss, [0.5] * len(loss))


@pytest.mark.parametrize(("goal", "images"), [(1.0, 0), (0.5, 50), (0.0, 100), (-0.5, 250), (-2, inf)])
def test_images_are_read_off_between_looks(goal: float, images: float) -> None:
    assert course(0, "a", [1.0, 0.0, 0.0, -1.0]).needed(goal) == images


def test_each_alternative_is_compared_at_its_best_over_all_seeds() -> None:
    fast = [course(0, "fast", [1.0, 0.2]), course(1, "fast", [1.0, 0.1]), course(1, "fast", [1.0, 0.15], seed=1)]
    slow = [course(2, "slow", [1.0, 0.6, 0.4])]
    groups = best_of_groups([*fast, *slow], 0)
    assert {g: [(c.number, c.seed) for c in own] for g, own in groups.items()} == {
        "fast": [(1, 0), (1, 1)],
        "slow": [(2, 0)],
    }
    assert within_reach(groups) == 0.4
    assert groups["slow"][0].needed(0.4) == 200
    assert groups["fast"][0].needed(0.4) == pytest.approx(100 * 0.6 / 0.9)
