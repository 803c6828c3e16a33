"""The model registry: versions and their scores, who is champion and who was, and what a version is made of."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alignet_ray import tracking
from alignet_ray.errors import UserError
from alignet_ray.screen import table
from alignet_ray.store import Artifact, Store

CHAMPION = "champion"
HISTORY = "alignet.champions"
"""Tag of a registered model: its champions' versions, the latest last."""

STORE = "alignet.store"
"""Tag of a version: the root that its artifacts lie under."""

SCORE = "alignet.score."
"""How the tags begin that hold a version's figures."""

NODE = "alignet.node."
"""How the tags begin that hold the artifacts that a version was made of: `distill.student`, say, for its node."""


def promote(uri: str, name: str, version: str) -> None:
    """Make a version the champion, and remember who was."""
    with _readable(uri, name):
        mine = tracking.client(uri)
        model = mine.get_registered_model(name)
        past = _without_end(_history(model), version)
        current = _champion(model)
        if current not in (None, version) and past[-1:] != [current]:
            past.append(str(current))
        mine.set_registered_model_alias(name, CHAMPION, version)
        mine.set_registered_model_tag(name, HISTORY, ",".join([*past, version]))


def rollback(uri: str, name: str, to: str | None = None) -> tuple[str | None, str]:
    """Give the alias `champion` back to the champion before, or to a version by number.

    Returns:
        The version that was champion (None: there was none), and the one that is now.

    Raises:
        UserError: no such model or version, or no earlier champion is known.
    """
    mine = tracking.client(uri)
    with _readable(uri, name):
        model = mine.get_registered_model(name)
        there = {str(v.version) for v in mine.search_model_versions(f"name='{name}'")}
    current = _champion(model)
    past = _without_end([v for v in _history(model) if v in there], current)
    if to is not None and to not in there:
        raise UserError(f"{name} has no version {to}: `alignet-ray ls --models` lists them")
    if to is None and not past:
        raise UserError(f"no champion of {name} before {current or 'now'} is known: name a version with --to")
    target = to or past[-1]
    kept = past[: past.index(target) + 1] if target in past else [*past, *([current] if current else []), target]
    mine.set_registered_model_alias(name, CHAMPION, target)
    mine.set_registered_model_tag(name, HISTORY, ",".join(kept))
    return current, target


def versions(uri: str) -> list[dict[str, Any]]:
    """One row a version that alignet_ray registered, by name, the newest first: aliases, scores, age.

    Raises:
        UserError: no registry there.
    """
    rows = []
    with _readable(uri):
        mine = tracking.client(uri)
        for model in sorted(mine.search_registered_models(), key=lambda m: str(m.name)):
            found = mine.search_model_versions(f"name='{model.name}'")
            found = [v for v in found if any(tag.startswith("alignet.") for tag in v.tags)]
            rows += [_row(v, model) for v in sorted(found, key=lambda v: -int(v.version))]
    return rows


@dataclass(frozen=True)
class VersionDescription:
    """A registered version.

    Attributes:
        facts: what it is: address, aliases, scores, date, run, store.
        lineage: one row for each artifact that it was made of, back to the first.
        card: the model card, Markdown.
    """

    facts: dict[str, str]
    lineage: list[dict[str, str]]
    card: str

    def as_text(self) -> str:
        """For a terminal."""
        head = "\n".join(f"{key:<16} {value}" for key, value in self.facts.items())
        return f"{head}\n\n{table(self.lineage)}\n\n{self.card}"

    def as_json(self) -> dict[str, Any]:
        """For other programs."""
        return asdict(self)


def describe(uri: str, spec: str) -> VersionDescription:
    """What a version is, its card, and every artifact that it was made of.

    Args:
        uri: the registry.
        spec: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        UserError: it is not in the registry.
    """
    name, has_alias, which = spec.removeprefix("models:/").partition("@")
    if not has_alias:
        name, _, which = name.partition("/")
    with _readable(uri, spec):
        mlflow = tracking.client(uri)
        version = mlflow.get_model_version_by_alias(name, which) if has_alias else mlflow.get_model_version(name, which)
        model = mlflow.get_registered_model(name)

    facts = {"model": f"models:/{name}/{version.version}"}
    facts |= {key: value for key, value in _row(version, model).items() if key not in ("name", "version")}
    facts["run"] = version.run_id
    facts["takes images"] = version.tags.get(tracking.IMAGES)
    facts["store"] = version.tags.get(STORE)
    known = {key: str(value) for key, value in facts.items() if value}
    return VersionDescription(known, lineage(version.tags), version.description or "")


def lineage(tags: dict[str, str]) -> list[dict[str, str]]:
    """Every artifact behind a version, walked through their manifests: one row each, parents after their children."""
    nodes = {key.removeprefix(NODE).replace(".", "@", 1): id for key, id in tags.items() if key.startswith(NODE)}
    store = Store.open(tags[STORE]) if STORE in tags else None
    rows, queue = {}, list(nodes.items())
    while queue:
        node, id = queue.pop(0)
        if node in rows:
            continue
        artifact = store.artifact(node.split("@")[0], id) if store else None
        parents = _parents(artifact)
        state = "not here" if parents is None else "finished"
        where = artifact.uri if artifact else f"{node.split('@')[0]}/{id}"
        rows[node] = {"node": node, "artifact": where, "state": state, "made of": " ".join(parents or {})}
        queue += list((parents or {}).items())
    return list(rows.values())


def _parents(artifact: Artifact | None) -> dict[str, str] | None:
    """Node -> id of what an artifact was made of; None where it cannot be read."""
    with contextlib.suppress(OSError, UserError):
        if artifact and artifact.finished:
            return dict(artifact.manifest["recipe"]["parents"])
    return None


def _row(version: Any, model: Any) -> dict[str, Any]:
    """What a list says about a version."""
    aliases = sorted(alias for alias, v in model.aliases.items() if str(v) == str(version.version))
    scores = {k.removeprefix(SCORE).replace("_", " "): v for k, v in version.tags.items() if k.startswith(SCORE)}
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(version.creation_timestamp / 1000))
    named = {"name": version.name, "version": version.version, "aliases": " ".join(aliases)}
    shown = {key: scores.get(key) for key in ("base", "student", "head", "gate")}
    return named | shown | {"registered": when}


def _champion(model: Any) -> str | None:
    found = model.aliases.get(CHAMPION)
    return None if found is None else str(found)


def tags(artifacts: Mapping[str, Artifact], scores: Mapping[str, str]) -> dict[str, str]:
    """Tags of a new version: its artifacts by node, the root that they lie under, its figures by name."""
    found = {NODE + node.replace("@", "."): artifact.id for node, artifact in artifacts.items()}
    roots = {artifact.root for artifact in artifacts.values()}
    assert len(roots) == 1, roots
    found[STORE] = tracking.hide(roots.pop())
    return found | {SCORE + key: value for key, value in scores.items()}


def _history(model: Any) -> list[str]:
    return [v for v in model.tags.get(HISTORY, "").split(",") if v]


def _without_end(past: list[str], version: str | None) -> list[str]:
    """A history without the version at its end."""
    while past and past[-1] == version:
        past = past[:-1]
    return past


@contextlib.contextmanager
def _readable(uri: str, what: str = "") -> Iterator[None]:
    """MLflow's errors as one line. An embedded database that does not exist is not made by a question."""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise UserError(f"no model registry at {uri}: name the root with --store.root or a server with --tracking.uri")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of MLflow, whose import is slow, or of whatever lies between it and its database
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{what or 'the registry'} cannot be had from {tracking.hide(uri)}: {first}") from error
