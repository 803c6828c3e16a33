"""The graph and the plan: who reads whom, what is named by what, what a changed field reaches."""

import os
from pathlib import Path

import pytest
from PIL import Image

from alignet_ray.config import Config
from alignet_ray.config.presets import PRESETS
from alignet_ray.errors import UserError
from alignet_ray.images import listing
from alignet_ray.screen import Screen
from alignet_ray.stages import STAGES, Work, graph, human_inputs, kept, pipeline, run_page
from alignet_ray.store import SCHEMA, Manifest, Store


@pytest.fixture
def small(tmp_path: Path) -> Config:
    """Three objects with an image each: enough to plan on."""
    for name in "abc":
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name / "1.png")
    (tmp_path / "objects.csv").write_text("label,object\na,0\nb,1\nc,2\n")
    (tmp_path / "triplets.txt").write_text("0 1 2\n")
    return Config().replace(
        corpus__path=str(tmp_path / "images"),
        objects__table=str(tmp_path / "objects.csv"),
        human__triplets=str(tmp_path / "triplets.txt"),
        embed__model=("random:test_vit",),
        distill__model="random:test_vit",
    )


def ids(cfg: Config, store: Store) -> dict[str, str]:
    return {s.node.name: s.artifact.id for s in pipeline.plan(cfg, store)}


@pytest.mark.parametrize("form", ["low_rank", "network"])
@pytest.mark.parametrize("control", [True, False])
def test_every_node_comes_after_its_parents(form: str, control: bool) -> None:
    seen: set[str] = set()
    for node in graph(Config().replace(align__map=form, distill__control=control)):
        assert set(node.parents) <= seen, node
        assert node.name not in seen
        assert node.stage in STAGES
        seen.add(node.name)
    assert ("distill@control" in seen) == control


def test_a_verb_runs_its_stage_and_what_it_needs() -> None:
    cfg = Config().replace(objects__table="x")
    nodes = [n.name for n in pipeline.needed(cfg, pipeline.targets(cfg, "cluster"))]
    assert nodes == ["soften", "embed@objects", "embed@corpus", "align", "cluster"]
    assert pipeline.targets(Config(), "embed") == ["embed@corpus"]
    assert pipeline.targets(Config(), "label") == ["label@aligned", "label@raw"]


def test_another_model_leaves_the_other_embeddings_alone(small: Config, store: Store) -> None:
    models = ("random:test_vit", "random:test_resnet")
    before = ids(small.replace(evaluate__models=models, evaluate__ood=small.corpus.path), store)
    more = small.replace(evaluate__models=("random:test_efficientnet", *models), evaluate__ood=small.corpus.path)
    after = ids(more, store)
    embedded = {name: id for name, id in before.items() if name.startswith("embed@")}
    assert embedded.items() <= after.items()
    assert len(after) == len(before) + 2, "the new model on two image sets"


def test_another_artifacts_folder_is_not_planned_as_finished(small: Config, store: Store) -> None:
    soften, *_ = pipeline.plan(small, store)
    made = store.draft("soften", "0123456789ab").finish(Manifest(node="soften", id="0123456789ab").to_json())
    Path(made.uri).rename(soften.artifact.uri)
    with pytest.raises(UserError, match=r"artifact\.json is damaged \(it is about soften 0123456789ab\)"):
        pipeline.plan(small, store)


def test_ids_ignore_where_and_how(small: Config, store: Store) -> None:
    other = small.replace(
        ray__num_cpus=7, embed__batch_size=3, embed__actors=5, distill__workers=1, tracking__experiment="x"
    )
    assert ids(small, store) == ids(other.replace(store__root="elsewhere", name="other"), store)


@pytest.mark.parametrize(
    ("field", "value", "reached", "kept"),
    [
        (
            "cluster__k",
            7,
            {"cluster", "label@aligned", "distill@student"},
            {"align", "soften", "embed@corpus", "embed@base"},
        ),
        ("distill__lr", 1.0, {"distill@student", "distill@control", "embed@student"}, {"label@aligned", "embed@base"}),
        ("embed__dtype", "float32", {"embed@corpus", "align", "evaluate"}, {"soften"}),
        ("evaluate__num_samples", 3, {"evaluate", "register"}, {"embed@student", "distill@student"}),
    ],
)
def test_a_change_reaches_what_depends_on_it(
    small: Config, store: Store, field: str, value: object, reached: set[str], kept: set[str]
) -> None:
    before, after = ids(small, store), ids(small.replace(**{field: value}), store)
    changed = {name for name in before if before[name] != after[name]}
    assert reached <= changed
    assert not kept & changed


def test_new_files_make_new_artifacts(small: Config, store: Store, tmp_path: Path) -> None:
    before = ids(small, store)
    image = tmp_path / "images" / "a" / "1.png"
    stat = image.stat()
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    after = ids(small, store)
    assert before["embed@corpus"] != after["embed@corpus"]
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert ids(small, store) == before


