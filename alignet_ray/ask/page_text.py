"""The pages as text: templates, and the instructions, whose Markdown becomes safe HTML."""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from alignet_ray.ask.forms import FORMS
from alignet_ray.ask.study_file import Mode

PACKAGE = "alignet_ray.ask"
FOLDER = "pages"
"""Where the pages' files are."""


def default_instructions(mode: Mode) -> str:
    """Instructions and consent for a study that brings none of its own, as Markdown."""
    return files(PACKAGE).joinpath(FOLDER, FORMS[mode].instructions).read_text(encoding="utf-8")


def asset(name: str) -> bytes:
    """A script or a style sheet of the pages."""
    return files(PACKAGE).joinpath(FOLDER, name).read_bytes()


def render(template: str, **values: Any) -> str:
    """A page; the text of variables is escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    return Environment(loader=PackageLoader(PACKAGE, FOLDER), autoescape=True, undefined=StrictUndefined)


def markdown(text: str) -> Markup:
    """Markdown as HTML that can do no harm: HTML in it is shown as text, and nothing is loaded from elsewhere."""
    # Links of other schemes than http, https and mailto are shown as text by the library itself.
    renderer = MarkdownIt("commonmark", {"html": False}).disable("image").enable("table")
    return Markup(renderer.render(text))


def title(text: str, default: str) -> str:
    """The first heading of a Markdown text; `default` where there is none."""
    for line in text.splitlines():
        if line.startswith("#"):
            return line.lstrip("#").strip()
    return default
