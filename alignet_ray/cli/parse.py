"""The options of a run: a preset, a YAML file and `--section.field VALUE`, read into one Config."""

import contextlib
import difflib
import io
import re
from collections.abc import Iterable

from alignet_ray.config import Config
from alignet_ray.config.presets import PRESETS
from alignet_ray.errors import UserError


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    return f"unknown {kind} {name!r}: {hint}"


def parse(verb: str, args: list[str]) -> Config:
    """Config of `[PRESET] [--config FILE] [--section.field VALUE ...]`.

    Raises:
        UserError: an unknown preset or field (with the nearest known one), or a value of the wrong type.
    """
    import tyro

    rest = list(args)
    base = Config()
    if rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in PRESETS:
            raise UserError(unknown("preset", name, PRESETS))
        base = PRESETS[name]()
    if "--config" in rest:
        at = rest.index("--config")
        if at + 1 == len(rest):
            raise UserError("--config needs a file: write --config run.yaml")
        base = Config.from_yaml(rest[at + 1])
        del rest[at : at + 2]
    fields = _flags(base)
    for flag in (a.split("=")[0] for a in rest if a.startswith("--") and a != "--help"):
        if flag.replace("_", "-") not in fields:
            raise UserError(unknown("option", flag, fields))
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(Config, default=base, args=rest, prog=f"alignet-ray {verb}")
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_plain(errors.getvalue())) from None


def _flags(base: Config) -> list[str]:
    flags = []
    for name in base.flat():
        section, dot, field = name.rpartition(".")
        dashed = f"{section}{dot}{field}".replace("_", "-")
        flags += [f"--{dashed}", f"--{section}{dot}no-{field}".replace("_", "-")]
    return flags


def _plain(box: str) -> str:
    """The message inside tyro's drawn box, on one line."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    body = [line for line in lines[1:] if line.strip("-")]  # rules are of hyphens where the terminal knows no others
    until = next((i for i, line in enumerate(body) if line.startswith(("Argument helptext", "For full"))), len(body))
    text = " ".join(body[:until]) or "the options could not be read"
    if out_of_bounds := _BOUNDS.match(text):  # pydantic's own words, inside tyro's
        section, field, problem, value = out_of_bounds.groups()
        return f"--{section}.{field.replace('_', '-')} {value}: {problem[0].lower()}{problem[1:]}"
    return text


_BOUNDS = re.compile(
    r"Error parsing (\S+): \d+ validation errors? for \w+ (\S+) (.+?) \[type=.*?, input_value=(.+?), input_type"
)
