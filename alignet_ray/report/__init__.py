"""The report: one self-contained HTML page that a newcomer reads without a manual."""

from alignet_ray.report.build import Example, Material, Query, build

__all__ = ["Example", "Material", "Query", "build"]
