from pathlib import Path

import pytest

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.store import Store
from alignet_ray.study.folder import StudyFolder
from alignet_ray.study.pooling import PooledScore


@pytest.fixture
def folder(store: Store) -> StudyFolder:
    return StudyFolder(store.draft("study", "abc"))


def test_settings_are_frozen_once(folder: StudyFolder) -> None:
    first = Config(seed=3).replace(study__chosen="by hand")
    written = folder.freeze(first)
    assert len(written.when) == len("2026-01-02 03:04")
    assert written.chosen == "by hand"
    assert written.text == first.to_yaml()
    file = Path(folder.draft.uri) / "settings.yaml"
    before = file.read_text()
    # The rest is a configuration that `--config` reads.
    assert Config.from_yaml(file).seed == 3
    assert folder.freeze(Config(seed=4).replace(study__chosen="afterwards")) == written
    assert file.read_text() == before


@pytest.mark.parametrize(
    "content",
    [b"", b"seed: 0\n", b"# frozen 2026-01-02 03:04\n", b"# frozen x\nseed: [", b"\xff\xfe", b"# frozen x\n[]"],
)
def test_damaged_settings_are_named(folder: StudyFolder, content: bytes) -> None:
    folder.draft.write_bytes("settings.yaml", content)
    with pytest.raises(UserError, match=r"study/abc/settings\.yaml is damaged"):
        folder.freeze(Config())


def test_settings_without_their_first_line_do_not_say_when(folder: StudyFolder) -> None:
    folder.draft.write_bytes("settings.yaml", Config().to_yaml().encode())
    with pytest.raises(UserError, match="does not say when"):
        folder.freeze(Config())


def test_settings_differ_in_what_makes_another_study(folder: StudyFolder) -> None:
    assert not folder.is_begun
    cfg = Config(seed=3, name="mine")
    folder.freeze(cfg)
    assert folder.is_begun
    assert folder.differences(cfg.replace(study__chosen="afterwards", store__root="/elsewhere")) == []
    assert folder.differences(cfg.replace(seed=4, distill__steps=7)) == ["distill.steps", "seed"]
    assert folder.differences(cfg.replace(name="another", seed=4)) is None
    folder.draft.write_bytes("settings.yaml", b"# frozen x\nno_such_field: 1\n")
    assert folder.differences(cfg) is None


def test_results_are_written_again_after_every_fold(folder: StudyFolder) -> None:
    row = PooledScore("base", "pre_logits", "objects", "few_shot_1", "", 0.5, 0.4, 0.6, float("nan"), 3, 60, 0.45, 0.55)
    folder.write([row], "<p>first</p>", "| first |", "first")
    folder.write([row, row], "<p>second</p>", "| second |", "second")
    assert [score.key for score in folder.scores()] == [row.key, row.key]
    assert folder.page_file().read_text() == "<p>second</p>"
    assert {path.name for path in Path(folder.draft.uri).iterdir()} == {
        "study.parquet",
        "study.html",
        "study.md",
        "study.tex",
    }
