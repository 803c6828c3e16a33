"""Judged objects' images, and whether a student in training comes nearer to people on objects that none trains on."""

import os
from dataclasses import dataclass, replace

import numpy as np

from alignet_ray.config import Config
from alignet_ray.core import triplet_set
from alignet_ray.human.dataset import human_model, split_images
from alignet_ray.human.objects import images_folder
from alignet_ray.images.cache import Decoder
from alignet_ray.images.listing import list_images
from alignet_ray.images.transform import View
from alignet_ray.models.backbone import load_backbone
from alignet_ray.store import Artifact
from alignet_ray.training.batches import Batch
from alignet_ray.training.loop import Training

TRIPLETS = 20_000
"""Largest number of triplets that a look takes."""


@dataclass(frozen=True)
class HumanValidation:
    """Validation objects, an image each, and what people say about their triplets.

    Attributes:
        images: the images' pixels, as the student wants them.
        side: rows are positions in `images.ids`.
    """

    images: Decoder
    side: triplet_set.TripletSet

    def agreement(self, training: Training) -> float:
        """Expected share of people's choices that the cosines of `pre_logits` make; the same in all processes."""
        batch = Batch(self.images.ids, self.side.triplets, self.side.targets)
        _, cosine = training.judged(training.shared(batch, self.images), batch)
        return triplet_set.score(cosine.cpu(), self.side).accuracy


def human_validation(cfg: Config, soften: Artifact) -> HumanValidation:
    """The validation objects of a split, to watch a student by.

    Args:
        cfg: names the student's network and the objects' images.
        soften: the model of human choices, and the split.
    """
    listed = soften.read_table("objects.parquet", ["image_ids"])["image_ids"].to_pylist()
    split = split_images(soften, np.array(sorted({i for row in listed for i in row}), dtype=np.int64))
    first = {o: int(rows[0]) for o, rows in split["validation"].items()}
    view = load_backbone(cfg.distill.model, cfg.distill.size, squash=cfg.distill.squash).view
    whole = decoder(cfg, soften, view)
    at = np.unique([*first.values()])  # ids must ascend
    few = replace(whole, ids=whole.ids[at], paths=tuple(whole.paths[i] for i in at))
    own = {o: np.searchsorted(at, [row]) for o, row in first.items()}
    human = human_model(soften, cfg.soften.num_samples, cfg.seed)
    return HumanValidation(few, triplet_set.soft_targets(list(own), own, human, TRIPLETS))


def decoder(cfg: Config, soften: Artifact, view: View) -> Decoder:
    """The judged objects' images, as a network sees them."""
    rows = soften.read_table("objects.parquet", ["image_ids"])["image_ids"].to_pylist()
    ids = np.array(sorted({i for row in rows for i in row}), dtype=np.int64)
    uri = images_folder(cfg.objects.path, cfg.corpus.path)
    listed = list_images(uri)["path"]
    paths = tuple(listed[int(i)].as_py() for i in ids)  # an image's id is its row
    return Decoder(uri, ids, paths, view, max(1, (os.cpu_count() or 2) // 2))
