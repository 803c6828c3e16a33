"""A run on stored features alone: no image, no network, no student."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alignet_ray
from alignet_ray import capacity
from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.config import Config
from alignet_ray.config.cluster_spec import ClusterSpec
from alignet_ray.config.presets import PRESETS
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen
from alignet_ray.stages import embed_jobs, graph, pipeline
from alignet_ray.store import Store
from tests.support.smoke_run import alignet

OBJECTS = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Objects in six groups that people see, features in which these are mixed with stronger noise, and categories."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    groups = np.arange(OBJECTS) % 6
    truth = 3 * np.eye(6, dtype=np.float32)[groups] + rng.uniform(0, 0.3, (OBJECTS, 6)).astype(np.float32)
    noise = 2 * rng.normal(size=(OBJECTS, 10))
    mixed = np.concatenate([truth, noise], axis=1) @ np.linalg.qr(rng.normal(size=(16, 16)))[0]
    np.save(folder / "people.npy", truth)
    np.save(folder / "features.npy", mixed.astype(np.float32))
    names = "\n".join(f"thing{number},group {group}" for number, group in enumerate(groups))
    (folder / "concepts.csv").write_text(f"name,category\n{names}\n")
    return folder


def settings(world: Path, root: Path) -> Config:
    return PRESETS["features"]().replace(
        store__root=str(root),
        embed__from_=str(world / "features.npy"),
        human__embedding=str(world / "people.npy"),
        objects__concepts=str(world / "concepts.csv"),
        align__folds=0,
        align__steps=300,
    )


def test_the_map_is_fitted_and_scored_without_an_image(world: Path, tmp_path: Path) -> None:
    cfg = settings(world, tmp_path)
    assert [node.name for node in graph(cfg)] == ["soften", "embed@objects", "align", "evaluate"]

    result = alignet_ray.run(cfg, quiet=True)
    summary = result.summary.value
    assert summary["base", "pre_logits"] + 0.1 < summary["teacher", "aligned"] <= summary["human", ""]
    stored = EmbedArtifact(result["embed@objects"])
    assert stored.networks()["features"] == "features.npy"
    np.testing.assert_array_equal(stored.embeddings().vectors, np.load(world / "features.npy"))

    # The report tells of the teacher, names objects, and has no empty pictures.
    page = result.report.page
    assert "group 5" in page
    assert "aligned student" not in page
    with pytest.raises(UserError, match="trained no student"):
        _ = result.student
    gains = result.scores.query("model == 'teacher' and metric == 'odd_one_out_gain'")
    assert gains.low.item() > 0


def test_the_command_line_ends_with_the_map(world: Path, tmp_path: Path) -> None:
    command = ("run", "features", "--embed.from", str(world / "features.npy"), "--human.embedding")
    command = (*command, str(world / "people.npy"), "--align.folds", "0", "--align.steps", "100")
    printed = alignet(*command, cwd=tmp_path).stdout
    assert "teacher" in printed
    assert "control" not in printed
    assert str(tmp_path / "runs" / "align") in printed
    assert "nothing to do" in alignet(*command, cwd=tmp_path).stdout
    nodes = [row["node"] for row in json.loads(alignet("plan", *command[1:], "--json", cwd=tmp_path).stdout)]
    assert nodes == ["soften", "embed@objects", "align", "evaluate"]


def test_rows_with_names_need_a_table_and_come_in_any_order(world: Path, tmp_path: Path) -> None:
    shuffled = np.random.default_rng(1).permutation(OBJECTS)
    names = [f"pictures/{number:03d}.jpg" for number in range(OBJECTS)]
    vectors = np.load(world / "features.npy")[shuffled]
    np.savez(tmp_path / "f.npz", x=vectors, names=np.array(names)[shuffled])
    lines = "\n".join(f"{name},{number}" for number, name in enumerate(names))
    (tmp_path / "objects.csv").write_text(f"path,object\n{lines}\n")

    cfg = settings(world, tmp_path / "root").replace(embed__from_=str(tmp_path / "f.npz"))
    with pytest.raises(UserError, match="objects__table="):
        alignet_ray.run(cfg, quiet=True)
    named = alignet_ray.run(cfg.replace(objects__table=str(tmp_path / "objects.csv")), quiet=True)
    plain = alignet_ray.run(settings(world, tmp_path / "root"), quiet=True)
    for model in (("base", "pre_logits"), ("teacher", "aligned")):
        assert named.summary.value[model] == pytest.approx(plain.summary.value[model], abs=0.01)


def test_features_take_the_place_of_the_teacher_on_images(world: Path, tmp_path: Path) -> None:
    """With a corpus the features are the teacher's, found by the images' paths; the student's network is another."""
    for number in range(OBJECTS):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (4 * number, 0, 0)).save(tmp_path / "images" / f"{number:03d}.png")
    lines = "\n".join(f"{number:03d}.png,{number}" for number in range(OBJECTS))
    (tmp_path / "objects.csv").write_text(f"path,object\n{lines}\n")
    np.savez(
        tmp_path / "f.npz",
        x=np.load(world / "features.npy")[::-1],
        names=np.array([f"{number:03d}.png" for number in reversed(range(OBJECTS))]),
    )
    cfg = settings(world, tmp_path / "root").replace(
        embed__from_=str(tmp_path / "f.npz"),
        corpus__path=str(tmp_path / "images"),
        objects__table=str(tmp_path / "objects.csv"),
    )
    assert "distill@student" in [node.name for node in graph(cfg)]
    artifacts = pipeline.run(cfg, Screen(), ["embed@corpus", "align"])
    embedded = EmbedArtifact(artifacts["embed@corpus"]).embeddings()
    np.testing.assert_array_equal(embedded.vectors, np.load(world / "features.npy"))

    np.savez(tmp_path / "f.npz", x=np.load(world / "features.npy")[1:], names=np.array(["z"] * (OBJECTS - 1)))
    with pytest.raises(UserError, match="two rows are of 'z'"):
        pipeline.run(cfg, Screen(), ["embed@corpus"])


def test_what_does_not_go_together_is_refused(world: Path, tmp_path: Path) -> None:
    cfg = settings(world, tmp_path)
    with pytest.raises(UserError, match=r"^align\.map network fine-tunes a network, and embed\.from gives features"):
        cfg.replace(align__map="network")
    with pytest.raises(UserError, match="give corpus__path= as well"):
        alignet_ray.run(cfg.replace(evaluate__models=("random:resnet18",)), quiet=True)
    with pytest.raises(UserError, match=r"no stage distill: a run has soften, embed, align, evaluate"):
        pipeline.targets(cfg, "distill")
    with pytest.raises(UserError, match="nothing for a cluster"):
        capacity.plan(cfg, ClusterSpec(gpus=2))
    np.save(tmp_path / "few.npy", np.load(world / "features.npy")[:50])
    with pytest.raises(UserError, match="50 rows without names, the human data has 60 objects"):
        alignet_ray.run(cfg.replace(embed__from_=str(tmp_path / "few.npy")), quiet=True)
    assert not Store.open(str(tmp_path)).all(["evaluate"])
    # A path of features changes no id; that there are features does.
    assert embed_jobs.teacher_job(cfg, "objects").value() == {"images": "objects", "features": True}
