"""Results as files for other programs: embeddings (.npy, .safetensors) with a CSV of their rows, triplets (.npz)."""

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int64

from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.label import SUBSETS
from alignet_ray.artifacts.schemas import positions_of
from alignet_ray.data.deepmind import export_triplets
from alignet_ray.data.files import MatrixWriter, replacing, writing_tensors
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact

FORMATS = ("npy", "safetensors")


def embeddings(embed: Artifact, form: str, folder: Path) -> Path:
    """Write `embeddings-<id>.<form>` and `images-<id>.csv` (row, image_id, label, path) into a folder.

    The rows are those of the embeddings, by image_id; quarantined images are not among them. A .npy is filled part by
    part, so memory stays flat; a .safetensors holds `embedding` (n, d) and `image_id` (n,).

    Raises:
        UserError: an unknown format.
    """
    if form not in FORMATS:
        raise UserError(f"--export {form}: there are {', '.join(FORMATS)}")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"embeddings-{embed.id}.{form}"
    with replacing(target) as temporary:
        ids = _write_npy(embed, temporary)
        if form == "safetensors":
            _convert_to_safetensors(temporary, ids)
        _write_rows(embed, ids, folder / f"images-{embed.id}.csv")
    return target


def triplets(label: Artifact, embed: Artifact, folder: Path) -> list[Path]:
    """Write the labelled triplets in DeepMind's layout: `triplets-<id>-train.npz` and `-valid.npz`.

    Args:
        label: finished artifact with `train/` and `valid/` parts.
        embed: the corpus' embeddings, whose images the triplets name.
        folder: created if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = EmbedArtifact(embed).images()
    written = []
    for subset in SUBSETS:
        target = folder / f"triplets-{label.id}-{subset}.npz"
        with replacing(target) as temporary:
            export_triplets(temporary, partial(label.iter_parts, subset), images)
        written.append(target)
    return written


def _write_npy(embed: Artifact, target: Path) -> Int64[np.ndarray, " n"]:
    """Fill a .npy part by part; returns the image_ids of its rows."""
    # The header of a .npy says the number of rows, which only the footers of all parts tell together.
    total = 0
    for name in embed.parts():
        fs, path = embed.where(name)
        total += pq.read_metadata(path, filesystem=fs).num_rows

    ids = np.zeros(total, np.int64)
    matrix: MatrixWriter | None = None
    start = 0
    with target.open("wb") as opened:
        for part_ids, vectors in EmbedArtifact(embed).blocks():
            # A part whose images are all in quarantine has no rows, and its vectors no width.
            if not len(part_ids):
                continue
            if matrix is None:
                matrix = MatrixWriter(opened, (total, vectors.shape[1]), vectors.dtype)

            stop = start + len(vectors)
            matrix.write(np.arange(start, stop), vectors)
            ids[start:stop] = part_ids
            start = stop

    assert matrix is not None, "an artifact holds at least one embedding"
    return ids


def _convert_to_safetensors(file: Path, ids: Int64[np.ndarray, " n"]) -> None:
    """Replace the .npy by a .safetensors under the same name."""
    from safetensors.numpy import save_file

    columns = {"embedding": np.load(file, allow_pickle=False), "image_id": ids}
    with writing_tensors(file):
        save_file(columns, file)


def _write_rows(embed: Artifact, ids: Int64[np.ndarray, " n"], target: Path) -> None:
    """The CSV that says which image each row is."""
    images = EmbedArtifact(embed).images()
    images = images.take(positions_of(images["image_id"].to_numpy(), ids))
    labels = images["label"].to_pylist()
    paths = images["path"].to_pylist()
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "image_id", "label", "path"])
        writer.writerows(zip(range(len(ids)), ids.tolist(), labels, paths, strict=True))
