import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from support.training import make_batches

from alignet_ray.artifacts.schemas import TRIPLETS
from alignet_ray.errors import UserError
from alignet_ray.store import Store
from alignet_ray.training.batches import (
    KindInBatch,
    LabelledBatches,
    cluster_members,
    distinct_rows,
    draw_kinds,
    draw_triplets,
    epoch_rows,
    fill_up,
    validation_batch,
)

IDS = np.arange(100, 140)
TEACHER = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float16)
ROWS = np.arange(5, 45)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5))
def test_every_row_comes_once_an_epoch(batch: int, rows: int, seed: int):
    seen = np.concatenate([epoch_rows(seed, step, batch, rows) for step in range(rows)])  # `batch` epochs
    assert len(seen) == rows * batch
    assert np.array_equal(np.bincount(seen, minlength=rows), np.full(rows, batch))


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 20), st.integers(0, 60))
def test_distinct_rows_are_distinct_and_repeatable(batch: int, step: int):
    rows = distinct_rows(1, step, batch, 20)
    assert len(set(rows.tolist())) == batch
    assert np.array_equal(rows, distinct_rows(1, step, batch, 20))


def test_a_batch_of_more_images_than_there_are_is_refused():
    with pytest.raises(UserError, match="only 4 to train on"):
        distinct_rows(0, 0, 5, 4)


def test_drawn_triplets_are_distinct_and_uniform():
    triplets = draw_triplets(np.random.default_rng(0), 5, 60_000).numpy()
    assert all(len(set(row)) == 3 for row in triplets[:2000].tolist())
    counts = np.unique(triplets, axis=0, return_counts=True)[1]
    assert len(counts) == 60
    assert abs(counts - 1000).max() < 160  # five standard deviations


def test_in_batch_is_a_pure_function_of_the_step_with_the_teachers_similarities():
    batches = make_batches(IDS, TEACHER, ROWS, 12, seed=3, scale=0.5, max_triplets=100)
    one, again, other = batches(7), batches(7), batches(8)
    assert np.array_equal(one.image_ids, again.image_ids)
    assert torch.equal(one.triplets, again.triplets)
    assert not np.array_equal(one.image_ids, other.image_ids)
    assert len(one.triplets) == 100

    embeddings = TEACHER[ROWS[np.searchsorted(IDS, one.image_ids)]].astype(np.float32)
    first, second, third = (embeddings[column] for column in one.triplets.numpy().T)
    products = [(first * second).sum(1), (first * third).sum(1), (second * third).sum(1)]
    assert np.allclose(one.targets("cpu"), 0.5 * np.stack(products, axis=1), atol=1e-4)


def test_a_small_batch_gives_all_its_triplets():
    batch = make_batches(IDS, TEACHER, ROWS, 6, seed=3, max_triplets=20)(0)
    assert len({tuple(sorted(t)) for t in batch.triplets.tolist()}) == 20


def test_batches_by_cluster_take_images_from_few_clusters():
    clusters = np.repeat(np.arange(10), 4)
    batches = make_batches(
        IDS, TEACHER, ROWS, 12, max_triplets=50, clusters=cluster_members(clusters), images_per_cluster=4
    )
    counts = np.bincount(clusters[np.searchsorted(IDS, batches(0).image_ids)], minlength=10)
    assert sorted(counts)[-3:] == [4, 4, 4]
    assert counts.sum() == 12
    assert len(set(batches(0).image_ids.tolist())) == 12


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 5), st.integers(0, 2**32))
def test_a_batch_is_filled_up_with_other_images(size: int, drawn: int, more: int, seed: int) -> None:
    images = size + more
    rng = np.random.default_rng(seed)
    begun = rng.permutation(images)[: min(size, drawn)]
    filled = fill_up(rng, begun, size, images)
    assert filled[: len(begun)].tolist() == begun.tolist()
    assert len(set(filled.tolist())) == size
    assert 0 <= filled.min() <= filled.max() < images


def test_every_other_image_fills_up_as_often() -> None:
    """Chi-square over 18,000 places among nine images; 26.1 is the limit of one in a thousand."""
    counts = np.zeros(10)
    for seed in range(6_000):
        filled = fill_up(np.random.default_rng(seed), np.array([4]), 4, 10)
        counts[filled[1:]] += 1
    assert counts[4] == 0
    others = np.delete(counts, 4)
    assert ((others - 2_000) ** 2 / 2_000).sum() < 26.1


