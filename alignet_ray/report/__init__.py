"""The report: one self-contained HTML page that a newcomer reads without a manual."""

from alignet_ray.report.build import build
from alignet_ray.report.material import Curve, Example, Material, Query

__all__ = ["Curve", "Example", "Material", "Query", "build"]
