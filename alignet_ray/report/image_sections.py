"""The sections of the report that are about pictures."""

from html import escape

import numpy as np

from alignet_ray.evals.inputs import NAMES
from alignet_ray.report import figures, page
from alignet_ray.report.contents import Example, Material

ODD = (2, 1, 0)
"""The image left over by each pair (01, 02, 12)."""


MAPS = {
    "pca": "on the first two principal components of each space",
    "umap": "in two dimensions that keep neighbours together (UMAP)",
}


def examples(material: Material) -> str:
    """Triplets: who chose what."""
    if not material.gains and not material.slips:
        return ""
    parts = [
        page.paragraph(
            "The framed image is the one that people most often call the odd one out; the percentages are how "
            "often each image is chosen as odd."
        )
    ]
    for heading, examples in (
        ("The student agrees with people, the base does not", material.gains),
        ("The base agrees with people, the student does not", material.slips),
    ):
        if examples:
            parts.append(f"<h3>{heading}</h3>" + page.grid(list(map(_example, examples))))
    return page.section("Who chose what", *parts)


def _example(example: Example) -> str:
    odd = ODD[int(np.argmax(example.probabilities))]
    cells = []
    for place in range(3):
        share = example.probabilities[ODD.index(place)]
        image = f'<img src="{page.thumbnail(example.images[place])}" alt="{escape(example.names[place])}">'
        name = escape(figures.shorten(example.names[place], 22))
        cells.append(f'<div class="{"odd" if place == odd else ""}">{image}{name}<br>{100 * share:.0f} %</div>')
    votes = []
    for model, pair in example.choices.items():
        chosen = "cannot choose" if pair < 0 else figures.shorten(example.names[ODD[pair]], 24)
        kind = "yes" if pair >= 0 and ODD[pair] == odd else "no"
        votes.append(f'<li><span>{NAMES.get(model, model)}</span><span class="{kind}">{escape(chosen)}</span></li>')
    return f'<div class="card"><div class="thumbs">{"".join(cells)}</div><ul class="votes">{"".join(votes)}</ul></div>'


def matrices(material: Material) -> str:
    """Similarity matrices side by side."""
    if not material.matrices:
        return ""
    pictures = [page.figure(figures.matrix(v, material.groups), name) for name, v in material.matrices.items()]
    return page.section(
        "The whole similarity matrix",
        page.paragraph(
            "Each row and column is a test object, sorted by group; dark means alike. Blocks along the diagonal "
            "are groups whose members are seen as alike. The closer a matrix looks to people's, the better."
        ),
        page.grid(pictures),
    )


def maps(material: Material) -> str:
    """Maps of the test objects."""
    if not material.maps:
        return ""
    colours = figures.group_colours(material.map_groups)
    dots = [colours.get(group, figures.OTHER) for group in material.map_groups]
    names = material.map_names
    pictures = [page.figure(figures.scatter(points, dots, names), name) for name, points in material.maps.items()]
    return page.section(
        "A map of the objects",
        page.paragraph(
            f"Test objects {MAPS[material.map_kind]}; near means alike. Colours are groups of meaning: the better a "
            "model sees as people do, the more the colours hold together. The axes themselves mean nothing."
        ),
        page.key(colours),
        page.grid(pictures),
    )


def queries(material: Material) -> str:
    """Nearest neighbours before and after."""
    cards = []
    for query in material.queries:
        own = f'<img class="query" src="{page.thumbnail(query.image, 96)}" alt="{escape(query.name)}">'
        rows = [f"<h3>{escape(query.name or 'image')}</h3>"]
        for model, found in query.neighbours.items():
            others = "".join(
                f'<img class="{"same" if same else ""}" src="{page.thumbnail(i, 96)}" alt="">' for i, same in found
            )
            rows.append(f'<div class="note">{NAMES.get(model, model)}</div><div class="strip">{own}{others}</div>')
        cards.append(f'<div class="card">{"".join(rows)}</div>')
    if not cards:
        return ""
    return page.section(
        "Nearest neighbours, before and after",
        page.paragraph(
            "First the image, then what each model finds most alike among the test images. Green frame: same group "
            "as the first."
        ),
        page.grid(cards),
    )


def clusters(material: Material) -> str:
    """Contact sheets of clusters, and the curve that chose their number."""
    cards = []
    for name, images in material.clusters.items():
        strip = "".join(f'<img src="{page.thumbnail(image, 96)}" alt="">' for image in images)
        cards.append(f'<div class="card"><div class="note">{escape(name)}</div><div class="strip">{strip}</div></div>')
    if not cards:
        return ""
    return page.section(
        "The clusters that training triplets are drawn from",
        page.paragraph(
            "The corpus falls into clusters of images that the teacher sees as alike; some are shown here, large ones "
            "first. A triplet takes two images of one cluster and one of another. Images of one cluster should have "
            "something in common that you can name."
        ),
        page.grid(cards),
        _candidates(material),
    )


def _candidates(material: Material) -> str:
    """How the number of clusters was chosen."""
    points, k = material.candidates, material.facts.get("clusters")
    if not points:
        return ""
    ks = [point["k"] for point in points]
    mark = float(k) if k else None
    pictures = []
    for name, text in (
        ("inertia", "Inertia: how far images lie from their cluster's centre. It always falls; look for the bend."),
        ("silhouette", "Silhouette: how much nearer images lie to their own cluster than to the next one."),
    ):
        line = figures.Line(name, ks, [point[name] for point in points], figures.COLOURS["student"])
        pictures.append(page.figure(figures.curves([line], name, "number of clusters k", mark), text))
    return page.paragraph("Numbers of clusters that were tried; dashed: the one that was taken.") + page.grid(pictures)
