"""What all artifacts share: parts sort by number, and a finished artifact cannot be written to."""

import pytest

from alignet_ray.artifacts.base import merged_name, part_name, part_numbers
from alignet_ray.artifacts.cluster import ClusterArtifact
from alignet_ray.store import Store


def test_a_finished_artifact_is_not_written_to(store: Store) -> None:
    finished = ClusterArtifact(store.draft("cluster", "c").finish({}))
    with pytest.raises(AssertionError, match="is finished"):
        finished.write_fit_state(b"")


def test_part_names_sort_as_their_numbers() -> None:
    names = [part_name(number, "train") for number in (0, 9, 10, 99_999)]
    assert names == sorted(names)
    assert [part_numbers(name) for name in names] == [range(n, n + 1) for n in (0, 9, 10, 99_999)]
    assert part_numbers(merged_name(range(128, 256))) == range(128, 256)
