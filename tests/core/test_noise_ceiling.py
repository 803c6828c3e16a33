import numpy as np
import pytest

from alignet_ray.core import noise_ceiling


def test_worked_by_hand() -> None:
    # triplet {1, 2, 3}: odd one 3, 3, 1; triplet {4, 5, 6}: odd one 4, 5; {7, 8, 9} was answered once
    rows = np.array([[1, 2, 3], [2, 1, 3], [3, 2, 1], [5, 6, 4], [4, 6, 5], [7, 8, 9]])
    np.testing.assert_array_equal(noise_ceiling.answer_counts(rows), [[1, 0, 2], [1, 1, 0], [0, 0, 1]])
    found = noise_ceiling.noise_ceilings(rows)
    assert found["modal"].value == pytest.approx((2 + 1) / 5)
    # without itself: a 3 leaves {3, 1}, a tie (1/2 each); the 1 leaves {3, 3}: 0; of {4, 5} the other one: 0
    assert found["leave_one_out"].value == pytest.approx((0.5 + 0.5) / 5)
    assert (found["modal"].triplets, found["modal"].answers) == (2, 5)


def test_ceilings_of_people_who_agree_with_known_probability() -> None:
    rng = np.random.default_rng(0)
    sets = np.sort(np.stack([rng.permutation(100)[:3] for _ in range(800)]), axis=1)
    rows = np.concatenate([sets, sets[:, [0, 2, 1]], sets[:, [1, 2, 0]]])
    odd = rng.choice(3, p=[0.7, 0.2, 0.1], size=(800, 20))
    rows = np.stack([rows[o * 800 + np.arange(800)] for o in odd.T]).reshape(-1, 3)
    found = noise_ceiling.noise_ceilings(rows)
    assert found["modal"].value == pytest.approx(0.7, abs=0.02)
    assert found["leave_one_out"].value == pytest.approx(0.7, abs=0.02)
    assert found["leave_one_out"].value <= found["modal"].value
    assert found["modal"].low < found["modal"].value < found["modal"].high


def test_without_repeats_there_is_no_ceiling() -> None:
    with pytest.raises(ValueError, match="twice"):
        noise_ceiling.noise_ceilings(np.array([[1, 2, 3], [1, 2, 4]]))
