"""A small corpus that is already embedded, softened and aligned, without any model: for the stages that come after."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from alignet_ray.artifacts.schemas import CLUSTERS, IMAGES, OBJECTS, embeddings
from alignet_ray.config import Config
from alignet_ray.core.affine import AffineTransform
from alignet_ray.store import Artifact, Store


class SmallCorpus:
    """Images in `classes` classes, features around a centre each, and what the stages before label left of them.

    Objects are the classes; object 0 is a test object, so its images must not be seen.
    """

    def __init__(self, store: Store, images: int = 300, classes: int = 10, width: int = 16, parts: int = 3) -> None:
        rng = np.random.default_rng(0)
        self.store, self.images, self.classes, self.width = store, images, classes, width
        self.ids = np.sort(rng.permutation(images + 20)[:images]).astype(np.int64)
        self.labels = np.arange(images) % classes
        self.x = (rng.normal(size=(classes, width))[self.labels] + 0.4 * rng.normal(size=(images, width))).astype(
            np.float32
        )
        self.transform = AffineTransform(
            0.1, 1.3, rng.normal(size=(width, width)).astype(np.float32) / 4, rng.normal(size=width).astype(np.float32)
        )
        self.hidden = self.ids[self.labels == 0]
        self.embed, self.soften, self.align = self._embed(parts), self._soften(), self._align()

    def clustered(self, k: int = 8) -> Artifact:
        """Any clusters of the images that may be seen; the last one has a single image."""
        draft = self.store.draft("cluster", f"k{k}")
        seen = np.flatnonzero(~np.isin(self.ids, self.hidden))
        clusters = (self.ids[seen] * 31 // 3 % (k - 1)).astype(np.int32)
        clusters[-1] = k - 1
        draft.write_table("part-00000.parquet", pa.table([self.ids[seen], clusters], schema=CLUSTERS))
        return draft.finish({})

    @property
    def parents(self) -> dict[str, Artifact]:
        return {"embed@corpus": self.embed, "soften": self.soften, "align": self.align}

    def config(self, **changes: object) -> Config:
        root = str(Path(self.store.root))
        base = {"store__root": root, "cluster__k": 8, "label__train": 3000, "label__valid": 300}
        return Config().replace(**(base | changes))

    def _embed(self, parts: int) -> Artifact:
        draft = self.store.draft("embed", "corpus")
        order = np.random.default_rng(1).permutation(self.images)
        for number, rows in enumerate(np.array_split(order, parts)):
            x = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(self.x[rows]))
            table = pa.table([self.ids[rows], x], schema=embeddings(self.width, "float32"))
            draft.write_table(f"part-{number:05d}.parquet", table)
        every = int(self.ids.max()) + 1
        names = {int(i): f"c{c}" for i, c in zip(self.ids, self.labels, strict=True)}
        labels = [names.get(i, "c0") for i in range(every)]
        paths = [f"{label}/{i:05d}.png" for i, label in enumerate(labels)]
        images = pa.table(
            [np.arange(every), paths, labels, np.ones(every, dtype=np.int64), [-1] * every], schema=IMAGES
        )
        draft.write_table("images.parquet", images)
        return draft.finish({})

    def _soften(self) -> Artifact:
        draft = self.store.draft("soften", "x")
        rows = {
            "object": list(range(self.classes)),
            "name": [f"c{c}" for c in range(self.classes)],
            "category": [""] * self.classes,
            "split": ["test"] + ["train"] * (self.classes - 1),
            "image_ids": [self.ids[self.labels == c].tolist() for c in range(self.classes)],
        }
        draft.write_table("objects.parquet", pa.table(rows, schema=OBJECTS))
        return draft.finish({})

    def _align(self) -> Artifact:
        draft = self.store.draft("align", "x")
        with draft.atomic("transform.npz") as path, path.open("wb") as file:
            t = self.transform
            np.savez(file, weights=t.weights, bias=t.bias, mean=np.float32(t.mean), std=np.float32(t.std))
        return draft.finish({})
