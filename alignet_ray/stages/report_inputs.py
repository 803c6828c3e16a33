"""What the report shows besides scores, out of the run's artifacts: pictures, training curves, clusters and labels."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from alignet_ray.config import Config
from alignet_ray.images import listing
from alignet_ray.report import examples
from alignet_ray.report.contents import LabelStatistics, LossCurve
from alignet_ray.store import Artifact

Parents = Mapping[str, Artifact]


def pictures(embed: Artifact, uri: str) -> Callable[[int], Image.Image | None]:
    """image_id -> picture, through the listing of an embed artifact."""
    table = embed.read_table("images.parquet", ["image_id", "path"])
    paths = dict(zip(table["image_id"].to_pylist(), table["path"].to_pylist(), strict=True))

    @lru_cache(maxsize=256)
    def picture(image_id: int) -> Image.Image | None:
        try:
            image = listing.decode(listing.read_bytes(uri, paths[image_id]))
        except (OSError, ValueError):
            return None  # the images have gone since they were embedded: the report shows grey squares
        image.thumbnail((160, 160))
        return image

    return picture


def losses(parents: Parents) -> list[LossCurve]:
    """Training curves of student and control: on the training triplets, and on those held out."""
    curves = []
    for role in ("student", "control"):
        artifact = parents.get(f"distill@{role}")
        if artifact is None or not artifact.has("metrics.jsonl"):
            continue
        rows = [json.loads(line) for line in artifact.read_bytes("metrics.jsonl").decode().splitlines() if line.strip()]
        for key in ("loss", "valid_loss"):
            points = [(float(row["step"]), float(row[key])) for row in rows if key in row]
            if points:
                curves.append(LossCurve(role, key == "valid_loss", *map(list, zip(*points, strict=True))))
    return curves


def clusters(cfg: Config, parents: Parents) -> dict[str, list[Image.Image | None]]:
    """Contact sheets of a few clusters of the corpus."""
    parts = parents["cluster"].read_parts()
    assert cfg.corpus.path is not None, "a run has a corpus"
    picture = pictures(parents["embed@corpus"], cfg.corpus.path)
    return examples.contact_sheets(parts["image_id"].to_numpy(), parts["cluster"].to_numpy().astype(np.int64), picture)


def candidates(cluster: Artifact) -> list[dict[str, float]]:
    """The curve over candidates for the number of clusters: k, inertia, silhouette; empty where none were tried."""
    points: list[dict[str, float]] = cluster.read_json("curve.json") if cluster.has("curve.json") else []
    return points


def labels(parents: Parents) -> LabelStatistics | None:
    """How the training triplets came out, by the aligned teacher and by the raw one; None without statistics."""
    stats: dict[str, dict[str, Any]] = {}
    for role in ("aligned", "raw"):
        artifact = parents.get(f"label@{role}")
        if artifact is not None and artifact.has("stats.json"):
            stats[role] = artifact.read_json("stats.json")
    if "train" not in stats.get("aligned", {}):
        return None
    return LabelStatistics({role: found["train"] for role, found in stats.items()}, stats["aligned"].get("images"))


def teacher(parents: Parents) -> dict[str, Any]:
    """What `align` reported; empty without a report."""
    artifact = parents.get("align")
    found: dict[str, Any] = artifact.read_json("report.json") if artifact and artifact.has("report.json") else {}
    return found


def provenance(cfg: Config, parents: Parents) -> dict[str, str]:
    """What the run was made of."""
    facts = {
        "teacher": " + ".join(cfg.embed.model),
        "map to human similarity": cfg.align.from_ or cfg.align.map,
        "student": cfg.distill.model,
        "corpus": str(cfg.corpus.path),
        "human data": cfg.human.embedding or str(cfg.human.triplets),
        "clusters": str(_clusters(parents["cluster"])),
        "seed": str(cfg.seed),
    }
    return facts | {name: artifact.id for name, artifact in parents.items()}


def _clusters(cluster: Artifact) -> int:
    parts = cluster.read_parts(columns=["cluster"])
    return int(pc.max(parts["cluster"]).as_py()) + 1
