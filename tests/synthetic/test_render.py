"""Drawn figures have the areas that geometry gives, and images the colours, textures and light of their appearance."""

import colorsys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alignet_ray.synthetic import render
from alignet_ray.synthetic.render import CHUNK, FIGURE, GROUND, TEXTURES, TRAITS, Appearance, sample_appearance

SIZE = 128


def appearance(count: int = 1, **changes: Any) -> Appearance:
    """A red figure without pattern in the middle of a blue ground, in even light; `changes` are one value per image."""
    plain = Appearance(
        colour=np.tile(np.array([[0.8, 0.2, 0.2], [0.2, 0.2, 0.6]], np.float32), (count, 1, 1)),
        texture=np.zeros((count, 2), np.int64),
        frequency=np.full((count, 2), 4, np.float32),
        angle=np.zeros((count, 2), np.float32),
        phase=np.zeros((count, 2, 2), np.float32),
        depth=np.full((count, 2), 0.4, np.float32),
        place=np.zeros((count, 2), np.float32),
        scale=np.ones(count, np.float32),
        turn=np.zeros(count, np.float32),
        light=np.zeros((count, 2), np.float32),
    )
    given = {}
    for name, value in changes.items():
        before = getattr(plain, name)
        given[name] = np.broadcast_to(np.asarray(value, before.dtype), before.shape)
    return replace(plain, **given)


def traits(count: int = 1, shape: dict[str, float] | None = None) -> np.ndarray:
    made = np.zeros((count, len(TRAITS)), np.float32)
    for name, value in (shape or {}).items():
        made[:, TRAITS.index(name)] = value
    return made


def mask(size: int = SIZE, shape: dict[str, float] | None = None, **changes: Any) -> np.ndarray:
    return np.asarray(render.figure_masks(traits(1, shape), appearance(**changes), size)[0])


def area(covered: np.ndarray) -> float:
    """In units of the figure's plane, in which the image is two wide."""
    return float(covered.mean() * 4)


def strip(radius: float, half_width: float) -> float:
    """Area of a disc within a distance of its diameter."""
    angle = np.arcsin(half_width / radius)
    return float(radius**2 * (2 * angle + np.sin(2 * angle)))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({}, np.pi * 0.72**2),
        ({"elongation": 1.0}, np.pi * 0.72**2 / 2.2),
        ({"elongation": 0.5}, np.pi * 0.72**2 / 1.6),
        ({"lobes": 1.0}, np.pi * (0.66**2 + 0.26**2 / 2)),
        ({"hole": 1.0}, np.pi * (0.72**2 - 0.45**2)),
        ({"gap": 1.0}, np.pi * 0.72**2 - strip(0.72, 0.30)),
        ({"ring": 1.0}, np.pi * (0.58**2 + 0.98**2 - 0.77**2)),
        ({"hole": 1.0, "ring": 1.0}, np.pi * (0.58**2 - 0.45**2 + 0.98**2 - 0.77**2)),
    ],
    ids=["disc", "ellipse", "half an ellipse", "star", "annulus", "halves", "ringed disc", "ringed annulus"],
)
def test_each_shape_has_its_area(shape: dict[str, float], expected: float) -> None:
    assert area(mask(shape=shape)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("shape", "radius"), [({"hole": 0.05}, 0.72), ({"gap": 0.05}, 0.72), ({"ring": 0.1}, 0.72 - 0.014)]
)
def test_holes_gaps_and_rings_only_show_from_a_tenth_of_a_trait_on(shape: dict[str, float], radius: float) -> None:
    # A plain disc of the same radius is a disc at another scale, but for the width of its edge.
    np.testing.assert_allclose(mask(shape=shape), mask(scale=radius / 0.72), atol=0.02)


def test_a_star_has_five_lobes() -> None:
    star = mask(shape={"lobes": 1.0})
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    # Between the valleys at 0.40 and the tips at 0.92 a circle meets every lobe once.
    columns = np.abs(axis[None] - 0.75 * np.cos(angles)[:, None]).argmin(axis=1)
    rows = np.abs(axis[None] - 0.75 * np.sin(angles)[:, None]).argmin(axis=1)
    inside = star[rows, columns] > 0.5
    assert (inside & ~np.roll(inside, 1)).sum() == 5
    assert inside[0]


