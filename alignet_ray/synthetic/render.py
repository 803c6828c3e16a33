"""Pictures of the generated worlds: a form that means something, dressed in looks that do not.

A picture has five traits of form in [0, 1] (its meaning), and looks drawn apart from them: colours and textures of
figure and ground, place, size, turn and light. All functions are vectorised over pictures.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

TRAITS = ("elongation", "lobes", "hole", "gap", "ring")
"""The traits of form. 0: a plain disc; 1: an ellipse, a star, an annulus, two halves, a ringed disc."""

PATTERNS: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    lambda a, b: np.asarray(np.sign(np.sin(a))),
    lambda a, b: np.asarray(np.sign(np.sin(a) * b)),
    lambda a, b: np.where(np.sin(a) + b > 0.9, 1, -1),
    lambda a, b: np.asarray(np.sin(0.6 * a + 1.7 * b)),
)
"""Stripes, checks, dots and waves: brightness in [-1, 1] from the phase along and the wave across."""

TEXTURES = 1 + len(PATTERNS)
"""The patterns, and none."""

CHUNK = 128
"""Pictures that are drawn at once."""


@dataclass(frozen=True)
class Looks:
    """What a picture looks like, whatever it shows; index 0 is the figure, 1 the ground.

    Attributes:
        colour: RGB in [0, 1].
        texture: number below TEXTURES.
        frequency, angle, phase, depth: of the texture: half waves across the picture, radians, radians, contrast.
        place: centre of the figure, x and y in [-1, 1].
        scale: size of the figure; 1 fills the picture.
        turn: rotation of the figure in radians.
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

    def __getitem__(self, rows: slice) -> "Looks":
        return Looks(**{name: values[rows] for name, values in vars(self).items()})


def draw_looks(n: int, rng: np.random.Generator) -> Looks:
    """Looks of n pictures, all at random, figure and ground of clearly different hues."""
    hue = rng.random((n, 2))
    hue[:, 1] = (hue[:, 0] + rng.uniform(0.25, 0.75, n)) % 1
    colour = _rgb(hue, rng.uniform(0.3, 1, (n, 2)), rng.uniform(0.35, 1, (n, 2)))
    scale = rng.uniform(0.7, 0.95, n)
    values = {
        "frequency": rng.uniform(2.5, 6, (n, 2)),
        "angle": rng.uniform(0, np.pi, (n, 2)),
        "phase": rng.uniform(0, 2 * np.pi, (n, 2, 2)),
        "depth": rng.uniform(0.2, 0.5, (n, 2)),
        "place": rng.uniform(-1, 1, (n, 2)) * (1 - 0.85 * scale[:, None]),
        "scale": scale,
        "turn": rng.uniform(0, 2 * np.pi, n),
        "light": rng.normal(0, 0.15, (n, 2)),
        "colour": colour,
    }
    texture = rng.integers(0, TEXTURES, (n, 2))
    return Looks(texture=texture, **{name: value.astype(np.float32) for name, value in values.items()})


def draw(
    traits: Float[np.ndarray, "n 5"], looks: Looks, size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "n s s 3"]:
    """Pictures of the given traits and looks.

    Args:
        traits: TRAITS in [0, 1].
        looks: one row a picture.
        size: side in pixels.
        rng: of the pixel noise.
    """
    form = traits.astype(np.float32)
    parts = [slice(start, start + CHUNK) for start in range(0, len(form), CHUNK)]
    return np.concatenate([_draw(form[part], looks[part], size, rng) for part in parts])


def cover(form: Float32[np.ndarray, "n 5"], looks: Looks, size: int) -> Float32[np.ndarray, "n s s"]:
    """Share of each pixel that the figure covers, of pictures of side `size`."""
    x, y = _grid(size)
    parts = [slice(start, start + CHUNK) for start in range(0, len(form), CHUNK)]
    return np.concatenate([silhouette(form[part], looks[part], x, y) for part in parts])


