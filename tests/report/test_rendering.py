import base64
import io

import pytest
from jinja2 import UndefinedError
from PIL import Image

from alignet_ray.report import elements
from alignet_ray.report.rendering import percent, render, thumbnail, whole_percent


def test_text_is_escaped_and_elements_are_not() -> None:
    page = elements.page("<title>", [elements.section("a & b", elements.paragraph("1 < 2", "note"), ""), ""])
    assert "<title>&lt;title&gt;</title>" in page
    assert "<h1>&lt;title&gt;</h1>" in page
    assert "<h2>a &amp; b</h2>" in page
    assert '<p class="note">1 &lt; 2</p>' in page


def test_a_table_marks_the_columns_that_a_phone_leaves_out() -> None:
    table = elements.table([{"model": "base", "n": "3"}, {"model": "student", "n": "4"}], minor=("n",))
    assert '<th>model</th><th class="minor">n</th>' in table
    assert '<td>student</td><td class="minor">4</td>' in table


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
