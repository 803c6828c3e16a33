"""Texts of the pages: Markdown becomes HTML that can do no harm."""

import pytest

from alignet_ray.ask.page_text import asset, default_instructions, markdown, render, title


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# Hi", "<h1>Hi</h1>"),
        ("*now* and **then**", "<em>now</em> and <strong>then</strong>"),
        ("* one\n* two", "<li>two</li>"),
        ("a <script>alert(1)</script>", "&lt;script&gt;"),
        ('<img src=x onerror="alert(1)">', "&lt;img"),
        ("[ok](https://ok.example)", '<a href="https://ok.example">ok</a>'),
    ],
)
def test_markdown(text: str, html: str) -> None:
    assert html in markdown(text)


@pytest.mark.parametrize("text", ["[a](javascript:alert(1))", "[a](data:text/html;base64,AA)", "[a](vbscript:x)"])
def test_links_that_run_code_are_no_links(text: str) -> None:
    assert "<a" not in markdown(text)


def test_images_of_other_sites_are_not_loaded() -> None:
    assert "<img" not in markdown("![x](https://elsewhere.example/x.png)")


def test_the_page_holds_the_instructions_and_escapes_the_rest() -> None:
    text = markdown(default_instructions("odd"))
    page = render("page.html", study="abc", title="<b>", instructions=text, mode="odd", positions=(0, 1, 2))
    assert "<h1>Which one does not belong?</h1>" in page
    assert "<title>&lt;b&gt;</title>" in page
    assert b"use strict" in asset("page.js")


def test_titles() -> None:
    assert title(default_instructions("odd"), "Study") == "Which one does not belong?"
    assert title(default_instructions("reference"), "Study") == "Which one is more like it?"
    assert title("no heading", "Study") == "Study"
    assert title("text\n\n## Second *level* \n", "Study") == "Second *level*"


def test_both_forms_of_instructions_say_the_same_about_data() -> None:
    texts = [default_instructions(mode).partition("## Your data")[2] for mode in ("odd", "reference")]
    assert "deleted" in texts[0]
    assert texts[0] == texts[1]
