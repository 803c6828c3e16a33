"""The model registry: registers students, lists versions, moves the champion, traces what a version was made of."""

import contextlib
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from alignet_ray import embedded_database, tracking
from alignet_ray.artifacts.register import RegisteredVersion
from alignet_ray.errors import UserError, first_line
from alignet_ray.logged_student import LoggedStudent, log_student
from alignet_ray.models.model_spec import ModelSpec
from alignet_ray.screen import TableRow, table
from alignet_ray.store import Artifact, JsonObject, Store
from alignet_ray.tracking import Tracker

CHAMPION = "champion"
HISTORY = "alignet.champions"
"""Tag of a registered model: the versions of its champions, the latest last."""
STORE = "alignet.store"
"""Tag of a version: the root that its artifacts lie under."""
SCORE = "alignet.score."
"""Prefix of the tags that hold a version's scores."""

ABOUT = """Students of alignet_ray: networks whose similarities follow human judgements, made by one pipeline.

The description of a version is its model card. `@{alias}` is the newest version, `@champion` the best so far: nearer to
people than the network it began as, no worse at anything else, and better than the champion before it.
"""
"""Description of a registered model (Markdown)."""


@dataclass(frozen=True)
class Registration:
    """How a student is registered.

    Attributes:
        name: registered model.
        alias: alias that the new version gets.
        card: model card (Markdown), kept with the run and as the version's description.
        tags: tags of the version, see `version_tags`.
    """

    name: str
    alias: str
    card: Path
    tags: dict[str, str]


def register(tracker: Tracker, student: LoggedStudent, registration: Registration) -> RegisteredVersion:
    """Log a student to a run, register it as a new version, and move the alias to it."""
    name = registration.name
    logged = log_student(tracker, student, name, registration.card)
    version = logged.version

    # The alias moves last: whoever loads it gets a version with its card and all its tags.
    mlflow = tracking.client(tracker.uri)
    # Descriptions are what MLflow's pages show, as Markdown. They have a title, and lists show the first line alone.
    card = registration.card.read_text(encoding="utf-8").removeprefix(f"# {name}").lstrip()
    if f"{tracking.NODE}evaluate" in registration.tags:
        card += _link_to_report(mlflow.get_run(tracker.server_id))
    mlflow.update_model_version(name, version, description=card)
    # What somebody wrote there by hand stays.
    if not mlflow.get_registered_model(name).description:
        mlflow.update_registered_model(name, ABOUT.format(alias=registration.alias))
    for key, value in registration.tags.items():
        mlflow.set_model_version_tag(name, version, key, value)
    mlflow.set_registered_model_alias(name, registration.alias, version)
    return RegisteredVersion(
        name=name,
        version=version,
        aliases=[registration.alias],
        model=f"models:/{name}@{registration.alias}",
        model_id=logged.model_id,
    )


def _link_to_report(run: Any) -> str:
    """The last lines of a card on MLflow's page: where the report is, with the whole run."""
    # The report belongs to the whole run; a step that runs alone has no other run above it.
    whole = run.data.tags.get(tracking.PARENT, run.info.run_id)
    page = f"#/experiments/{run.info.experiment_id}/runs/{whole}"
    return f"\n[The run]({page}) has the [report]({page}/artifacts/report.html).\n"


def version_tags(artifacts: Mapping[str, Artifact], scores: Mapping[str, str]) -> dict[str, str]:
    """Tags of a new version: its artifacts by node, the root that they lie under, its scores by name."""
    # MLflow shows tags in this order, and the scores are what is looked for.
    tags = {SCORE + score: value for score, value in scores.items()}
    roots: set[str] = set()
    for node, artifact in artifacts.items():
        # Names of tags must not hold an @; `lineage` puts it back.
        tags[tracking.NODE + node.replace("@", ".")] = artifact.id
        roots.add(artifact.root)

    # Addresses may hold a password, and the registry is read by others.
    assert len(roots) == 1, roots
    tags[STORE] = tracking.hide(roots.pop())
    return tags


class Champion(NamedTuple):
    """The champion of a registered model: its version, and the id of its student's artifact ("" where unknown)."""

    version: str
    student: str


def champion(uri: str, name: str) -> Champion | None:
    """The reigning champion of a registered model; None if there is none, or no such model."""
    mlflow = tracking.client(uri)
    with _readable(uri, name):
        models = mlflow.search_registered_models(f"name='{name}'")
        if not models or _champion(models[0]) is None:
            return None
        version = str(_champion(models[0]))
        tags = mlflow.get_model_version(name, version).tags
    return Champion(version, str(tags.get(f"{tracking.NODE}distill.student", "")))


