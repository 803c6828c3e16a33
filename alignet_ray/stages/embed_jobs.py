"""The roles of `embed`: which images a role looks at, and through which network."""

from typing import NamedTuple

import pyarrow as pa

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.human.objects import read_object_images
from alignet_ray.images import listing

ELSEWHERE = "ood-"
"""Prefix of the roles that look at the folder `evaluate.ood`; what follows names the model."""
WHOLE = ("corpus", "raw")
"""Roles that look at the whole corpus with the teacher."""


class Network(NamedTuple):
    """Spellings of the models, and their size and layer; no model where it is a parent's artifact."""

    models: tuple[str, ...]
    size: int | None = None
    layer: str = "pre_logits"


def model_of(role: str) -> str:
    """The model that a role looks through, without where it looks."""
    return role.removeprefix(ELSEWHERE)


def network(cfg: Config, role: str) -> Network:
    """What the config names for a role."""
    model = model_of(role)
    if model in ("student", "control"):
        return Network(())
    if model.startswith("other"):
        return Network((cfg.evaluate.models[int(model.removeprefix("other"))],))
    if model == "base":
        return Network((cfg.distill.model,), cfg.distill.size)
    return Network(cfg.embed.model, cfg.embed.size, cfg.embed.layer)


def judged(role: str) -> bool:
    """Whether a role looks at the images of judged objects alone."""
    return role not in WHOLE and not role.startswith(ELSEWHERE)


def root(cfg: Config, role: str) -> str:
    """Folder of the images that a role reads.

    Raises:
        UserError: the config names none.
    """
    if role.startswith(ELSEWHERE):
        assert cfg.evaluate.ood is not None, "such roles exist only where the folder is named"
        return cfg.evaluate.ood
    path = cfg.corpus.path if role in WHOLE else cfg.objects.path or cfg.corpus.path
    if not path:
        raise UserError("no images: give a folder with --corpus.path")
    return path


def selection(cfg: Config, role: str) -> pa.Table:
    """IMAGES rows of the role: the whole source, or the images of judged objects.

    Raises:
        UserError: as `root` and `list_images`; no image belongs to a judged object.
    """
    table = listing.list_images(root(cfg, role))
    if not judged(role):
        return table
    image_ids = read_object_images(cfg.objects.table, table, root(cfg, role))
    ids = sorted(set().union(*image_ids.values()))
    if not ids:
        raise UserError(
            f"no image under {root(cfg, role)} belongs to an object of {cfg.objects.table}: check its labels"
        )
    return table.take(ids)  # image_id is the row number of the whole listing
