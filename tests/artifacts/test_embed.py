"""Embeddings come back by image_id, with the images that could not be used."""

import numpy as np
import pyarrow as pa
import pytest

from alignet_ray.artifacts import embed, schemas
from alignet_ray.artifacts.embed import EmbedArtifact, QuarantinedImage
from alignet_ray.store import Draft, Store


def embedding_rows(ids: list[int], width: int = 3) -> pa.Table:
    vectors = np.array(ids, np.float32)[:, None] * np.ones(width, np.float32)
    columns = [pa.array(ids, pa.int64()), schemas.tensors(vectors)]
    return pa.Table.from_arrays(columns, schema=schemas.embeddings(width, "float32"))


def test_embeddings_come_back_by_image_id_with_their_quarantine(store: Store) -> None:
    view = EmbedArtifact(store.draft("embed", "e"))
    images = pa.table(
        [[0, 1, 2], ["a/0.jpg", "a/1.jpg", "b/2.jpg"], ["a", "a", "b"], [9, 9, 9], [-1, -1, -1]], schema=schemas.IMAGES
    )
    view.write_images(images.to_batches())
    broken = QuarantinedImage(1, "a/1.jpg", "truncated")
    view.write_part(1, embedding_rows([2]), [], [])
    view.write_part(0, embedding_rows([0]), [broken], ["a.png"], cosines=[0.5])
    assert [notes.twelve_bit for notes in view.notes()] == [["a.png"], []]

    assert view.image_paths() == {0: "a/0.jpg", 1: "a/1.jpg", 2: "b/2.jpg"}
    assert view.image_labels() == {0: "a", 1: "a", 2: "b"}
    assert [row.image_id for row in view.unit_images(1, 2)] == [2]
    assert view.finished_units() == {0, 1}
    assert [notes.quarantined for notes in view.notes()] == [[broken], []]
    assert view.fast_cosines() == [0.5]
    assert (view.width(), view.has_triplet_logits()) == (3, False)
    ids, vectors = view.embeddings()
    assert ids.tolist() == [0, 2]
    assert vectors[:, 0].tolist() == [0.0, 2.0]
    assert view.embeddings(only=np.array([2, 7])).ids.tolist() == [2]
    assert view.embedded_ids().tolist() == [0, 2]


UNIT = 10
"""Images of a unit."""


@pytest.fixture
def many_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> EmbedArtifact:
    """Seven units of ten images, of which one is in quarantine; three parts are as large as stores like them."""
    monkeypatch.setattr(embed, "PART_BYTES", 3 * UNIT * 4 * 2)
    view = EmbedArtifact(store.draft("embed", "many"))
    for unit in range(7):
        ids = np.arange(unit * UNIT, (unit + 1) * UNIT)
        quarantined = []
        if unit == 4:
            quarantined = [QuarantinedImage(49, "49.jpg", "truncated")]
            ids = ids[:-1]
        vectors = np.repeat(ids[:, None], 4, axis=1).astype(np.float16)
        table = pa.table([ids, schemas.tensors(vectors)], schema=schemas.embeddings(4, "float16"))
        view.write_part(unit, table, quarantined, [f"{unit}.jpg"], [0.5] if unit == 0 else None)
    return view


def rows(view: EmbedArtifact) -> list[tuple[int, float]]:
    embedded = view.embeddings()
    return list(zip(embedded.ids.tolist(), embedded.vectors[:, 0].tolist(), strict=True))


def test_many_small_parts_become_few_with_the_same_rows_and_notes(many_parts: EmbedArtifact) -> None:
    before, notes = rows(many_parts), [note for part in many_parts.notes() for note in part.twelve_bit]
    groups = many_parts.unit_groups(7, UNIT)
    assert groups == [range(0, 3), range(3, 6)]
    for group in groups:
        many_parts.merge_units(group)

    names = many_parts.files.parts()
    assert names == ["part-00000-00002.parquet", "part-00003-00005.parquet", "part-00006.parquet"]
    assert rows(many_parts) == before
    assert [note for part in many_parts.notes() for note in part.twelve_bit] == notes
    assert [image.image_id for part in many_parts.notes() for image in part.quarantined] == [49]
    assert many_parts.fast_cosines() == [0.5]
    assert many_parts.finished_units() == set(range(7))


@pytest.mark.parametrize("killed_after", ["merging", "one of three was removed"])
def test_merging_goes_on_where_it_was_killed(
    many_parts: EmbedArtifact, killed_after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(many_parts)
    removed: list[str] = []
    remove = Draft.remove

    def die(self: Draft, name: str) -> None:
        if len(removed) == (killed_after != "merging"):
            raise KeyboardInterrupt
        removed.append(name)
        remove(self, name)

    with monkeypatch.context() as patched:
        patched.setattr(Draft, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            many_parts.merge_units(range(0, 3))

    # Rows that lie in two files are not counted twice, and the second try ends with the same rows.
    assert many_parts.finished_units() == set(range(7))
    assert sum(len(part.twelve_bit) for part in many_parts.notes()) == 7
    for group in many_parts.unit_groups(7, UNIT):
        many_parts.merge_units(group)
    assert rows(many_parts) == before


def test_few_bytes_stay_as_they_are(many_parts: EmbedArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "PART_BYTES", 10_000)
    assert many_parts.unit_groups(7, UNIT) == []


def test_parts_come_in_the_order_of_their_numbers(store: Store) -> None:
    view = EmbedArtifact(store.draft("embed", "order"))
    table = pa.table([[0], schemas.tensors(np.zeros((1, 4), np.float16))], schema=schemas.embeddings(4, "float16"))
    for unit in (100_000, 99_999, 2):
        view.write_part(unit, table, [], [])
    assert view.files.parts() == ["part-00002.parquet", "part-99999.parquet", "part-100000.parquet"]


def test_units_are_read_from_row_groups_that_they_do_not_divide(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "IMAGE_ROWS", 8)
    view = EmbedArtifact(store.draft("embed", "units"))
    paths = [f"{number}.jpg" for number in range(21)]
    listed = pa.table([range(21), paths, [""] * 21, [1] * 21, [*range(20), -1]], schema=schemas.IMAGES)
    assert view.write_images(listed.slice(start, 8).to_batches()[0] for start in (0, 8, 16)) == 21
    found = [[row.path for row in view.unit_images(unit, 5)] for unit in range(5)]
    assert found == [paths[start : start + 5] for start in range(0, 25, 5)]
    assert view.unit_images(4, 5)[0].span is None
    assert view.unit_images(0, 5)[3].span == (3, 1)
