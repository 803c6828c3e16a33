"""Names of classes that a person understands: ImageNet's numbers of synsets in words."""

import re
from functools import cache

SYNSET = re.compile(r"n\d{8}")
"""A folder that is called after a WordNet synset, as ImageNet's are."""


def class_title(label: str) -> str:
    """A class as a person calls it: `n02110341` is a dalmatian; any other label is its own name.

    The names are those of ImageNet-1k's classes, as timm brings them along; other synsets keep their number.
    """
    if not SYNSET.fullmatch(label):
        return label
    return _names().get(label, label)


@cache
def _names() -> dict[str, str]:
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    found = {}
    for name in info.label_names():  # type: ignore[no-untyped-call]
        # The first of several synonyms.
        found[name] = info.label_name_to_description(name).partition(",")[0]
    return found
