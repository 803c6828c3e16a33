"""The whole page: what is shown has an entry in its contents, and nothing else has."""

import re

from alignet_ray.core.scores import Score
from alignet_ray.report import build
from alignet_ray.report.contents import NeighbourQuery, ReportContents


def page(**changes: object) -> str:
    return build(ReportContents("a run", {"seed": "3"}, [], [], **changes))  # type: ignore[arg-type]


def test_contents_lead_to_the_sections_that_are_there() -> None:
    for html in (page(), page(queries=[NeighbourQuery(None, "cat", {})])):
        targets = re.findall(r'<a href="#(\w+)">', html)
        assert targets == re.findall(r'<section id="(\w+)">', html)
        assert "provenance" in targets
    assert "neighbours" in targets


def test_every_picture_is_described() -> None:
    html = page(queries=[NeighbourQuery(None, "cat", {})])
    assert html.count("<img") == len(re.findall(r'alt="[^"]+"', html))


def test_names_are_text_and_never_markup() -> None:
    html = page(queries=[NeighbourQuery(None, "<b>cat</b>", {})])
    assert "<b>cat" not in html


def test_a_score_makes_its_section() -> None:
    score = Score("base", "pre_logits", "objects", "odd_one_out", 0.4, n=10)
    html = build(ReportContents("a run", {}, [], [score]))
    assert '<section id="agreement">' in html
