"""Chooses what the report shows from embedding spaces and scores: triplets, neighbours, matrices, maps, clusters."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from alignet_ray.core import similarity
from alignet_ray.evals.annotated_objects import AnnotatedObjects, TripletTrials
from alignet_ray.evals.odd_one_out import HeldOutResponses
from alignet_ray.evals.rsa import object_similarity
from alignet_ray.evals.spaces import MODEL_TITLES, EmbeddingSpace
from alignet_ray.report import figures
from alignet_ray.report.contents import Disagreements, Neighbour, NeighbourQuery, TripletExample

ImageReader = Callable[[int], Image.Image | None]
"""image_id -> the image, None where it cannot be read."""


def object_groups(annotated: AnnotatedObjects, human: Float[np.ndarray, "m m"], max_clusters: int = 8) -> list[str]:
    """A group for each object: its category, or where none is known a cluster of the human similarities."""
    known = set(annotated.categories) - {""}
    if len(known) > 1:
        return [category or figures.NO_GROUP for category in annotated.categories]

    # Fewer clusters for few objects: a group should have about four, or its colour says nothing.
    clusters = similarity.tree_clusters(human, min(max_clusters, max(2, len(annotated) // 4)))
    titles = {}
    for cluster in np.unique(clusters):
        members = np.flatnonzero(clusters == cluster)
        # A cluster is named after its medoid, the object most similar to all others of it.
        within = human[np.ix_(members, members)]
        medoid = members[within.sum(axis=1).argmax()]
        name = annotated.names[medoid]
        titles[cluster] = f"like {name}"
    return [titles[cluster] for cluster in clusters]


def similarity_matrices(
    spaces: Iterable[EmbeddingSpace],
    annotated: AnnotatedObjects,
    human: Float[np.ndarray, "m m"],
    order: Int[np.ndarray, " m"],
) -> dict[str, Float[np.ndarray, "m m"]]:
    """The human similarities, then those of each space; rows and columns in `order`."""
    # One order for all: where a model differs from people, the pattern differs at the same place.
    matrices = {"people": human[np.ix_(order, order)]}
    for space in spaces:
        matrices[space_title(space)] = object_similarity(space, annotated)[np.ix_(order, order)]
    return matrices


def object_maps(
    spaces: Iterable[EmbeddingSpace], annotated: AnnotatedObjects, method: str = "pca", seed: int = 0
) -> dict[str, figures.Points]:
    """Two dimensions (`pca` or `umap`) of the mean embedding of each object."""
    maps = {}
    for space in spaces:
        # Unit rows first, so that every image of an object counts the same whatever the length of its embedding.
        means = np.stack([similarity.unit_rows(space.rows(image_ids)).mean(axis=0) for image_ids in annotated.images])
        if method == "umap":
            maps[space_title(space)] = figures.umap_plane(means, seed)
        else:
            maps[space_title(space)] = figures.principal_plane(means)
    return maps


def space_title(space: EmbeddingSpace) -> str:
    """Model and layer for a caption."""
    title = MODEL_TITLES.get(space.model, space.model)
    if space.layer == "head":
        return f"{title}, triplet head"
    return title


def triplet_examples(
    responses: HeldOutResponses,
    trials: TripletTrials,
    annotated: AnnotatedObjects,
    image_of_object: Int[np.ndarray, " m"],
    read_image: ImageReader,
    count: int = 6,
    regressions: int = 3,
) -> Disagreements | None:
    """Triplets on which exactly one of student and base agrees with people; None where one of them is missing.

    The clearest cases come first; an object appears at most once in each list.

    Args:
        responses: what each model chose.
        trials: the triplets, and the probabilities of human choices.
        annotated: the objects of the triplets.
        image_of_object: the image_id that stands for each object.
        read_image: opens an image.
        count, regressions: lengths of both lists, at most.
    """
    # Each model by one embedding: the backbone's, or the teacher's aligned space; a head would be a second vote.
    columns = {}
    for column, (model, layer) in enumerate(responses.names):
        if layer in ("pre_logits", "aligned"):
            columns[model] = column
    if "base" not in columns or "student" not in columns:
        return None

    def image(row: int) -> Image.Image | None:
        return read_image(int(image_of_object[row]))

    def example(trial: int) -> TripletExample:
        first, second, third = trials.triplets[trial].tolist()
        p01, p02, p12 = trials.probabilities[trial].tolist()
        return TripletExample(
            images=(image(first), image(second), image(third)),
            names=(annotated.names[first], annotated.names[second], annotated.names[third]),
            probabilities=(p01, p02, p12),
            choices={model: int(responses.choice[trial, column]) for model, column in columns.items()},
        )

    # Both lists, gains and losses: a page with the gains alone would flatter the student.
    gained = _disagreements(responses, trials, columns["student"], columns["base"])
    lost = _disagreements(responses, trials, columns["base"], columns["student"])
    return Disagreements(
        gained=len(gained),
        lost=len(lost),
        triplets=len(trials),
        gains=[example(trial) for trial in _without_repeats(gained, trials.triplets, count)],
        regressions=[example(trial) for trial in _without_repeats(lost, trials.triplets, regressions)],
    )


def _disagreements(
    responses: HeldOutResponses, trials: TripletTrials, winner: int, loser: int
) -> Int[np.ndarray, " c"]:
    """Trials in which column `winner` makes the human choice and `loser` does not, the clearest first."""
    human = trials.probabilities.argmax(axis=1)
    won = (responses.choice[:, winner] == human) & (responses.choice[:, loser] != human)
    candidates = np.flatnonzero(won)

    # A triplet is clear where people nearly always choose the same pair
    clarity = trials.probabilities[candidates].max(axis=1)
    return candidates[np.argsort(-clarity, kind="stable")]


def _without_repeats(candidates: Int[np.ndarray, " c"], triplets: Int[np.ndarray, "t 3"], count: int) -> list[int]:
    """The first `count` candidates that share no object with an earlier one."""
    # Without this one unusual object, on which a model is often wrong, would fill the page.
    used: set[int] = set()
    chosen: list[int] = []
    for trial in candidates.tolist():
        members = triplets[trial].tolist()
        if used.isdisjoint(members):
            chosen.append(trial)
            used.update(members)
        if len(chosen) == count:
            break
    return chosen


def neighbour_queries(
    spaces: Sequence[EmbeddingSpace],
    annotated: AnnotatedObjects,
    groups: Sequence[str],
    read_image: ImageReader,
    count: int = 6,
    neighbours: int = 5,
) -> list[NeighbourQuery]:
    """One image of each of the `count` largest groups, and its nearest test images in every space."""
    # Among test images only: those of training objects would show what was learned by heart.
    image_ids, owner = annotated.all_images()
    neighbours = min(neighbours, len(image_ids) - 1)
    nearest = {}
    for space in spaces:
        similarities = similarity.similarity_matrix(space.rows(image_ids), space.kind)
        nearest[space.model] = similarity.nearest(similarities, neighbours)

    # Ties by name, so that a report that is made again shows the same groups.
    sizes = Counter(groups)
    del sizes[figures.NO_GROUP]
    largest = sorted(sizes, key=lambda group: (-sizes[group], group))[:count]

    queries = []
    for group in largest:
        is_member = np.array(groups)[owner] == group
        query = int(np.flatnonzero(is_member)[0])

        found: dict[str, list[Neighbour]] = {}
        for model, rows in nearest.items():
            found[model] = []
            for row in rows[query]:
                name = annotated.names[owner[row]]
                found[model].append(Neighbour(read_image(int(image_ids[row])), name, bool(is_member[row])))

        queries.append(NeighbourQuery(read_image(int(image_ids[query])), annotated.names[owner[query]], found))
    return queries


def contact_sheets(
    image_ids: Int[np.ndarray, " n"],
    cluster: Int[np.ndarray, " n"],
    read_image: ImageReader,
    count: int = 6,
    images_each: int = 12,
) -> dict[str, list[Image.Image | None]]:
    """Images of `count` clusters, evenly spaced among the clusters with several images by size, largest first."""
    numbers, sizes = np.unique(cluster, return_counts=True)
    # A cluster of one image shows nothing that its images have in common.
    by_size = np.argsort(-sizes, kind="stable")
    candidates = numbers[by_size][sizes[by_size] > 1]

    # Over all sizes: the largest clusters alone would not show what the small ones are like.
    sheets = {}
    for number in candidates[np.unique(_evenly_spaced(len(candidates), count))]:
        members = np.sort(image_ids[cluster == number])
        shown = members[_evenly_spaced(len(members), images_each)]
        sheets[f"cluster {number}: {len(members)} images"] = [read_image(int(image_id)) for image_id in shown]
    return sheets


def _evenly_spaced(length: int, count: int) -> Int[np.ndarray, " k"]:
    """At most `count` positions between 0 and `length` - 1, both ends included; none in an empty sequence."""
    return np.linspace(0, length - 1, min(count, length)).astype(int)
