"""The store: nothing unfinished is read, nothing half-written is left, values travel."""

import pickle
import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ignored_case import lists_as

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.stages.kept import reachable
from alignet_ray.store import SUCCESS, Artifact, Manifest, Reference, Store, digest


def test_an_artifact_is_finished_only_with_success(store: Store) -> None:
    draft = store.draft("embed", "abc")
    draft.write_table("part-00000.parquet", pa.table({"x": [1, 2]}))
    draft.write_table("part-00001.parquet", pa.table({"x": [3]}))
    assert not draft.finished
    done = draft.finish({"node": "embed@corpus"})
    assert done.finished
    assert done.read_parts()["x"].to_pylist() == [1, 2, 3]
    assert done.sizes().keys() == {"part-00000.parquet", "part-00001.parquet"}
    assert done.manifest["bytes"] == sum(done.sizes().values())


def test_a_failed_write_leaves_nothing(store: Store) -> None:
    draft = store.draft("embed", "abc")

    def write_half() -> None:
        with draft.atomic("part-00000.parquet") as path:
            path.write_bytes(b"half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_half()
    assert list(Path(draft.uri).iterdir()) == []


def test_a_temporary_of_a_killed_run_is_not_a_member(store: Store) -> None:
    draft = store.draft("embed", "abc")
    (Path(draft.uri) / ".part-00000.parquet.1234").write_bytes(b"half")
    assert draft.files() == []
    assert draft.parts() == []


def test_readers_never_see_half_a_file(store: Store) -> None:
    draft = store.draft("embed", "abc")
    table = pa.table({"x": list(range(20_000))})
    draft.write_table("part-00000.parquet", table)
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            draft.write_table("part-00000.parquet", table)

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        for _ in range(30):
            assert len(draft.read_table("part-00000.parquet")) == 20_000
    finally:
        stop.set()
        thread.join()


def test_a_folder_without_folders_is_fetched_from_a_remote_root() -> None:
    draft = Store.open("memory://flat").draft("embed", "abc")
    draft.write_bytes("model.json", b"{}")
    folder = draft.local()
    assert [file.name for file in folder.iterdir()] == ["model.json"]
    assert draft.local("model.json").read_bytes() == b"{}"


def test_artifacts_travel(store: Store) -> None:
    artifact = store.artifact("embed", "abc")
    assert pickle.loads(pickle.dumps(artifact)) == artifact


def test_delete_takes_success_first(store: Store) -> None:
    draft = store.draft("embed", "abc")
    draft.finish({})
    store.delete(Artifact(store.root, "embed", "abc"))
    assert not Path(draft.uri).exists()


def test_a_run_is_found_in_either_unicode_form_of_its_name(store: Store) -> None:
    reference = Reference({"soften": "1"}, "seed: 0")
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert Config().replace(name=decomposed).name == composed
    store.write_ref(composed, reference)
    assert store.read_ref(decomposed) == reference
    store.delete_ref(decomposed)
    assert store.refs() == []


def test_two_runs_whose_names_differ_in_case_are_never_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Reference({"soften": "1"}), Reference({"soften": "2"})
    store.write_ref("Night", first)
    store.write_ref("night", second)
    assert store.read_ref("Night") == first
    assert store.read_ref("night") == second
    store.delete_ref("Night")

    # Where the file system opens one file by both names, the second run is refused, and the first one is not read.
    lists_as(monkeypatch, {"night.json": "Night.json"})
    with pytest.raises(UserError, match=r"does not tell 'night' from 'Night'.*--name"):
        store.write_ref("night", first)
    assert store.read_ref("night") is None


def test_refs(store: Store) -> None:
    reference = Reference({"soften": "1"}, "seed: 0")
    store.write_ref("night", reference)
    assert store.refs() == ["night"]
    assert store.read_ref("night") == reference
    assert store.read_ref("day") is None
    store.delete_ref("night")
    assert store.refs() == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '"text"',
        '{"nodes": {"soften": 3}}',
        '{"nodes": {"soften": ""}}',
        '{"nodes": {}, "before": [1]}',
        '{"nodes": {}, "before": {"soften": null}}',
        '{"nodes": {}, "config": 5}',
    ],
)
def test_a_damaged_name_is_told_before_gc_deletes_what_it_names(store: Store, content: str) -> None:
    store.write_ref("night", Reference({"soften": "1"}))
    (Path(store.root) / "refs" / "night.json").write_text(content)
    with pytest.raises(UserError, match=r"refs/night\.json is damaged.*alignet-ray rm night"):
        reachable(store)


