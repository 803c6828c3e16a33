"""The report: one self-contained HTML page that a newcomer reads without a manual."""

from alignet_ray.report.build import build
from alignet_ray.report.contents import Curve, Example, Labels, Material, Query

__all__ = ["Curve", "Example", "Labels", "Material", "Query", "build"]
