import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from alignet_ray.config import Config
from alignet_ray.core.labelling import odd_last, similarities
from alignet_ray.data import images
from alignet_ray.data.schemas import CLUSTERS, TRIPLETS, embeddings
from alignet_ray.errors import UserError
from alignet_ray.models.student import load_student
from alignet_ray.stages import Work, distill
from alignet_ray.store import Artifact, Store

COLOURS, SHADES = 6, 8


def triplet_table(ids: np.ndarray, x: np.ndarray, count: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(len(ids))[:3] for _ in range(count)])
    found = odd_last(ids[rows], similarities(x, rows))
    return pa.table([*found.triplets.T, *found.similarities.T], schema=TRIPLETS)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares in six colours and eight shades of noise: the teacher goes by colour."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for colour in range(COLOURS):
        (folder / f"c{colour}").mkdir()
        for shade in range(SHADES):
            tint = np.array([colour & 1, colour >> 1 & 1, colour >> 2 & 1]) * 150 + 50
            pixels = np.clip(tint + rng.normal(0, 10 + 4 * shade, (32, 32, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"c{colour}/{shade}.png")
    return folder


@pytest.fixture
def parents(pictures: Path, store: Store) -> dict[str, Artifact]:
    listed = images.list_images(str(pictures))
    ids, colours = listed["image_id"].to_numpy(), np.repeat(np.arange(COLOURS), SHADES)
    x = (2 * np.eye(COLOURS)[colours] + np.random.default_rng(1).normal(0, 0.1, (len(ids), COLOURS))).astype(np.float16)
    embed, cluster, label = store.draft("embed", "e"), store.draft("cluster", "c"), store.draft("label", "l")
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(x)
    embed.write_table("part-00000.parquet", pa.Table.from_arrays([ids, tensor], schema=embeddings(COLOURS, "float16")))
    embed.write_table("images.parquet", listed)
    cluster.write_table("part-00000.parquet", pa.table([ids, colours.astype(np.int32)], schema=CLUSTERS))
    held = ids % SHADES == 0
    label.write_table("held_out.parquet", pa.table({"image_id": ids[held]}))
    label.write_table("train/part-00000.parquet", triplet_table(ids[~held], x[~held], 500, 0))
    label.write_table("valid/part-00000.parquet", triplet_table(ids[held], x[held], 100, 1))
    label.write_json("stats.json", {"scale": 1.0})
    for draft in (embed, cluster, label):
        draft.finish({})
    align = store.draft("align", "a")
    return {"label@aligned": label, "embed@corpus": embed, "align": align, "cluster": cluster, "soften": align}


def config(pictures: Path, store: Store, **changes: Any) -> Config:
    base: dict[str, Any] = {"model": "random:test_efficientnet_ln", "size": 32, "steps": 12, "batch": 16, "head": 16}
    base |= {"lr": 3e-3, "features": 0.5, "log_every": 4, "checkpoint_every": 0.0, "decay_to_init": 0.1}
    tree = {"corpus": {"path": str(pictures)}, "store": {"root": store.root}, "distill": base | changes}
    return Config.model_validate(tree)


def weights(work: Work) -> dict[str, torch.Tensor]:
    names = ("backbone.safetensors", "head.safetensors")
    return {f"{n}:{k}": v for n in names for k, v in load_file(work.out.local(n)).items()}


Make = Callable[..., Work]


@pytest.mark.usefixtures("ray_session")
def test_two_processes_learn_and_equal_one(pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make):
    works = {}
    for workers in (1, 2):
        works[workers] = make_work(config(pictures, store, workers=workers), "distill@student", parents, f"w{workers}")
        distill.run(works[workers])
    one, two = weights(works[1]), weights(works[2])
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=2e-4), name
    pids = works[2].facts["processes"]
    assert len(set(pids)) == 2  # two processes, and neither is this one
    check_student(works[2])


def check_student(work: Work) -> None:
    student = load_student(work.out.local())
    assert json.loads(work.out.read_bytes("model.json"))["head"]["width"] == 16
    output = student(torch.zeros(2, 3, 32, 32))
    assert output.embedding.shape == (2, 256)
    assert output.triplet_logits.shape == (2, 16)
    net = timm.create_model("test_efficientnet_ln", num_classes=0)
    net.load_state_dict(load_file(work.out.local("backbone.safetensors")), strict=True)
    rows = [json.loads(line) for line in work.out.read_bytes("metrics.jsonl").splitlines()]
    assert [row["step"] for row in rows] == [0, 4, 8, 12]
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    assert not work.out.has(".train")


def test_inputs_leave_out_what_does_not_change_the_student():
    fields = distill.inputs(Config(), "student")
    assert not set(distill.UNCHANGED) & fields.keys()
    assert {"lr", "steps", "batch", "seed"} <= fields.keys()


@pytest.mark.usefixtures("ray_session")
def test_a_mistake_of_the_user_is_one_line(pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make):
    with pytest.raises(UserError, match="multiple"):
        distill.run(make_work(config(pictures, store, workers=3), "distill@student", parents))
    with pytest.raises(UserError, match="set a smaller"):
        distill.run(make_work(config(pictures, store, batch=64), "distill@student", parents, "big"))
