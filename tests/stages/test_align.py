from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
from scipy.stats import spearmanr

from alignet_ray.config import Config
from alignet_ray.data import objects, official, schemas
from alignet_ray.errors import UserError
from alignet_ray.stages import Work, align
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
    soften.write_table("objects.parquet", objects.objects_table(0, OBJECTS, [], ids))
    return {"soften": soften.finish({}), "embed@objects": embed.finish({})}


def test_known_similarities_come_back_on_objects_that_were_not_seen(
    truth: np.ndarray, parents: dict[str, Artifact], make_work: Callable[..., Work]
) -> None:
    work = make_work(Config().replace(align__steps=200, align__batch=1024), "align", parents)
    align.run(work)
    report = work.out.read_json("report.json")
    assert report["test_aligned_accuracy"] > report["test_base_accuracy"] + 0.1
    assert report["test_aligned_accuracy"] > report["test_ceiling"] - 0.05
    npz = official.load_transform(work.out.local("transform.npz"))
    tensors = official.load_transform(work.out.local("transform.safetensors"))
    np.testing.assert_array_equal(npz.weights, tensors.weights)
    from alignet_ray.data.embeddings import load

    y = npz(load(parents["embed@objects"])[1])
    table = parents["soften"].read_table("objects.parquet").to_pylist()
    test = [o["object"] for o in table if o["split"] == "test"]
    upper = np.triu_indices(len(test), 1)
    images = y[[o * IMAGES for o in test]]
    assert spearmanr((images @ images.T)[upper], (truth[test] @ truth[test].T)[upper]).statistic > 0.9


def test_a_network_teacher_is_refused_until_it_is_there(
    parents: dict[str, Artifact], make_work: Callable[..., Work]
) -> None:
    with pytest.raises(UserError, match="network"):
        align.run(make_work(Config().replace(align__map="network"), "align", parents))
