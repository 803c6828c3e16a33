"""Search spaces as data: `align.lr=loguniform(1e-3,1e-1)` is read by a grammar of its own and never evaluated."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignet_ray.errors import UserError

RANGES = ("uniform", "loguniform", "randint", "lograndint")
LISTS = ("choice", "grid")
FORM = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*=\s*([a-z]+)\s*\((.*)\)\s*", re.S)
WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class Domain:
    """What one field may be.

    Attributes:
        kind: uniform, loguniform (floats), randint, lograndint (integers, both bounds included), choice, grid.
        values: the two bounds, or the list.
    """

    kind: str
    values: tuple[Any, ...]

    @property
    def is_range(self) -> bool:
        """Whether it has bounds rather than a list."""
        return self.kind in RANGES

    @property
    def is_log(self) -> bool:
        """Whether equal factors are equally likely."""
        return self.kind.startswith("log")

    @property
    def is_named(self) -> bool:
        """Whether it is a list of words: alternatives rather than amounts."""
        return not self.is_range and all(isinstance(v, str) for v in self.values)

    def draw(self, rng: np.random.Generator) -> Any:
        """A random value."""
        if not self.is_range:
            return self.values[int(rng.integers(len(self.values)))]
        low, high = self.values
        whole = self.kind.endswith("randint")
        if self.is_log:
            # an integer k owns the interval [k, k + 1), so that the last one is as likely as its neighbours
            value = math.exp(rng.uniform(math.log(low), math.log(high + whole)))
            return min(int(value), high) if whole else min(max(value, low), high)
        return int(rng.integers(low, high + 1)) if whole else float(rng.uniform(low, high))

    def holds(self, value: Any) -> bool:
        """Whether a value belongs to it."""
        if not self.is_range:
            return value in self.values
        return isinstance(value, int | float) and self.values[0] <= value <= self.values[1]


Space = Mapping[str, Domain]
"""Dotted field name -> what it may be."""


def parse(texts: Sequence[str]) -> dict[str, Domain]:
    """Read `FIELD=KIND(VALUE,...)`, one text a field.

    Raises:
        UserError: what is wrong with which text.
    """
    space: dict[str, Domain] = {}
    for text in texts:
        match = FORM.fullmatch(text)
        if not match:
            raise UserError(
                f"--sweep.space {text!r} is not FIELD=KIND(VALUE,...): write align.lr=loguniform(1e-3,1e-1)"
            )
        field, kind, inside = match.groups()
        field = field.replace("-", "_")
        if field in space:
            raise UserError(f"--sweep.space names {field} twice")
        space[field] = _domain(text, kind, tuple(_value(part.strip()) for part in inside.split(",")))
    return space


def _domain(text: str, kind: str, values: tuple[Any, ...]) -> Domain:
    if kind in LISTS:
        if "" in values or len(set(map(repr, values))) < len(values):
            raise UserError(f"--sweep.space {text!r}: {kind}() needs different values, separated by commas")
        return Domain(kind, values)
    if kind not in RANGES:
        raise UserError(f"--sweep.space {text!r}: there are {', '.join(RANGES + LISTS)}")
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if len(values) != 2 or len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise UserError(f"--sweep.space {text!r}: {kind}() needs two numbers, the lower one first")
    if kind.startswith("log") and numbers[0] <= 0:
        raise UserError(f"--sweep.space {text!r}: a logarithmic range starts above 0")
    if kind.endswith("randint"):
        if numbers != [int(n) for n in numbers]:
            raise UserError(f"--sweep.space {text!r}: {kind}() needs whole numbers")
        return Domain(kind, tuple(int(n) for n in numbers))
    return Domain(kind, tuple(float(n) for n in numbers))


def _value(text: str) -> Any:
    """A number, true, false, none, or the word itself (quotes are taken off)."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def cells(space: Space) -> int:
    """Number of combinations of the fields that are gone through as a grid."""
    return math.prod(len(d.values) for d in space.values() if d.kind == "grid")


def points(space: Space, count: int, seed: int, first: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The first `count` different points: the given one, then draws; grids are gone through cell by cell.

    Point n is the same whatever `count` is, so that more trials can be added later. A small space has fewer points.
    """
    found: list[dict[str, Any]] = [dict(first)]
    for number in range(20 * count):
        rng, cell, point = np.random.default_rng([seed, number]), number, {}
        for field, domain in space.items():
            if domain.kind == "grid":
                cell, at = divmod(cell, len(domain.values))
                point[field] = domain.values[at]
            else:
                point[field] = domain.draw(rng)
        if point not in found:
            found.append(point)
        if len(found) >= count:
            break
    return found[:count]
