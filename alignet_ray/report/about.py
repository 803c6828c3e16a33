"""What the report says of its run besides scores: when and on what it was made, and how to use the student."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """The run in words.

    Attributes:
        line: one line below the title: date, time, machine.
        details: for the end of the page: versions of libraries, commit.
    """

    line: str
    details: Mapping[str, str]


@dataclass(frozen=True)
class Use:
    """Commands to go on with the student, in Python and in a shell."""

    python: str
    shell: str


PYTHON = """import alignet_ray

model = alignet_ray.load("{model}")
model.embed("image.jpg")
model.odd_one_out("a.jpg", "b.jpg", "c.jpg")
model.nearest("image.jpg", "FOLDER", k=5)"""

SHELL = """alignet-ray export {model} --to timm FOLDER
alignet-ray demo {model} --images FOLDER
alignet-ray show {model}"""


def use(name: str, alias: str) -> Use:
    """How to use a registered model."""
    model = f"models:/{name}@{alias}"
    return Use(PYTHON.format(model=model), SHELL.format(model=model))
