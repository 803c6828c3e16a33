"""Pages that everybody can use: by ear, with a keyboard, on a phone, in the dark, without telling red from green."""

import re
import shutil
from collections.abc import Callable
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from support import full_pages, page_check
from support.page_check import contrast, faults, seen_difference

from alignet_ray.report import figures
from alignet_ray.sweep import plots

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

PAGES = {"report": full_pages.full_report, "study": full_pages.full_study, "compare": full_pages.full_comparison}
STYLE = files("alignet_ray.report").joinpath("templates/style.css").read_text(encoding="utf-8")
ASK = files("alignet_ray.ask").joinpath("pages/page.css").read_text(encoding="utf-8")
DEMO = files("alignet_ray.demo").joinpath("page.html").read_text(encoding="utf-8")

TEXT = 4.5
"""Contrast of text with its ground, at least (WCAG 2.2, level AA)."""

GRAPHICS = 3.0
"""The same of whatever else must be seen."""

APART = 12.0
"""Colours that differ by so much (CIEDE2000) are told apart side by side and in a legend."""


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_a_page_shuts_nobody_out(make: Callable[[], str]) -> None:
    html = make()
    assert faults(html) == []
    assert len(html) < 3_000_000
    assert not re.search(r'(src|href)="(?!#|data:)', html), "works without a network"


def test_the_demo_shuts_nobody_out() -> None:
    assert faults(DEMO) == []


@pytest.mark.parametrize(
    ("spoiled", "fault"),
    [
        ('<html lang="en">|<html>', "no language"),
        ("<h2>Everything|<h4>Everything", None),
        ('scope="row"|scope="col"', "a heading of no row"),
        ("<main>|<div>", None),
        (' alt="| data-alt="', "a picture without words"),
        ("<h1>|<h1></h1><h1>", None),
    ],
)
def test_the_check_finds_what_is_wrong(spoiled: str, fault: str | None) -> None:
    before, after = spoiled.split("|")
    html = full_pages.full_comparison()
    assert before in html
    try:
        found = faults(html.replace(before, after))
    except AssertionError as error:
        found = [str(error)]
    assert found
    assert fault is None or fault in found[0]


def test_the_report_has_a_way_to_each_section() -> None:
    page = page_check.Page(full_pages.full_report())
    links = [link.attributes["href"] for link in page.all("a") if "nav" in link.parents]
    assert len(links) == len(page.all("section")) == 20


def test_diagrams_say_in_words_what_they_show() -> None:
    page = page_check.Page(full_pages.full_report())
    described = [image.attributes["alt"] for image in page.all("img") if "figure" in image.parents]
    assert len(described) == 12
    assert all(re.match("Line chart|Histogram|Similarity matrix", text) for text in described), described


def test_every_object_of_the_maps_can_be_found_without_a_mouse() -> None:
    html = full_pages.full_report()
    page = page_check.Page(html)
    choices = [element for element in page.all("input") if "id" in element.attributes]
    assert len(choices) == 44
    for choice in choices:
        number = choice.attributes["id"].removeprefix("find-")
        assert f"#find-{number}:checked) .object-{number} .shown" in html
        assert html.count(f'class="object object-{number}"') == 3, "on each of the maps"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(scheme: str) -> None:
    for css, inks in (
        (STYLE, ("ink", "soft", "good", "bad")),
        (DEMO, ("ink", "soft", "bad", "base", "aligned")),
        (ASK, ("ink", "soft", "bad", "main")),
    ):
        colours = page_check.palettes(css)[scheme]
        for ink in inks:
            for ground in ("paper", "wash"):
                assert contrast(colours[ink], colours[ground]) >= TEXT, (ink, ground)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_diagrams_and_the_focus_stand_out(scheme: str) -> None:
    colours = page_check.palettes(STYLE)[scheme]
    assert contrast(colours["focus"], colours["paper"]) >= GRAPHICS
    # Marks of maps lie on the page, bars on their track, and the lines of all diagrams on white.
    for drawn in (*figures.PALETTE, figures.OTHER, *figures.COLOURS.values()):
        assert contrast(drawn, colours["paper"]) >= GRAPHICS, drawn
        assert contrast(drawn, "#fff") >= GRAPHICS, drawn
    for bar in (figures.OTHER, *figures.COLOURS.values()):
        assert contrast(bar, colours["wash"]) >= GRAPHICS, bar
    assert contrast(figures.REFERENCE, "#fff") >= GRAPHICS


