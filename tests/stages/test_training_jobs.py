"""What training processes get: the images they may see, the pixels of each, the people they are validated on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.base import part_name
from alignet_ray.artifacts.cluster import ClusterArtifact
from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.label import LabelArtifact, LabelStats, SubsetStats
from alignet_ray.artifacts.soften import Posterior, SoftenArtifact
from alignet_ray.config import Config, Distill
from alignet_ray.errors import UserError
from alignet_ray.images.cache import CachedImages, CacheWriter, DecodedImages
from alignet_ray.images.listing import list_images
from alignet_ray.stages import Work, training_jobs
from alignet_ray.stages.training_jobs import (
    IMAGES_PER_OBJECT,
    make_student_job,
    make_teacher_job,
    threads_per_worker,
)
from alignet_ray.store import Artifact, Draft, Store
from alignet_ray.training.student_worker import StudentJob

Make = Callable[..., Work]

NET = "random:test_efficientnet"
IMAGES_OF = [2, 2, 2, 2, 10, 2, 2, 2, 2, 2]
"""Images of every object; the fifth has more than a validation takes."""
SPLITS = ["train"] * 4 + ["validation"] * 3 + ["test"] * 3
HELD_OUT = [1, 5]
"""Images of training objects that are kept for validation triplets."""
WITHOUT_EMBEDDING = [0, 4]
"""Images of training objects that are in no cluster, so that an id is no position."""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder for each object; the grey of a picture is nine times its image_id."""
    folder = tmp_path / "images"
    number = 0
    for thing, count in enumerate(IMAGES_OF):
        (folder / f"o{thing}").mkdir(parents=True)
        for place in range(count):
            Image.new("RGB", (20, 20), (number * 9,) * 3).save(folder / f"o{thing}" / f"{place:02}.png")
            number += 1
    return folder


def owners() -> np.ndarray:
    return np.repeat(np.arange(len(IMAGES_OF)), IMAGES_OF)


@pytest.fixture
def soften(store: Store) -> Artifact:
    draft = store.draft("soften", "s")
    rows = {
        "object": list(range(len(IMAGES_OF))),
        "name": [""] * len(IMAGES_OF),
        "category": [""] * len(IMAGES_OF),
        "split": SPLITS,
        "image_ids": [np.flatnonzero(owners() == thing).tolist() for thing in range(len(IMAGES_OF))],
    }
    mu = np.eye(3, dtype=np.float32)[np.arange(len(IMAGES_OF)) % 3]
    SoftenArtifact(draft).write_objects(pa.table(rows, schema=schemas.OBJECTS))
    SoftenArtifact(draft).write_posterior(Posterior(mu, 0 * mu))
    return draft.finish({})


@pytest.fixture
def parents(pictures: Path, store: Store) -> dict[str, Artifact]:
    """Training objects' images are clustered by their object, written in two parts that are not in order."""
    embed, label, cluster = store.draft("embed", "e"), store.draft("label", "l"), store.draft("cluster", "c")
    EmbedArtifact(embed).write_images(list_images(str(pictures)).to_batches())
    ids = np.setdiff1d(np.flatnonzero(owners() < 4), WITHOUT_EMBEDDING)
    for part, rows in enumerate((ids[::-1][:4], ids[::-1][4:])):
        ClusterArtifact(cluster).write_labels(part, rows.copy(), owners()[rows].astype(np.int32))
    LabelArtifact(label).write_held_out(np.array(HELD_OUT))
    figures = SubsetStats(10, 0, 0.5, 0.5, [], [])
    LabelArtifact(label).write_stats(LabelStats(2.5, len(HELD_OUT), figures, figures))
    return {
        "label@aligned": label.finish({}),
        "embed@corpus": embed.finish({}),
        "align": store.draft("align", "a").finish({}),
        "cluster": cluster.finish({}),
    }


@pytest.fixture
def cfg(pictures: Path, store: Store) -> Config:
    return Config().replace(
        store__root=store.root,
        corpus__path=str(pictures),
        distill__model=NET,
        distill__size=32,
        embed__model=(NET,),
        embed__size=32,
        align__map="network",
        seed=7,
    )


