"""The artifact store: immutable folders, named by what went into them.

    <root>/<stage>/<id>/       parts and files of one artifact
      artifact.json            what it is made of: config, parents, rows, bytes, seconds, versions, warnings
      files.json               size of every file
      _SUCCESS                 written last; a folder without it is unfinished: resumed or discarded, never read
    <root>/refs/<name>.json    human names -> ids

The root is a local folder or a URL that pyarrow or fsspec understands (`s3://bucket/prefix`). Artifact and Draft are
small values (three strings): they travel to Ray workers as they are.
"""

import hashlib
import json
import os
import re
import tempfile
import unicodedata
import uuid
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from alignet_ray.errors import UserError, first_line, path_text
from alignet_ray.locations import filesystem, other_case

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object of free form: what people or other programs read. What the package itself reads back is a dataclass."""

SUCCESS = "_SUCCESS"
MANIFEST = "artifact.json"
FILES = "files.json"

RUN_LOCK = "run.lock"
"""Lock of the run that works under a root."""

SCHEMA = 2
"""Layout of artifacts and their manifests; artifacts of an earlier schema are not reused, and never deleted unasked."""


def digest(value: Any, length: int = 12) -> str:
    """Hash of a JSON-able value, the same on every machine (hex, `length` characters)."""
    # One text for one value: no order of keys, no spaces, no escapes that a library may choose.
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True)
class Recipe:
    """All that an artifact's content depends on; its hash is the artifact's id.

    Attributes:
        inputs: values of the configuration that change the result.
        parents: ids of the artifacts that are read, by node name.
        role: the role of the stage.
        version: the stage's version, raised by hand when its results change.
        sources: fingerprints of the files and folders that are read besides artifacts.
    """

    inputs: JsonObject = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    role: str = ""
    version: int = 0
    sources: list[Any] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The id of the artifact that is made by this recipe."""
        return digest(self.to_json())

    def to_json(self) -> JsonObject:
        """The recipe as it is hashed and stored."""
        # Not `asdict`, which would copy the sources; they are hashed as they are.
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_json(cls, stored: JsonObject) -> "Recipe":
        """Inverse of `to_json`."""
        return cls(**_known_fields(cls, stored))


def _known_fields(kind: type, stored: JsonObject) -> JsonObject:
    """The entries of a stored object that are fields of a dataclass."""
    return {entry.name: stored[entry.name] for entry in fields(kind) if entry.name in stored}


