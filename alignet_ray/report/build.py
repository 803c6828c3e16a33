"""The report, section by section, in the order in which a person asks."""

from alignet_ray.report import image_sections, label_section, page, table_sections, teacher_section
from alignet_ray.report.contents import Material


def build(material: Material) -> str:
    """The whole page as HTML text."""
    sections = [
        table_sections.head(material),
        table_sections.scores(material),
        table_sections.levels(material),
        table_sections.outside(material),
        table_sections.generalisation(material),
        image_sections.examples(material),
        image_sections.matrices(material),
        image_sections.maps(material),
        image_sections.queries(material),
        table_sections.calibration(material),
        table_sections.kept(material),
        table_sections.losses(material),
        image_sections.clusters(material),
        teacher_section.teacher(material),
        label_section.labels(material),
        page.section("What this run was made of", page.facts(material.facts)),
    ]
    return page.page(material.title, sections)
