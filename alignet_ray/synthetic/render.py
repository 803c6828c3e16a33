"""Renders images of the generated worlds: a shape that carries the meaning, in an appearance that does not.

An image has five shape traits in [0, 1], which are its meaning, and an appearance sampled independently of them:
colours and textures of figure and ground, place, size, rotation and light. All functions are vectorised over images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

TRAITS = ("elongation", "lobes", "hole", "gap", "ring")
"""The shape traits. At 0: a plain disc; at 1: an ellipse, a star, an annulus, two halves, a ringed disc."""

PATTERNS: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    lambda phase, across: np.asarray(np.sign(np.sin(phase))),
    lambda phase, across: np.asarray(np.sign(np.sin(phase) * across)),
    lambda phase, across: np.where(np.sin(phase) + across > 0.9, 1, -1),
    lambda phase, across: np.asarray(np.sin(0.6 * phase + 1.7 * across)),
)
"""Stripes, checks, dots and waves: brightness in [-1, 1] from the phase along and the wave across."""

TEXTURES = 1 + len(PATTERNS)
"""The patterns, and none."""

FIGURE, GROUND = 0, 1
"""Index of the figure and of the ground in an appearance."""

NOISE = np.float32(0.02)
"""Standard deviation of the pixel noise."""

CHUNK = 128
"""Images that are rendered at once."""


@dataclass(frozen=True)
class Appearance:
    """What images look like, whatever they show; index 0 is the figure, 1 the ground.

    Attributes:
        colour: RGB in [0, 1].
        texture: number below TEXTURES.
        frequency: of the texture, waves across the image.
        angle: of the texture, radians.
        phase: of the texture along and across, radians.
        depth: contrast of the texture.
        place: centre of the figure, x and y in [-1, 1].
        scale: size of the figure; 1 fills the image.
        turn: rotation of the figure, radians.
        light: slope of the brightness over x and y.
    """

    colour: Float32[np.ndarray, "n 2 3"]
    texture: Int[np.ndarray, "n 2"]
    frequency: Float32[np.ndarray, "n 2"]
    angle: Float32[np.ndarray, "n 2"]
    phase: Float32[np.ndarray, "n 2 2"]
    depth: Float32[np.ndarray, "n 2"]
    place: Float32[np.ndarray, "n 2"]
    scale: Float32[np.ndarray, " n"]
    turn: Float32[np.ndarray, " n"]
    light: Float32[np.ndarray, "n 2"]

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, rows: slice) -> "Appearance":
        return Appearance(**{name: values[rows] for name, values in vars(self).items()})


def sample_appearance(count: int, rng: np.random.Generator) -> Appearance:
    """Appearances at random; figure and ground have clearly different hues."""
    # The ground's hue is at least a quarter of the colour circle away, so that no figure vanishes in it.
    hue = rng.random((count, 2))
    hue[:, GROUND] = (hue[:, FIGURE] + rng.uniform(0.25, 0.75, count)) % 1
    saturation = rng.uniform(0.3, 1, (count, 2))
    value = rng.uniform(0.35, 1, (count, 2))
    scale = rng.uniform(0.7, 0.95, count)
    room = 1 - 0.85 * scale[:, None]  # how far the centre may lie from the middle

    # The order of these draws decides the images: keep it.
    values = {
        "frequency": rng.uniform(2.5, 6, (count, 2)),
        "angle": rng.uniform(0, np.pi, (count, 2)),
        "phase": rng.uniform(0, 2 * np.pi, (count, 2, 2)),
        "depth": rng.uniform(0.2, 0.5, (count, 2)),
        "place": rng.uniform(-1, 1, (count, 2)) * room,
        "scale": scale,
        "turn": rng.uniform(0, 2 * np.pi, count),
        "light": rng.normal(0, 0.15, (count, 2)),
        "colour": _rgb(hue, saturation, value),
    }
    texture = rng.integers(0, TEXTURES, (count, 2))
    return Appearance(texture=texture, **{name: array.astype(np.float32) for name, array in values.items()})


def render(
    traits: Float[np.ndarray, "n 5"], appearance: Appearance, size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "n s s 3"]:
    """Images of the given shapes and appearances.

    Args:
        traits: TRAITS in [0, 1].
        appearance: one row per image.
        size: side in pixels.
        rng: of the pixel noise.
    """
    shapes = traits.astype(np.float32)
    chunks = [_render_chunk(shapes[rows], appearance[rows], size, rng) for rows in _chunks(len(shapes))]
    return np.concatenate(chunks)


def figure_masks(traits: Float32[np.ndarray, "n 5"], appearance: Appearance, size: int) -> Float32[np.ndarray, "n s s"]:
    """Share of each pixel that the figure covers, in images of side `size`."""
    x, y = _pixel_centres(size)
    return np.concatenate([_mask(traits[rows], appearance[rows], x, y) for rows in _chunks(len(traits))])


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, CHUNK):
        yield slice(start, start + CHUNK)


def _pixel_centres(size: int) -> tuple[Float32[np.ndarray, "s s"], Float32[np.ndarray, "s s"]]:
    """Centres of all pixels, x and y in [-1, 1]."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def _render_chunk(
    traits: Float32[np.ndarray, "n 5"], appearance: Appearance, size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "n s s 3"]:
    x, y = _pixel_centres(size)
    # Figure and ground are blended by the share of each pixel that the figure covers; light slopes over both.
    mask = _mask(traits, appearance, x, y)
    light = 1 + _per_image(appearance.light[:, 0]) * x + _per_image(appearance.light[:, 1]) * y

    figure = _texture(appearance, FIGURE, x, y) * mask * light
    ground = _texture(appearance, GROUND, x, y) * (1 - mask) * light
    image = figure[..., None] * appearance.colour[:, None, None, FIGURE]
    image = image + ground[..., None] * appearance.colour[:, None, None, GROUND]

    image = image + rng.standard_normal(image.shape, dtype=np.float32) * NOISE
    return np.asarray(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _mask(
    traits: Float32[np.ndarray, "n 5"],
    appearance: Appearance,
    x: Float32[np.ndarray, "s s"],
    y: Float32[np.ndarray, "s s"],
) -> Float32[np.ndarray, "n s s"]:
    """Share of each pixel (centres at x, y in [-1, 1]) that the figure covers."""
    elongation, lobes, hole, gap, ring = (_per_image(traits[:, number]) for number in range(len(TRAITS)))
    along, across, pixel = _figure_axes(appearance, x, y)
    across = across * (1 + 1.2 * elongation)
    radius = np.sqrt(along * along + across * across) + np.float32(1e-6)

    cosine = along / radius
    cosine_five = 16 * cosine**5 - 20 * cosine**3 + 5 * cosine  # cos(5 angle): a star of five lobes
    outline = 0.72 - 0.06 * lobes - 0.14 * ring + 0.26 * lobes * cosine_five

    def inside(distance: Float32[np.ndarray, "n s s"]) -> Float32[np.ndarray, "n s s"]:
        """Anti-aliased: the share of a pixel that lies inside an edge at this distance."""
        return np.asarray(np.clip(distance / pixel + np.float32(0.5), 0, 1))

    # The disc within its outline, less a hole in the middle and a gap across; then a ring around it.
    disc = inside(outline - radius)
    disc *= inside(radius - 0.5 * hole + 0.05)
    disc *= inside(np.abs(along) - 0.34 * gap + 0.04)
    width = 0.24 * ring - 0.03
    around = inside(radius - 0.98 + width) * inside(0.98 - radius) * (width > 0)
    return np.asarray(np.maximum(disc, around))


def _figure_axes(
    appearance: Appearance, x: Float32[np.ndarray, "s s"], y: Float32[np.ndarray, "s s"]
) -> tuple[Float32[np.ndarray, "n s s"], Float32[np.ndarray, "n s s"], Float32[np.ndarray, "n 1 1"]]:
    """Pixel centres along and across the figure's own axis, in units of its size; and the side of a pixel there."""
    scale = _per_image(appearance.scale)
    cosine = _per_image(np.cos(appearance.turn))
    sine = _per_image(np.sin(appearance.turn))
    # Shift to the figure's centre, scale to its size, rotate by its turn.
    right = (x - _per_image(appearance.place[:, 0])) / scale
    down = (y - _per_image(appearance.place[:, 1])) / scale
    along = cosine * right + sine * down
    across = cosine * down - sine * right
    return along, across, np.float32(2 / len(x)) / scale


def _texture(
    appearance: Appearance, layer: int, x: Float32[np.ndarray, "s s"], y: Float32[np.ndarray, "s s"]
) -> Float32[np.ndarray, "n s s"]:
    """Brightness around 1 of the texture of the figure or the ground."""
    waves = _per_image(appearance.frequency[:, layer]) * np.float32(np.pi)
    cosine = _per_image(np.cos(appearance.angle[:, layer]))
    sine = _per_image(np.sin(appearance.angle[:, layer]))
    phases = appearance.phase[:, layer]
    along = waves * (cosine * x + sine * y) + _per_image(phases[:, 0])
    across = np.sin(waves * (cosine * y - sine * x) + _per_image(phases[:, 1]))

    # Texture 0 has no pattern and stays at brightness 1.
    brightness = np.zeros_like(along)
    for number, pattern in enumerate(PATTERNS, start=1):
        rows = appearance.texture[:, layer] == number
        brightness[rows] = pattern(along[rows], across[rows])
    return np.asarray(1 + 0.5 * _per_image(appearance.depth[:, layer]) * brightness)


def _rgb(
    hue: Float[np.ndarray, "n 2"], saturation: Float[np.ndarray, "n 2"], value: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2 3"]:
    """HSV to RGB, all in [0, 1]."""
    sector = (np.array([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6
    missing = saturation[..., None] * np.clip(np.minimum(sector, 4 - sector), 0, 1)
    return np.asarray(value[..., None] * (1 - missing))


def _per_image(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 1 1"]:
    """One value per image, to be broadcast over its pixels."""
    return values[:, None, None]
