"""Images of one source that another source holds as well, byte for byte."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from alignet_ray.images import storage


@dataclass(frozen=True)
class Source:
    """Images and where they lie.

    Attributes:
        root: of the paths.
        images: schema IMAGES.
    """

    root: str
    images: pa.Table


@dataclass(frozen=True)
class Overlap:
    """What two sources share.

    Attributes:
        image_ids: images that the other source holds as well, ascending.
        unread: images that could not be read again; images of their size count as shared.
    """

    image_ids: Int64[np.ndarray, " k"]
    unread: int


def shared_images(source: Source, others: Iterable[Source]) -> Overlap:
    """Images of a source whose bytes are those of an image of other sources.

    Only images of equal size can be equal, so only these are read. A copy that was saved anew, at another size or in
    another format, is another image here.

    Args:
        source: the images in question.
        others: what they are compared with.
    """
    shared: set[int] = set()
    unread = 0
    digests: dict[int, str | None] = {}
    for other in others:
        # An unchanged image is as long as its copy: of millions of images a few are left to read.
        candidates = other.images.filter(pc.is_in(other.images["bytes"], source.images["bytes"].combine_chunks()))
        mine = source.images.filter(pc.is_in(source.images["bytes"], candidates["bytes"].combine_chunks()))
        unknown = mine.filter(pc.invert(pc.is_in(mine["image_id"], pa.array(digests, pa.int64()))))
        digests |= dict(zip(unknown["image_id"].to_pylist(), _digests(source.root, unknown), strict=True))

        theirs = _digests(other.root, candidates)
        sizes_unread = {
            size for size, digest in zip(candidates["bytes"].to_pylist(), theirs, strict=True) if digest is None
        }
        unread += theirs.count(None)
        held = set(theirs)
        for image_id, size in zip(mine["image_id"].to_pylist(), mine["bytes"].to_pylist(), strict=True):
            # What cannot be compared may be the same: leaving it out costs a judgement, keeping it an honest score.
            if digests[image_id] in held or size in sizes_unread:
                shared.add(image_id)
    return Overlap(np.array(sorted(shared), dtype=np.int64), unread)


def _digests(root: str, images: pa.Table) -> list[str | None]:
    """SHA-256 of every image's bytes; None where it cannot be read."""

    def digest(path: str) -> str | None:
        try:
            return hashlib.sha256(storage.read(root, path)).hexdigest()
        except OSError:
            return None

    # Threads: reading waits for the disk, and hashing lets go of Python's lock.
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        return list(pool.map(digest, images["path"].to_pylist()))
