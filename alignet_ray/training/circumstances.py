"""Surroundings of a training process: machines that leave, failures of earlier starts, and notices to the user."""

from collections.abc import Callable
from dataclasses import dataclass

from alignet_ray.training.loop import Training

NOTICE = "notice"
"""Key of a report's notices to the user."""


def nobody_leaves() -> bool:
    """Answer where machines stay."""
    return False


@dataclass(frozen=True)
class Circumstances:
    """What the caller knows of the surroundings of a training process.

    Attributes:
        is_leaving: whether a machine is about to be taken away, so that a checkpoint is wanted now. All processes ask
            equally often.
        micro_batch: images in one pass, where a start before this one ran out of memory; None: as the settings say.
        compile: whether the network may be compiled, which failed in a start before this one if not.
    """

    is_leaving: Callable[[], bool] = nobody_leaves
    micro_batch: int | None = None
    compile: bool = True


ORDINARY = Circumstances()
"""Default: a first start, on machines that stay."""


def take_notices(training: Training) -> dict[str, str]:
    """The notices to the user as a field of a report; empty without any."""
    if not training.notices:
        return {}
    text = "; ".join(training.notices)
    training.notices.clear()
    return {NOTICE: text}
