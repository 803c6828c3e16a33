"""Jinja2 rendering: the environment that all pages share, and its filters for images and numbers."""

import base64
import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from alignet_ray.evals.spaces import MODEL_TITLES

MOST_COLUMNS = 4
"""Columns that a table may have on a phone."""

MOST_DIGITS = 10
"""Characters of a cell that fits into a quarter of a phone's width."""

THUMBNAIL = 128
"""Width and height of a thumbnail in pixels, unless a template asks for another size."""


def render(template: str, **values: Any) -> str:
    """Render a template of `report/templates` with these variables; their text is escaped."""
    return environment().get_template(template).render(**values)


@cache
def environment() -> Environment:
    """Templates of `report/templates`: text is escaped, a variable that is missing is an error."""
    # Escaping matters: names of objects and folders come from the user's data, and the page is opened in a browser.
    jinja = Environment(
        loader=PackageLoader("alignet_ray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["thumbnail"] = thumbnail
    jinja.filters["png_uri"] = png_uri
    jinja.filters["percent"] = percent
    jinja.filters["whole_percent"] = whole_percent
    jinja.filters["model_title"] = model_title
    jinja.filters["table_layout"] = table_layout
    return jinja


def percent(fraction: float) -> str:
    """`0.4567` -> `45.7 %`."""
    return f"{100 * fraction:.1f} %"


def whole_percent(fraction: float) -> str:
    """`0.4567` -> `46%`."""
    return f"{fraction:.0%}"


def model_title(model: str) -> str:
    """The title of a model of the scores table, or its own name where it has none."""
    return MODEL_TITLES.get(model, model)


def table_layout(rows: Sequence[Mapping[str, str]]) -> str:
    """How a phone lays out a table: as a table (""), or as a list of its rows with their cells in 2 or 4 columns."""
    columns = list(rows[0])
    if len(columns) <= MOST_COLUMNS:
        return ""

    # The first cell stands above the others. An interval takes half of a phone's width, a number a quarter of it.
    cells = [text for row in rows for text in list(row.values())[1:]]
    longest = max(map(len, cells))
    if longest > MOST_DIGITS:
        return "stacked"
    return "stacked dense"


def png_uri(png: bytes) -> str:
    """A PNG as a URI, so that the page needs no other file."""
    return _data_uri(png, "png")


def thumbnail(image: Image.Image | None, size: int = THUMBNAIL) -> str:
    """The central square of an image as a small JPEG, as a URI; grey where the image could not be read."""
    if image is None:
        image = Image.new("RGB", (size, size), "#ccc")
    image = image.convert("RGB")

    # Cropped, not squeezed: shapes are part of what people judge by.
    edge = min(image.size)
    left = (image.width - edge) // 2
    top = (image.height - edge) // 2
    square = image.crop((left, top, left + edge, top + edge))

    # The page carries all of its thumbnails, often hundreds: as PNG they would take several times the space.
    buffer = io.BytesIO()
    square.resize((size, size), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=78)
    return _data_uri(buffer.getvalue(), "jpeg")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
