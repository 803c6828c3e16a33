"""Which work stays in the process that runs a stage: what takes less time than starting Ray's processes for it."""

from alignet_ray.config import Config

START_SECONDS = 5.0
"""What starting processes takes, each of which imports torch and loads its data anew."""


def stays_here(cfg: Config, seconds: float) -> bool:
    """Whether work of this many seconds on one core is done here (`ray.force` sends all of it to Ray)."""
    return not cfg.ray.force and seconds < START_SECONDS