class Packing:
    """Fills packs of pixels, and counts them."""

    def __init__(self) -> None:
        self.packs: list[CacheWriter] = []

    def __call__(self, pack: CacheWriter) -> None:
        self.packs.append(pack)
        pack.write(0, len(pack.images.ids))


def student_job(work: Work, packing: Packing | None = None, workers: int = 1) -> StudentJob:
    return make_student_job(work, Path(work.out.root) / "cache", workers, packing or Packing())


def test_training_sees_clustered_images_that_are_not_held_out(
    cfg: Config, parents: dict[str, Artifact], make_work: Make
) -> None:
    job = student_job(make_work(cfg, "distill@student", parents))
    assert job.image_ids.tolist() == [2, 3, 6, 7]
    assert job.clusters.tolist() == [1, 1, 3, 3]
    assert job.images.ids.tolist() == [1, 2, 3, 5, 6, 7], "validation reads the held-out ones"


@pytest.mark.parametrize("batching", ["in_batch", "triplets"])
def test_of_a_huge_corpus_a_training_takes_a_part(
    cfg: Config, parents: dict[str, Artifact], make_work: Make, monkeypatch: pytest.MonkeyPatch, batching: str
) -> None:
    monkeypatch.setattr(Distill, "images_to_choose_from", lambda settings, images: images - 1)
    learned, held_out = [[2, 3, 6], [7, 2, 3]], [[1, 5, 1]]
    label = parents["label@aligned"]
    parents = parents | {"label@aligned": with_triplets(label, make_work(cfg, "label@aligned").out, learned, held_out)}
    few = cfg.replace(distill__steps=1, distill__batch_size=3, distill__batching=batching)
    jobs = [student_job(make_work(few.replace(seed=seed), "distill@student", parents)) for seed in (0, 0, 1, 2, 3)]

    for job in jobs:
        assert len(job.image_ids) == 3
        assert job.image_ids.tolist() == sorted({2, 3, 6, 7} & set(job.image_ids.tolist()))
        assert job.clusters.tolist() == owners()[job.image_ids].tolist()
        read = set(job.image_ids.tolist()) | {1, 5}
        if batching == "triplets":
            read |= {2, 3, 6, 7}
        assert job.images.ids.tolist() == sorted(read)
        assert job.images(np.array([5])).float().mean().item() == 45
    assert jobs[0].image_ids.tolist() == jobs[1].image_ids.tolist()
    assert len({tuple(job.image_ids) for job in jobs}) > 1, "the seed decides which"


def with_triplets(label: Artifact, draft: Draft, learned: list[list[int]], held_out: list[list[int]]) -> Artifact:
    """The label artifact with triplets, all of whose similarities are 1."""
    LabelArtifact(draft).write_held_out(LabelArtifact(label).held_out())
    LabelArtifact(draft).write_stats(LabelArtifact(label).stats())
    subsets = {"train": learned, "valid": held_out}
    for subset, triplets in subsets.items():
        similarities = np.ones((len(triplets), 3), np.float32)
        LabelArtifact(draft).write_part(part_name(0, subset), np.array(triplets), similarities)
    return draft.finish({})


def test_a_job_takes_over_scale_seed_and_where_it_comes_from(
    cfg: Config, parents: dict[str, Artifact], make_work: Make
) -> None:
    work = make_work(cfg, "distill@student", parents, "1")
    job = student_job(work)
    assert (job.scale, job.seed, job.settings) == (2.5, 7, cfg.distill)
    assert job.label == parents["label@aligned"]
    assert job.provenance == {
        "role": "student",
        "artifact": "student1",
        "parents": {"label@aligned": "l", "embed@corpus": "e", "align": "a", "cluster": "c"},
    }


