"""The order and the names of a study's runs on finished artifacts; a real study is a slow test."""

import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
import yaml

import alignet_ray
from alignet_ray.config import Config
from alignet_ray.config.presets import PRESETS
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen
from alignet_ray.stages import generated_world, pipeline, side_by_side
from alignet_ray.store import Artifact, JsonObject, Store
from alignet_ray.study import runner, tracked
from alignet_ray.study.folder import StudyFolder
from tests.support.smoke_run import SmokeRun, alignet


@pytest.fixture
def cfg(smoke: SmokeRun, tmp_path: Path) -> Config:
    return PRESETS["smoke"]().replace(store__root=str(tmp_path), study__folds=3, study__chosen="by hand")


@pytest.fixture
def ran(smoke: SmokeRun, monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Settings of the runs that a study asked for; each of them gets the artifacts of the smoke run."""
    called: list[Config] = []

    def run(cfg: Config, screen: Screen, names: Iterable[str], known: JsonObject) -> dict[str, Artifact]:
        called.append(cfg)
        return {name: smoke[name] for name in names}

    def opened(cfg: Config, screen: Screen) -> nullcontext[tuple[Config, Store, Path]]:
        # The world of the smoke run: a new one would be drawn in minutes.
        resolved = generated_world.resolve(cfg.replace(store__root=str(smoke.root)), smoke.root, screen)
        return nullcontext((resolved, Store.open(cfg.store.root), smoke.root))

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(pipeline, "opened", opened)
    return called


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[StudyFolder]:
    """Studies that were logged: `test_tracked.py` looks at how, which needs a database."""
    logged: list[StudyFolder] = []
    monkeypatch.setattr(tracked, "record", lambda cfg, folder, *rest: logged.append(folder))
    return logged


def test_every_fold_is_run_with_every_seed_and_nothing_is_registered(
    cfg: Config, ran: list[Config], recorded: list[StudyFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runner.run(cfg.replace(study__seeds=2, seed=4))
    assert recorded == [folder]
    assert "warning" not in capsys.readouterr().out
    assert [(run.seed, run.objects.fold, run.objects.folds) for run in ran] == [
        (seed, fold, 3) for seed in (4, 5) for fold in range(3)
    ]
    assert len({run.name for run in ran}) == 6
    assert all("register" not in plan.nodes for plan in runner.fold_plans(cfg))

    headline = next(row for row in folder.scores() if row.key == ("base", "pre_logits", "odd_one_out", ""))
    assert headline.runs == 6
    assert headline.lowest == headline.highest
    assert headline.value == pytest.approx(headline.lowest, abs=1e-12)  # the same six numbers: a mean of them rounds

    # From Python: what is finished is read again.
    result = alignet_ray.run_study(cfg.replace(study__seeds=2, seed=4), quiet=True)
    assert result.uri == folder.draft.uri
    assert result.scores.query("model == 'base' and metric == 'odd_one_out' and level == ''").runs.tolist() == [6]
    assert "<iframe" in result._repr_html_()

    page = folder.page_file().read_text()
    assert "simulated people" in page
    assert "by hand" in page
    assert any("student head" in line for line in runner.lines(folder))
    assert runner.lines(folder)[-1].endswith("study.html")


def test_settings_are_written_before_the_first_run_and_never_again(
    cfg: Config, ran: list[Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = pipeline.run

    def stop(settings: Config, screen: Screen, names: Iterable[str], known: JsonObject) -> dict[str, Artifact]:
        if settings.objects.fold == 1:
            raise UserError("the disk is full")
        return finished(settings, screen, names, known)

    monkeypatch.setattr(pipeline, "run", stop)
    with pytest.raises(UserError, match="the disk is full"):
        runner.run(cfg)
    (written,) = (Path(cfg.store.root) / "study").iterdir()
    assert "1 of 3 runs are finished" in (written / "study.html").read_text()
    before = (written / "settings.yaml").read_text()
    assert before.startswith("# frozen ")
    assert yaml.safe_load(before)["distill"]["steps"] == 120

    monkeypatch.setattr(pipeline, "run", finished)
    capsys.readouterr()
    again = runner.run(cfg.replace(study__chosen="otherwise", objects__fold=2))
    said = capsys.readouterr().out
    # How settings were chosen is what was said before the first result, whatever is said afterwards.
    assert "How they were chosen: by hand" in again.page_file().read_text()
    assert "otherwise" not in again.page_file().read_text()
    assert "before the first fold: by hand" in said
    assert "objects.fold and objects.folds are set aside" in said
    assert again.draft.id == written.name
    assert (written / "settings.yaml").read_text() == before
    assert "runs are finished" not in again.page_file().read_text()
    # Other settings are another study, and a user who meant to go on is told so.
    assert "a new study" not in said
    assert runner.run(cfg.replace(distill__steps=121)).draft.id != again.draft.id
    said = capsys.readouterr().out
    assert f"a new study: distill.steps differs from the study {again.draft.id}, whose page stays" in said
    assert runner.run(cfg.replace(distill__steps=122, name="other")).draft.id != again.draft.id
    assert "a new study" not in capsys.readouterr().out


def test_runs_side_by_side_make_the_same_page_in_whatever_order_they_end(
    cfg: Config, ran: list[Config], smoke: SmokeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one = runner.run(cfg)
    asked: list[tuple[int, list[str]]] = []

    def run(
        title: str,
        cfgs: list[Config],
        names: list[str],
        concurrent: int,
        screen: Screen,
        known: JsonObject,
        finished: Callable[[int, dict[str, Artifact]], None],
    ) -> None:
        asked.append((concurrent, [each.name for each in cfgs]))
        for number in reversed(range(len(cfgs))):
            finished(number, {name: smoke[name] for name in names})

    monkeypatch.setattr(side_by_side, "run", run)
    together = runner.run(cfg.replace(study__concurrent=2, store__root=str(tmp_path / "other")))
    assert asked == [(2, [each.name for each in ran])]
    assert together.draft.id == one_by_one.draft.id
    tables = [folder.draft.read_table("study.parquet").to_pandas() for folder in (together, one_by_one)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    for file in ("study.md", "study.tex"):
        assert together.draft.read_bytes(file) == one_by_one.draft.read_bytes(file)


def test_a_study_needs_human_data() -> None:
    without = Config().replace(corpus__path="images", align__from_="map.npz")
    with pytest.raises(UserError, match=r"give --human\.triplets \(or --human\.comparisons\)"):
        runner.run(without)


@pytest.mark.slow
def test_a_study_by_the_command_line(tmp_path: Path) -> None:
    quick = ("--soften.steps", "200", "--distill.steps", "20", "--align.steps", "200", "--label.train", "2000")
    command = ("study", "smoke", "--study.folds", "3", *quick)
    printed = alignet(*command, cwd=tmp_path).stdout
    assert "student features" in printed
    (page,) = (tmp_path / "runs" / "study").glob("*/study.html")
    text = page.read_text()
    assert "runs are finished" not in text

    # Every object that has images was a test object once; what the folds share was made once.
    listed = json.loads(alignet("ls", "--json", cwd=tmp_path).stdout)
    nodes = [artifact["node"] for artifact in listed["artifacts"]]
    assert (nodes.count("embed@objects"), nodes.count("soften"), nodes.count("evaluate")) == (1, 3, 3)
    assert "study    " in alignet(*command, cwd=tmp_path).stdout
    assert page.read_text().count("<table") == text.count("<table")
