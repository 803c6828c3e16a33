"""The page around the pictures: HTML elements and the style sheet. No network, no script; readable on a phone."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

STYLE = """
:root { --ink:#1d2430; --soft:#5b6675; --line:#dde2e8; --wash:#f5f7f9; --good:#1a7f37; --bad:#b42318; }
* { box-sizing:border-box }
html { -webkit-text-size-adjust:100% }
body { margin:0 auto; padding:20px 16px 64px; max-width:1080px; color:var(--ink); background:#fff;
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif }
h1 { font-size:1.65rem; line-height:1.2; margin:.4em 0 .2em } h2 { font-size:1.25rem; margin:2.2em 0 .3em }
h3 { font-size:1rem; margin:1.2em 0 .4em } .card h3 { margin:0 0 .2em }
p { margin:.4em 0 .8em; max-width:46em } .note { color:var(--soft); font-size:.92rem }
.lead { font-size:1.08rem } .scroll { overflow-x:auto }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; font-size:.92rem; min-width:100% }
th,td { text-align:right; padding:.38em .7em; border-bottom:1px solid var(--line); vertical-align:top }
td { white-space:nowrap }
th:first-child,td:first-child { text-align:left } thead th { background:var(--wash) }
figure { margin:.6em 0 } figure img { width:100%; height:auto; display:block }
figcaption { color:var(--soft); font-size:.88rem; margin-top:.2em }
figure { max-width:640px }
.grid { display:grid; gap:14px; grid-template-columns:repeat(auto-fit,minmax(min(100%,280px),1fr)) }
.card { border:1px solid var(--line); border-radius:10px; padding:12px; background:#fff }
.bar { display:grid; grid-template-columns:10.5em 1fr 6.2em; align-items:center; gap:10px; margin:7px 0;
  font-size:.95rem }
.track { position:relative; height:22px; background:var(--wash); border-radius:4px }
.fill { position:absolute; left:0; top:0; bottom:0; border-radius:4px 0 0 4px }
.whisker { position:absolute; top:10px; height:2px; background:var(--ink) }
.whisker::before,.whisker::after { content:""; position:absolute; top:-4px; height:10px; width:2px;
  background:var(--ink) }
.whisker::before { left:0 } .whisker::after { right:0 }
.mark { position:absolute; top:-4px; bottom:-4px; width:0; border-left:2px dashed #8a94a3 }
.num { font-variant-numeric:tabular-nums; text-align:right }
.thumbs { display:flex; gap:8px } .thumbs > div { flex:1 1 0; min-width:0; text-align:center; font-size:.82rem;
  line-height:1.3 }
.thumbs img { width:100%; aspect-ratio:1; object-fit:cover; border-radius:6px; display:block;
  margin-bottom:4px }
.odd img { outline:3px solid var(--ink); outline-offset:-3px }
.strip { display:grid; grid-template-columns:repeat(6,1fr); gap:5px; margin:3px 0 }
.strip img { width:100%; aspect-ratio:1; object-fit:cover; border-radius:4px; display:block;
  border:3px solid transparent }
.strip img.same { border-color:var(--good) } .strip img.query { border-color:var(--ink) }
.votes { list-style:none; padding:0; margin:8px 0 0; font-size:.88rem }
.votes li { display:flex; justify-content:space-between; gap:8px; border-top:1px solid var(--line);
  padding:3px 0 }
.yes { color:var(--good); font-weight:600 } .no { color:var(--bad) }
.key { display:flex; flex-wrap:wrap; gap:4px 14px; font-size:.85rem; margin:.3em 0 .6em }
.key i { display:inline-block; width:.8em; height:.8em; border-radius:50%; margin-right:.35em;
  vertical-align:-.05em }
dl { display:grid; grid-template-columns:max-content 1fr; gap:2px 14px; font-size:.92rem }
  dt { color:var(--soft) } dd { margin:0; overflow-wrap:anywhere }
@media (max-width:560px) { .bar { grid-template-columns:1fr 5.6em } .bar .track { grid-column:1 / -1;
  grid-row:2 } .bar { margin:12px 0 }
  table { font-size:.84rem } th,td { padding:.34em .25em; white-space:normal } .minor { display:none } }
"""


def page(title: str, sections: Sequence[str]) -> str:
    """A whole HTML document."""
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """A headed section; nothing if it has no content."""
    body = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(heading)}</h2>\n{body}\n</section>" if body else ""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as a URI that needs no other file."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def figure(png: bytes, caption: str) -> str:
    """A picture with its caption, which is its description for screen readers, too."""
    text = escape(caption)
    return f'<figure><img src="{data_uri(png, "png")}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def grid(cells: Sequence[str]) -> str:
    """Cells side by side, as many as fit."""
    return f'<div class="grid">{"".join(cells)}</div>'


def thumbnail(image: Image.Image | None, side: int = 128) -> str:
    """A small square JPEG as a URI; grey where the image could not be read."""
    image = image.convert("RGB") if image is not None else Image.new("RGB", (side, side), "#ccc")
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    small = image.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=78)
    return data_uri(buffer.getvalue(), "jpeg")


def table(rows: Sequence[dict[str, str]], minor: Sequence[str] = ()) -> str:
    """Rows as a table that scrolls sideways where the screen is narrow; a phone leaves out the columns `minor`."""

    def cell(tag: str, head: str, text: str) -> str:
        kind = ' class="minor"' if head in minor else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    heads = "".join(cell("th", head, head) for head in rows[0])
    lines = "".join("<tr>" + "".join(cell("td", *pair) for pair in row.items()) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


def facts(pairs: dict[str, str]) -> str:
    """A list of terms and values."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs.items()) + "</dl>"


def key(colours: dict[str, str]) -> str:
    """A legend: coloured dots and their names."""
    dots = (f'<span><i style="background:{c}"></i>{escape(name)}</span>' for name, c in colours.items())
    return f'<div class="key">{"".join(dots)}</div>'


def bar(name: str, value: float, low: float, high: float, colour: str, top: float, marks: Sequence[float]) -> str:
    """One horizontal bar with its interval, in percent of `top`; dashed lines at `marks`."""
    whisker = ""
    if low == low and high == high:
        whisker = (
            f'<div class="whisker" style="left:{100 * low / top:.2f}%;width:{100 * (high - low) / top:.2f}%"></div>'
        )
    lines = "".join(f'<div class="mark" style="left:{100 * mark / top:.2f}%"></div>' for mark in marks)
    fill = f'<div class="fill" style="width:{100 * max(value, 0) / top:.2f}%;background:{colour}"></div>'
    return (
        f'<div class="bar"><div>{escape(name)}</div><div class="track">{fill}{lines}{whisker}</div>'
        f'<div class="num">{100 * value:.1f} %</div></div>'
    )