def test_masks_are_shares_between_none_and_all() -> None:
    rng = np.random.default_rng(0)
    covered = render.figure_masks(rng.random((20, 5)).astype(np.float32), sample_appearance(20, rng), 32)
    assert covered.shape == (20, 32, 32)
    assert covered.dtype == np.float32
    assert covered.min() == 0
    assert covered.max() == 1
    is_edge = (covered > 0) & (covered < 1)
    assert 0 < is_edge.mean() < 0.5, "edges are blended, and only edges"


def test_the_area_does_not_depend_on_the_resolution() -> None:
    shape = {"lobes": 0.6, "hole": 0.7}
    assert area(mask(32, shape=shape)) == pytest.approx(area(mask(256, shape=shape)), rel=0.02)


def test_a_figure_goes_where_its_place_says() -> None:
    shape = {"elongation": 1.0, "lobes": 0.5}
    middle = mask(shape=shape, scale=0.5)
    # Two units are the whole side, so a quarter of a unit is an eighth of it.
    moved = mask(shape=shape, scale=0.5, place=[0.25, -0.125])
    expected = np.roll(middle, (-SIZE // 16, SIZE // 8), axis=(0, 1))
    np.testing.assert_allclose(moved, expected, atol=1e-3)


def test_a_quarter_turn_turns_the_figure_by_a_quarter() -> None:
    shape = {"elongation": 0.8, "lobes": 1.0, "gap": 0.5}
    turned = mask(shape=shape, turn=np.pi / 2)
    # From the axis x to the axis y, which points down: clockwise for whoever looks at it.
    np.testing.assert_allclose(turned, np.rot90(mask(shape=shape), -1), atol=1e-3)


@pytest.mark.parametrize("turn", [0.6, 2.0, 5.0])
def test_a_turn_changes_no_area(turn: float) -> None:
    shape = {"elongation": 0.8, "gap": 0.6}
    assert area(mask(shape=shape, turn=turn)) == pytest.approx(area(mask(shape=shape)), rel=0.01)


def test_half_the_scale_is_a_quarter_of_the_area() -> None:
    shape = {"hole": 1.0, "elongation": 0.3}
    assert area(mask(256, shape=shape, scale=0.5)) == pytest.approx(area(mask(256, shape=shape)) / 4, rel=0.03)


def test_figure_and_ground_have_their_colours() -> None:
    image = render.render(traits(), appearance(), 64, np.random.default_rng(0))[0].astype(float)
    covered = mask(64)
    # Values are cut down to whole numbers, which takes half a step.
    assert image[covered == 1].mean(axis=0) == pytest.approx(255 * np.array([0.8, 0.2, 0.2]) - 0.5, abs=0.6)
    assert image[covered == 0].mean(axis=0) == pytest.approx(255 * np.array([0.2, 0.2, 0.6]) - 0.5, abs=0.6)
    assert image[covered == 1].std(axis=0) == pytest.approx(np.full(3, 255 * 0.02), rel=0.1)


def test_light_slopes_over_the_whole_image() -> None:
    grey = np.full((2, 3), 0.5)
    lit = render.render(traits(), appearance(colour=grey, light=[0.4, -0.2]), 64, np.random.default_rng(0))[0] / 255
    axis = (np.arange(64) + 0.5) / 32 - 1
    expected = 0.5 * (1 + 0.4 * axis[None, :] - 0.2 * axis[:, None])
    assert lit.mean(axis=2).mean(axis=0) == pytest.approx(expected.mean(axis=0), abs=0.01)
    assert lit.mean(axis=2).mean(axis=1) == pytest.approx(expected.mean(axis=1), abs=0.01)


def test_stripes_change_across_their_angle_alone() -> None:
    grey = np.full((2, 3), 0.5)
    for angle, axis in ((0.0, 0), (np.pi / 2, 1)):
        look = appearance(colour=grey, texture=1, angle=angle, frequency=2)
        lit = render.render(traits(), look, 64, np.random.default_rng(0))[0].mean(axis=2) / 255
        # Along a stripe all pixels are alike; from one to the next they are at 1 - 0.2 or 1 + 0.2 of the colour.
        profile = lit.mean(axis=axis)
        assert np.sort(profile) == pytest.approx(np.repeat([0.4, 0.6], 32), abs=0.01)
        assert lit.std(axis=axis).max() < 0.03
        # Two whole waves are four stripes.
        assert (np.diff(profile > 0.5)).sum() == 3


@pytest.mark.parametrize("number", range(TEXTURES))
def test_a_texture_is_a_brightness_around_one(number: int) -> None:
    grey = np.full((2, 3), 0.5)
    look = appearance(colour=grey, texture=number, phase=0.5)
    lit = render.render(traits(), look, 64, np.random.default_rng(0))[0].mean(axis=2) / 255
    if number == 0:
        assert lit.std() < 0.02
    else:
        assert lit.std() > 0.04
    assert lit.min() > 0.4 - 0.07
    assert lit.max() < 0.6 + 0.07


def test_textures_are_of_different_patterns() -> None:
    look = appearance(TEXTURES, colour=np.full((2, 3), 0.5), texture=np.arange(TEXTURES)[:, None], phase=0.5)
    images = render.render(traits(TEXTURES), look, 32, np.random.default_rng(0)) / 255
    gaps = np.abs(images[:, None] - images[None]).mean(axis=(2, 3, 4))
    np.fill_diagonal(gaps, 1)
    assert gaps.min() > 0.03


def test_an_image_does_not_depend_on_the_others_but_for_its_noise() -> None:
    rng = np.random.default_rng(0)
    count = CHUNK + 3
    shapes, look = rng.random((count, 5)).astype(np.float32), sample_appearance(count, rng)
    assert len(look) == count
    together = render.render(shapes, look, 8, np.random.default_rng(1))
    assert together.shape == (count, 8, 8, 3)
    assert together.dtype == np.uint8
    last = slice(count - 2, count)
    alone = render.render(shapes[last], look[last], 8, np.random.default_rng(2))
    # Two draws of noise differ by 0.03 in standard deviation.
    assert np.abs(together[last].astype(int) - alone).max() < 255 * 0.03 * 6
    masks = render.figure_masks(shapes, look, 8)
    np.testing.assert_array_equal(masks[last], render.figure_masks(shapes[last], look[last], 8))


def test_the_same_seed_is_the_same_image() -> None:
    def image(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return render.render(traits(2, {"ring": 0.5}), sample_appearance(2, rng), 16, rng)

    assert np.array_equal(image(0), image(0))
    assert not np.array_equal(image(0), image(1))


def test_sampled_figures_differ_from_their_ground_by_a_quarter_of_the_colour_circle() -> None:
    look = sample_appearance(500, np.random.default_rng(0))
    hsv = np.array([[colorsys.rgb_to_hsv(*map(float, colour)) for colour in pair] for pair in look.colour])
    gap = np.abs(hsv[:, FIGURE, 0] - hsv[:, GROUND, 0])
    assert np.minimum(gap, 1 - gap).min() > 0.25 - 1e-3
    assert hsv[..., 1].min() > 0.3 - 1e-3, "saturation"
    assert hsv[..., 2].min() > 0.35 - 1e-3, "value"


def test_sampled_appearances_stay_in_their_ranges() -> None:
    look = sample_appearance(500, np.random.default_rng(0))
    assert set(np.unique(look.texture)) == set(range(TEXTURES))
    assert look.scale.min() >= 0.7
    assert look.scale.max() <= 0.95
    # A figure reaches 0.85 of its scale at most, and stays inside.
    assert (np.abs(look.place) + 0.85 * look.scale[:, None]).max() <= 1 + 1e-6
    for name, values in vars(look).items():
        assert len(values) == 500, name
        assert np.isfinite(values).all(), name
        assert values.dtype == (np.int64 if name == "texture" else np.float32), name
