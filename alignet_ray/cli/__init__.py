"""The command line: `alignet-ray COMMAND`."""

from alignet_ray.cli.main import main

__all__ = ["main"]