def damaged_artifact(store: Store, name: str, content: bytes | None) -> Artifact:
    """A finished artifact, one member of which was changed afterwards (None: deleted)."""
    draft = store.draft("evaluate", "abc")
    draft.write_table("part-00000.parquet", pa.table({"x": list(range(1000))}))
    draft.write_json("facts.json", {"n": 1})
    done = draft.finish({"node": "evaluate"})
    file = Path(done.uri) / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    return done


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"\0" * 900])
def test_a_damaged_member_is_named_with_the_folder_to_delete(store: Store, content: bytes | None) -> None:
    readers = {
        "part-00000.parquet": lambda artifact: artifact.read_parts(),
        "facts.json": lambda artifact: artifact.read_json("facts.json"),
        "artifact.json": lambda artifact: artifact.read_manifest(),
    }
    for name, read in readers.items():
        artifact = damaged_artifact(store, name, content)
        with pytest.raises(UserError, match=r"is damaged \(.+\): delete the folder .*/evaluate/abc and run it again"):
            read(artifact)
        store.delete(artifact)


def test_a_table_that_is_cut_off_is_damaged(store: Store) -> None:
    whole = (Path(damaged_artifact(store, "facts.json", b"{}").uri) / "part-00000.parquet").read_bytes()
    for size in range(0, len(whole), 97):
        artifact = damaged_artifact(store, "part-00000.parquet", whole[:size])
        with pytest.raises(UserError, match=r"part-00000\.parquet is damaged"):
            artifact.read_table("part-00000.parquet")


@pytest.mark.parametrize("content", [b"[]", b"null", b"3"])
def test_a_manifest_that_is_no_object_is_damaged(store: Store, content: bytes) -> None:
    with pytest.raises(UserError, match=r"artifact\.json is damaged"):
        damaged_artifact(store, "artifact.json", content).read_manifest()


def test_a_folder_that_was_copied_over_another_one_is_not_taken_for_it(store: Store) -> None:
    made = store.draft("evaluate", "abc").finish(Manifest(node="evaluate", id="abc").to_json())
    assert made.read_manifest().id == "abc"
    shutil.copytree(made.uri, Path(made.uri).with_name("xyz"))
    with pytest.raises(
        UserError, match=r"xyz/artifact\.json is damaged \(it is about evaluate abc\): delete the folder"
    ):
        store.artifact("evaluate", "xyz").read_manifest()


def test_unknown_schemes_are_a_users_mistake() -> None:
    with pytest.raises(UserError, match="nosuch"):
        Store.open("nosuch://x/y").artifact("embed", "a").has(SUCCESS)


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False) | st.text() | st.none()))
def test_digest_ignores_key_order(value: dict[str, object]) -> None:
    assert digest(value) == digest(dict(reversed(list(value.items()))))


def test_a_folder_is_removed_if_it_is_there(store: Store) -> None:
    draft = store.draft("embed", "a")
    draft.write_bytes("scratch/deep/file", b"x")
    draft.write_bytes("kept", b"y")
    for _ in range(2):  # the second time there is nothing
        draft.remove_folder("scratch")
        assert draft.files(deep=True) == ["kept"]


def test_a_name_never_leads_out_of_the_root(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    for name in ("../../outside", "/tmp/x", "", "a/../../../outside"):
        with pytest.raises(UserError, match=r"is no name of a run"):
            store.write_ref(name, Reference())
        with pytest.raises(UserError, match="there is no run"):
            store.delete_ref(name)
        assert store.read_ref(name) is None
    assert outside.read_text() == "{}"


def test_runs_of_earlier_versions_keep_their_names(store: Store) -> None:
    """Names with a slash or a leading dot are not given any more, but what they name must not count as unused."""
    for name in ("exp/1", ".v2", "plain", "v1.2"):
        store.write_ref(name, Reference({"align": name}))
    (Path(store.root) / "refs" / ".plain.json.0123abcd").write_text("half written")
    assert store.refs() == [".v2", "exp/1", "plain", "v1.2"]
    assert reachable(store) == {("align", name) for name in store.refs()}
    store.delete_ref("exp/1")
    assert "exp/1" not in store.refs()
