import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from alignet_ray.report import figures, map_section
from alignet_ray.report.contents import ReportContents
from alignet_ray.report.rendering import render


def contents(points: np.ndarray, pictures: int | None = None) -> ReportContents:
    count = len(points)
    images: list[Image.Image | None] = [Image.new("RGB", (4, 4))] * (count if pictures is None else pictures)
    return ReportContents(
        "run",
        {},
        [],
        [],
        maps={"base": points, "aligned student": points[::-1]},
        map_groups=["animal"] + ["tool"] * (count - 1),
        map_names=[f"thing {number}" for number in range(count)],
        map_pictures=images,
    )


def test_every_object_has_its_name_picture_and_mark() -> None:
    found = map_section.maps(contents(np.array([[0.0, 0.0], [1.0, 0.5], [2.0, 1.0]])))
    assert found is not None
    page = render("sections/maps.html", maps=found)
    assert page.count('<svg class="map"') == 2
    assert page.count("<title>thing 1</title>") == 2
    assert page.count('href="#object-2"') == 2
    assert page.count("data:image/jpeg") == 3, "a picture for both maps"
    assert [map.points[0].mark for map in found.maps] == [figures.group_marks(["animal", "tool", "tool"])["animal"]] * 2
    assert "<script" not in page


def test_too_many_objects_have_no_pictures() -> None:
    points = np.random.default_rng(0).normal(size=(map_section.MAX_PICTURES + 1, 2))
    found = map_section.maps(contents(points))
    assert found is not None
    assert found.pictures == []
    assert "data:image" not in render("sections/maps.html", maps=found)


@given(arrays(np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(-100, 100)))
def test_objects_and_their_cards_lie_inside_the_map(points: np.ndarray) -> None:
    found = map_section.maps(contents(points))
    assert found is not None
    width, height = map_section.CARD
    for point in found.maps[0].points:
        assert 0 <= point.x <= map_section.SIDE
        assert 0 <= point.y <= map_section.SIDE
        assert point.x + point.left >= 0
        assert point.x + point.left + width <= map_section.SIDE
        assert point.y + point.top >= 0
        assert point.y + point.top + height <= map_section.SIDE


def test_without_maps_there_is_no_section() -> None:
    assert map_section.maps(ReportContents("run", {}, [], [])) is None
