"""Unusable images are tolerated up to a share; above it the run stops and names the commonest reasons."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignet_ray.artifacts.embed import QuarantinedImage
from alignet_ray.errors import UserError
from alignet_ray.images.quarantine import Quarantine


def bad(image_id: int, reason: str = "truncated") -> QuarantinedImage:
    return QuarantinedImage(image_id, f"c/{image_id}.jpg", reason)


def test_exactly_the_tolerated_share_is_kept_and_one_more_stops_the_run() -> None:
    quarantine = Quarantine(total=10, max_bad=0.2)
    quarantine.add([bad(3), bad(5)])
    with pytest.raises(UserError, match=r"^3 of 10 images cannot be used, --embed.max-bad allows 20.00%: "):
        quarantine.add([bad(7)])


def test_reasons_come_by_frequency_with_an_example_each_and_at_most_five() -> None:
    reasons = ["empty file", "truncated", "truncated", "r2", "r3", "r4", "r5"]
    with pytest.raises(UserError) as error:
        Quarantine(total=100, max_bad=0.0).add([bad(i, reason) for i, reason in enumerate(reasons)])
    said = str(error.value)
    assert "truncated (2, e.g. c/1.jpg); empty file (1, e.g. c/0.jpg)" in said
    assert "r4" in said
    assert "r5" not in said
    assert "\n" not in said


@given(st.permutations(range(6)))
def test_the_table_is_by_image_id_whatever_order_the_parts_came_in(order: list[int]) -> None:
    quarantine = Quarantine(total=7, max_bad=1.0)
    for image_id in order:
        quarantine.add([bad(image_id, f"r{image_id}")])
    table = quarantine.table()
    assert table["image_id"].to_pylist() == list(range(6))
    assert table["reason"].to_pylist() == [f"r{i}" for i in range(6)]
    assert table["path"].to_pylist() == [f"c/{i}.jpg" for i in range(6)]


def test_without_unusable_images_the_table_has_no_rows() -> None:
    assert Quarantine(total=3, max_bad=0.0).table().num_rows == 0


def test_a_set_without_any_usable_image_is_refused_whatever_is_tolerated() -> None:
    quarantine = Quarantine(total=2, max_bad=1.0)
    quarantine.add([bad(0, "empty file"), bad(1)])
    with pytest.raises(UserError, match="none of the 2 images can be used: empty file"):
        quarantine.table()
