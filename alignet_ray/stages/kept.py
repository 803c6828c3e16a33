"""What a root keeps: the artifacts that runs refer to, which `gc` spares, and those of earlier schemas."""

from alignet_ray.stages import STAGES
from alignet_ray.store import Manifest, Store


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
    finished = [artifact for artifact in store.all(list(STAGES)) if artifact.finished]
    return {(artifact.stage, artifact.id) for artifact in finished if artifact.read_manifest().is_outdated}


def outdated_note(store: Store) -> str:
    """One line about artifacts of an earlier schema; empty if there are none."""
    count = len(outdated(store))
    if not count:
        return ""
    return f"{count} artifacts under {store.root} were made before version 0.2 and are not reused; nothing deletes them"


def manifests(store: Store) -> list[Manifest]:
    """artifact.json of every finished artifact under the root."""
    return [artifact.read_manifest() for artifact in store.all(list(STAGES)) if artifact.finished]
