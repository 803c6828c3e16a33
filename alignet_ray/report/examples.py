"""What the report shows, chosen from spaces, trials and scores: which triplets, which neighbours, in which order."""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from alignet_ray.core import similarity
from alignet_ray.evals.inputs import NAMES, AnnotatedObjects, Space, Trials
from alignet_ray.evals.odd_one_out import HeldOutResponses
from alignet_ray.evals.rsa import object_similarity
from alignet_ray.report import figures
from alignet_ray.report.contents import Example, Query

Picture = Callable[[int], Image.Image | None]
"""image_id -> the picture, None where it cannot be read."""


def groups(judged: AnnotatedObjects, human: Float[np.ndarray, "m m"], count: int = 8) -> list[str]:
    """A group for each object: its category, or where none is known a cluster of people's similarities."""
    if len({c for c in judged.categories if c}) > 1:
        return [c or figures.NO_GROUP for c in judged.categories]
    member = similarity.tree_clusters(human, min(count, max(2, len(judged) // 4)))
    names = {}
    for group in np.unique(member):
        rows = np.flatnonzero(member == group)
        centre = rows[human[np.ix_(rows, rows)].sum(axis=1).argmax()]
        names[group] = f"like {judged.names[centre]}" if judged.names[centre] else f"group {group + 1}"
    return [names[group] for group in member]


def matrices(
    spaces: Iterable[Space], judged: AnnotatedObjects, human: Float[np.ndarray, "m m"], order: Int[np.ndarray, " m"]
) -> dict[str, Float[np.ndarray, "m m"]]:
    """People's similarities, then each space's, rows in `order`."""
    found = {"people": human}
    found |= {describe(space): object_similarity(space, judged) for space in spaces}
    return {name: matrix[np.ix_(order, order)] for name, matrix in found.items()}


def maps(
    spaces: Iterable[Space], judged: AnnotatedObjects, kind: str = "pca", seed: int = 0
) -> dict[str, figures.Points]:
    """Two dimensions (`pca` or `umap`) of the mean embedding of each object."""
    found = {}
    for space in spaces:
        means = np.stack([similarity.unit(space.rows(ids)).mean(axis=0) for ids in judged.images])
        found[describe(space)] = figures.umap_plane(means, seed) if kind == "umap" else figures.principal_plane(means)
    return found


def describe(space: Space) -> str:
    """Model and layer for a caption."""
    name = NAMES.get(space.model, space.model)
    return f"{name}, triplet head" if space.layer == "head" else name


def examples(
    found: HeldOutResponses,
    trials: Trials,
    judged: AnnotatedObjects,
    pick: Int[np.ndarray, " m"],
    picture: Picture,
    count: int = 6,
) -> tuple[list[Example], list[Example]]:
    """Triplets on which student and base differ most in people's eyes: those that the student wins, and those that it
    loses.

    The clearest cases come first; an object appears once in each list.
    """
    columns = {name: column for column, name in enumerate(found.names)}
    base, student = columns.get(("base", "pre_logits")), columns.get(("student", "pre_logits"))
    if base is None or student is None:
        return [], []
    people = trials.probabilities.argmax(axis=1)
    shown = {m: c for (m, layer), c in columns.items() if layer in ("pre_logits", "aligned")}
    lists = []
    for winner, loser in ((student, base), (base, student)):
        rows = np.flatnonzero((found.choice[:, winner] == people) & (found.choice[:, loser] != people))
        rows = rows[np.argsort(-trials.probabilities[rows].max(axis=1), kind="stable")]
        chosen = _varied(rows, trials.triplets, count)
        lists.append([_example(t, found, trials, judged, pick, picture, shown) for t in chosen])
    return lists[0], lists[1]


def _varied(rows: Int[np.ndarray, " r"], triplets: Int[np.ndarray, "t 3"], count: int, most: int = 1) -> list[int]:
    used: dict[int, int] = {}
    chosen: list[int] = []
    for row in rows:
        members = triplets[row].tolist()
        if all(used.get(o, 0) < most for o in members):
            chosen.append(int(row))
            used |= {o: used.get(o, 0) + 1 for o in members}
        if len(chosen) == count:
            break
    return chosen


def _example(
    row: int,
    found: HeldOutResponses,
    trials: Trials,
    judged: AnnotatedObjects,
    pick: Int[np.ndarray, " m"],
    picture: Picture,
    shown: dict[str, int],
) -> Example:
    a, b, c = trials.triplets[row].tolist()
    p0, p1, p2 = trials.probabilities[row].tolist()
    names = [judged.names[o] or f"object {judged.objects[o]}" for o in (a, b, c)]
    return Example(
        images=(picture(int(pick[a])), picture(int(pick[b])), picture(int(pick[c]))),
        names=(names[0], names[1], names[2]),
        probabilities=(p0, p1, p2),
        choices={model: int(found.choice[row, column]) for model, column in shown.items()},
    )


def queries(
    spaces: list[Space], judged: AnnotatedObjects, labels: list[str], picture: Picture, count: int = 6, near: int = 5
) -> list[Query]:
    """One image of each of the largest groups, and its nearest test images in every space."""
    ids, owner = judged.all_images()
    close = {
        s.model: similarity.nearest(similarity.similarity_matrix(s.rows(ids), s.kind), min(near, len(ids) - 1))
        for s in spaces
    }
    sizes = sorted(set(labels) - {figures.NO_GROUP}, key=lambda g: (-labels.count(g), g))
    found = []
    for group in sizes[:count]:
        row = next(r for r, o in enumerate(owner) if labels[o] == group)
        name = judged.names[owner[row]] or group
        neighbours = {
            model: [(picture(int(ids[n])), labels[owner[n]] == group) for n in rows[row]]
            for model, rows in close.items()
        }
        found.append(Query(picture(int(ids[row])), name, neighbours))
    return found


def contact_sheets(
    image_ids: Int[np.ndarray, " n"], cluster: Int[np.ndarray, " n"], picture: Picture, count: int = 6, each: int = 12
) -> dict[str, list[Image.Image | None]]:
    """Images of a few clusters: evenly spaced among the clusters by size, largest first."""
    numbers, sizes = np.unique(cluster, return_counts=True)
    order = numbers[np.argsort(-sizes, kind="stable")]
    order = order[np.sort(sizes)[::-1] > 1]
    spread = (
        order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).astype(int))] if len(order) else order
    )
    sheets = {}
    for number in spread:
        members = np.sort(image_ids[cluster == number])
        shown = members[np.linspace(0, len(members) - 1, min(each, len(members))).astype(int)]
        sheets[f"cluster {number}: {len(members)} images"] = [picture(int(i)) for i in shown]
    return sheets
