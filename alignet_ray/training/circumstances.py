"""What a training process is told by whoever started it, besides its job, and what it tells besides figures."""

from collections.abc import Callable
from dataclasses import dataclass

from alignet_ray.training.loop import Training

NOTICE = "notice"
"""Key of a report's text for the person who watches."""


def nobody_leaves() -> bool:
    """Answer where machines stay."""
    return False


@dataclass(frozen=True)
class Circumstances:
    """What a training process is told by whoever started it.

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
"""Those of a process that begins for the first time, on machines that stay."""


def take_notices(training: Training) -> dict[str, str]:
    """The part of a report with what a person should be told of; empty where there is nothing."""
    if not training.notices:
        return {}
    text = "; ".join(training.notices)
    training.notices.clear()
    return {NOTICE: text}
