"""Sample efficiency in a sweep's report: the images that each alternative needs, by numbers worked out by hand."""

from alignet_ray.sweep.efficiency import sample_efficiency
from alignet_ray.sweep.learning_curves import LearningCurve


def curve(number: int, group: str, loss: list[float], seed: int = 0) -> LearningCurve:
    images = [100.0 * step for step in range(len(loss))]
    return LearningCurve(number, seed, group, images, loss, [1 - value for value in loss])


FAST = curve(1, "fast", [1.0, 0.4, 0.2])
SLOW = curve(2, "slow", [1.0, 0.8, 0.4])


def test_alternatives_are_compared_at_the_loss_that_all_reach() -> None:
    html = sample_efficiency([FAST, SLOW], seed=0)
    # Both reach 0.4: the fast one after 100 images, the slow one after 200.
    assert "images to 0.4000, by seed" in html
    assert "2.0 x" in html
    assert "1.0 x" in html
    assert html.count("<img") == 2


def test_every_seed_of_the_best_setting_is_listed() -> None:
    repeat = curve(1, "fast", [1.0, 0.6, 0.3], seed=1)
    html = sample_efficiency([FAST, SLOW, repeat], seed=0)
    assert "0.2000, 0.3000" in html
    # The repeat passes 0.4 between 100 images (0.6) and 200 (0.3): 100 + 100 * 0.2 / 0.3 = 167.
    assert "100, 167" in html
    assert "1.5 x" in html, "200 against the mean of 100 and 166.7"


def test_only_the_best_setting_of_an_alternative_is_compared() -> None:
    worse = curve(3, "fast", [1.0, 0.9, 0.9])
    assert "images to 0.4000" in sample_efficiency([FAST, SLOW, worse], seed=0)


def test_one_alternative_has_curves_and_no_table() -> None:
    html = sample_efficiency([curve(0, "", [1.0, 0.5])], seed=0)
    assert html.count("<img") == 2
    assert "<table" not in html


def test_without_a_curve_of_two_points_there_is_no_section() -> None:
    assert sample_efficiency([], seed=0) == ""
    assert sample_efficiency([curve(0, "fast", [1.0])], seed=0) == ""


def test_curves_of_other_seeds_alone_make_no_section() -> None:
    assert sample_efficiency([curve(0, "fast", [1.0, 0.5], seed=3)], seed=0) == ""


def test_a_training_that_starts_at_the_target_needs_no_images_and_has_no_factor() -> None:
    flat = curve(4, "flat", [0.4, 0.4, 0.4])
    html = sample_efficiency([FAST, flat], seed=0)
    assert "images to 0.4000" in html
    assert "1.0 x" in html
    assert html.count(" x<") == 1, "nought images have no factor"


def test_names_of_alternatives_are_escaped() -> None:
    html = sample_efficiency([curve(1, "<fast>", [1.0, 0.5]), SLOW], seed=0)
    assert "<fast>" not in html
    assert "&lt;fast&gt;" in html
