import base64
import io

import pytest
from jinja2 import UndefinedError
from PIL import Image

from alignet_ray.report import elements
from alignet_ray.report.rendering import percent, render, table_layout, thumbnail, whole_percent


def test_text_is_escaped_and_elements_are_not() -> None:
    page = elements.page("<title>", [elements.section("a & b", elements.paragraph("1 < 2", "note"), ""), ""])
    assert "<title>&lt;title&gt;</title>" in page
    assert "<h1>&lt;title&gt;</h1>" in page
    assert "<h2>a &amp; b</h2>" in page
    assert '<p class="note">1 &lt; 2</p>' in page


def test_a_phone_shows_a_table_of_many_columns_as_a_list() -> None:
    numbers = {"model": "a name as long as it likes", "a": "1", "b": "2", "c": "3", "d": "1,234.5678"}
    assert table_layout([numbers]) == "stacked dense"
    assert table_layout([numbers, numbers | {"b": "45.0 [40.0, 50.0]"}]) == "stacked"
    del numbers["d"]
    assert table_layout([numbers]) == ""


def test_a_missing_variable_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="provenance"):
        render("sections/provenance.html")


def test_thumbnails_are_central_squares_and_grey_without_an_image() -> None:
    wide = Image.new("RGB", (60, 20), "red")
    wide.paste("blue", (20, 0, 40, 20))
    assert pixel(thumbnail(wide, 16)) == pytest.approx((0, 0, 254), abs=4)
    assert pixel(thumbnail(None)) == pytest.approx((204, 204, 204), abs=3)


def pixel(uri: str) -> tuple[int, ...]:
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return Image.open(io.BytesIO(data)).getpixel((1, 8))  # type: ignore[return-value]


def test_percentages() -> None:
    assert percent(0.4567) == "45.7 %"
    assert whole_percent(0.4567) == "46%"