def promote(uri: str, name: str, version: str) -> None:
    """Make a version the champion, and remember the one before it."""
    embedded_database.require_writable(uri)
    with _readable(uri, name):
        mlflow = tracking.client(uri)
        model = mlflow.get_registered_model(name)
        past = _without_end(_history(model), version)
        current = _champion(model)

        # A champion that was set by hand is not in the history yet.
        if current not in (None, version) and past[-1:] != [current]:
            past.append(str(current))

        mlflow.set_registered_model_alias(name, CHAMPION, version)
        mlflow.set_registered_model_tag(name, HISTORY, ",".join([*past, version]))


def rollback(uri: str, name: str, to: str | None = None) -> tuple[str | None, str]:
    """Give the alias `champion` back to the previous champion, or to a version by number.

    Returns:
        The version that was champion (None: there was none), and the one that is now.

    Raises:
        UserError: no such model or version, or no earlier champion is known.
    """
    mlflow = tracking.client(uri)
    with _readable(uri, name):
        model = mlflow.get_registered_model(name)
        existing = {str(version.version) for version in mlflow.search_model_versions(f"name='{name}'")}

    # Versions that were deleted since cannot be champion again.
    current = _champion(model)
    past = _without_end([version for version in _history(model) if version in existing], current)
    if to is not None and to not in existing:
        raise UserError(f"{name} has no version {to}: `alignet-ray ls --models` lists them")
    if to is None and not past:
        raise UserError(f"no champion of {name} before {current or 'now'} is known: name a version with --to")

    # The history ends with the new champion: cut after it, or, for a version that was never champion, grown by it.
    target = to or past[-1]
    if target in past:
        history = past[: past.index(target) + 1]
    elif current:
        history = [*past, current, target]
    else:
        history = [*past, target]
    embedded_database.require_writable(uri)
    with _readable(uri, f"the champion of {name}"):
        mlflow.set_registered_model_alias(name, CHAMPION, target)
        mlflow.set_registered_model_tag(name, HISTORY, ",".join(history))
    return current, target


def versions(uri: str) -> list[TableRow]:
    """One row for each version that this package registered, by name, the newest first: aliases, scores, age.

    Raises:
        UserError: no registry there.
    """
    rows: list[TableRow] = []
    with _readable(uri):
        mlflow = tracking.client(uri)
        for model in sorted(mlflow.search_registered_models(), key=lambda model: str(model.name)):
            registered = mlflow.search_model_versions(f"name='{model.name}'")
            # A server may be shared: what other programs registered has none of this package's tags.
            ours = [version for version in registered if _is_ours(version)]
            # Numbers come as text, in which 10 would come before 9.
            newest_first = sorted(ours, key=lambda version: -int(version.version))
            rows += [_row(version, model) for version in newest_first]
    return rows


def _is_ours(version: Any) -> bool:
    """Whether this package registered a version."""
    return any(tag.startswith("alignet.") for tag in version.tags)


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
        # The card comes last: it is long, and the facts are what is looked for.
        head = "\n".join(f"{key:<16} {value}" for key, value in self.facts.items())
        return f"{head}\n\n{table(self.lineage)}\n\n{self.card}"

    def as_json(self) -> JsonObject:
        """For other programs."""
        return asdict(self)


def describe(uri: str, spec: str) -> VersionDescription:
    """What a version is, its card, and every artifact that it was made of.

    Args:
        uri: the registry.
        spec: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        UserError: it is not in the registry, or the spec has neither alias nor version.
    """
    # An alias or a number: MLflow has a call of its own for each.
    name, alias, number = ModelSpec.parse(spec).registered
    with _readable(uri, spec):
        mlflow = tracking.client(uri)
        if alias:
            version = mlflow.get_model_version_by_alias(name, alias)
        else:
            version = mlflow.get_model_version(name, number)
        model = mlflow.get_registered_model(name)

    facts: TableRow = {"model": f"models:/{name}/{version.version}"}
    for key, value in _row(version, model).items():
        # The address says both already.
        if key not in ("name", "version"):
            facts[key] = value
    facts["run"] = version.run_id
    # Only of versions that earlier releases registered: a model takes image files itself now.
    facts["takes images"] = version.tags.get(tracking.IMAGES)
    root = _root_of(version.tags, uri)
    facts["store"] = root

    # Versions of earlier releases lack some tags, and a run without a gate has no verdict.
    known = {key: str(value) for key, value in facts.items() if value}
    return VersionDescription(known, lineage(version.tags, root), version.description or "")


