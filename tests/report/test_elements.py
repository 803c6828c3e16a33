"""Elements of a page: text is escaped, elements are not escaped twice, empty parts leave nothing behind."""

import base64

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup, escape

from alignet_ray.report import elements


@given(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"])))
def test_text_is_escaped_in_every_element(text: str) -> None:
    shown = str(escape(text))
    for made in (elements.paragraph(text), elements.preformatted(text), elements.table([{"column": text}])):
        assert shown in made
    assert shown in elements.figure(b"", text)
    assert shown in elements.section(text, "")


def test_elements_stand_in_others_as_they_are() -> None:
    inner = elements.paragraph("1 < 2")
    assert isinstance(inner, Markup)
    whole = elements.page("a & b", [elements.section("Part", inner)])
    assert "1 &lt; 2" in whole
    assert "&amp;lt;" not in whole
    assert "a &amp; b" in whole


def test_plain_strings_in_a_section_are_escaped() -> None:
    assert "&lt;b&gt;" in elements.section("Part", "<b>")


def test_empty_parts_are_left_out() -> None:
    part = elements.paragraph("text")
    assert elements.section("Part", "", part, "") == elements.section("Part", part)
    assert elements.page("t", ["", part]) == elements.page("t", [part])


def test_a_picture_lies_inside_the_page() -> None:
    made = elements.figure(b"\x89PNG", "caption")
    assert base64.b64encode(b"\x89PNG").decode() in made
    assert "data:image/png;base64," in made


def test_a_table_has_a_heading_for_each_column_and_each_row() -> None:
    rows = [{"model": "base", "trial": "1"}, {"model": "student", "trial": "2"}]
    plain = elements.table(rows)
    assert plain.count("<tr") == 3
    assert plain.count('<th scope="col">') == 2
    assert plain.count('<th scope="row">') == 2
    assert plain.index("model") < plain.index("trial") < plain.index("base") < plain.index("student")
    assert "role=" not in plain, "nobody has to say what a plain table is"


def test_a_table_of_many_columns_says_what_its_cells_are_wherever_they_stand() -> None:
    made = elements.table([{"model": "base", "a": "1", "b": "2", "c": "3", "d": "<4"}])
    assert '<table class="stacked dense" role="table">' in made
    assert '<th scope="row" role="rowheader" data-heading="model">base</th>' in made
    assert '<td role="cell" data-heading="d">&lt;4</td>' in made
    assert 'tabindex="0" role="group" aria-label="Table: model, a, b, c, d"' in made


def test_a_figure_has_words_of_its_own_or_those_of_its_caption() -> None:
    assert 'alt="A line that falls."' in elements.figure(b"", "caption", "A line that falls.")
    assert 'alt="caption"' in elements.figure(b"", "caption")


def test_a_folded_part_stands_below_its_summary() -> None:
    made = elements.folded("All of it", elements.paragraph("part"))
    assert made.index("<summary>All of it</summary>") < made.index("<p>part</p>")


def test_kind_is_a_class_of_the_style_sheet() -> None:
    assert "lead" in elements.paragraph("x", "lead")
    assert "lead" not in elements.paragraph("x")


def test_a_grid_holds_all_cells_in_order() -> None:
    made = elements.grid([elements.paragraph(text) for text in ("first", "second")])
    assert made.index("first") < made.index("second")
