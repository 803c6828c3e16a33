"""What the report shows: clear disagreements without repeats, neighbours, groups and clusters, chosen by hand here."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alignet_ray.evals.annotated_objects import AnnotatedObjects, TripletTrials
from alignet_ray.evals.odd_one_out import HeldOutResponses
from alignet_ray.evals.spaces import EmbeddingSpace
from alignet_ray.report import examples, figures


def objects(count: int = 6, categories: list[str] | None = None, names: list[str] | None = None) -> AnnotatedObjects:
    """One image each, of the object's number times ten."""
    images = [np.array([10 * number]) for number in range(count)]
    mu = np.eye(count, dtype=np.float32)
    names = names or [f"n{number}" for number in range(count)]
    return AnnotatedObjects(np.arange(count), names, categories or [""] * count, images, mu, 0 * mu)


def space(model: str, embeddings: np.ndarray, layer: str = "pre_logits") -> EmbeddingSpace:
    return EmbeddingSpace(model, layer, 10 * np.arange(len(embeddings)), embeddings.astype(np.float32))


def read_image(image_id: int) -> Image.Image:
    return Image.new("L", (1, 1), image_id)


def shown(image: Image.Image | None) -> int:
    assert image is not None
    return int(image.getpixel((0, 0)))  # type: ignore[arg-type]


TRIPLETS = np.array([[0, 1, 2], [2, 3, 4], [3, 4, 5], [0, 1, 5]])
PROBABILITIES = np.array([[0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.1, 0.0, 0.9], [0.4, 0.3, 0.3]])
"""People choose the pairs 0, 1, 2 and 0."""

RESPONSES = HeldOutResponses(
    names=[("base", "pre_logits"), ("student", "pre_logits"), ("student", "head"), ("human", "")],
    agreement=np.zeros((4, 4)),
    ties=np.zeros(4),
    choice=np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 2, 0, 2], [0, 1, 0, 0]]),
)
TRIALS = TripletTrials(TRIPLETS, PROBABILITIES)


def test_gains_and_regressions_are_where_exactly_one_agrees_with_people() -> None:
    found = examples.triplet_examples(RESPONSES, TRIALS, objects(), 10 * np.arange(6), read_image)
    assert found is not None
    # The student alone is right on trials 2, 1, 0 by clarity; 1 shares objects 3 and 4 with 2.
    assert [example.names for example in found.gains] == [("n3", "n4", "n5"), ("n0", "n1", "n2")]
    assert [example.names for example in found.regressions] == [("n0", "n1", "n5")]
    assert (found.gained, found.lost, found.triplets) == (3, 1, 4)
    first = found.gains[0]
    assert [shown(image) for image in first.images] == [30, 40, 50]
    assert first.probabilities == pytest.approx((0.1, 0.0, 0.9))
    assert first.choices == {"base": 0, "student": 2}, "the backbones' choices, not the head's"


def test_at_most_the_wanted_number_of_examples() -> None:
    found = examples.triplet_examples(RESPONSES, TRIALS, objects(), 10 * np.arange(6), read_image, count=1)
    assert found is not None
    assert len(found.gains) == 1
    assert found.gained == 3


def test_without_base_and_student_there_are_no_examples() -> None:
    alone = HeldOutResponses(RESPONSES.names[2:], np.zeros((4, 2)), np.zeros(2), RESPONSES.choice[:, 2:])
    assert examples.triplet_examples(alone, TRIALS, objects(), 10 * np.arange(6), read_image) is None


@given(st.lists(st.permutations(range(7)), min_size=1, max_size=20), st.integers(1, 5))
def test_no_object_is_shown_twice(orders: list[list[int]], count: int) -> None:
    triplets = np.array([order[:3] for order in orders])
    chosen = examples._without_repeats(np.arange(len(triplets)), triplets, count)
    members = triplets[chosen].ravel().tolist()
    assert len(set(members)) == len(members)
    assert chosen[0] == 0
    assert len(chosen) <= count


def test_groups_are_the_categories_where_there_are_several() -> None:
    annotated = objects(3, ["animal", "", "tool"])
    assert examples.object_groups(annotated, np.eye(3)) == ["animal", figures.NO_GROUP, "tool"]


def test_without_categories_groups_are_clusters_named_after_their_medoid() -> None:
    human = np.kron(np.eye(2), np.full((4, 4), 0.5)) + np.eye(8) * 0.5
    human[0, 1:4] = human[1:4, 0] = 0.8
    human[6, [4, 5, 7]] = human[[4, 5, 7], 6] = 0.8
    groups = examples.object_groups(objects(8), human, max_clusters=2)
    assert groups == ["like n0"] * 4 + ["like n6"] * 4


def test_matrices_are_in_the_wanted_order() -> None:
    human = np.arange(9.0).reshape(3, 3)
    order = np.array([2, 0, 1])
    embeddings = np.array([[1.0, 0], [0, 1], [1, 1]])
    found = examples.similarity_matrices([space("student", embeddings)], objects(3), human, order)
    assert list(found) == ["people", "aligned student"]
    assert found["people"].tolist() == [[8, 6, 7], [2, 0, 1], [5, 3, 4]]
    half = 0.5**0.5
    expected = [[1, half, half], [half, 1, 0], [half, 0, 1]]
    np.testing.assert_allclose(found["aligned student"], expected, atol=1e-6)


def test_a_head_has_a_title_of_its_own_and_other_models_keep_their_names() -> None:
    embeddings = np.eye(2)
    assert examples.space_title(space("student", embeddings, "head")) == "aligned student, triplet head"
    assert examples.space_title(space("clip", embeddings)) == "clip"


def test_maps_are_of_the_directions_of_embeddings() -> None:
    embeddings = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    scaled = embeddings * np.array([[1.0], [5.0], [9.0]])
    (one,) = examples.object_maps([space("base", embeddings)], objects(3)).values()
    (two,) = examples.object_maps([space("base", scaled)], objects(3)).values()
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_neighbours_are_the_nearest_other_images_and_say_whether_they_are_of_the_group() -> None:
    angles = np.deg2rad([0, 10, 25, 90, 105, 180])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    groups = ["a", "a", "b", "b", "b", figures.NO_GROUP]
    queries = examples.neighbour_queries([space("base", embeddings)], objects(), groups, read_image, 6, 2)
    assert [query.name for query in queries] == ["n2", "n0"], "the first of each group, the largest group first"
    of_b, of_a = ([(shown(near.image), near.is_same_group) for near in query.neighbours["base"]] for query in queries)
    assert of_a == [(10, True), (20, False)]
    assert of_b == [(10, False), (0, False)]


def test_sheets_show_large_and_small_clusters_but_none_of_one_image() -> None:
    cluster = np.repeat([3, 1, 2, 0], [5, 3, 2, 1])
    sheets = examples.contact_sheets(np.arange(11)[::-1].copy(), cluster, read_image, count=2, images_each=3)
    assert list(sheets) == ["cluster 3: 5 images", "cluster 2: 2 images"]
    assert [shown(image) for image in sheets["cluster 3: 5 images"]] == [6, 8, 10], "by image_id, both ends included"


@given(st.integers(0, 50), st.integers(1, 20))
def test_evenly_spaced_positions(length: int, count: int) -> None:
    positions = examples._evenly_spaced(length, count).tolist()
    assert len(positions) == min(length, count)
    assert positions == sorted(set(positions))
    assert all(0 <= position < length for position in positions)
    if len(positions) > 1:
        assert (positions[0], positions[-1]) == (0, length - 1)
