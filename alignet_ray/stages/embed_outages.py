"""Images that could not be read for a while: finished parts without them are made again. Part of `embed`."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

from alignet_ray.artifacts.embed import EmbedArtifact, ImageRow, QuarantinedImage
from alignet_ray.images import jpeg
from alignet_ray.images.listing import read_bytes
from alignet_ray.models.features import NOT_FINITE
from alignet_ray.stages.embed_actor import fetched


def forget_outages(artifact: EmbedArtifact, root: str, unit_size: int) -> int:
    """Remove finished parts that lack images which can be used by now; returns how many parts.

    A disk that is not mounted and a server that restarts make images unusable that are in order. As long as the
    artifact is not finished, that is no lasting state.

    Args:
        artifact: of an interrupted run.
        root: of the images.
        unit_size: images of a unit.
    """
    forgotten = 0
    for part in artifact.quarantines():
        rows = list(_rows(artifact, part.units, part.quarantined, unit_size))
        if _is_one_usable(root, rows):
            artifact.remove_part(part.name)
            forgotten += 1
    return forgotten


def _rows(
    artifact: EmbedArtifact, units: Sequence[int], quarantined: Sequence[QuarantinedImage], unit_size: int
) -> Iterator[ImageRow]:
    """The image table's rows of images that could not be opened."""
    # What a network makes of an image stays the same.
    unopened = {image.image_id for image in quarantined if image.reason != NOT_FINITE}
    if not unopened:
        return
    for unit in units:
        for row in artifact.unit_images(unit, unit_size):
            if row.image_id in unopened:
                yield row


def _is_one_usable(root: str, rows: Sequence[ImageRow]) -> bool:
    jobs = [partial(read_bytes, root, row.path, row.span) for row in rows]
    with closing(fetched(root, jobs)) as contents:
        for content in contents:
            try:
                jpeg.decode(content(), 0)
            except (OSError, ValueError):
                continue
            return True
    return False
