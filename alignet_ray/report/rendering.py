"""Jinja2 rendering: the environment that all pages share, and its filters for images and numbers."""

import base64
import io
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from alignet_ray.evals.spaces import MODEL_TITLES

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
