"""The page of a whole run in MLflow: its data, headline scores, report, version; and why it failed."""

from pathlib import Path

import pytest

from alignet_ray import invocation, runtime, tracking
from alignet_ray.artifacts.evaluate import EvaluateArtifact, EvaluateFacts
from alignet_ray.artifacts.register import RegisterArtifact, RegisteredVersion
from alignet_ray.config import Config
from alignet_ray.core.scores import Score
from alignet_ray.errors import UserError
from alignet_ray.screen import table
from alignet_ray.stages import pipeline, run_page
from alignet_ray.store import Store
from alignet_ray.tracking import Session, client

MODELS = (("base", "pre_logits"), ("teacher", "aligned"), ("student", "pre_logits"), ("student", "head"))


def test_a_file_is_one_data_set_whoever_reads_it(tmp_path: Path) -> None:
    answers = tmp_path / "answers.csv"
    answers.write_text("1,2,3\n")
    files = [
        run_page.FileRead(f"{tmp_path}/", "f1", "embed"),
        run_page.FileRead(str(answers), "a1", "soften"),
        run_page.FileRead(f"{tmp_path}/", "f1", "distill"),
        run_page.FileRead(f"{tmp_path}/", "f1", "embed"),
        run_page.FileRead("s3://bucket/train", "b1", "embed"),
    ]
    found = [(data.name, data.digest, data.kind, data.use) for data in run_page.data_sets(files)]
    assert found == [
        (tmp_path.name, "f1", "folder", "embed, distill"),
        ("answers.csv", "a1", "file", "soften"),
        ("train", "b1", "folder", "embed"),
    ]


def test_the_page_of_a_run(store: Store) -> None:
    session = Session.open(Config().replace(store__root=store.root), Path(store.root))
    evaluation = EvaluateArtifact(store.draft("evaluate", "e"))
    scores = [Score(model, layer, "objects", "odd_one_out", 0.5) for model, layer in MODELS]
    scores += [
        Score("human", "", "objects", "odd_one_out", 0.7),
        Score("control", "head", "objects", "odd_one_out", 0.4),
    ]
    scores += [Score("student", "head", "objects", "odd_one_out", 0.1, level="border")]
    scores += [Score("student", "head", "answers", "odd_one_out", 0.2), Score("student", "head", "objects", "rsa", 0.3)]
    evaluation.write_scores(scores)
    evaluation.draft.write_bytes("report.html", b"<p>here</p>")
    lines = ["about people", *table([{"layer": "head", "base": "37.7"}]).splitlines()]
    facts = EvaluateFacts(table=lines, test_objects=3, verdict="yes", reasons=[], scores={})
    evaluated = evaluation.draft.finish({"facts": vars(facts)})

    model = client(session.uri).create_logged_model(session.experiment, name="student")
    registered = RegisterArtifact(store.draft("register", "r"))
    registered.write_version(RegisteredVersion("shoes", "2", ["candidate"], "models:/shoes@candidate", model.model_id))

    run = session.begin("night", None, {})
    run_page.fill(Config(), {"evaluate": evaluated, "register": registered.draft}, session, run)
    page = client(session.uri).get_run(run.run_id)
    expected = {f"odd_one_out/{model}/{layer}": 0.5 for model, layer in MODELS}
    assert page.data.metrics == expected | {"odd_one_out/human": 0.7}
    assert "Registered as `models:/shoes@candidate`, version 2." in page.data.tags["mlflow.note.content"]
    assert page.data.tags["mlflow.note.content"].startswith(
        "about people\n\n| layer | base |\n|---|---|\n| head | 37.7 |"
    )
    assert {file.path for file in client(session.uri).list_artifacts(run.run_id)} == {"config.yaml", "report.html"}
    assert [output.model_id for output in page.outputs.model_outputs] == [model.model_id]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("the disk is full"), "**Failed**: the disk is full"),
        (RuntimeError("no such kernel\nand a long trace"), "**Failed**: RuntimeError: no such kernel"),
    ],
)
def test_a_run_that_fails_says_why(store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str) -> None:
    cfg = Config().replace(store__root=store.root)
    Path(store.root).mkdir(exist_ok=True)
    with pytest.raises(type(error)), pipeline.tracked(cfg, Path(store.root)):
        raise error
    session = Session.open(cfg, Path(store.root))
    assert client(session.uri).get_experiment(session.experiment).tags == tracking.KIND
    (run,) = client(session.uri).search_runs([session.experiment])
    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow.note.content"] == text


def test_every_run_says_where_it_comes_from(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config().replace(store__root=store.root)
    Path(store.root).mkdir(exist_ok=True)
    words = ("alignet-ray", "run", "smoke", "--tracking.uri", "http://me:sesame@server", "--name", "two words")
    with invocation.called_as(*words), pipeline.tracked(cfg, Path(store.root)) as (session, parent):
        child = session.begin("label@aligned", None, {"alignet.artifact": "a1"}, parent.run_id)

    for run_id in (parent.run_id, child.run_id):
        tags = client(session.uri).get_run(run_id).data.tags
        assert tags["mlflow.source.name"] == "alignet-ray run smoke"
        assert tags["mlflow.source.type"] == "LOCAL"
        written = "alignet-ray run smoke --tracking.uri http://me:***@server --name 'two words'"
        assert tags["alignet.command"] == written
    assert "alignet.state_dir" not in tags, "by which the runs of a killed process are found"

    monkeypatch.setenv(runtime.JOB, "{}")
    monkeypatch.setattr(runtime, "state_dir", lambda cfg: Path(store.root))
    with pipeline.tracked(cfg, Path(store.root), "from Python") as (session, parent):
        tags = client(session.uri).get_run(parent.run_id).data.tags
    assert tags["mlflow.source.type"] == "JOB"
    assert tags["mlflow.source.name"] == tags["alignet.command"] == "alignet_ray.run"
