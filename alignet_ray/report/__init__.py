"""The report: one self-contained HTML page that a newcomer reads without a manual."""

from alignet_ray.report.about import About, use
from alignet_ray.report.build import build
from alignet_ray.report.contents import (
    LossCurve,
    NeighbourQuery,
    ReportContents,
    TripletExample,
)

__all__ = ["About", "LossCurve", "NeighbourQuery", "ReportContents", "TripletExample", "build", "use"]
