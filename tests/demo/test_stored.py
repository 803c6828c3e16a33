"""The demo takes what a run has embedded: the same vectors up to the rounding of the stored numbers."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from alignet_ray.artifacts.schemas import IMAGES
from alignet_ray.demo import stored
from alignet_ray.demo.compare import ModelComparison, Vectors
from alignet_ray.demo.pictures import Pictures, list_folder
from alignet_ray.images.decode import decode
from alignet_ray.images.listing import fingerprint, read_bytes
from alignet_ray.models.embedding_network import make_network, save_network
from alignet_ray.screen import Screen
from alignet_ray.store import Manifest, Recipe, Reference, Store

BASE = "random:test_efficientnet"
WAY = {"layer": "pre_logits", "compute": "float32", "decode": "exact"}


class Run:
    """A root with a student, and embeddings of seven of eight pictures by it and its base."""

    def __init__(self, root: Path) -> None:
        self.images = root / "images"
        self.images.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for number in range(8):
            pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / f"{number}.png")

        self.store = Store.open(str(root / "runs"))
        draft = self.store.draft("distill", "d1")
        self.folder = Path(draft.uri)
        save_network(self.folder, make_network(BASE, 32, 8, seed=1), {})
        draft.finish({})
        self.comparison = ModelComparison.open(str(self.folder), BASE)
        self.listing = list_folder(str(self.images), 100)
        self.computed = self.encode(self.listing.paths)

        size = {"size": 32}
        head = self.computed.head
        assert head is not None
        logits = {"triplet_logits": head * self.comparison.student.tau**0.5}
        self.embed("base", WAY | size | {"models": [BASE]}, {}, {"embedding": self.computed.base})
        columns = {"embedding": self.computed.student} | logits
        self.embed("student", WAY | size | {"models": []}, {"distill@student": "d1"}, columns)
        nodes = {"distill@student": "d1", "embed@base": "base", "embed@student": "student"}
        self.store.write_ref("night", Reference(nodes))

    def encode(self, paths: list[str]) -> Vectors:
        jobs = [partial(decode, read_bytes(str(self.images), path)) for path in paths]
        return self.comparison.encode(jobs).vectors

    def embed(self, id: str, inputs: dict[str, Any], parents: dict[str, str], columns: dict[str, np.ndarray]) -> None:
        draft = self.store.draft("embed", id)
        count = len(self.listing.paths)
        places = [np.arange(count), self.listing.paths, [""] * count, np.ones(count, np.int64), [-1] * count]
        draft.write_table("images.parquet", pa.table(places, schema=IMAGES))

        # The last picture has no vectors, and numbers are stored in half of the precision.
        arrays = []
        for vectors in columns.values():
            half = np.ascontiguousarray(vectors[:-1].astype(np.float16))
            arrays.append(pa.FixedShapeTensorArray.from_numpy_ndarray(half))
        table = pa.table([np.arange(count - 1), *arrays], names=["image_id", *columns])
        draft.write_table("part-00000.parquet", table)
        recipe = Recipe(inputs=inputs, parents=parents, sources=[fingerprint(str(self.images))])
        draft.finish(Manifest(recipe=recipe).to_json())

    def find(self) -> stored.StoredVectors | None:
        return stored.find(self.comparison, str(self.images), self.listing.paths)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def nearly_equal(found: Vectors, expected: Vectors) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-3 * float(np.abs(other).max()))


def test_vectors_are_those_that_the_page_would_compute(run: Run) -> None:
    found = run.find()
    assert found is not None
    assert found.run == "night"
    assert sorted(found.row_of) == run.listing.paths[:-1]
    nearly_equal(found.take(run.listing.paths[:-1]), run.computed.take(slice(0, -1)))


def test_the_page_computes_only_the_others(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    encode = run.comparison.encode

    def counted(images: Any, **options: Any) -> Any:
        computed.append(len(images))
        return encode(images, **options)

    monkeypatch.setattr(run.comparison, "encode", counted)
    pictures = Pictures(run.comparison, run.listing, stored=run.find())
    with (tmp_path / "out").open("w") as stream:
        pictures.embed_folder(Screen(stream))
    assert computed == [1]
    assert pictures.folder is not None
    assert pictures.folder.paths == run.listing.paths
    nearly_equal(pictures._known.take(list(pictures._known._row_of)), run.computed)
    assert "7 of them as the run night has embedded them" in (tmp_path / "out").read_text()


def test_what_differs_is_computed(run: Run, tmp_path: Path) -> None:
    # Another base, and a student that no run made.
    labels = run.comparison.labels
    run.comparison.labels = labels | {"base": "random:test_vit"}
    assert run.find() is None
    run.comparison.labels = labels | {"aligned": str(tmp_path)}
    assert run.find() is None
    run.comparison.labels = labels
    assert run.find() is not None

    # A folder that has changed.
    picture = run.images / "0.png"
    picture.write_bytes(picture.read_bytes() + b"more")
    assert run.find() is None


def test_a_damaged_root_only_costs_time(run: Run) -> None:
    (Path(run.store.root) / "refs" / "night.json").write_text("{")
    assert run.find() is None
