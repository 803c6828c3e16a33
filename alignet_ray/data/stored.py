"""Stored embeddings in place of a model: an embed artifact, or a file of features with the paths of its rows.

    embed/ID                      an artifact under the run's root (the beginning of an id is enough)
    FOLDER                        an embed artifact's folder
    FILE.npy, FILE.safetensors    rows, as `alignet-ray embed --export` writes them: beside the file lies a CSV with a
                                  column `path`, one line per row (images-ID.csv for embeddings-ID.npy, or FILE.csv)

Rows are matched by the image's path under its source's root.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.data import embeddings
from alignet_ray.data.files import comparable_path, did_you_mean, read_rows
from alignet_ray.errors import MAX_CHARACTERS, UserError, array_problem
from alignet_ray.store import MANIFEST, Artifact, Store

SUFFIXES = (".npy", ".safetensors")
STAGE = "embed/"

PATH_COLUMN = "path"
"""Column that says the image of a row."""

ROW_COLUMN = "row"
"""Column of the CSV that numbers the rows of the features, where it has one."""


def is_stored(spec: str) -> bool:
    """Whether an entry of `evaluate.models` means stored embeddings (and not a model)."""
    if spec.startswith(STAGE):
        return True
    # NAME@FILE.safetensors is a checkpoint, unless there is a file of this very name.
    if spec.endswith(SUFFIXES) and ("@" not in spec or Path(spec).expanduser().is_file()):
        return True
    return (Path(spec).expanduser() / MANIFEST).is_file()


def files(spec: str) -> list[str]:
    """Files whose fingerprints identify the embeddings; none for an artifact of the root, whose id does.

    Raises:
        UserError: the CSV of a file's rows is missing.
    """
    if spec.startswith(STAGE):
        return []
    path = Path(spec).expanduser()
    if spec.endswith(SUFFIXES):
        return [str(path), str(_require_rows_file(path))]
    return [str(path / MANIFEST)]


def read(spec: str, root: str, image_ids: Mapping[str, int]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n d"]]:
    """Embeddings of images.

    Args:
        spec: see the module's docstring.
        root: the store's root.
        image_ids: path of an image -> image_id, all of which must have a row.

    Returns:
        image_ids, ascending, and their vectors in the stored number format.

    Raises:
        UserError: no such artifact or file, rows without paths, images that have no row, rows that are not finite.
    """
    if spec.endswith(SUFFIXES):
        paths, vectors = _read_file(Path(spec).expanduser())
    else:
        paths, vectors = _read_artifact(_find_artifact(spec, root))

    row_of: dict[str, int] = {}
    for row, path in enumerate(paths):
        name = comparable_path(path)
        if name in row_of:
            raise UserError(f"{spec}: two rows are of {path!r}: which one counts? Leave one out")
        row_of[name] = row

    missing = sorted(path for path in image_ids if comparable_path(path) not in row_of)
    if missing:
        raise UserError(
            f"{spec} lacks {len(missing)} of the {len(image_ids)} annotated images (first: {missing[0]!r}): "
            "embed all images that objects.table names" + did_you_mean(missing[0], paths)
        )

    # The caller's images may be fewer than the rows, and in another order.
    ids: list[int] = []
    rows: list[int] = []
    for path, image_id in sorted(image_ids.items(), key=lambda item: item[1]):
        ids.append(image_id)
        rows.append(row_of[comparable_path(path)])

    selected = vectors[rows]
    is_finite = np.isfinite(selected).all(axis=1)
    if not is_finite.all():
        count = int((~is_finite).sum())
        raise UserError(
            f"{spec}: {count} of the annotated images have an embedding that is not finite (NaN or infinity)"
        )
    return np.array(ids, dtype=np.int64), selected


def _find_artifact(spec: str, root: str) -> Artifact:
    if not spec.startswith(STAGE):
        # An artifact's folder is ROOT/STAGE/ID, under whatever root.
        folder = Path(spec).expanduser().resolve()
        return Artifact(str(folder.parent.parent), folder.parent.name, folder.name)

    # The beginning of an id is enough, as in git; more than one match is refused.
    prefix = spec.removeprefix(STAGE)
    artifacts = Store.open(root).all(["embed"])
    matches = [artifact for artifact in artifacts if artifact.id.startswith(prefix) and artifact.finished]
    if len(matches) != 1:
        raise UserError(f"{len(matches) or 'no'} finished artifacts are called {spec!r}: `alignet-ray ls` lists them")
    return matches[0]


def _read_artifact(artifact: Artifact) -> tuple[list[str], Float[np.ndarray, "n d"]]:
    if artifact.stage != "embed" or not artifact.finished:
        raise UserError(f"{artifact.uri} is no finished embed artifact: `alignet-ray ls` lists them")
    ids, vectors = embeddings.load(artifact)
    paths = EmbedArtifact(artifact).image_paths()
    return [paths[image_id] for image_id in ids.tolist()], vectors


def _read_file(path: Path) -> tuple[list[str], Float[np.ndarray, "n d"]]:
    vectors = read_vectors(path)
    return read_paths(path, len(vectors)), vectors


def read_paths(path: Path, count: int) -> list[str]:
    """The image of every row of a file of features, as the CSV beside it says.

    Args:
        path: the file of features.
        count: of its rows.

    Raises:
        UserError: no CSV, or one that does not fit.
    """
    beside = _require_rows_file(path)
    lines = read_rows(str(beside))
    if not lines or PATH_COLUMN not in lines[0].cells:
        raise UserError(f"{beside}: no column {PATH_COLUMN}, which says the image of every row of {path.name}")
    if len(lines) != count:
        raise UserError(f"{beside} has {len(lines)} lines, {path.name} has {count} rows: one line a row is needed")
    paths = [line.cells[PATH_COLUMN] for line in lines]
    if ROW_COLUMN not in lines[0].cells:
        return paths

    # The CSV says itself which row is whose: a spreadsheet may have sorted its lines.
    path_of = {line.cells[ROW_COLUMN]: line.cells[PATH_COLUMN] for line in lines}
    numbers = list(map(str, range(len(lines))))
    if path_of.keys() != set(numbers):
        raise UserError(f"{beside}: column {ROW_COLUMN} must hold every number from 0 to {len(lines) - 1:,} once")
    return [path_of[number] for number in numbers]


def read_vectors(path: Path) -> Float[np.ndarray, "n d"]:
    """Rows of decimal numbers in a .npy or .safetensors file.

    Raises:
        UserError: damaged, of another form, or empty.
    """
    from safetensors.numpy import load_file

    try:
        if path.suffix == ".npy":
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            # Exports name the tensor; a file of somebody else may call it anything.
            vectors = _only_table(path, load_file(path))
    except UserError:
        raise
    except Exception as error:  # damaged bytes raise errors of many types in both libraries
        raise UserError(f"{path} holds no embeddings: {array_problem(error)}") from error
    # A zip with several arrays opens under any name.
    if not isinstance(vectors, np.ndarray):
        raise UserError(f"{path} holds no embeddings: it is a zip of arrays; save the one that is meant")
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise UserError(
            f"{path}: embeddings are rows of decimal numbers (n, d), these are {vectors.dtype} {vectors.shape}"
        )
    # PyTorch takes no numbers in the byte order of another machine.
    return np.asarray(vectors, vectors.dtype.newbyteorder("="))


def _only_table(path: Path, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The tensor with the embeddings: called so, or the only one with rows."""
    if "embedding" in tensors:
        return tensors["embedding"]
    tables = [tensor for tensor in tensors.values() if tensor.ndim == 2]
    # Any one of several would do, and be the wrong one as often as not.
    if len(tables) != 1:
        shapes = ", ".join(f"{name} {tensor.shape}" for name, tensor in tensors.items()) or "nothing"
        raise UserError(
            f"{path} needs one tensor of rows (n, d), or one called embedding; it holds {shapes[:MAX_CHARACTERS]}"
        )
    return tables[0]


def rows_file(path: Path) -> Path | None:
    """The CSV that says which image each row is; None if there is none."""
    stem = path.stem.removeprefix("embeddings-")
    for candidate in (path.with_suffix(".csv"), path.with_name(f"images-{stem}.csv")):
        if candidate.is_file():
            return candidate
    return None


def _require_rows_file(path: Path) -> Path:
    found = rows_file(path)
    if found is None:
        name = path.with_suffix(".csv").name
        raise UserError(f"{path}: which image is each row? Put {name} beside it, with a column path")
    return found
