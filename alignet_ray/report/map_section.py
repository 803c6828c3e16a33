"""The section of the report with maps: test objects in two dimensions, whose pictures appear where one points."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from alignet_ray.report import figures
from alignet_ray.report.contents import ReportContents

METHODS = {
    "pca": "on the first two principal components of each space",
    "umap": "in two dimensions that keep neighbours together (UMAP)",
}

SIDE = 400
"""Width and height of a map, in its own units."""

MARGIN = 16
"""Space between the outermost objects and the edge."""

CARD = (54, 68)
"""Width and height of the card with an object's picture."""

MAX_PICTURES = 400
"""Objects that have pictures: more would make the page too large to send."""


@dataclass(frozen=True)
class MapPoint:
    """An object on a map.

    Attributes:
        x, y: its place.
        left, top: where its card begins, relative to that place.
        name, short_name: of the object; the latter fits the card.
        mark: colour and shape of its group.
    """

    x: float
    y: float
    left: float
    top: float
    name: str
    short_name: str
    mark: figures.Mark


@dataclass(frozen=True)
class ObjectMap:
    """A map of one space."""

    title: str
    points: list[MapPoint]


@dataclass(frozen=True)
class MapMember:
    """An object of a group: its place among the points, and its name."""

    number: int
    name: str


@dataclass(frozen=True)
class MapSection:
    """What the section shows.

    Attributes:
        method: how the maps were made.
        marks: colour and shape of every group.
        pictures: of all objects, in the order of the points; empty where they are too many.
        maps: one for each space.
        members: the objects of every group by name, for those who do not point at them with a mouse.
    """

    method: str
    marks: dict[str, figures.Mark]
    pictures: list[Image.Image | None]
    maps: list[ObjectMap]
    members: dict[str, list[MapMember]]


def maps(contents: ReportContents) -> MapSection | None:
    """Two-dimensional maps of the test objects, by group."""
    if not contents.maps:
        return None

    # One mark per group in all maps, so that they can be compared by eye.
    marks = figures.group_marks(contents.map_groups)
    shown = [marks.get(group, figures.OTHER_MARK) for group in contents.map_groups]
    pictures = contents.map_pictures
    if len(pictures) > MAX_PICTURES:
        pictures = []

    made = []
    for title, points in contents.maps.items():
        made.append(ObjectMap(title, _points(points, contents.map_names, shown)))
    members = _members(contents.map_groups, contents.map_names, marks)
    return MapSection(METHODS[contents.map_method], marks, pictures, made, members)


def _members(groups: list[str], names: list[str], marks: dict[str, figures.Mark]) -> dict[str, list[MapMember]]:
    """The objects of every group in alphabetical order; groups in the order of their marks."""
    members: dict[str, list[MapMember]] = {title: [] for title in marks}
    for number, (group, name) in enumerate(zip(groups, names, strict=True)):
        title = group
        if group not in marks:
            title = "other"
        members[title].append(MapMember(number, name))
    for found in members.values():
        found.sort(key=lambda member: member.name)
    return members


def _points(points: figures.Points, names: list[str], marks: list[figures.Mark]) -> list[MapPoint]:
    """Objects at their places on the map, each with the place of its card."""
    # The floor keeps points on one line from a division by 0.
    span = np.maximum(np.ptp(points, axis=0), 1e-12)
    places = MARGIN + (SIDE - 2 * MARGIN) * (points - points.min(axis=0)) / span

    width, height = CARD
    shown = []
    for (x, y), name, mark in zip(places.tolist(), names, marks, strict=True):
        # Beside the object, and inside the map.
        left = 8.0
        if x + left + width > SIDE:
            left = -8.0 - width
        top = min(max(-height / 2, 4 - y), SIDE - 4 - height - y)
        shown.append(MapPoint(round(x, 1), round(y, 1), left, round(top, 1), name, figures.shorten(name, 12), mark))
    return shown