def _grid(size: int) -> tuple[Float32[np.ndarray, "s s"], Float32[np.ndarray, "s s"]]:
    """Centres of all pixels, x and y in [-1, 1]."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def _draw(
    form: Float32[np.ndarray, "n 5"], looks: Looks, size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "n s s 3"]:
    x, y = _grid(size)
    figure = silhouette(form, looks, x, y)
    light = 1 + _wide(looks.light[:, 0]) * x + _wide(looks.light[:, 1]) * y
    shades = (_texture(looks, 0, x, y) * figure * light, _texture(looks, 1, x, y) * (1 - figure) * light)
    picture = sum(shade[..., None] * looks.colour[:, None, None, i] for i, shade in enumerate(shades))
    picture = picture + rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(0.02)
    return np.asarray(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def silhouette(
    form: Float32[np.ndarray, "n 5"],
    looks: Looks,
    x: Float32[np.ndarray, "s s"],
    y: Float32[np.ndarray, "s s"],
) -> Float32[np.ndarray, "n s s"]:
    """Share of each pixel (centres at x, y in [-1, 1]) that the figure covers."""
    long, lobes, hole, gap, ring = (_wide(form[:, i]) for i in range(len(TRAITS)))
    along, across, pixel = _own_axes(looks, x, y)
    across = across * (1 + 1.2 * long)
    radius = np.sqrt(along * along + across * across) + np.float32(1e-6)
    cosine = along / radius
    five = 16 * cosine**5 - 20 * cosine**3 + 5 * cosine  # cos(5 angle)
    outline = 0.72 - 0.06 * lobes - 0.14 * ring + 0.26 * lobes * five

    def inside(distance: Float32[np.ndarray, "n s s"]) -> Float32[np.ndarray, "n s s"]:
        return np.asarray(np.clip(distance / pixel + np.float32(0.5), 0, 1))

    figure = inside(outline - radius)
    figure *= inside(radius - 0.5 * hole + 0.05)
    figure *= inside(np.abs(along) - 0.34 * gap + 0.04)
    width = 0.24 * ring - 0.03
    around = inside(radius - 0.98 + width) * inside(0.98 - radius) * (width > 0)
    return np.asarray(np.maximum(figure, around))


def _own_axes(
    looks: Looks, x: Float32[np.ndarray, "s s"], y: Float32[np.ndarray, "s s"]
) -> tuple[Float32[np.ndarray, "n s s"], Float32[np.ndarray, "n s s"], Float32[np.ndarray, "n 1 1"]]:
    """Pixel centres along and across the figure's own axis, in units of its size; and the side of a pixel there."""
    scale, cosine, sine = _wide(looks.scale), _wide(np.cos(looks.turn)), _wide(np.sin(looks.turn))
    right, down = (x - _wide(looks.place[:, 0])) / scale, (y - _wide(looks.place[:, 1])) / scale
    return cosine * right + sine * down, cosine * down - sine * right, np.float32(2 / len(x)) / scale


def _texture(
    looks: Looks, layer: int, x: Float32[np.ndarray, "s s"], y: Float32[np.ndarray, "s s"]
) -> Float32[np.ndarray, "n s s"]:
    """Brightness around 1 of the figure's (0) or the ground's (1) texture."""
    waves = _wide(looks.frequency[:, layer]) * np.float32(np.pi)
    cosine, sine = _wide(np.cos(looks.angle[:, layer])), _wide(np.sin(looks.angle[:, layer]))
    phases = looks.phase[:, layer]
    first = waves * (cosine * x + sine * y) + _wide(phases[:, 0])
    second = np.sin(waves * (cosine * y - sine * x) + _wide(phases[:, 1]))
    pattern = np.zeros_like(first)
    for number, kind in enumerate(PATTERNS, start=1):
        rows = looks.texture[:, layer] == number
        pattern[rows] = kind(first[rows], second[rows])
    return np.asarray(1 + 0.5 * _wide(looks.depth[:, layer]) * pattern)


def _rgb(
    hue: Float[np.ndarray, "n 2"], saturation: Float[np.ndarray, "n 2"], value: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2 3"]:
    sector = (np.array([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6
    return np.asarray(value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(sector, 4 - sector), 0, 1)))


def _wide(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 1 1"]:
    return values[:, None, None]
