"""What the report shows besides scores, read from small artifacts: curves, statistics, thumbnails, provenance."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.cluster import ClusterArtifact, CurvePoint
from alignet_ray.artifacts.distill import DistillArtifact
from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.label import LabelArtifact, LabelStats, SubsetStats
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.config import Config
from alignet_ray.report.contents import LossCurve
from alignet_ray.stages import report_inputs
from alignet_ray.store import Artifact, Manifest, Store


def test_losses_of_training_and_of_validation_are_curves_of_their_own(store: Store) -> None:
    draft = store.draft("distill", "d")
    rows = [{"step": 0, "valid_loss": 1.0}, {"step": 4, "loss": 0.8}, {"step": 6, "loss": 0.7, "valid_loss": 0.9}]
    DistillArtifact(draft).write_metrics(rows)
    assert report_inputs.loss_curves({"distill@student": draft}) == [
        LossCurve("student", False, [4.0, 6.0], [0.8, 0.7]),
        LossCurve("student", True, [0.0, 6.0], [1.0, 0.9]),
    ]
    assert [curve.model for curve in report_inputs.loss_curves({"distill@control": draft})] == ["control", "control"]
    assert report_inputs.loss_curves({}) == []
    assert report_inputs.loss_curves({"distill@student": store.draft("distill", "untrained")}) == []


def test_statistics_are_those_of_the_teachers_that_labelled(store: Store) -> None:
    subset = SubsetStats(2, 0, 0.5, 0.25, [2], [2])
    stats = LabelStats(2.0, 1, subset, subset)
    labelled = store.draft("label", "l")
    LabelArtifact(labelled).write_stats(stats)
    parents: dict[str, Artifact] = {"label@raw": labelled, "label@aligned": store.draft("label", "without")}
    assert report_inputs.label_statistics(parents) == {"raw": stats}
    assert report_inputs.label_statistics({}) == {}


def test_a_teacher_without_a_report_has_none(store: Store) -> None:
    assert report_inputs.teacher_report({"align": store.draft("align", "a")}) is None


@pytest.fixture
def parents(store: Store, tmp_path: Path) -> dict[str, Artifact]:
    """Three images, the last of which is not there any more, in clusters 0, 2 and 2."""
    folder = tmp_path / "images" / "c"
    folder.mkdir(parents=True)
    Image.new("RGB", (400, 200), (255, 0, 0)).save(folder / "0.png")
    (folder / "1.png").write_bytes(b"<html>")
    embed = store.draft("embed", "e")
    listed = pa.table(
        [[0, 1, 2], [f"c/{i}.png" for i in range(3)], ["c"] * 3, [9] * 3, [-1] * 3], schema=schemas.IMAGES
    )
    EmbedArtifact(embed).write_images(listed.to_batches())
    cluster = store.draft("cluster", "k")
    table = pa.table([pa.array([0, 1, 2], pa.int64()), pa.array([0, 2, 2], pa.int32())], schema=schemas.CLUSTERS)
    cluster.write_table("part-00000.parquet", table)
    return {"embed@corpus": embed, "cluster": cluster}


def test_thumbnails_are_small_and_what_cannot_be_read_is_none(parents: dict[str, Artifact], tmp_path: Path) -> None:
    read_image = report_inputs.image_reader(EmbedArtifact(parents["embed@corpus"]), str(tmp_path / "images"))
    image = read_image(0)
    assert image is not None
    assert image.size == (160, 80)
    assert read_image(1) is None, "damaged since"
    assert read_image(2) is None, "deleted since"
    assert read_image(0) is image, "read once"


def test_sheets_are_of_clusters_with_several_images(parents: dict[str, Artifact], tmp_path: Path) -> None:
    cfg = Config().replace(corpus__path=str(tmp_path / "images"))
    assert report_inputs.cluster_sheets(cfg, parents) == {"cluster 2: 2 images": [None, None]}


def test_candidates_are_those_that_were_compared(parents: dict[str, Artifact]) -> None:
    assert list(report_inputs.cluster_candidates(parents)) == []
    curve = [CurvePoint(2, 3.0, 0.5), CurvePoint(4, 1.0, 0.25)]
    draft = parents["cluster"]
    ClusterArtifact(draft).write_curve(curve)
    assert report_inputs.cluster_candidates(parents) == curve


def test_provenance_names_settings_and_artifacts(parents: dict[str, Artifact]) -> None:
    cfg = Config().replace(corpus__path="IMAGES", human__triplets="answers.txt", embed__model=("a", "b"), seed=3)
    found = report_inputs.provenance(cfg, parents)
    assert found["teacher"] == "a + b"
    assert found["human data"] == "answers.txt"
    assert found["clusters"] == "3", "the highest number, counted from nought"
    assert found["seed"] == "3"
    assert found["cluster"] == parents["cluster"].id
    published = cfg.replace(human__embedding="mu.npy", human__triplets=None, align__from_="map.npz")
    found = report_inputs.provenance(published, parents)
    assert (found["human data"], found["map to human similarity"]) == ("mu.npy", "map.npz")


def test_whose_choices_people_are(store: Store, tmp_path: Path) -> None:
    draft = store.draft("soften", "s")
    view = SoftenArtifact(draft)
    view.write_soft_responses(0, np.array([[0, 1, 2], [1, 2, 0]]), np.full((2, 3), 1 / 3, np.float32))
    given = Config().replace(human__triplets=str(tmp_path / "answers.txt"))
    assert report_inputs.people(given, view) == "people, as a model of 2 of their answers predicts them,"
    published = given.replace(human__embedding="/data/mu.npy")
    assert report_inputs.people(published, view) == "people, as the published embedding mu.npy predicts them,"
    (tmp_path / "world.json").write_text("{}", encoding="utf-8")
    assert report_inputs.people(given, view).startswith("simulated people")


def test_about_has_no_folder_of_this_machine(store: Store) -> None:
    made = []
    for number in (1, 2):
        draft = store.draft("embed", str(number))
        manifest = Manifest(
            finished=86_400.0 * number, seconds=70.0, versions={"torch": "2.9"}, python="3.11", host={"cpus": 4}
        )
        made.append(draft.finish(manifest.to_json()))
    about = report_inputs.about({"a": made[0], "b": made[1]})
    assert about.line == "1970-01-03 00:00 UTC; 2 min 20 s of computing before the evaluation, on 4 CPU cores"
    assert about.details == {"torch version": "2.9", "Python version": "3.11"}
    cfg = Config().replace(corpus__path="/data/IMAGES", human__triplets="/x/answers.txt", distill__model="net@/y/w.pth")
    parents = {"cluster": store.draft("cluster", "k")}
    table = pa.table([pa.array([0], pa.int64()), pa.array([0], pa.int32())], schema=schemas.CLUSTERS)
    parents["cluster"].write_table("part-00000.parquet", table)
    found = report_inputs.provenance(cfg, parents)
    assert (found["corpus"], found["human data"], found["student"]) == ("IMAGES", "answers.txt", "net@w.pth")
