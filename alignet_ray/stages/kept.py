"""Artifacts under a root: those that runs refer to, which `gc` keeps, and those of earlier schemas."""

import contextlib
from collections.abc import Iterator

from alignet_ray.errors import UserError
from alignet_ray.stages import STAGES
from alignet_ray.store import Artifact, Manifest, Store


def reachable(store: Store) -> set[tuple[str, str]]:
    """(stage, id) of every artifact that a run's name refers to."""
    artifacts = set()
    for name in store.refs():
        reference = store.read_ref(name)
        if reference is not None:
            artifacts |= reference.artifacts
    return artifacts


def outdated(store: Store) -> set[tuple[str, str]]:
    """(stage, id) of every finished artifact of an earlier schema."""
    return {(artifact.stage, artifact.id) for artifact, manifest in _readable(store) if manifest.is_outdated}


def outdated_note(store: Store) -> str:
    """One line about artifacts of an earlier schema; empty if there are none."""
    count = len(outdated(store))
    if not count:
        return ""
    return f"{count} artifacts under {store.root} were made before version 0.2 and are not reused; nothing deletes them"


def manifests(store: Store) -> list[Manifest]:
    """artifact.json of every finished artifact under the root; damaged ones are left out."""
    return [manifest for _, manifest in _readable(store)]


def _readable(store: Store) -> Iterator[tuple[Artifact, Manifest]]:
    """Every finished artifact whose artifact.json can be read."""
    for artifact in store.all(list(STAGES)):
        # One damaged artifact must not keep others from being listed, planned or deleted; `ls` shows it as damaged.
        with contextlib.suppress(UserError):
            if artifact.finished:
                yield artifact, artifact.read_manifest()
