"""Names of the objects that people compared, in the order of their numbers, where human data names them.

Numbers come from the table of concepts if there is one (an object's number is its row), else from the alphabetical
order of all names in the human files.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from alignet_ray.data.files import comparable_path, did_you_mean
from alignet_ray.errors import UserError


@dataclass(frozen=True)
class ObjectNames:
    """Names of the objects.

    Attributes:
        names: of every object, in the order of the numbers.
        source: where they come from, for messages.
        are_numbers: whether they are nothing but the numbers, written out.
    """

    names: tuple[str, ...]
    source: str
    are_numbers: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def numbers(self, wanted: Sequence[str], path: str) -> Int64[np.ndarray, " k"]:
        """Object number of each of these names of a file.

        Raises:
            UserError: a name that is none of the objects'.
        """
        # All names are read before any is refused: the message says how many are unknown.
        numbers = []
        unknown = []
        for name in wanted:
            number = self.by_name.get(comparable_path(name))
            if number is None:
                unknown.append(name)
            else:
                numbers.append(number)

        if unknown:
            hint = did_you_mean(unknown[0], self.names)
            close = difflib.get_close_matches(unknown[0], self.names, 1)
            if close and not hint:
                hint = f"; did you mean {close[0]!r}?"
            raise UserError(
                f"{path}: {len(unknown)} of its {len(wanted)} objects are not in {self.source} "
                f"(first: {unknown[0]!r}){hint}"
            )
        return np.array(numbers, dtype=np.int64)

    @cached_property
    def by_name(self) -> dict[str, int]:
        """Name as people see it (`comparable_path`) -> object number."""
        return {comparable_path(name): number for number, name in enumerate(self.names)}

    def number_of_any(self, wanted: Sequence[str]) -> int | None:
        """The object that the first fitting one of these names of a folder or file stands for; None if none fits."""
        for name in wanted:
            key = comparable_path(name)
            # Folders of numbered objects are often padded: 07.
            if self.are_numbers and key.isdecimal():
                key = str(int(key))
            number = self.by_name.get(key)
            if number is not None:
                return number
        return None


def from_concepts(names: Sequence[str], path: str) -> ObjectNames:
    """The names of a table of concepts.

    Raises:
        UserError: a name that stands for two objects.
    """
    found = ObjectNames(tuple(names), path)
    if len(found.by_name) < len(names):
        seen: set[str] = set()
        for name in names:
            if comparable_path(name) in seen:
                raise UserError(
                    f"{path}: two objects are called {name!r}: objects that are found by name need one each"
                )
            seen.add(comparable_path(name))
    return found


def of_files(names_of: Mapping[str, Sequence[str]]) -> ObjectNames | None:
    """All names of some files in alphabetical order; None where these have numbers.

    Args:
        names_of: file -> the names in it, none where it has numbers.

    Raises:
        UserError: some files have names, others numbers.
    """
    named = [path for path, names in names_of.items() if names]
    numbered = [path for path, names in names_of.items() if not names]
    if not named:
        return None
    if numbered:
        raise UserError(
            f"{named[0]} names its objects and {numbered[0]} numbers them: give both files names, or "
            "--objects.concepts with the names in the order of the numbers"
        )
    # As people see them: two files may write the same name in two ways.
    distinct: set[str] = set()
    for names in names_of.values():
        distinct.update(comparable_path(name) for name in names)
    return ObjectNames(tuple(sorted(distinct)), "the human data")


def by_number(count: int) -> ObjectNames:
    """Objects 0..count-1 that have no names but their numbers."""
    return ObjectNames(tuple(str(number) for number in range(count)), "the human data", are_numbers=True)