def test_a_batch_by_clusters_of_more_images_than_there_are_is_refused() -> None:
    batches = make_batches(
        np.arange(5), np.eye(5, dtype=np.float32), np.arange(5), 6, clusters=(np.arange(5),), images_per_cluster=2
    )
    with pytest.raises(UserError, match=r"a batch of 6 distinct images, but only 5 to train on"):
        batches(0)


def test_labelled_batches_take_rows_in_epochs():
    ids = np.arange(30).reshape(10, 3)
    batches = LabelledBatches(ids, np.arange(30, dtype=np.float32).reshape(10, 3), batch_size=5, seed=0)
    first, second = batches(0), batches(1)
    assert sorted([*first.image_ids, *second.image_ids]) == list(range(30))
    assert np.array_equal(first.image_ids[first.triplets.numpy()].astype(np.float32), first.targets("cpu").numpy())


def test_the_validation_batch_names_each_image_once(store: Store):
    label = store.draft("label", "l")
    columns = [[4, 9, 4], [9, 2, 7], [7, 4, 2], [0.3, 0.4, 0.5], [0.2, 0.1, 0.1], [0.1, 0.0, 0.0]]
    label.write_table("valid/part-00000.parquet", pa.table(columns, schema=TRIPLETS))
    batch = validation_batch(label, 2)
    assert batch.image_ids.tolist() == [2, 4, 7, 9]
    assert batch.image_ids[batch.triplets.numpy()].tolist() == [[4, 9, 7], [9, 2, 4]]
    assert torch.allclose(batch.targets("cpu"), torch.tensor([[0.3, 0.2, 0.1], [0.4, 0.1, 0.0]]))


def kind_counts(triplets: np.ndarray, groups: np.ndarray) -> dict[str, int]:
    """Triplets within one group, at the border of two, and between three."""
    among = np.array([len(set(row)) for row in groups[triplets].tolist()])
    return {"within": int((among == 1).sum()), "border": int((among == 2).sum()), "between": int((among == 3).sum())}


def test_the_loss_sees_the_kinds_that_label_names_in_its_weights():
    """Six clusters of unequal sizes; what reaches the loss is compared with what is configured."""
    clusters = np.repeat(np.arange(6), [4, 5, 6, 7, 8, 10])
    weights = {"border": 3.0, "within": 1.0, "between": 2.0}
    kinds = tuple(KindInBatch(sampler, clusters, weight) for sampler, weight in weights.items())
    members = cluster_members(clusters)
    batches = make_batches(
        IDS, TEACHER, ROWS, 20, max_triplets=600, clusters=members, images_per_cluster=5, kinds=kinds
    )
    for step in range(20):
        batch = batches(step)
        groups = clusters[batch.image_ids - IDS[0]]
        assert kind_counts(batch.triplets.numpy(), groups) == {"border": 300, "within": 100, "between": 200}
        assert all(len(set(row)) == 3 for row in batch.triplets.tolist())


def test_kinds_are_uniform_among_groups_and_images():
    """Chi-square of border triplets: the pair's group, the group of the odd one, and the images of the largest."""
    clusters = np.repeat(np.arange(4), [2, 3, 4, 6])
    kinds = (KindInBatch("border", clusters, 1.0),)
    drawn = draw_kinds(np.random.default_rng(5), kinds, np.arange(15), 60_000).numpy()
    groups = clusters[drawn]
    pairs = np.bincount(groups[:, 0] * 4 + groups[:, 2], minlength=16)
    assert np.count_nonzero(pairs) == 12
    assert chisquare(pairs[pairs > 0]).pvalue > 1e-3
    assert chisquare(np.bincount(drawn[groups[:, 0] == 3, 0])[9:]).pvalue > 1e-3


def test_a_kind_that_a_batch_does_not_make_leaves_its_share_to_the_others():
    single = np.arange(10)
    pairs = np.repeat(np.arange(5), 2)
    rng = np.random.default_rng(0)
    kinds = [KindInBatch("within", pairs, 1.0), KindInBatch("border", pairs, 1.0)]
    assert kind_counts(draw_kinds(rng, kinds, np.arange(10), 50).numpy(), pairs)["border"] == 50
    alone = draw_kinds(rng, [KindInBatch("within", single, 1.0)], np.arange(10), 50).numpy()
    assert kind_counts(alone, single)["between"] == 50, "any three images"