@pytest.mark.parametrize("is_packed", [True, False])
def test_every_image_has_its_own_pixels(
    cfg: Config, parents: dict[str, Artifact], make_work: Make, is_packed: bool
) -> None:
    packing = Packing()
    work = make_work(cfg.replace(distill__cache_pixels="on" if is_packed else "off"), "distill@student", parents)
    images = student_job(work, packing).images
    assert isinstance(images, CachedImages if is_packed else DecodedImages)
    assert len(packing.packs) == is_packed
    pixels = images(np.array([6, 1, 3]))
    assert pixels.shape == (3, 3, 32, 32)
    assert pixels.float().mean(dim=(1, 2, 3)).tolist() == [54.0, 9.0, 27.0]


def test_student_and_control_share_one_pack_and_differ_in_the_teacher(
    cfg: Config, parents: dict[str, Artifact], make_work: Make
) -> None:
    packing = Packing()
    control = {"label@raw": parents["label@aligned"], **parents}
    del control["label@aligned"]
    jobs = [
        student_job(make_work(cfg, f"distill@{role}", mine), packing)
        for role, mine in (("student", parents), ("control", control))
    ]
    assert len(packing.packs) == 1
    assert [job.teacher.raw for job in jobs] == [False, True]
    assert [job.provenance["role"] for job in jobs] == ["student", "control"]


@pytest.mark.parametrize("changes", [{"distill__size": 48}, {"distill__squash": True}])
def test_other_pixels_are_another_pack(
    cfg: Config, parents: dict[str, Artifact], make_work: Make, changes: dict[str, Any]
) -> None:
    packing = Packing()
    for settings in (cfg, cfg.replace(**changes), cfg.replace(distill__lr=1e-2)):
        student_job(make_work(settings, "distill@student", parents), packing)
    assert len({pack.target for pack in packing.packs}) == len(packing.packs) == 2


def test_a_pack_that_broke_off_is_made_again(cfg: Config, parents: dict[str, Artifact], make_work: Make) -> None:
    class Stopping(Packing):
        def __call__(self, pack: CacheWriter) -> None:
            pack.write(0, 2)
            raise KeyboardInterrupt

    work = make_work(cfg, "distill@student", parents)
    with pytest.raises(KeyboardInterrupt):
        student_job(work, Stopping())
    job = student_job(work, Packing())
    assert job.images(np.array([7])).float().mean() == 63
    assert isinstance(job.images, CachedImages)
    left = [path for path in job.images.path.parent.iterdir() if path.suffix != ".lock"]
    assert left == [job.images.path], "the half of before is gone"


def test_where_machines_have_caches_of_their_own_each_makes_the_pack(
    cfg: Config, parents: dict[str, Artifact], make_work: Make
) -> None:
    work = make_work(cfg, "distill@student", parents)
    job = make_student_job(work, Path(work.out.root) / "cache", 1, pack=None)
    assert isinstance(job.images, CachedImages)
    assert not job.images.path.exists(), "nothing is made by the driver, which may train nothing itself"
    assert job.images(np.array([6, 1, 3])).float().mean(dim=(1, 2, 3)).tolist() == [54.0, 9.0, 27.0]


def test_batches_have_the_kinds_of_triplets_that_label_names(
    cfg: Config, parents: dict[str, Artifact], make_work: Make
) -> None:
    any_three = student_job(make_work(cfg, "distill@student", parents))
    assert any_three.kinds == ()

    changes = {"distill__in_batch_kinds": "label", "label__cluster_border": 2.0, "label__within_class": 1.0}
    job = student_job(make_work(cfg.replace(**changes), "distill@student", parents, id="kinds"))
    border, within = job.kinds
    assert (border.sampler, border.weight) == ("border", 2.0)
    assert np.array_equal(border.groups, job.clusters)
    assert (within.sampler, within.weight) == ("within", 1.0)
    assert len(within.groups) == len(job.image_ids)


def test_packs_are_decoded_by_one_thread_a_task(
    cfg: Config, parents: dict[str, Artifact], make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_jobs.cluster_nodes, "cores", lambda: 6)
    packing = Packing()
    job = student_job(make_work(cfg, "distill@student", parents), packing, workers=2)
    assert job.threads == 3
    assert packing.packs[0].images.threads == 1