def _root_of(tags: dict[str, str], uri: str) -> str | None:
    """The root that a version's artifacts lie under; None where nothing says it."""
    # The tag holds the root as it was when the version was registered; the database goes with a root that is moved or
    # copied. With a remote root the artifacts do not lie beside the database.
    folder = tracking.database_folder(uri)
    if folder is not None:
        store = Store.open(str(folder))
        for key, id in tags.items():
            stage = key.removeprefix(tracking.NODE).partition(".")[0]
            if key.startswith(tracking.NODE) and store.artifact(stage, id).finished:
                return store.root
    return tags.get(STORE)


def lineage(tags: dict[str, str], root: str | None = None) -> list[dict[str, str]]:
    """Every artifact behind a version, found through their manifests: one row each, parents after their children.

    Args:
        tags: the version's.
        root: where its artifacts lie. Default: as the tags say.
    """
    store = None
    root = root or tags.get(STORE)
    if root:
        store = Store.open(root)

    queue: list[tuple[str, str]] = []
    for key, id in tags.items():
        if key.startswith(tracking.NODE):
            # Names of tags must not hold an @, so `version_tags` wrote a dot.
            node = key.removeprefix(tracking.NODE).replace(".", "@", 1)
            queue.append((node, id))

    # Breadth first through the manifests; a node that several others read is listed once.
    rows: dict[str, dict[str, str]] = {}
    while queue:
        node, id = queue.pop(0)
        if node in rows:
            continue

        # Without a root the artifact has a name, but no place.
        stage = node.split("@")[0]
        artifact = None
        place = f"{stage}/{id}"
        if store is not None:
            artifact = store.artifact(stage, id)
            place = artifact.uri

        # An artifact that was deleted, or lies on another machine, ends the way back.
        parents = _parents(artifact)
        state = "finished"
        if parents is None:
            state = "not here"
            parents = {}
        rows[node] = {"node": node, "artifact": place, "state": state, "made of": " ".join(parents)}
        queue += parents.items()
    return list(rows.values())


def _parents(artifact: Artifact | None) -> dict[str, str] | None:
    """Node -> id of what an artifact was made of; None where it cannot be read."""
    # A root that cannot be opened is no reason to show nothing of the version.
    with contextlib.suppress(OSError, UserError):
        if artifact and artifact.finished:
            return artifact.read_manifest().recipe.parents
    return None


def _row(version: Any, model: Any) -> TableRow:
    """What a list says about a version."""
    # MLflow writes numbers of versions as text in one place and as numbers in the other.
    aliases = [alias for alias, number in model.aliases.items() if str(number) == str(version.version)]
    row: TableRow = {"name": version.name, "version": version.version, "aliases": " ".join(sorted(aliases))}
    for score in ("base", "student", "head", "gate"):
        row[score] = version.tags.get(SCORE + score)
    row["registered"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(version.creation_timestamp / 1000))
    return row


def _champion(model: Any) -> str | None:
    """The champion's version; None if there is none."""
    version = model.aliases.get(CHAMPION)
    if version is None:
        return None
    return str(version)


def _history(model: Any) -> list[str]:
    """The versions that were champion, the latest last."""
    return [version for version in model.tags.get(HISTORY, "").split(",") if version]


def _without_end(past: list[str], version: str | None) -> list[str]:
    """A history without the version at its end."""
    # It stands there several times where it was made champion by hand in between.
    while past and past[-1] == version:
        past = past[:-1]
    return past


@contextlib.contextmanager
def _readable(uri: str, subject: str = "the registry") -> Iterator[None]:
    """Within it MLflow's errors become one line.

    Raises:
        UserError: MLflow, or whatever lies between it and its database, failed.
    """
    # Of a database's error MLflow prints the traceback too, before it raises it.
    log = logging.getLogger("mlflow.store.db.utils")
    was_disabled = log.disabled
    log.disabled = True
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # importing MLflow's own exception would be slow
        raise UserError(f"{subject} cannot be had from {tracking.hide(uri)}: {_reason(error)}") from error
    finally:
        log.disabled = was_disabled


def _reason(error: Exception) -> str:
    """The line of an error that says most: what SQLite itself says, where MLflow puts its own lines before that."""
    found = re.search(r"\(sqlite3\.\w+\) (.+)", str(error))
    if found:
        return found[1]
    return first_line(error)
