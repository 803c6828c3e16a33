"""Figures are compared with those that `figures` draws of the expected numbers: the same numbers are the same bytes."""

import numpy as np
import pytest
from PIL import Image

from alignet_ray.artifacts.cluster import CurvePoint
from alignet_ray.report import figures, image_sections
from alignet_ray.report.contents import Disagreements, LossCurve, ReportContents, TripletExample
from alignet_ray.report.image_sections import Vote
from alignet_ray.report.rendering import render

LONG = "a very long name of an object indeed"
PICTURE = Image.new("RGB", (8, 8), "red")

# People most often choose the pair (0, 2), so that image 1 is the odd one.
TRIPLET = TripletExample(
    images=(PICTURE, None, None),
    names=("cat", LONG, "dog"),
    probabilities=(0.2, 0.7, 0.1),
    choices={"base": 0, "student": 1, "other": 2, "control": -1},
)


def contents(**more: object) -> ReportContents:
    return ReportContents("run", {}, [], [], **more)  # type: ignore[arg-type]


def test_the_odd_image_is_the_one_outside_the_pair_that_people_choose() -> None:
    found = image_sections.examples(contents(disagreements=Disagreements(5, 3, 40, [TRIPLET], [])))
    assert found is not None
    assert (found.gained, found.lost, found.triplets) == (5, 3, 40)
    assert found.regressions == []
    images = found.gains[0].images
    assert [image.is_odd for image in images] == [False, True, False]
    assert [image.odd_share for image in images] == [0.1, 0.7, 0.2]
    assert [image.picture for image in images] == [PICTURE, None, None]


def test_names_are_shortened_for_the_card_and_kept_whole_beside_it() -> None:
    found = image_sections.examples(contents(disagreements=Disagreements(1, 0, 1, [TRIPLET], [])))
    assert found is not None
    image = found.gains[0].images[1]
    assert image.name == LONG
    assert image.short_name == "a very long name of a…"
    assert len(image.short_name) == 22


def test_a_vote_names_the_image_left_over_and_whether_people_agree() -> None:
    found = image_sections.examples(contents(disagreements=Disagreements(0, 1, 1, [], [TRIPLET])))
    assert found is not None
    assert found.regressions[0].votes == [
        Vote("base", "dog", False),
        Vote("aligned student", "a very long name of an …", True),
        Vote("other", "cat", False),
        Vote("unaligned control", "cannot choose", False),
    ]


@pytest.mark.parametrize("found", [None, Disagreements(0, 0, 40, [], [])])
def test_without_examples_there_is_no_section(found: Disagreements | None) -> None:
    assert image_sections.examples(contents(disagreements=found)) is None


def test_the_page_frames_the_odd_image_alone() -> None:
    found = image_sections.examples(contents(disagreements=Disagreements(1500, 0, 4000, [TRIPLET], [])))
    page = " ".join(render("sections/examples.html", examples=found).split())
    assert page.count('<div class="odd">') == 1
    assert "a very long name of a…<br> 70 %" in page
    assert "1,500 of 4,000 triplets" in page
    assert "The base agrees with people" not in page


def test_matrices_stand_side_by_side_in_order_under_their_names() -> None:
    values = {"base": np.eye(4), "people": np.arange(16.0).reshape(4, 4)}
    groups = ["animal", "animal", "tool", "tool"]
    found = image_sections.matrices(contents(matrices=values, groups=groups))
    assert [illustration.caption for illustration in found] == ["base", "people"]
    assert [illustration.png for illustration in found] == [figures.matrix(each, groups) for each in values.values()]
    assert image_sections.matrices(contents()) == []


def test_reliability_curves_have_the_models_title_and_colour() -> None:
    curves = {"student": ([0.4, 0.8], [0.5, 0.7]), "my-model": ([0.5, 0.9], [0.4, 0.6])}
    found = image_sections.calibration(contents(calibration=curves))
    assert found is not None
    lines = [
        figures.Line("aligned student", [0.4, 0.8], [0.5, 0.7], figures.COLOURS["student"], marker="o"),
        figures.Line("my-model", [0.5, 0.9], [0.4, 0.6], figures.OTHER, marker=figures.OTHER_MARKER),
    ]
    assert found.png == figures.reliability(lines)
    assert "my-model: from 0.4 at 0.5 to 0.6 at 0.9." in found.alt
    assert image_sections.calibration(contents()) is None


def test_held_out_losses_are_dashed_in_the_colour_of_their_model() -> None:
    steps = [0.0, 10.0, 20.0]
    losses = [
        LossCurve("student", False, steps, [1.0, 0.6, 0.4]),
        LossCurve("student", True, steps, [1.0, 0.7, 0.8]),
        LossCurve("control", False, steps, [1.1, 0.9, 0.7]),
    ]
    found = image_sections.training(contents(losses=losses))
    assert found is not None
    blue, pink = figures.COLOURS["student"], figures.COLOURS["control"]
    lines = [
        figures.Line("aligned student", steps, [1.0, 0.6, 0.4], blue),
        figures.Line("aligned student, held out", steps, [1.0, 0.7, 0.8], blue, "--"),
        figures.Line("unaligned control", steps, [1.1, 0.9, 0.7], pink, marker="D"),
    ]
    assert found.png == figures.curves(lines, "loss (nats)")
    assert image_sections.training(contents()) is None


CANDIDATES = [CurvePoint(10, 9.0, 0.2), CurvePoint(20, 6.0, 0.4), CurvePoint(30, 5.0, 0.3)]
SHEETS = {"cluster 3": [PICTURE, None]}


@pytest.mark.parametrize(("provenance", "mark"), [({"clusters": "20"}, 20.0), ({}, None)])
def test_candidates_have_two_curves_and_a_mark_at_the_chosen_one(
    provenance: dict[str, str], mark: float | None
) -> None:
    shown = ReportContents("run", provenance, [], [], clusters=SHEETS, cluster_candidates=CANDIDATES)
    found = image_sections.clusters(shown)
    assert found is not None
    assert found.sheets == SHEETS
    expected = []
    for name, values in (("inertia", [9.0, 6.0, 5.0]), ("silhouette", [0.2, 0.4, 0.3])):
        line = figures.Line(name, [10, 20, 30], values, figures.COLOURS["student"])
        expected.append(figures.curves([line], name, "number of clusters k", mark))
    assert [curve.png for curve in found.curves] == expected
    assert [curve.caption.split(":")[0] for curve in found.curves] == ["Inertia", "Silhouette"]


def test_sheets_alone_where_no_candidates_were_tried_and_nothing_without_sheets() -> None:
    found = image_sections.clusters(contents(clusters=SHEETS))
    assert found is not None
    assert found.curves == []
    assert image_sections.clusters(contents(cluster_candidates=CANDIDATES)) is None
