"""Files of images that tests list: tar shards, and what a listing says of a folder."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from alignet_ray.images.listing import list_images


def write_tar(path: Path, members: dict[str, bytes] | Iterable[tuple[str, bytes]]) -> None:
    """A tar file; pairs may name a member twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = members.items() if isinstance(members, dict) else members
    with tarfile.open(path, "w") as tar:
        for name, data in pairs:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def labels_of(uri: str) -> dict[str, str]:
    """Path -> class of every image; checks ids and order."""
    table = list_images(uri)
    assert table["image_id"].to_pylist() == list(range(len(table)))
    assert table["path"].to_pylist() == sorted(table["path"].to_pylist(), key=str.encode)
    return dict(zip(table["path"].to_pylist(), table["label"].to_pylist(), strict=True))
