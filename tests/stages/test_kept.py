from alignet_ray.stages import kept
from alignet_ray.store import SUCCESS, Reference, Store


def test_what_no_run_names_is_not_reachable(store: Store) -> None:
    store.draft("embed", "aaa").finish({})
    store.draft("embed", "bbb").finish({})
    store.write_ref("run", Reference({"embed@corpus": "aaa"}))
    assert kept.reachable(store) == {("embed", "aaa")}


def test_what_a_name_had_before_is_reachable_until_its_next_run_is_finished(store: Store) -> None:
    earlier = Reference({"embed@corpus": "aaa", "align": "bbb"})
    unfinished = Reference({"embed@corpus": "ccc"}).follows(earlier)
    store.write_ref("run", unfinished)
    assert kept.reachable(store) == {("embed", "aaa"), ("align", "bbb"), ("embed", "ccc")}
    # One unfinished run after the other: the last finished one is kept.
    store.write_ref("run", Reference({"embed@corpus": "ddd"}).follows(store.read_ref("run")))
    assert kept.reachable(store) == {("embed", "aaa"), ("align", "bbb"), ("embed", "ddd")}


def test_only_finished_artifacts_have_manifests(store: Store) -> None:
    store.draft("embed", "aaa").finish({"node": "embed@corpus"})
    store.draft("embed", "bbb").write_bytes("part", b"x")
    assert [manifest.node for manifest in kept.manifests(store)] == ["embed@corpus"]


def test_a_damaged_artifact_does_not_hide_the_others(store: Store) -> None:
    store.draft("embed", "aaa").finish({"node": "embed@corpus"})
    store.draft("embed", "bbb").write_bytes(SUCCESS, b"")
    store.draft("soften", "ccc").finish({"node": "soften", "schema": 1})
    assert [manifest.node for manifest in kept.manifests(store)] == ["embed@corpus", "soften"]
    assert kept.outdated(store) == {("soften", "ccc")}
