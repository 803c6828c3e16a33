"""The command line."""

from alignet_ray.cli.main import main

__all__ = ["main"]
