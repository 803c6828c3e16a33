"""Search spaces as data: `align.lr=loguniform(1e-3,1e-1)` has a grammar of its own and is never evaluated."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from alignet_ray.errors import UserError

RANGES = ("uniform", "loguniform", "randint", "lograndint")
LISTS = ("choice", "grid")

ENTRY = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*=\s*([a-z]+)\s*\((.*)\)\s*", re.S)
"""FIELD=KIND(VALUE,...)"""

CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "none": None}

Point: TypeAlias = dict[str, Any]
"""One setting: dotted field name -> value. Values are of free form: numbers, words, true, false or none."""

LARGEST_INTEGER = 2**53
"""Up to here a double holds every whole number, and 64 bits hold the range."""

ATTEMPTS = 20
"""Draws per wanted point before a space counts as exhausted."""


@dataclass(frozen=True)
class Domain:
    """The values that one field may take.

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
    def is_integer(self) -> bool:
        """Whether it is a range of integers."""
        return self.kind.endswith("randint")

    @property
    def is_log(self) -> bool:
        """Whether equal factors are equally likely."""
        return self.kind.startswith("log")

    @property
    def is_named(self) -> bool:
        """Whether it is a list of words: alternatives rather than amounts."""
        return not self.is_range and all(isinstance(value, str) for value in self.values)

    def draw(self, rng: np.random.Generator) -> Any:
        """A random value."""
        if not self.is_range:
            return self.values[int(rng.integers(len(self.values)))]

        low, high = self.values
        if not self.is_log:
            if self.is_integer:
                return int(rng.integers(low, high + 1))
            return float(rng.uniform(low, high))

        # exp(log(x)) is not exactly x: without the limits a draw could lie a rounding error outside the bounds.
        if self.is_integer:
            # An integer k owns the interval [k, k + 1), so that the last one is as likely as its neighbours.
            value = math.exp(rng.uniform(math.log(low), math.log(high + 1)))
            return min(int(value), high)
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
        return min(max(value, low), high)

    def holds(self, value: Any) -> bool:
        """Whether a value belongs to it."""
        if not self.is_range:
            return value in self.values
        return isinstance(value, int | float) and self.values[0] <= value <= self.values[1]


Space = Mapping[str, Domain]
"""Dotted field name -> its values."""


def short_name(field: str) -> str:
    """A field's name without its section: `lr` of `align.lr`. All fields of a space are of one section."""
    return field.partition(".")[2]


def format_value(value: Any) -> str:
    """A setting or a score in few characters."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def parse(texts: Sequence[str]) -> dict[str, Domain]:
    """Read `FIELD=KIND(VALUE,...)`, one text per field.

    Raises:
        UserError: what is wrong with which text.
    """
    space: dict[str, Domain] = {}
    for text in texts:
        match = ENTRY.fullmatch(text)
        if not match:
            raise UserError(
                f"--sweep.space {text!r} is not FIELD=KIND(VALUE,...): write align.lr=loguniform(1e-3,1e-1)"
            )

        field, kind, listed = match.groups()
        # A list holds no further field: `a=choice(1,2) b=choice(3,4)` would be read as one long list.
        if "=" in listed or "(" in listed:
            raise UserError(
                f"--sweep.space {text!r} has two fields in one text: quote each FIELD=KIND(VALUE,...) alone"
            )
        # As everywhere on the command line, a hyphen in a field's name stands for an underscore.
        field = field.replace("-", "_")
        if field in space:
            raise UserError(f"--sweep.space names {field} twice")

        # No kind nests, so that every comma separates two values.
        values = tuple(_parse_value(part.strip()) for part in listed.split(","))
        space[field] = _checked_domain(text, kind, values)
    return space


def _checked_domain(text: str, kind: str, values: tuple[Any, ...]) -> Domain:
    """The domain of an entry of the space; `text` is the whole entry, for messages."""
    if kind in LISTS:
        # By text, since 1, 1.0 and true are equal to Python but different settings.
        different = {repr(value) for value in values}
        if "" in values or len(different) < len(values):
            raise UserError(f"--sweep.space {text!r}: {kind}() needs different values, separated by commas")
        return Domain(kind, values)

    if kind not in RANGES:
        raise UserError(f"--sweep.space {text!r}: there are {', '.join(RANGES + LISTS)}")
    numbers = [value for value in values if _is_finite_number(value)]
    if len(values) != 2 or len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise UserError(f"--sweep.space {text!r}: {kind}() needs two numbers, the lower one first")
    low, high = numbers
    if kind.startswith("log") and low <= 0:
        raise UserError(f"--sweep.space {text!r}: a logarithmic range starts above 0")

    if not kind.endswith("randint"):
        return Domain(kind, (float(low), float(high)))
    # 1e3 is read as a float but is a whole number.
    if low != int(low) or high != int(high):
        raise UserError(f"--sweep.space {text!r}: {kind}() needs whole numbers")
    if max(abs(low), abs(high)) > LARGEST_INTEGER:
        raise UserError(f"--sweep.space {text!r}: {kind}() takes whole numbers up to 2^53")
    return Domain(kind, (int(low), int(high)))


def _is_finite_number(value: Any) -> bool:
    # True and False are integers to Python.
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _parse_value(text: str) -> Any:
    """A number, true, false, none, or the word itself (without its quotes)."""
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    # Integers first: float would read 8 as 8.0 without complaint.
    for number_type in (int, float):
        try:
            return number_type(text)
        except ValueError:
            continue

    # Quotes make a word of what would be read as a number or as true.
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if is_quoted:
        return text[1:-1]
    return text


def grid_size(space: Space) -> int:
    """Number of combinations of the fields that are searched as a grid."""
    cells = 1
    for domain in space.values():
        if domain.kind == "grid":
            cells *= len(domain.values)
    return cells


def sample_points(space: Space, count: int, seed: int, given: Mapping[str, Any]) -> list[Point]:
    """At most `count` different points: the given one first, then draws; grids are searched cell by cell.

    Point n is the same whatever `count` is, so that more trials can be added later. A small space has fewer points.
    """
    # A finite space can run out of new points, so the number of draws is limited.
    points: list[Point] = [dict(given)]
    for number in range(ATTEMPTS * count):
        point = _point(space, seed, number)
        if point not in points:
            points.append(point)
        if len(points) >= count:
            break
    return points[:count]


def _point(space: Space, seed: int, number: int) -> Point:
    """Draw `number`: its grid cell is a mixed-radix digit of the number for each grid field, the rest is random."""
    # A generator for each number: point n does not depend on how many were drawn before it.
    rng = np.random.default_rng([seed, number])
    cell = number
    point = {}
    for field, domain in space.items():
        if domain.kind == "grid":
            # The remainder picks this field's value, the quotient goes on to the next grid field.
            cell, position = divmod(cell, len(domain.values))
            point[field] = domain.values[position]
        else:
            point[field] = domain.draw(rng)
    return point
