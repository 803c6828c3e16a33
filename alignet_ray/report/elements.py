"""Elements of a page as functions, for pages that are put together in Python: the macros of templates/elements.html."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from alignet_ray.report.rendering import environment, render


def page(title: str, parts: Sequence[str]) -> str:
    """A whole HTML document: the title as its heading, then `parts`; empty ones are left out."""
    return render("plain.html", title=title, parts=parts)


def section(heading: str, *parts: str) -> Markup:
    """A headed section; empty parts are left out."""
    return _element("section", heading, parts)


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph of plain text; `kind` is a class of the style sheet (lead, note)."""
    return _element("paragraph", text, kind)


def figure(png: bytes, caption: str, alt: str = "") -> Markup:
    """A picture with its caption; `alt` says what it shows to those who cannot see it (default: the caption)."""
    return _element("figure", png, caption, alt)


def grid(cells: Sequence[str]) -> Markup:
    """Elements side by side, as many as fit."""
    return _element("grid", cells)


def table(rows: Sequence[dict[str, str]]) -> Markup:
    """Rows (heading -> text) as a table, whose first column names the rows."""
    return _element("table", rows)


def preformatted(text: str) -> Markup:
    """Text as it is, in a font of equal widths."""
    return _element("preformatted", text)


def folded(summary: str, part: str) -> Markup:
    """A part that only a click on `summary` shows."""
    return _element("folded", summary, part)


def _element(macro: str, *arguments: Any) -> Markup:
    return Markup(getattr(_elements().module, macro)(*arguments))


@cache
def _elements() -> Template:
    return environment().get_template("elements.html")