def test_the_plan_says_why(small: Config, store: Store) -> None:
    assert {s.why for s in pipeline.plan(small, store)} == {pipeline.NEVER_MADE}
    steps = {s.node.name: s for s in pipeline.plan(small, store)}
    draft = store.draft("cluster", steps["cluster"].artifact.id)
    draft.write_bytes("part-00000.parquet", b"")
    assert {s.node.name: s.state for s in pipeline.plan(small, store)}["cluster"] == "partial"
    draft.finish({"node": "cluster", "recipe": steps["cluster"].recipe.to_json(), "finished": 0.0})
    assert {s.node.name: s.state for s in pipeline.plan(small, store)}["cluster"] == "finished"
    changed = {s.node.name: s.why for s in pipeline.plan(small.replace(cluster__k=7), store)}
    assert changed["cluster"].startswith("changed: ")
    assert "k" in changed["cluster"].split(": ")[1].split(", ")


def test_the_plan_names_the_file_that_differs(small: Config, store: Store, tmp_path: Path) -> None:
    recipe = pipeline.plan(small, store)[0].recipe
    store.draft("soften", recipe.id).finish({"node": "soften", "recipe": recipe.to_json(), "finished": 0.0})
    os.utime(tmp_path / "triplets.txt", ns=(1, 1))
    steps = {step.node.name: step for step in pipeline.plan(small, store)}
    assert steps["soften"].why == "changed: date of triplets.txt (content is not compared)"


@pytest.mark.parametrize(
    ("field", "content", "says"),
    [
        ("objects__table", "", "has no rows"),
        ("objects__table", "label,object\n", "has no rows"),
        ("objects__table", "synset,things\na,0\n", "expected columns label"),
        ("objects__table", "label,object\na,abc\n", "line 2: object 'abc' is not a row number"),
        ("objects__table", "label,object\na,-3\n", "row numbers start at 0"),
        ("objects__table", "label,object\na,99999\n", r"names object 99999, but the human data has 3 objects"),
        ("objects__concepts", "x,y\n1,2\n", "expected a column name or uniqueID"),
        ("human__triplets", "a,b\n1,2\n", "no columns image1"),
        ("human__validation", "0 1 nothing\n", "is not a triplet file|no columns image1"),
        ("human__order", "x\n", "one row number a line"),
        ("human__embedding", "1 2\n3\n", "is not an embedding"),
        ("human__reference", "x\n", "is not an embedding"),
        ("human__comparisons", "reference,a\n1,2\n", "no column 'b'"),
        ("evaluate__answers", "x,y\n1,2\n", "no columns image1"),
        ("evaluate__choices", "ref_path,left_path\na,b\n", "no column 'right_path'"),
        ("evaluate__matrix", "1,2\n3\n", "holds no matrix"),
        ("align__from_", "rubbish", "rubbish"),
        ("label__from_", "rubbish", "holds no labelled triplets"),
        ("corpus__path", "rubbish", "rubbish"),
    ],
)
def test_what_a_run_would_refuse_the_plan_refuses(
    small: Config, store: Store, tmp_path: Path, field: str, content: str, says: str
) -> None:
    file = tmp_path / "rubbish.csv"
    file.write_text(content)
    cfg = small.replace(store__root=store.root)
    assert len(pipeline.describe_plan(cfg)) > 10
    with pytest.raises(UserError, match=says) as caught:
        pipeline.describe_plan(cfg.replace(**{field: str(file)}))
    assert "\n" not in str(caught.value)


def test_a_plan_on_a_world_that_is_not_drawn_yet_reads_what_is_given_beside_it(store: Store, tmp_path: Path) -> None:
    cfg = PRESETS["smoke"]().replace(store__root=store.root)
    assert {row["why"] for row in pipeline.describe_plan(cfg)} == {"its generated world is drawn first"}
    (tmp_path / "answers.csv").write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match="no columns image1"):
        pipeline.describe_plan(cfg.replace(evaluate__answers=str(tmp_path / "answers.csv")))


def test_a_model_that_does_not_exist_is_no_plan(small: Config, store: Store) -> None:
    with pytest.raises(UserError, match="nonesuch"):
        pipeline.describe_plan(small.replace(store__root=store.root, embed__model="nonesuch"))


