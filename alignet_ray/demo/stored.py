"""Vectors that a run has computed already, of the same pictures by the same base and student."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.core.similarity import unit_rows
from alignet_ray.demo.compare import ModelComparison, Vectors
from alignet_ray.errors import UserError
from alignet_ray.images.listing import fingerprint
from alignet_ray.models.model_spec import ModelKind, ModelSpec
from alignet_ray.store import Artifact, Reference, Store

AS_ON_THE_PAGE = {"layer": "pre_logits", "compute": "float32", "decode": "exact"}
"""Settings with which a run computes what the page would compute."""


class StoredVectors(NamedTuple):
    """Vectors of pictures by their path.

    Attributes:
        run: name of the run that computed them.
        row_of: row of each path.
        vectors: of the base and the student.
    """

    run: str
    row_of: dict[str, int]
    vectors: Vectors

    def take(self, paths: Sequence[str]) -> Vectors:
        """Vectors of pictures that are there, in this order."""
        return self.vectors.take(np.array([self.row_of[path] for path in paths], dtype=np.int64))


class _Embeddings(NamedTuple):
    """A run's embeddings of the same images by both networks."""

    run: str
    base: Artifact
    student: Artifact


def find(comparison: ModelComparison, images: str, paths: Sequence[str]) -> StoredVectors | None:
    """What a run holds of a folder's pictures; None where no run has embedded them by both models of the page.

    Args:
        comparison: its student may be the result of a run, `<root>/distill/<id>`.
        images: the folder.
        paths: of the pictures, under the folder.
    """
    spec = ModelSpec.parse(comparison.labels["aligned"])
    if spec.kind is not ModelKind.STUDENT:
        return None
    folder = Path(spec.path).expanduser().resolve()
    root = folder.parent.parent
    if folder.parent.name != "distill" or not (root / "refs").is_dir():
        return None

    # All that is read here only saves time, so whatever is wrong with it is no reason to refuse the page.
    try:
        found = _of_run(Store.open(str(root)), folder.name)
        if found is None or not _is_same(found, comparison, images):
            return None
        return _read(found, comparison, paths)
    except (UserError, OSError, KeyError, ValueError):
        return None


def _of_run(store: Store, student: str) -> _Embeddings | None:
    """The embeddings of the run that trained a student (or a control), by both models."""
    for name in store.refs():
        reference = store.read_ref(name) or Reference()
        nodes = reference.before | reference.nodes
        for role in ("student", "control"):
            is_whole = f"embed@{role}" in nodes and "embed@base" in nodes
            if nodes.get(f"distill@{role}") != student or not is_whole:
                continue

            # Nodes of an earlier run may stand among them: the embeddings must be of this very student.
            base = store.artifact("embed", nodes["embed@base"])
            found = _Embeddings(name, base, store.artifact("embed", nodes[f"embed@{role}"]))
            parents = found.student.read_manifest().recipe.parents
            if base.finished and parents == {f"distill@{role}": student}:
                return found
    return None


def _is_same(found: _Embeddings, comparison: ModelComparison, images: str) -> bool:
    """Whether the run looked at the same pictures, unchanged, by the same networks in the same way."""
    recipes = [artifact.read_manifest().recipe for artifact in (found.base, found.student)]
    for recipe in recipes:
        if any(recipe.inputs[name] != value for name, value in AS_ON_THE_PAGE.items()):
            return False

    # The base under its own name, at the size of the student, from weights that are the same file if they are a file.
    base = comparison.labels["base"]
    inputs = recipes[0].inputs
    if inputs["models"] != [base] or inputs["size"] not in (None, comparison.student.backbone.size):
        return False
    for file in ModelSpec.parse(base).local_files:
        stat = Path(file).expanduser().stat()
        if [Path(file).name, stat.st_size, stat.st_mtime_ns] not in recipes[0].sources:
            return False

    # The first source is the folder of images; listing it takes longest, so it comes last.
    listed = fingerprint(images)
    return all(recipe.sources[0] == listed for recipe in recipes)


def _read(found: _Embeddings, comparison: ModelComparison, paths: Sequence[str]) -> StoredVectors | None:
    """Both models' vectors of the pictures that both have."""
    base = EmbedArtifact(found.base)
    student = EmbedArtifact(found.student)
    path_of = student.image_paths()
    if path_of != base.image_paths():
        return None
    wanted = set(paths)
    asked = [image_id for image_id, path in path_of.items() if path in wanted]
    ids = np.intersect1d(np.intersect1d(base.embedded_ids(), student.embedded_ids()), asked)

    head = None
    if comparison.has_head:
        # As ModelComparison.encode has it.
        head = (_rows(student, "triplet_logits", ids) / comparison.student.tau**0.5).astype(np.float32)
    base_rows = unit_rows(_rows(base, "embedding", ids))
    vectors = Vectors(base_rows, unit_rows(_rows(student, "embedding", ids)), head)
    return StoredVectors(found.run, {path_of[image_id]: row for row, image_id in enumerate(ids.tolist())}, vectors)


def _rows(artifact: EmbedArtifact, column: str, ids: Int[np.ndarray, " n"]) -> Float32[np.ndarray, "n d"]:
    """Rows of a column, by ascending image_id."""
    rows: Float32[np.ndarray, "n d"] = artifact.embeddings(column, ids).vectors.astype(np.float32)
    return rows
