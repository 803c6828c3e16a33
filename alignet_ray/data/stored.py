"""Embeddings that are stored already, from here or from elsewhere: an embed artifact, or a file with its rows' paths.

    embed/ID                      an artifact under the run's root (the beginning of an id will do)
    FOLDER                        an embed artifact's folder
    FILE.npy, FILE.safetensors    rows, as `alignet-ray embed --export` writes them: beside the file lies a CSV with a
                                  column `path`, a line a row (images-ID.csv for embeddings-ID.npy, or FILE.csv)

Rows are matched by the image's path under its source's root.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from alignet_ray.data import embeddings
from alignet_ray.errors import UserError
from alignet_ray.store import MANIFEST, Artifact, Store

SUFFIXES = (".npy", ".safetensors")
STAGE = "embed/"


def is_stored(spec: str) -> bool:
    """Whether a spelling of `evaluate.models` means stored embeddings (and not a model)."""
    file = spec.endswith(SUFFIXES) and "@" not in spec
    return spec.startswith(STAGE) or file or (Path(spec).expanduser() / MANIFEST).is_file()


def files(spec: str) -> list[str]:
    """Files whose fingerprints say what the embeddings are; none for an artifact of the root, whose id says it.

    Raises:
        UserError: the CSV of a file's rows is missing.
    """
    if spec.startswith(STAGE):
        return []
    path = Path(spec).expanduser()
    return [str(path), str(_rows_file(path))] if spec.endswith(SUFFIXES) else [str(path / MANIFEST)]


def read(spec: str, root: str, images: Mapping[str, int]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n d"]]:
    """Embeddings of images.

    Args:
        spec: see the module's docstring.
        root: the store's root.
        images: path of an image -> image_id, all of which must have a row.

    Returns:
        image_ids, ascending, and their vectors in the stored number format.

    Raises:
        UserError: no such artifact or file, rows without paths, images that have no row, rows that are not finite.
    """
    paths, x = _file(Path(spec).expanduser()) if spec.endswith(SUFFIXES) else _artifact(_find(spec, root))
    row = {path: place for place, path in enumerate(paths)}
    missing = sorted(path for path in images if path not in row)
    if missing:
        raise UserError(
            f"{spec} lacks {len(missing)} of the {len(images)} judged images (first: {missing[0]!r}): "
            "embed all images that objects.table names"
        )
    ids = np.array(sorted(images.values()), dtype=np.int64)
    path_of = {image_id: path for path, image_id in images.items()}
    found = x[[row[path_of[image_id]] for image_id in ids.tolist()]]
    if not np.isfinite(found).all():
        bad = int((~np.isfinite(found)).any(axis=1).sum())
        raise UserError(f"{spec}: {bad} of the judged images have an embedding that is not finite (NaN or infinity)")
    return ids, found


def _find(spec: str, root: str) -> Artifact:
    folder = Path(spec).expanduser()
    if not spec.startswith(STAGE):
        return Artifact(str(folder.resolve().parent.parent), folder.resolve().parent.name, folder.resolve().name)
    found = [a for a in Store.open(root).all(["embed"]) if a.id.startswith(spec.removeprefix(STAGE)) and a.finished]
    if len(found) != 1:
        raise UserError(f"{len(found) or 'no'} finished artifacts are called {spec!r}: `alignet-ray ls` lists them")
    return found[0]


def _artifact(artifact: Artifact) -> tuple[list[str], Float[np.ndarray, "n d"]]:
    if artifact.stage != "embed" or not artifact.finished:
        raise UserError(f"{artifact.uri} is no finished embed artifact: `alignet-ray ls` lists them")
    ids, x = embeddings.load(artifact)
    listing = artifact.read_table("images.parquet", ["image_id", "path"])
    at = np.searchsorted(listing["image_id"].to_numpy(), ids)
    return listing["path"].take(at).to_pylist(), x


def _file(path: Path) -> tuple[list[str], Float[np.ndarray, "n d"]]:
    x, rows = _matrix(path), _rows_file(path)
    lines = list(csv.DictReader(io.StringIO(rows.read_text("utf-8-sig"))))
    if not lines or "path" not in lines[0]:
        raise UserError(f"{rows}: no column path, which says the image of every row of {path.name}")
    if len(lines) != len(x):
        raise UserError(f"{rows} has {len(lines)} lines, {path.name} has {len(x)} rows: one line a row is needed")
    return [line["path"] for line in lines], x


def _matrix(path: Path) -> Float[np.ndarray, "n d"]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if path.suffix == ".npy":
            x = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            columns = load_file(path)
            x = columns["embedding"] if "embedding" in columns else next(iter(columns.values()))
    except (OSError, ValueError, StopIteration, SafetensorError) as error:
        raise UserError(f"{path} holds no embeddings: {(str(error).splitlines() or ['it is empty'])[0]}") from error
    if x.ndim != 2 or x.dtype.kind != "f":
        raise UserError(f"{path}: embeddings are rows of decimal numbers (n, d), these are {x.dtype} {x.shape}")
    return np.asarray(x)


def _rows_file(path: Path) -> Path:
    """The CSV that says which image each row is."""
    stem = path.stem.removeprefix("embeddings-")
    choices = [path.with_suffix(".csv"), path.with_name(f"images-{stem}.csv")]
    found = next((file for file in choices if file.is_file()), None)
    if found is None:
        raise UserError(f"{path}: which image is each row? Put {choices[0].name} beside it, with a column path")
    return found