def test_the_focus_is_seen_and_nothing_moves() -> None:
    for css in (STYLE, DEMO, ASK):
        assert ":focus-visible" in css
        assert not re.search(r"outline:\s*(none|0)", css)
        # Whoever cannot bear moving things needs no setting for a page where none moves.
        assert not re.search("animation|transition|@keyframes|scroll-behavior", css)


@pytest.mark.parametrize("vision", page_check.COLOUR_VISION)
def test_models_are_told_apart_by_everybody(vision: str) -> None:
    for first, second in combinations(figures.COLOURS, 2):
        difference = seen_difference(figures.COLOURS[first], figures.COLOURS[second], vision)
        assert difference >= APART, (first, second, difference)
    assert seen_difference(plots.TRIAL, plots.WINNER, vision) >= APART


def test_models_and_groups_differ_in_shape_as_well() -> None:
    markers = [*figures.MODEL_MARKERS.values(), figures.OTHER_MARKER]
    assert figures.MODEL_MARKERS.keys() == figures.COLOURS.keys()
    assert len(set(markers)) == len(markers)
    # Ten colours cannot all differ to everybody, so that of these each has a shape of its own.
    assert len(set(figures.MARKERS)) == len(set(figures.SHAPES)) == len(figures.PALETTE)


def test_differences_of_colours_are_those_of_the_published_table() -> None:
    # Rows 1, 7, 13, 17, 21 and 34 of Sharma, Wu and Dalal's table.
    for first, second, expected in (
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (50, 3.2592, 0.335), 1.0),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ):
        pair = np.array(first, dtype=float), np.array(second, dtype=float)
        assert page_check.ciede2000(*pair) == pytest.approx(expected, abs=1e-4)
    assert page_check.lab(page_check.linear_rgb("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_the_keyboard_shows_an_object_on_all_maps(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    file = tmp_path / "report.html"
    file.write_text(full_pages.full_report(), encoding="utf-8")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(file.as_uri())
        page.locator(".finder summary").press("Enter")
        # One stop for all objects; arrows go from one to the next.
        for key in ("Tab", "ArrowDown", "ArrowDown"):
            page.keyboard.press(key)
        shown = page.locator(".map .shown").evaluate_all(
            "all => all.filter(card => getComputedStyle(card).visibility == 'visible').map(card => card.textContent)"
        )
        assert [text.strip() for text in shown] == ["animal 1"] * 3
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_narrow_page_does_not_scroll_sideways(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, make in PAGES.items():
            file = tmp_path / f"{name}.html"
            file.write_text(make(), encoding="utf-8")
            # 320 is a page of 1280 that somebody enlarged four times; 200 % are letters of twice the size.
            for width, letters in ((320, 100), (390, 100), (390, 200)):
                page = browser.new_page(viewport={"width": width, "height": 800})
                page.goto(file.as_uri())
                page.add_style_tag(content=f"html {{ font-size: {letters}% }}")
                assert page.evaluate("document.documentElement.scrollWidth") == width, name
                wide = page.locator(".scroll:visible").evaluate_all(
                    "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth).map(box => box.tabIndex)"
                )
                # What is wider on the smallest page can be moved with the keyboard; a phone shows all of it.
                assert set(wide) <= {0}
                assert not wide or (width, letters) != (390, 100), (
                    f"{name}: tables and settings are read without scrolling sideways"
                )
                page.close()
        browser.close()
