"""Features with a known answer: what people see lies in them linearly, beside strong looks that people ignore."""

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy

from alignet_ray.artifacts import schemas
from alignet_ray.core import vice
from alignet_ray.human import objects
from alignet_ray.store import Artifact, Store

OBJECTS, IMAGES, WIDTH = 60, 3, 64


@pytest.fixture
def truth() -> np.ndarray:
    """What people see: five meanings."""
    return np.abs(np.random.default_rng(1).normal(size=(OBJECTS, 5))).astype(np.float32)


@pytest.fixture
def parents(store: Store, truth: np.ndarray) -> dict[str, Artifact]:
    """Features in which the meanings are weak, beside strong looks that people do not care about."""
    rng = np.random.default_rng(0)
    looks = rng.normal(size=(OBJECTS * IMAGES, 8))
    meaning = np.repeat(truth, IMAGES, axis=0)
    x = np.concatenate([2 * looks, meaning], axis=1) @ rng.normal(size=(13, WIDTH)) + 0.1 * rng.normal(
        size=(180, WIDTH)
    )
    embed = store.draft("embed", "objects")
    x = pa.FixedShapeTensorArray.from_numpy_ndarray(x.astype(np.float32))
    embed.write_table("part-0.parquet", pa.table([np.arange(180), x], schema=schemas.embeddings(WIDTH, "float32")))
    soften = store.draft("soften", "s")
    soften.write_bytes("embedding.safetensors", safetensors.numpy.save({"mu": truth, "sigma": 0 * truth}))
    ids = {n: [n * IMAGES + i for i in range(IMAGES)] for n in range(OBJECTS)}
    rows = np.stack([rng.permutation(OBJECTS)[:3] for _ in range(20_000)])
    p = vice.choice_probabilities(truth, 0 * truth, rows, 1, 0)
    choice = (rng.random((len(rows), 1)) > p.cumsum(axis=1)[:, :2]).sum(axis=1)
    rows = np.take_along_axis(rows, np.array([[0, 1, 2], [0, 2, 1], [1, 2, 0]])[choice], axis=1)
    soften.write_table("part-0.parquet", pa.table([*rows.T.copy(), *p.T.copy()], schema=schemas.SOFT))
    soften.write_table("objects.parquet", objects.objects_table(0, OBJECTS, [], ids))
    return {"soften": soften.finish({}), "embed@objects": embed.finish({})}