def test_without_human_responses_nobody_validates(cfg: Config, parents: dict[str, Artifact], make_work: Make) -> None:
    job = student_job(make_work(cfg, "distill@student", parents))
    assert job.human_validation is None
    assert job.interpolation_objects is None


def test_people_validate_on_validation_objects_by_one_image_or_several(
    cfg: Config, parents: dict[str, Artifact], soften: Artifact, make_work: Make
) -> None:
    job = student_job(make_work(cfg, "distill@student", parents | {"soften": soften}))
    assert job.human_validation is not None
    assert job.interpolation_objects is not None
    assert IMAGES_PER_OBJECT == 8
    assert [ids.tolist() for ids in job.interpolation_objects.image_ids()] == [list(range(8, 16)), [18, 19], [20, 21]]
    assert [ids.tolist() for ids in job.human_validation.image_ids()] == [[8], [18], [20]]


@pytest.mark.parametrize(("cores", "workers", "threads"), [(8, 1, 8), (8, 3, 2), (2, 4, 1), (1, 1, 1), (None, 2, 1)])
def test_processes_of_one_machine_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, workers: int, threads: int
) -> None:
    monkeypatch.setattr(training_jobs.cluster_nodes, "cores", lambda: cores or 1)
    assert threads_per_worker(workers) == threads


def test_a_teacher_learns_from_the_images_of_all_objects(cfg: Config, soften: Artifact, make_work: Make) -> None:
    work = make_work(cfg, "align", {"soften": soften}, "t")
    job = make_teacher_job(work, workers=1)
    assert work.warnings == []
    assert job.images.ids.tolist() == list(range(sum(IMAGES_OF)))
    assert {split: list(members) for split, members in job.split.items()} == {
        "train": [0, 1, 2, 3],
        "validation": [4, 5, 6],
        "test": [7, 8, 9],
    }
    assert (job.model, job.size, job.seed, job.settings) == (NET, 32, 7, cfg.align.network)
    assert job.human.mu.shape == (10, 3)
    assert job.provenance == {"role": "teacher", "artifact": work.out.id, "parents": {"soften": "s"}}


def test_images_of_objects_that_cannot_be_read_are_left_out_and_told(
    cfg: Config, pictures: Path, soften: Artifact, make_work: Make
) -> None:
    for name in ("o0/01.png", "o9/00.png"):
        (pictures / name).write_bytes(b"<html>")
    work = make_work(cfg, "align", {"soften": soften})
    job = make_teacher_job(work, workers=1)
    assert work.warnings == ["2 images of annotated objects cannot be read and are left out: 'o0/01.png'"]
    assert set(range(sum(IMAGES_OF))) - set(job.images.ids.tolist()) == {1, 26}
    assert job.images.ids[job.split["train"][0]].tolist() == [0]
    assert job.images.ids[job.split["train"][1]].tolist() == [2, 3]
    assert job.images.ids[job.split["test"][9]].tolist() == [27]


def test_annotated_images_may_lie_in_a_folder_of_their_own(
    cfg: Config, pictures: Path, soften: Artifact, make_work: Make, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = cfg.replace(corpus__path=str(tmp_path_factory.mktemp("corpus")), objects__path=str(pictures))
    job = make_teacher_job(make_work(elsewhere, "align", {"soften": soften}), workers=1)
    assert job.images.uri == str(pictures)


def test_without_a_folder_of_images_there_is_no_job(cfg: Config, soften: Artifact, make_work: Make) -> None:
    with pytest.raises(UserError, match=r"^no images: give --corpus\.path"):
        make_teacher_job(make_work(cfg.replace(corpus__path=None), "align", {"soften": soften}), workers=1)


def test_too_few_objects_with_images_are_refused(
    cfg: Config, pictures: Path, soften: Artifact, make_work: Make
) -> None:
    for file in (pictures / "o5").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"^2 validation objects have readable images; at least 3 are needed$"):
        make_teacher_job(make_work(cfg, "align", {"soften": soften}), workers=1)
