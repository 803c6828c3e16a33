"""Results as files for other programs: embeddings (.npy, .safetensors) with a CSV of their rows, triplets (.npz)."""

import csv
import os
import uuid
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from alignet_ray.data.deepmind import export_triplets
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact

FORMATS = ("npy", "safetensors")


def embeddings(embed: Artifact, form: str, folder: Path) -> Path:
    """Write `embeddings-<id>.<form>` and `images-<id>.csv` (row, image_id, label, path) into a folder.

    The rows are those of the embeddings, by image_id; quarantined images are not among them. A .npy is filled part by
    part, so memory stays flat; a .safetensors holds `embedding` (n, d) and `image_id` (n,).

    Raises:
        UserError: a format that is not known.
    """
    if form not in FORMATS:
        raise UserError(f"--export {form}: there are {', '.join(FORMATS)}")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"embeddings-{embed.id}.{form}"
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        ids = _npy(embed, temporary)
        if form == "safetensors":
            _safetensors(temporary, ids)
        _rows(embed, ids, folder / f"images-{embed.id}.csv")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def triplets(label: Artifact, embed: Artifact, folder: Path) -> list[Path]:
    """Write the labelled triplets in DeepMind's layout: `triplets-<id>-train.npz` and `-valid.npz`.

    Args:
        label: finished artifact with `train/` and `valid/` parts.
        embed: the corpus' embeddings, whose images the triplets name.
        folder: is made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, written = embed.read_table("images.parquet"), []
    for side in ("train", "valid"):
        target = folder / f"triplets-{label.id}-{side}.npz"
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            export_triplets(temporary, partial(label.iter_parts, side), images)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        written.append(target)
    return written


def _npy(embed: Artifact, target: Path) -> np.ndarray:
    """Fill a .npy part by part; the image_ids of its rows."""
    sizes = []
    for name in embed.parts():
        fs, path = embed.where(name)
        sizes.append(pq.read_metadata(path, filesystem=fs).num_rows)
    ids, at, matrix = np.zeros(sum(sizes), np.int64), 0, None
    for table in embed.iter_parts(columns=["image_id", "embedding"]):
        if not len(table):
            continue
        x = table["embedding"].combine_chunks().to_numpy_ndarray()
        if matrix is None:
            matrix = np.lib.format.open_memmap(target, mode="w+", dtype=x.dtype, shape=(len(ids), x.shape[1]))
        matrix[at : at + len(x)], ids[at : at + len(x)] = x, table["image_id"].to_numpy()
        at += len(x)
    assert matrix is not None, "an artifact holds at least one embedding"
    matrix.flush()
    return ids


def _safetensors(file: Path, ids: np.ndarray) -> None:
    """Turn the .npy into a .safetensors of the same name."""
    from safetensors.numpy import save_file

    columns = {"embedding": np.load(file, allow_pickle=False), "image_id": ids}
    save_file(columns, file)


def _rows(embed: Artifact, ids: np.ndarray, target: Path) -> None:
    images = embed.read_table("images.parquet")
    at = np.searchsorted(images["image_id"].to_numpy(), ids)
    labels, paths = images["label"].take(at).to_pylist(), images["path"].take(at).to_pylist()
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "image_id", "label", "path"])
        writer.writerows(zip(range(len(ids)), ids.tolist(), labels, paths, strict=True))
