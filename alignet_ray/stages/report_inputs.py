"""Contents of the report besides scores, read from the run's artifacts: images, loss curves, clusters and labels."""

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from alignet_ray.artifacts.align import AlignArtifact, AlignReport
from alignet_ray.artifacts.cluster import ClusterArtifact, CurvePoint
from alignet_ray.artifacts.distill import DistillArtifact, Interpolation
from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.label import LabelArtifact, LabelStats
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.config import Config
from alignet_ray.images import listing
from alignet_ray.images.decode import decode
from alignet_ray.models.model_spec import ModelSpec
from alignet_ray.report import About, examples
from alignet_ray.report.contents import LossCurve
from alignet_ray.screen import clock
from alignet_ray.store import Artifact
from alignet_ray.synthetic.world import INFO as WORLD_INFO

Parents = Mapping[str, Artifact]

THUMBNAIL = (160, 160)
"""Largest size of an image in the report, in pixels."""


def image_reader(embed: EmbedArtifact, folder: str) -> Callable[[int], Image.Image | None]:
    """A function from image_id to thumbnail; None for images that are gone, which the report shows as grey squares."""
    # The same few images appear in several sections, as triplets and as neighbours.
    paths = embed.image_paths()

    @lru_cache(maxsize=256)
    def read_image(image_id: int) -> Image.Image | None:
        try:
            image = decode(listing.read_bytes(folder, paths[image_id]))
        except (OSError, ValueError):
            return None
        image.thumbnail(THUMBNAIL)
        return image

    return read_image


def loss_curves(parents: Parents) -> list[LossCurve]:
    """Loss curves of student and control, on training triplets and on held-out ones."""
    curves = []
    for role in ("student", "control"):
        if f"distill@{role}" not in parents:
            continue
        metrics = DistillArtifact(parents[f"distill@{role}"]).metrics()
        for name in ("loss", "valid_loss"):
            rows = [row for row in metrics if name in row]
            if rows:
                steps = [float(row["step"]) for row in rows]
                losses = [float(row[name]) for row in rows]
                curves.append(LossCurve(role, name == "valid_loss", steps, losses))
    return curves


def cluster_sheets(cfg: Config, parents: Parents) -> dict[str, list[Image.Image | None]]:
    """Contact sheets of a few clusters of the corpus."""
    assert cfg.corpus.path is not None, "a run has a corpus"
    labels = ClusterArtifact(parents["cluster"]).labels()
    read_image = image_reader(EmbedArtifact(parents["embed@corpus"]), cfg.corpus.path)
    return examples.contact_sheets(labels.ids, labels.clusters.astype(np.int64), read_image)


def cluster_candidates(parents: Parents) -> list[CurvePoint]:
    """Candidates for the number of clusters; empty if none were compared."""
    return ClusterArtifact(parents["cluster"]).curve() or []


def label_statistics(parents: Parents) -> dict[str, LabelStats]:
    """Statistics of the labels by the aligned teacher and by the raw one, where they were written."""
    statistics = {}
    for role in ("aligned", "raw"):
        if f"label@{role}" in parents:
            artifact = LabelArtifact(parents[f"label@{role}"])
            if artifact.has_stats():
                statistics[role] = artifact.stats()
    return statistics


def teacher_report(parents: Parents) -> AlignReport | None:
    """The report of `align`; None without one."""
    artifact = AlignArtifact(parents["align"])
    if not artifact.has_report():
        return None
    return artifact.report()


def student_interpolation(parents: Parents) -> Interpolation:
    """Where the student is between its pretrained weights and its trained ones."""
    return DistillArtifact(parents["distill@student"]).interpolation()


def people(cfg: Config, soften: SoftenArtifact) -> str:
    """Whose choices "people" are in the report, as they stand in a sentence."""
    human = cfg.human
    if any(_is_simulated(path) for path in (human.triplets, human.comparisons)):
        return "simulated people, as a model of their answers predicts them,"
    if human.embedding:
        return f"people, as the published embedding {Path(human.embedding).name} predicts them,"
    count = len(soften.responses()) + soften.comparisons().answers
    return f"people, as a model of {count:,} of their answers predicts them,"


def _is_simulated(path: str | None) -> bool:
    """Whether a file of answers belongs to a generated world."""
    return path is not None and (Path(path).parent / WORLD_INFO).is_file()


def about(parents: Parents) -> About:
    """When and on what the run was made; no folders of this machine, since reports are sent to others."""
    manifests = [artifact.read_manifest() for artifact in parents.values()]
    newest = max(manifests, key=lambda manifest: manifest.finished)
    seconds = sum(manifest.seconds for manifest in manifests)
    cores = newest.host.get("cpus", os.cpu_count())
    date = datetime.fromtimestamp(newest.finished, UTC).strftime("%Y-%m-%d %H:%M UTC")

    details = {f"{library} version": version for library, version in newest.versions.items()}
    details["Python version"] = newest.python
    if newest.commit:
        details["commit"] = newest.commit
    return About(f"{date}; {clock(seconds)} of computing before the evaluation, on {cores} CPU cores", details)


def provenance(cfg: Config, parents: Parents) -> dict[str, str]:
    """What the run was made of: its main settings, and the artifact of every node."""
    teacher = " + ".join(ModelSpec.parse(model).identity for model in cfg.embed.model)
    if cfg.embed.from_:
        teacher = f"features of {Path(cfg.embed.from_).name}"
    settings = {"teacher": teacher, "map to human similarity": cfg.align.from_ or cfg.align.map}

    # A run on stored features alone has neither a corpus nor a student.
    if "cluster" in parents:
        clusters = ClusterArtifact(parents["cluster"]).labels().clusters
        settings["student"] = ModelSpec.parse(cfg.distill.model).identity
        settings["corpus"] = Path(str(cfg.corpus.path)).name
        settings["clusters"] = str(int(clusters.max()) + 1)

    # A published embedding takes the place of answers. Names alone: a report is for others, who have other folders.
    human = cfg.human
    files = [human.embedding]
    if not human.embedding:
        files = [human.triplets, human.comparisons]
    settings["human data"] = ", ".join(Path(path).name for path in files if path)
    settings["seed"] = str(cfg.seed)
    return settings | {name: artifact.id for name, artifact in parents.items()}