@dataclass(frozen=True)
class Manifest:
    """Content of artifact.json: what an artifact was made of, by what, and what came out.

    Attributes:
        schema: layout of the artifact.
        node: name of the pipeline's node.
        id: the artifact's id.
        recipe: all that the id is a hash of.
        config: the whole configuration of the run that made it.
        facts: the stage's figures and warnings.
        finished: when it was finished, in seconds since 1970.
        seconds: how long the stage took.
        host: the machine that the driver ran on.
        commit, python, versions: code and libraries; the commit is None outside a git checkout.
        bytes: size of all members, added by `Draft.finish`.
    """

    schema: int = SCHEMA
    node: str = ""
    id: str = ""
    recipe: Recipe = field(default_factory=Recipe)
    config: JsonObject = field(default_factory=dict)
    facts: JsonObject = field(default_factory=dict)
    finished: float = 0.0
    seconds: float = 0.0
    host: JsonObject = field(default_factory=dict)
    commit: str | None = None
    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    bytes: int = 0

    @property
    def is_outdated(self) -> bool:
        """Whether the artifact has the layout of an earlier schema."""
        return self.schema < SCHEMA

    def to_json(self) -> JsonObject:
        """The content of artifact.json, in the order of the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: JsonObject) -> "Manifest":
        """Inverse of `to_json`; keys of other schemas are ignored, missing ones have their defaults."""
        values = _known_fields(cls, stored)
        values["recipe"] = Recipe.from_json(stored.get("recipe", {}))
        return cls(**values)


@dataclass(frozen=True)
class Reference:
    """What the name of a run stands for: the ids of its artifacts, and its settings.

    Attributes:
        nodes: the artifact's id by node.
        config: the settings as YAML.
        before: what the name stood for when its last whole run was finished, while a run with other settings is not:
            until then `gc` must spare the earlier results.
    """

    nodes: dict[str, str] = field(default_factory=dict)
    config: str = ""
    before: dict[str, str] = field(default_factory=dict)

    @property
    def artifacts(self) -> set[tuple[str, str]]:
        """(stage, id) of every artifact that the name keeps, those of before included."""
        named = [*self.nodes.items(), *self.before.items()]
        return {(node.partition("@")[0], id) for node, id in named}

    @classmethod
    def from_json(cls, stored: Any) -> "Reference":
        """What `<root>/refs/<name>.json` holds.

        Raises:
            ValueError: it is no reference.
        """
        if not isinstance(stored, dict) or not isinstance(stored.get("nodes"), dict):
            raise ValueError("it names no artifacts")
        # `gc` compares these ids with folders: a number in place of a text would match none, and protect nothing.
        before = stored.get("before", {})
        if not isinstance(before, dict) or not isinstance(stored.get("config", ""), str):
            raise ValueError("its settings or its earlier artifacts are of another kind")
        for id in (*stored["nodes"].values(), *before.values()):
            if not isinstance(id, str) or not id:
                raise ValueError(f"{id!r} is no artifact's id")
        return cls(**_known_fields(cls, stored))

    def follows(self, earlier: "Reference | None") -> "Reference":
        """The same reference of an unfinished run that keeps what the name stood for before."""
        if earlier is None:
            return self
        # One unfinished run after the other: the last finished one is still the one to keep.
        return replace(self, before=earlier.before or earlier.nodes)


@dataclass(frozen=True)
class Artifact:
    """One finished artifact: read only.

    Attributes:
        root: the store's root (absolute path or URL).
        stage: stage name, the folder under the root.
        id: hash of all that went into it.
    """

    root: str
    stage: str
    id: str

    @property
    def uri(self) -> str:
        """Folder as a path or URL."""
        return f"{self.root}/{self.stage}/{self.id}"

    def where(self, name: str = "") -> tuple[pafs.FileSystem, str]:
        """Filesystem and path of a member."""
        # An artifact has a stage and an id; the folder of references has no id.
        fs, base = filesystem(self.root)
        return fs, "/".join(filter(None, (base, self.stage, self.id, name)))

    @property
    def finished(self) -> bool:
        """Whether it is complete."""
        return self.has(SUCCESS)

    def has(self, name: str) -> bool:
        """Whether a member file exists."""
        fs, path = self.where(name)
        exists: bool = fs.get_file_info(path).type == pafs.FileType.File
        return exists

    def files(self, folder: str = "", suffix: str = "", deep: bool = False) -> list[str]:
        """Names of member files under `folder`, relative to the artifact, sorted; unfinished temporaries left out."""
        fs, path = self.where()
        base = f"{path}/{folder}".rstrip("/")
        infos = fs.get_file_info(pafs.FileSelector(base, recursive=deep, allow_not_found=True))

        names = []
        for info in infos:
            name = info.path[len(path) + 1 :]
            is_temporary = Path(name).name.startswith(".")
            if info.type == pafs.FileType.File and name.endswith(suffix) and not is_temporary:
                names.append(name)
        return sorted(names)

    def parts(self, folder: str = "") -> list[str]:
        """The Parquet parts `part-*.parquet` of a table, in the order of their numbers."""
        names = [name for name in self.files(folder, ".parquet") if Path(name).name.startswith("part-")]
        # Not that of the names: part-100000 comes after part-99999.
        return sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", Path(name).name)])

    def read_bytes(self, name: str) -> bytes:
        """Content of a member.

        Raises:
            UserError: it is gone.
        """
        fs, path = self.where(name)
        try:
            with fs.open_input_stream(path) as stream:
                data: bytes = stream.read()
        except FileNotFoundError as error:
            raise self.damaged(name, "it is gone") from error
        return data

    def read_json(self, name: str) -> Any:
        """Content of a JSON member.

        Raises:
            UserError: it is gone, or is no JSON.
        """
        data = self.read_bytes(name)
        try:
            return json.loads(data)
        except ValueError as error:
            raise self.damaged(name, first_line(error)) from error

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One Parquet member.

        Raises:
            UserError: it is gone, or is no Parquet.
        """
        # A local file is mapped: what is not read of it takes no memory.
        fs, path = self.where(name)
        is_local = isinstance(fs, pafs.LocalFileSystem)
        try:
            return pq.read_table(path, columns=columns, filesystem=fs, memory_map=is_local)
        except FileNotFoundError as error:
            raise self.damaged(name, "it is gone") from error
        except (OSError, pa.ArrowException) as error:
            # Rights and servers have a number; Arrow's own errors about what it reads have none.
            if getattr(error, "errno", None):
                raise
            raise self.damaged(name, first_line(error)) from error

    def damaged(self, name: str, reason: str) -> UserError:
        """The error to raise about a member that cannot be read, as after a power cut, a full disk or half a copy."""
        return UserError(f"{self.uri}/{name} is damaged ({reason}): delete the folder {self.uri} and run it again")

    def read_parts(self, folder: str = "", columns: list[str] | None = None) -> pa.Table:
        """All parts of a table, concatenated in order.

        Raises:
            UserError: they are gone, or damaged.
        """
        # No stage finishes a table without parts, so they were there.
        names = self.parts(folder)
        if not names:
            raise self.damaged(folder or "part-*.parquet", "its parts are gone")
        return pa.concat_tables([self.read_table(name, columns) for name in names])

    def iter_parts(self, folder: str = "", columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The parts of a table one by one."""
        for name in self.parts(folder):
            yield self.read_table(name, columns)

    def local(self, name: str = "") -> Path:
        """A member (or the whole folder) as a local path; fetched to a temporary folder when the root is remote."""
        fs, path = self.where(name)
        if isinstance(fs, pafs.LocalFileSystem):
            return Path(path)

        target = Path(tempfile.mkdtemp(prefix="alignet-")) / (name or self.id)
        # Arrow makes folders inside the target, and not the target itself.
        if fs.get_file_info(path).type == pafs.FileType.Directory:
            target.mkdir()
        pafs.copy_files(path, str(target), source_filesystem=fs)
        return target

    def sizes(self) -> dict[str, int]:
        """Bytes of every member of a finished artifact."""
        # Artifacts of before 0.3 name them in their manifest.
        if not self.has(FILES):
            return dict(self.manifest.get("files", {}))
        return dict(self.read_json(FILES))

    @property
    def manifest(self) -> JsonObject:
        """artifact.json as it is stored; `read_manifest` gives its fields."""
        manifest: JsonObject = self.read_json(MANIFEST)
        if not isinstance(manifest, dict):
            raise self.damaged(MANIFEST, "it is no JSON object")
        return manifest

    def read_manifest(self) -> Manifest:
        """artifact.json.

        Raises:
            UserError: it is damaged, or another artifact's.
        """
        manifest = Manifest.from_json(self.manifest)
        # A folder that was copied over another one would be taken for what its name stands for.
        if manifest.id not in ("", self.id):
            raise self.damaged(MANIFEST, f"it is about {manifest.node} {manifest.id}")
        return manifest

    def require_size(self, name: str) -> None:
        """Refuse a member of a finished artifact that was replaced, or copied in part.

        Raises:
            UserError: it has not the size that it had when the artifact was finished.
        """
        if not self.has(FILES):
            return
        expected = self.sizes().get(name)
        fs, path = self.where(name)
        size = fs.get_file_info(path).size
        if None not in (expected, size) and size != expected:
            raise self.damaged(name, f"{size:,} bytes instead of {expected:,}")


@dataclass(frozen=True)
class Draft(Artifact):
    """An artifact being written. Every write is atomic: a reader sees a whole file or none."""

    def write_bytes(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write one member."""
        fs, path = self.where(name)
        if not isinstance(fs, pafs.LocalFileSystem):
            # An object store shows an upload when the stream is closed: atomic without a rename.
            with fs.open_output_stream(path) as stream:
                stream.write(data)
            return
        with self.atomic(name) as temporary:
            temporary.write_bytes(data)

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON member."""
        self.write_bytes(name, json.dumps(value, indent=1, ensure_ascii=False).encode())

    def write_table(self, name: str, table: pa.Table, **options: Any) -> None:
        """Write one Parquet member (zstd, no dictionary)."""
        # Written to memory first, so that the file takes the same atomic way as all others.
        # Numbers hardly repeat, so a dictionary of them would only add to the file.
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **{"compression": "zstd", "use_dictionary": False} | options)
        self.write_bytes(name, sink.getvalue())

    def atomic(self, name: str) -> "_Atomic":
        """Context manager: a local temporary path that becomes member `name` on success and vanishes on failure."""
        return _Atomic(self, name)

    def remove_folder(self, name: str) -> None:
        """Delete a member folder with all that is in it, if it is there."""
        # Another run may have removed it already.
        fs, path = self.where(name)
        if fs.get_file_info(path).type != pafs.FileType.NotFound:
            fs.delete_dir(path)

    def remove(self, name: str) -> None:
        """Delete a member (an unfinished part that cannot be used)."""
        fs, path = self.where(name)
        if self.has(name):
            fs.delete_file(path)

    def finish(self, manifest: JsonObject) -> Artifact:
        """Write the sizes of all members, artifact.json, then `_SUCCESS`: from here on the artifact is immutable."""
        # A resumed artifact may hold the manifest of an earlier attempt, which does not count itself.
        names = [name for name in self.files(deep=True) if name not in (MANIFEST, FILES, SUCCESS)]
        fs, base = self.where()
        infos = fs.get_file_info([f"{base}/{name}" for name in names])
        sizes: dict[str, int] = {}
        for name, info in zip(names, infos, strict=True):
            sizes[name] = info.size
        # Apart from the manifest: lists of artifacts read all of these, and a million images have thousands of parts.
        self.write_json(FILES, sizes)
        self.write_json(MANIFEST, manifest | {"bytes": sum(sizes.values())})

        # The marker comes last: a crash before it leaves a folder that is resumed, never read.
        self.write_bytes(SUCCESS, b"")
        return Artifact(self.root, self.stage, self.id)


class _Atomic:
    """A temporary file that replaces a member when its block ends without an exception."""

    def __init__(self, draft: Draft, name: str) -> None:
        self.draft = draft
        self.name = name
        fs, self.path = draft.where(name)
        self.is_local = isinstance(fs, pafs.LocalFileSystem)

        # A rename is atomic only within a file system, so a local temporary lies beside its member.
        if self.is_local:
            folder = Path(self.path).parent
        else:
            folder = Path(tempfile.mkdtemp(prefix="alignet-"))
        folder.mkdir(parents=True, exist_ok=True)

        # Two workers may write the same part at once, so the name is random; with a dot it is never listed.
        self.temporary = folder / f".{Path(name).name}.{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.temporary.unlink(missing_ok=True)
        elif self.is_local:
            os.replace(self.temporary, self.path)
        else:
            # Copied piece by piece: it may be larger than the memory.
            fs, path = self.draft.where(self.name)
            pafs.copy_files(str(self.temporary), path, pafs.LocalFileSystem(), fs)
            self.temporary.unlink()


@dataclass(frozen=True)
class Store:
    """All artifacts under one root."""

    root: str

    @classmethod
    def open(cls, root: str | Path) -> "Store":
        """Open a root; a local one becomes absolute."""
        root = path_text(root, "the root")
        # Workers run in other folders, where a relative path would be another root.
        if "://" in root:
            return cls(root.rstrip("/"))
        _, path = filesystem(root)
        return cls(path)

    @classmethod
    def existing(cls, root: str | Path) -> "Store":
        """The store under a root that is there; nothing is created.

        Raises:
            UserError: a local root that is no folder.
        """
        root = path_text(root, "the root")
        if "://" not in root and not Path(root).expanduser().is_dir():
            raise UserError(f"{root} is not a folder: name the root with --store.root DIR (in Python: root=)")
        return cls.open(root)

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return "://" not in self.root

    def artifact(self, stage: str, id: str) -> Artifact:
        """An artifact by id, finished or not."""
        return Artifact(self.root, stage, id)

    def draft(self, stage: str, id: str) -> Draft:
        """A folder to write to (it may hold parts of an interrupted run)."""
        draft = Draft(self.root, stage, id)
        fs, path = draft.where()
        fs.create_dir(path, recursive=True)
        return draft

    def delete(self, artifact: Artifact) -> None:
        """Remove an artifact: `_SUCCESS` first, so that a half-deleted folder is never read."""
        # A folder without the marker is unfinished to every reader.
        fs, path = artifact.where()
        if artifact.finished:
            fs.delete_file(f"{path}/{SUCCESS}")
        fs.delete_dir(path)

    def all(self, stages: list[str]) -> list[Artifact]:
        """Every artifact folder of these stages, finished or not."""
        fs, base = filesystem(self.root)
        artifacts = []
        for stage in stages:
            infos = fs.get_file_info(pafs.FileSelector(f"{base}/{stage}", allow_not_found=True))
            folders = [info.base_name for info in infos if info.type == pafs.FileType.Directory]
            artifacts += [self.artifact(stage, id) for id in sorted(folders)]
        return artifacts

    def write_ref(self, name: str, reference: Reference) -> None:
        """Point a human name at artifacts.

        Raises:
            UserError: the name would lead to another folder, or to the file of another name.
        """
        if not _stays_inside(name):
            raise UserError(f"{name!r} is no name of a run: it leads to another folder")
        if other := other_case(f"{self.root}/refs/{name}.json"):
            raise UserError(
                f"the file system of {self.root} does not tell {name!r} from {other.removesuffix('.json')!r}, a run "
                "that is there: call this one by another name (--name)"
            )
        Draft(self.root, "refs", "").write_json(f"{name}.json", asdict(reference))

    def read_ref(self, name: str) -> Reference | None:
        """What a human name points at; None if it is not known.

        Raises:
            UserError: the file of the name is damaged.
        """
        if not _stays_inside(name):
            return None

        references = Artifact(self.root, "refs", "")
        file = f"{name}.json"
        # Names are written in one Unicode form and may be typed in the other, as file managers of macOS give them.
        if not references.has(file):
            file = f"{unicodedata.normalize('NFC', name)}.json"
        if not references.has(file) or other_case(f"{self.root}/refs/{name}.json"):
            return None
        # Not skipped: `gc` would delete what a name that cannot be read points at.
        try:
            return Reference.from_json(json.loads(references.read_bytes(file)))
        except ValueError as error:
            file = f"{self.root}/refs/{name}.json"
            message = f"{file} is damaged ({first_line(error)})"
            raise UserError(f"{message}: `alignet-ray rm {name}`, then run it again") from error

    def delete_ref(self, name: str) -> None:
        """Forget a human name; its artifacts stay."""
        if name not in self.refs():
            name = unicodedata.normalize("NFC", name)
        if name not in self.refs():
            raise UserError(f"there is no run {name!r} under {self.root}")
        Draft(self.root, "refs", "").remove(f"{name}.json")

    def refs(self) -> list[str]:
        """All human names, also those that are not given any more: in folders, or beginning with a dot."""
        # All of them, however they are named: gc must not delete what one of them points at.
        fs, base = filesystem(f"{self.root}/refs")
        base = base.rstrip("/")
        infos = fs.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))

        names = []
        for info in infos:
            path = info.path[len(base) + 1 :]
            if info.type == pafs.FileType.File and path.endswith(".json"):
                names.append(path.removesuffix(".json"))
        return sorted(names)


def is_root(names: Collection[str]) -> bool:
    """Whether a folder that holds these names (folders with a slash at the end) is the root of a store."""
    # Several signs at once: a folder of images may well have one named `embed` or `logs`.
    has_state = RUN_LOCK in names and ("refs/" in names or "logs/" in names)
    has_artifacts = "refs/" in names and "embed/" in names
    return has_state or has_artifacts


def _stays_inside(name: str) -> bool:
    """Whether the name of a reference leads to no other folder than that of references."""
    # Names come from the command line, and end up in a path.
    parts = PurePosixPath(name).parts
    return bool(name) and not name.startswith("/") and ".." not in parts
