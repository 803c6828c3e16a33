"""What a page must have for everybody to use it: checks of its HTML, contrast of colours, and colour-blind eyes."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
from jaxtyping import Float

VOID = {"meta", "link", "img", "input", "br", "hr"}
CONTROLS = {"button", "input", "select", "textarea", "a", "summary"}

COLOUR_VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
"""Linear RGB as it is seen -> as people see it who lack one kind of cones (Machado et al. 2009, severity 1)."""

Colour = Float[np.ndarray, "3"]


@dataclass
class Element:
    """An element: its attributes, what it stands in, and its text."""

    tag: str
    attributes: dict[str, str]
    parents: tuple[str, ...]
    text: str = ""
    alternatives: str = ""


@dataclass
class Page(HTMLParser):
    """All elements of a page, in their order."""

    html: str
    elements: list[Element] = field(default_factory=list)
    opened: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        assert not self.opened, f"not closed: {[element.tag for element in self.opened]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        element = Element(tag, attributes, tuple(parent.tag for parent in self.opened))
        self.elements.append(element)
        for parent in self.opened:
            parent.alternatives += attributes.get("alt", "")
        if tag not in VOID:
            self.opened.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened, f"</{tag}> closes nothing"
        closed = self.opened.pop()
        assert closed.tag == tag, f"<{closed.tag}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        for element in self.opened:
            element.text += data

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]


def faults(html: str) -> list[str]:
    """What shuts somebody out of a page; empty if nothing does."""
    page = Page(html)
    found = []
    if not page.all("html")[0].attributes.get("lang"):
        found.append("no language")
    if not page.all("title")[0].text.strip():
        found.append("no title")
    if len(page.all("main")) != 1:
        found.append(f"{len(page.all('main'))} main landmarks")
    viewport = [meta for meta in page.all("meta") if meta.attributes.get("name") == "viewport"]
    if not viewport or re.search("maximum-scale|user-scalable", viewport[0].attributes["content"]):
        found.append("cannot be enlarged")
    return found + _picture_faults(page) + _control_faults(page) + _heading_faults(page) + _table_faults(page)


def _picture_faults(page: Page) -> list[str]:
    found = [f"a picture without words: {image}" for image in page.all("img") if not image.attributes.get("alt")]
    for drawing in page.all("svg"):
        is_named = drawing.attributes.get("role") == "img" and drawing.attributes.get("aria-label")
        if not is_named and drawing.attributes.get("aria-hidden") != "true":
            found.append(f"a drawing without words: {drawing.attributes}")
    return found


def _control_faults(page: Page) -> list[str]:
    found = []
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    if len(ids) != len(set(ids)):
        found.append("an id stands for two elements")
    for element in page.all(*CONTROLS):
        is_named = bool(element.text.strip() or element.attributes.get("aria-label") or element.alternatives)
        # A control inside its label has the label's text.
        if not is_named and "label" not in element.parents:
            found.append(f"a control without a name: {element}")
        target = element.attributes.get("href", "")
        if target.startswith("#") and target[1:] not in ids:
            found.append(f"a link that leads nowhere: {target}")
    for element in page.elements:
        if int(element.attributes.get("tabindex", "0")) > 0:
            found.append(f"changes the order of the focus: {element}")
        if element.attributes.get("tabindex") == "0" and not element.attributes.get("aria-label"):
            found.append(f"takes the focus and has no name: {element}")
    return found


def _heading_faults(page: Page) -> list[str]:
    headings = page.all("h1", "h2", "h3", "h4", "h5", "h6")
    levels = [int(heading.tag[1]) for heading in headings]
    found = [f"an empty heading: {heading.tag}" for heading in headings if not heading.text.strip()]
    if levels.count(1) != 1 or levels[0] != 1:
        found.append(f"headings begin with {levels[:2]}")
    found += [f"h{high} to h{low}" for high, low in pairwise(levels) if low > high + 1]
    return found


def _table_faults(page: Page) -> list[str]:
    found = []
    for cell in page.all("th"):
        expected = "row"
        if "thead" in cell.parents:
            expected = "col"
        if cell.attributes.get("scope") != expected:
            found.append(f"a heading of no {expected}: {cell.text}")
        if not cell.text.strip():
            found.append("an empty heading of a table")
    rows = len(page.all("tr"))
    named = len([cell for cell in page.all("th") if cell.attributes.get("scope") == "row"])
    if rows != named + len(page.all("thead")):
        found.append("a row without a name")
    return found


def palettes(css: str) -> dict[str, dict[str, str]]:
    """Custom properties that are colours, in a light and in a dark surrounding."""
    blocks = re.findall(r":root\s*\{([^}]*)\}", css)
    assert len(blocks) == 2, "one for each"
    light, dark = (dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]+)", block)) for block in blocks)
    return {"light": light, "dark": light | dark}


def linear_rgb(colour: str) -> Colour:
    """Light of the three primaries of sRGB, 0 to 1."""
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    encoded = np.array([int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)])
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """Contrast ratio of WCAG 2: 1 for equal colours, 21 for black on white."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = sorted(float(linear_rgb(colour) @ weights) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def lab(linear: Colour) -> Colour:
    """CIELAB of linear sRGB, for the white of D65."""
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    relative = to_xyz @ linear / to_xyz.sum(axis=1)
    x, y, z = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def seen_difference(first: str, second: str, vision: str = "usual") -> float:
    """CIEDE2000 of two colours to somebody's eyes: about 1 is just visible, 100 is black to white."""
    labs = [lab(np.clip(COLOUR_VISION[vision] @ linear_rgb(colour), 0, 1)) for colour in (first, second)]
    return ciede2000(*labs)


def ciede2000(first: Colour, second: Colour) -> float:
    """Colour difference CIEDE2000 of two colours in CIELAB (Sharma, Wu and Dalal 2005)."""
    lightness, a, b = np.stack((first, second)).T
    mean_chroma = np.hypot(a, b).mean()
    a = a * (1.5 - 0.5 * np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25**7)))
    chroma = np.hypot(a, b)
    hue = np.degrees(np.arctan2(b, a)) % 360

    # Hues stand on a circle: the shorter way between both, and the middle of that way.
    turn = (hue[1] - hue[0] + 180) % 360 - 180
    hue_difference = 2 * np.sqrt(chroma.prod()) * np.sin(np.radians(turn / 2))
    middle = hue[0] + turn / 2
    weight = (
        1
        - 0.17 * np.cos(np.radians(middle - 30))
        + 0.24 * np.cos(np.radians(2 * middle))
        + 0.32 * np.cos(np.radians(3 * middle + 6))
        - 0.20 * np.cos(np.radians(4 * middle - 63))
    )

    offset = (lightness.mean() - 50) ** 2
    by_lightness = np.diff(lightness)[0] / (1 + 0.015 * offset / np.sqrt(20 + offset))
    by_chroma = np.diff(chroma)[0] / (1 + 0.045 * chroma.mean())
    by_hue = hue_difference / (1 + 0.015 * chroma.mean() * weight)
    turned = 60 * np.exp(-((((middle % 360) - 275) / 25) ** 2))
    rotation = -2 * np.sqrt(chroma.mean() ** 7 / (chroma.mean() ** 7 + 25**7)) * np.sin(np.radians(turned))
    return float(np.sqrt(by_lightness**2 + by_chroma**2 + by_hue**2 + rotation * by_chroma * by_hue))
