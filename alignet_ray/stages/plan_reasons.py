"""Why a step has to be done again: what differs between its recipe and that of the newest artifact of the same node."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignet_ray.store import Recipe

MAX_REASONS = 4
"""Changed inputs that a plan names before it only counts them."""


def text(recipe: Recipe, before: Recipe, sources: Sequence[str]) -> str:
    """The reason as a plan shows it.

    Args:
        recipe: of the artifact that is to be made.
        before: of the newest artifact of the same node.
        sources: paths of the recipe's sources, in their order.
    """
    changed = _changed(recipe, before, sources) or ["nothing known"]
    reason = "changed: " + ", ".join(changed[:MAX_REASONS])
    if len(changed) > MAX_REASONS:
        reason += f" and {len(changed) - MAX_REASONS} more"
    return reason


def _changed(recipe: Recipe, before: Recipe, sources: Sequence[str]) -> list[str]:
    """Names of what differs between two recipes; inputs, parents and sources are compared one by one."""
    changed = [name for name in ("role", "version") if getattr(recipe, name) != getattr(before, name)]
    if recipe.sources != before.sources:
        changed += _changed_sources(recipe.sources, before.sources, sources) or ["order of sources"]
    changed += _changed_keys(recipe.inputs, before.inputs)
    changed += _changed_keys(recipe.parents, before.parents)
    return changed


def _changed_keys(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Keys that were added, removed or have another value, sorted."""
    return sorted(key for key in new.keys() | old.keys() if new.get(key) != old.get(key))


def _changed_sources(new: Sequence[Any], old: Sequence[Any], paths: Sequence[str]) -> list[str]:
    """What differs in files and folders, by their fingerprints."""
    # Fingerprints of files begin with a name; those of folders have none, but come in the same order.
    files = {fingerprint[0]: fingerprint for fingerprint in old if isinstance(fingerprint, list)}
    folders = [fingerprint for fingerprint in old if isinstance(fingerprint, dict)]

    reasons: list[str] = []
    for fingerprint, path in zip(new, paths, strict=True):
        name = Path(path).name
        if isinstance(fingerprint, list):
            reasons += _changed_file(fingerprint, files.pop(fingerprint[0], None))
        elif not folders:
            reasons.append(f"{name} is new")
        else:
            reasons += _changed_folder(name, fingerprint, folders.pop(0))

    # What is left has no counterpart among the new sources.
    reasons += [f"{name} is not read any more" for name in files]
    if folders:
        reasons.append("a folder is not read any more")

    # Several sources may differ for the same reason, which is said once.
    return list(dict.fromkeys(reasons))


def _changed_file(new: Sequence[Any], old: Sequence[Any] | None) -> list[str]:
    """What differs between two fingerprints of a file: name, size, time."""
    name, size, _ = new
    if old is None:
        return [f"{name} is new"]
    if size != old[1]:
        return [f"size of {name}"]
    # A copy, or a touched file, has another date and the same content, which would take long to compare.
    if list(new) != list(old):
        return [f"date of {name} (content is not compared)"]
    return []


def _changed_folder(name: str, new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints of a folder: number of files, bytes, hash over names, sizes and times."""
    if new["files"] != old["files"]:
        return [f"files in {name} ({old['files']:,} before, {new['files']:,} now)"]
    if new["bytes"] != old["bytes"]:
        return [f"sizes of files in {name}"]
    if new != old:
        return [f"names or dates of files in {name} (content is not compared)"]
    return []
