"""Checks that the corpus has images enough for clusters, triplets and batches, before any image is embedded."""

from collections.abc import Collection

from alignet_ray.config import Config
from alignet_ray.core import sampling
from alignet_ray.data import triplet_sampling
from alignet_ray.errors import UserError
from alignet_ray.images.listings import Listings


def refuse_amounts(cfg: Config, names: Collection[str], listings: Listings) -> None:
    """Refuse more clusters, triplets or images of a batch than all of the corpus could give.

    The images of validation and test objects are left out later on, so each stage counts what remains again.

    Args:
        cfg: of the run.
        names: of the nodes that are still to be made.
        listings: of the run.

    Raises:
        UserError: an amount that no choice of held-out objects makes possible.
    """
    # Embedding is what takes long; where it is done, the stages themselves refuse at once.
    if "embed@corpus" not in names or "cluster" not in names or cfg.corpus.path is None:
        return
    images = listings.count(cfg.corpus.path)

    require_clusters(cfg, images)
    if "label@aligned" in names and not cfg.label.from_:
        triplet_sampling.require_triplets(cfg.label, images)
    if "distill@student" in names and cfg.distill.batching == "in_batch":
        triplet_sampling.require_images(
            cfg.distill.batch_size, images - sampling.held_out_count(images, cfg.label.held_out)
        )


def require_clusters(cfg: Config, images: int) -> None:
    """Refuse more clusters than images.

    Raises:
        UserError: there are too few images.
    """
    candidates = cfg.cluster.candidates
    field = "k"
    if candidates:
        field = "candidates"
    largest = max(candidates or (cfg.cluster.k,))
    if images < largest:
        raise UserError(
            f"cluster.{field} asks for {largest} clusters, but only {images} images may be clustered:"
            f" set a smaller --cluster.{field}, or add images"
        )
