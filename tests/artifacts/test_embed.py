"""Embeddings come back by image_id, with the images that could not be used."""

import numpy as np
import pyarrow as pa

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.embed import EmbedArtifact, QuarantinedImage
from alignet_ray.store import Store


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
    assert view.dark_images(0) == ["a.png"]
    assert view.dark_images(1) == []

    assert view.image_paths() == {0: "a/0.jpg", 1: "a/1.jpg", 2: "b/2.jpg"}
    assert view.image_labels() == {0: "a", 1: "a", 2: "b"}
    assert [row.image_id for row in view.unit_images(1, 2)] == [2]
    assert view.finished_units() == {0, 1}
    assert view.quarantined(0) == [broken]
    assert view.quarantined(1) == []
    assert view.fast_cosines() == [0.5]
    assert (view.width(), view.has_triplet_logits()) == (3, False)
    ids, vectors = view.embeddings()
    assert ids.tolist() == [0, 2]
    assert vectors[:, 0].tolist() == [0.0, 2.0]
    assert view.embeddings(only=np.array([2, 7])).ids.tolist() == [2]
    assert view.embedded_ids().tolist() == [0, 2]
