"""Assembles the report: what each section shows, from the results for people to the settings."""

from alignet_ray.report import (
    answers_section,
    comparisons_section,
    image_sections,
    interpolation_section,
    label_section,
    map_section,
    set_section,
    table_sections,
    teacher_section,
)
from alignet_ray.report.contents import ReportContents
from alignet_ray.report.rendering import render


def build(contents: ReportContents) -> str:
    """The whole page as HTML text. A section without anything to show is None and left out."""
    # In the order of the page: what people gain first, how it came about later, the settings last.
    sections = {
        "agreement": table_sections.agreement(contents),
        "levels": table_sections.levels(contents),
        "comparisons": comparisons_section.comparisons(contents),
        "external": table_sections.external(contents),
        "sets": set_section.sets(contents),
        "generalisation": table_sections.generalisation(contents),
        "interpolation": interpolation_section.interpolation(contents),
        "examples": image_sections.examples(contents),
        "matrices": image_sections.matrices(contents),
        "maps": map_section.maps(contents),
        "neighbours": contents.queries,
        "calibration": image_sections.calibration(contents),
        "drift": table_sections.drift(contents),
        "training": image_sections.training(contents),
        "clusters": image_sections.clusters(contents),
        "teacher": teacher_section.teacher(contents),
        "labels": label_section.labels(contents),
        "answers": answers_section.answers(contents),
        "use": contents.use,
        "provenance": contents.provenance,
    }
    return render(
        "report.html",
        title=contents.title,
        about=contents.about,
        people=contents.people,
        summary=table_sections.summary(contents),
        sections=sections,
        **sections,
    )
