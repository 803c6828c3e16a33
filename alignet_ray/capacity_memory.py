"""What of a planned run would not fit into memory, and what would: images in the driver, and networks on a GPU."""

import math

from alignet_ray.capacity import USABLE_MEMORY, Plan
from alignet_ray.config import Config
from alignet_ray.stages.embed_jobs import tunes_network

GPU_SHARE = 0.8
"""Share of a GPU's memory that a network and its training state may fill: one image's activations need the rest."""


def too_large(cfg: Config, result: Plan) -> list[str]:
    """A line for each thing that does not fit, with what would; nothing if all does."""
    lines = _images(cfg, result)
    lines += _network(result, "the student", "student_size", "trained")
    if tunes_network(cfg):
        lines += _network(result, "the teacher", "teacher_size", "trained")
    else:
        lines += _network(result, "the teacher", "teacher_size", "weight")
    return lines


def _images(cfg: Config, result: Plan) -> list[str]:
    """Numbers of all images, and the paths of those that training chooses from, which the driver holds."""
    on = result.on
    held = result.figures["held"].value
    path = result.figures["path"].value
    chosen = cfg.distill.images_to_choose_from(on.images)
    needed = (on.images * held + chosen * path) / 1e9
    usable = USABLE_MEMORY * on.head_memory
    if needed <= usable:
        return []

    # Fewer images than training would choose from are all chosen.
    fitting = int((usable * 1e9 - chosen * path) / held)
    if fitting < chosen:
        fitting = int(usable * 1e9 / (held + path))
    return [
        f"the driver would hold {needed:,.0f} GB of ids, clusters and paths, and the head has {on.head_memory:g} GB: "
        f"give it {math.ceil(needed / USABLE_MEMORY):,} GB (--on.head-memory), or take {fitting:,} images at most"
    ]


def _network(result: Plan, name: str, size: str, use: str) -> list[str]:
    """A network on each GPU; what else `embed` and `distill` hold there they halve until it fits."""
    parameters = result.figures[size].value
    each = result.figures[use].value
    memory = result.on.gpu_memory
    needed = parameters * each / 1e9
    if needed <= GPU_SHARE * memory:
        return []
    fitting = GPU_SHARE * memory * 1e3 / each
    return [
        f"{name} would take {needed:,.1f} GB of each GPU, which has {memory:g} GB: take GPUs with "
        f"{math.ceil(needed / GPU_SHARE):,} GB (--on.gpu-memory), or a network of {fitting:,.0f} M parameters at most"
    ]