def test_of_large_files_of_responses_the_first_lines_are_checked(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(human_inputs, "LARGE", 10)
    monkeypatch.setattr(human_inputs, "START", 14)
    (tmp_path / "triplets.txt").write_text("0 1 2\n2 1 0\nnot a number\n")
    human_inputs.check(small)
    (tmp_path / "triplets.txt").write_text("0 1 2\nnothing\n0 1 2\n")
    with pytest.raises(UserError, match="is not a triplet file"):
        human_inputs.check(small)


def test_a_corpus_that_is_not_there_is_named_before_answers_are_asked_for(store: Store) -> None:
    cfg = Config().replace(corpus__path="/nowhere", store__root=store.root)
    with pytest.raises(UserError, match=r"^/nowhere does not exist: check the path$"):
        pipeline.describe_plan(cfg)


def test_a_missing_input_is_found_by_the_plan(small: Config, store: Store) -> None:
    with pytest.raises(UserError, match="nowhere"):
        pipeline.plan(small.replace(human__triplets="/nowhere"), store)


def test_a_stage_that_a_run_does_not_have_is_refused_and_not_everything_run() -> None:
    without_people = Config().replace(corpus__path="images", align__from_="map.npz")
    for stage in ("soften", "evaluate"):
        with pytest.raises(UserError, match=f"no stage {stage}: a run has embed, align, cluster, label, distill, reg"):
            pipeline.targets(without_people, stage)


def test_a_run_that_fails_does_not_take_the_name_from_the_finished_one(
    small: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other settings under the same name that come to nothing: `gc` must spare the results that the name had."""

    def finish(cfg: Config, store: Store, steps: list[pipeline.Step], *_: object) -> None:
        for step in steps:
            store.draft(step.node.stage, step.artifact.id).finish({"node": step.node.name})

    def fail(*_: object) -> None:
        raise UserError("the disk is full")

    small = small.replace(store__root=store.root)
    monkeypatch.setattr(run_page, "fill", lambda *_: None)
    monkeypatch.setattr(pipeline, "carry_out", finish)
    results = {(artifact.stage, artifact.id) for artifact in pipeline.run(small).values()}
    assert kept.reachable(store) == results

    monkeypatch.setattr(pipeline, "carry_out", fail)
    for seed in (5, 6):
        with pytest.raises(UserError, match="the disk is full"):
            pipeline.run(small.replace(seed=seed))
        assert results < kept.reachable(store)
    # One stage alone makes no run either.
    with pytest.raises(UserError, match="the disk is full"):
        pipeline.run(small.replace(seed=7), names=["soften"])
    assert results < kept.reachable(store)

    # A whole run takes the name.
    monkeypatch.setattr(pipeline, "carry_out", finish)
    others = {(artifact.stage, artifact.id) for artifact in pipeline.run(small.replace(seed=6)).values()}
    assert kept.reachable(store) == others
    assert others != results


def test_artifacts_of_an_earlier_schema_are_named_and_not_reused(small: Config, store: Store) -> None:
    assert kept.outdated_note(store) == ""
    store.draft("cluster", "old").finish({"schema": 1, "node": "cluster", "recipe": {}, "finished": 0.0})
    store.draft("cluster", "new").finish({"schema": SCHEMA})
    assert kept.outdated(store) == {("cluster", "old")}
    assert kept.outdated_note(store).startswith("1 artifacts under ")
    assert "nothing deletes them" in kept.outdated_note(store)
    reasons = {step.node.name: step.why for step in pipeline.plan(small, store)}
    assert reasons["cluster"] == "never made under this root"


def test_a_failing_stage_leaves_no_success(
    small: Config, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(work: Work) -> None:
        work.out.write_bytes("part-00000.parquet", b"x")
        raise UserError("mend this")

    monkeypatch.setattr(pipeline.module("soften"), "run", fail)
    monkeypatch.setattr(pipeline.runtime, "start", lambda cfg: "")
    cfg = small.replace(store__root=str(tmp_path / "root"))
    with pytest.raises(UserError, match="mend this"):
        pipeline.run(cfg, Screen(), ["soften"])
    states = {s.node.name: s.state for s in pipeline.plan(cfg, Store.open(cfg.store.root), ["soften"])}
    assert states == {"soften": "partial"}


def test_without_judgements_a_stored_transform_labels_the_corpus(small: Config, tmp_path: Path) -> None:
    cfg = small.replace(human__triplets=None, objects__table=None, align__from_=str(tmp_path / "transform.npz"))
    names = [n.name for n in graph(cfg)]
    assert names == [
        *("embed@corpus", "align", "cluster", "label@aligned", "distill@student"),
        "register",
    ], "nobody could score a control"


def test_a_plan_that_is_told_the_fingerprints_looks_at_no_folder(
    small: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the trials of a sweep and the folds of a study are, of which each would list the corpus again."""
    steps = pipeline.plan(small, store)
    known = pipeline.fingerprints(steps)
    assert isinstance(known[small.corpus.path], dict)

    def look(source: str) -> None:
        raise AssertionError(f"{source} is listed again")

    monkeypatch.setattr(listing, "fingerprint", look)
    again = pipeline.plan(small, store, known=known)
    assert [step.artifact.id for step in again] == [step.artifact.id for step in steps]
    with pytest.raises(AssertionError, match="listed again"):
        pipeline.plan(small, store)
