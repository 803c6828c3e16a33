"""The two forms of questions, and how they differ: the odd one out of three, and which of two is more like a third"""

from collections.abc import Hashable
from dataclasses import dataclass
from math import comb

from alignet_ray.ask.study_file import Mode
from alignet_ray.core import comparisons, scores


@dataclass(frozen=True)
class QuestionForm:
    """What is particular to one form of question.

    Attributes:
        name: what the questions are called, in the plural.
        per_set: how many questions there are about the same three objects.
        positions: of the images that can be chosen, in the order of their labels 1, 2, ...
        chance: share of answers that guessing gets right.
        option: the setting of a run that reads the answers.
        instructions: file of the pages with default instructions.
        title: of a page whose instructions have no heading.
    """

    name: str
    per_set: int
    positions: tuple[int, ...]
    chance: float
    option: str
    instructions: str
    title: str

    @property
    def pairs(self) -> int:
        """How many of `core.triplet_rows.PAIRS` compete, the first ones: as many as images can be chosen."""
        return len(self.positions)

    def label(self, position: int) -> int:
        """The number that people see on the image at a position, which is also the key that chooses it."""
        return self.positions.index(position) + 1


FORMS: dict[Mode, QuestionForm] = {
    "odd": QuestionForm(
        name="odd-one-out questions",
        per_set=1,
        positions=(0, 1, 2),
        chance=scores.CHANCE,
        option="human.triplets",
        instructions="instructions.md",
        title="Odd one out",
    ),
    # The image at position 0 is the reference, which nobody can choose. Each of three objects can be it.
    "reference": QuestionForm(
        name="reference comparisons",
        per_set=3,
        positions=(1, 2),
        chance=comparisons.CHANCE,
        option="human.comparisons",
        instructions="instructions_reference.md",
        title="Which one is more like it",
    ),
}


def question_key(objects: tuple[int, int, int], mode: Mode) -> Hashable:
    """What makes two questions the same one: their three objects, and in a reference comparison the reference too."""
    if mode == "odd":
        return frozenset(objects)
    return objects[0], frozenset(objects[1:])


def count_questions(objects: int, mode: Mode) -> int:
    """How many different questions there are about so many objects."""
    return FORMS[mode].per_set * comb(objects, 3)
