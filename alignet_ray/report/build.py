"""The report, section by section, in the order in which a person asks."""

from alignet_ray.report import galleries, labelled, numbers, page, teachers
from alignet_ray.report.material import Material


def build(material: Material) -> str:
    """The whole page as HTML text."""
    sections = [
        numbers.head(material),
        numbers.scores(material),
        numbers.levels(material),
        numbers.outside(material),
        numbers.generalisation(material),
        galleries.examples(material),
        galleries.matrices(material),
        galleries.maps(material),
        galleries.queries(material),
        numbers.calibration(material),
        numbers.kept(material),
        numbers.losses(material),
        galleries.clusters(material),
        teachers.teacher(material),
        labelled.labels(material),
        page.section("What this run was made of", page.facts(material.facts)),
    ]
    return page.page(material.title, sections)
