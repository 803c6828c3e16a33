import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from alignet_ray.artifacts.schemas import IMAGES, TRIPLETS, embeddings, tensors
from alignet_ray.data import deepmind
from alignet_ray.data.export import embeddings as export
from alignet_ray.data.export import triplets
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact, Store


@pytest.fixture
def embedded(store: Store) -> Artifact:
    """Twelve images in three parts; image 5 is in quarantine, and so is all of the last part."""
    draft, x = store.draft("embed", "small"), np.arange(48, dtype=np.float16).reshape(12, 4)
    images = [{"image_id": i, "path": f"c{i % 2}/{i}, it.png", "label": f"c{i % 2}", "bytes": 1} for i in range(12)]
    draft.write_table("images.parquet", pa.Table.from_pylist(images, schema=IMAGES))
    for part, ids in enumerate([[0, 1, 2, 3], [4, 6, 7], []]):
        table = pa.Table.from_arrays([pa.array(ids, pa.int64()), tensors(x[ids])], schema=embeddings(4, "float16"))
        draft.write_table(f"part-{part:05d}.parquet", table)
    return draft


def test_npy_holds_every_row_and_the_csv_names_it(embedded: Artifact, tmp_path: Path) -> None:
    file = export(embedded, "npy", tmp_path / "out")
    x = np.load(file, allow_pickle=False)
    rows = list(csv.DictReader((tmp_path / "out" / "images-small.csv").open()))
    assert x.dtype == np.float16
    assert [int(row["image_id"]) for row in rows] == [0, 1, 2, 3, 4, 6, 7]
    for vector, row in zip(x, rows, strict=True):
        assert vector[0] == 4 * int(row["image_id"])
        assert row["path"] == f"{row['label']}/{row['image_id']}, it.png"
    assert sorted(p.name for p in file.parent.iterdir()) == ["embeddings-small.npy", "images-small.csv"]


def test_safetensors_holds_the_same(embedded: Artifact, tmp_path: Path) -> None:
    columns = load_file(export(embedded, "safetensors", tmp_path))
    assert np.array_equal(columns["embedding"], np.load(export(embedded, "npy", tmp_path), allow_pickle=False))
    assert columns["image_id"].tolist() == [0, 1, 2, 3, 4, 6, 7]


def test_an_unknown_format_is_told(embedded: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="npy, safetensors"):
        export(embedded, "csv", tmp_path)


@pytest.mark.parametrize("twins", [False, True])
def test_triplets_come_back_from_the_npz(store: Store, tmp_path: Path, twins: bool) -> None:
    embed, label, rng = store.draft("embed", "e"), store.draft("label", "l"), np.random.default_rng(0)
    images = [{"image_id": i, "path": f"c{i}/{0 if twins else i}.png", "label": f"c{i}", "bytes": 1} for i in range(9)]
    embed.write_table("images.parquet", pa.Table.from_pylist(images, schema=IMAGES))
    tables = {}
    for side, rows in (("train", 7), ("valid", 3)):
        ids = np.stack([rng.permutation(9)[:3] for _ in range(rows)]).T
        sims = np.sort(rng.random((3, rows), dtype=np.float32), axis=0)[::-1]
        tables[side] = pa.table([*ids, *sims], schema=TRIPLETS)
        label.write_table(f"{side}/part-00000.parquet", tables[side])
    for file, side in zip(triplets(label, embed, tmp_path / "out"), tables, strict=True):
        assert file.name == f"triplets-l-{side}.npz"
        back = deepmind.import_triplets(file, embed.read_table("images.parquet"))
        assert pa.concat_tables(back).equals(tables[side])
    assert len(list((tmp_path / "out").iterdir())) == 2
