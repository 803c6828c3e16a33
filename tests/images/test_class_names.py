"""Names of classes."""

import pytest

from alignet_ray.images.class_names import class_title


@pytest.mark.parametrize(
    ("label", "title"),
    [
        ("n02110341", "dalmatian"),
        ("n01440764", "tench"),
        ("n00000000", "n00000000"),
        ("n02110341x", "n02110341x"),
        ("cups", "cups"),
        ("", ""),
    ],
)
def test_synsets_have_names_and_other_labels_are_their_own(label: str, title: str) -> None:
    assert class_title(label) == title
