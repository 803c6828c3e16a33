from dataclasses import dataclass
from pathlib import Path

import pytest

from alignet_ray.config import Config, Distill, Section
from alignet_ray.config.sections import RUNTIME_NOTE, InputPath, RuntimeOnly
from alignet_ray.errors import UserError


class Inner(Section):
    """A nested section."""

    kept: int = 1
    dropped: RuntimeOnly[int] = 2


class Outer(Section):
    """A section."""

    steps: int = 10
    """Steps."""
    workers: RuntimeOnly[int | None] = None
    """Workers."""
    file: InputPath[str | None] = None
    """File."""
    inner: Inner = Inner()


@dataclass(frozen=True)
class Settings:
    steps: int
    every: int = 5


def test_result_fields_leave_out_runtime_fields_and_the_names_of_inputs() -> None:
    assert Outer(workers=3).result_fields() == {"steps": 10, "file": False, "inner": {"kept": 1}}
    assert Outer(file="here.csv").result_fields() == Outer(file="there.csv").result_fields()
    assert Outer(file="here.csv").result_fields() != Outer().result_fields()


def test_the_help_of_a_runtime_field_says_so() -> None:
    assert Outer.model_fields["workers"].description == "Workers." + RUNTIME_NOTE
    assert Outer.model_fields["steps"].description == "Steps."
    texts = [field.description or "" for field in Distill.model_fields.values()]
    assert max(text.count("Runtime only") for text in texts) == 1


def test_settings_come_from_fields_of_the_same_names() -> None:
    assert Outer(steps=7).settings(Settings) == Settings(7, 5)
    assert Outer(steps=7).settings(Settings, steps=8, every=1) == Settings(8, 1)


def test_only_what_changes_a_result_is_left_of_a_whole_configuration() -> None:
    fields = Config().result_fields()
    assert fields["seed"] == 0
    assert "name" not in fields
    assert not fields["ray"]
    assert not fields["store"]
    assert not fields["tracking"]


def test_from_python_a_path_may_be_a_path() -> None:
    cfg = Config().replace(corpus__path=Path("images"), store__root=Path("root"), evaluate__sets=[Path("a"), "b"])
    assert (cfg.corpus.path, cfg.store.root, cfg.evaluate.sets) == ("images", "root", ("a", "b"))
    with pytest.raises(UserError, match=r"distill\.lr: Input should be a valid number"):
        Config().replace(distill__lr=Path("fast"))


def test_a_field_called_like_a_word_of_python_is_found_by_its_option() -> None:
    assert Config().replace(embed__from="features.npy").embed.from_ == "features.npy"
    assert Config().replace(embed__from_="features.npy").embed.from_ == "features.npy"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("seed", 2**31),
        ("embed.size", 0),
        ("embed.actors", 0),
        ("cluster.candidates", (1, 2, 3)),
        ("cluster.candidates", (4, 4, 5)),
        ("distill.size", -3),
        ("distill.tau", -1.0),
        ("distill.trainable", 0),
        ("distill.grad_clip", 0.0),
        ("distill.workers", 0),
        ("distill.per_cluster", 1000),
        ("align.network.workers", -1),
        ("label.cluster_border", 0.0),
        ("evaluate.num_samples", 0),
        ("evaluate.shots", (0, 1)),
        ("study.folds", 1_000_000),
        ("study.seeds", 1_000_000),
        ("sweep.minutes", 0.0),
        ("sweep.concurrent", -2),
        ("ray.num_cpus", 0),
    ],
)
def test_an_amount_that_no_run_could_use_is_refused_when_it_is_read(field: str, value: object) -> None:
    with pytest.raises(UserError, match=field.replace(".", r"\.") + "|weight 0|per-cluster"):
        Config().replace(**{field.replace(".", "__"): value})


def test_several_networks_are_not_fine_tuned() -> None:
    with pytest.raises(UserError, match=r"^align\.map network fine-tunes one network: give one embed\.model"):
        Config().replace(align__map="network", embed__model=("a", "b"))


def test_a_value_has_no_fields_of_its_own() -> None:
    with pytest.raises(UserError, match="distill__lr__x"):
        Config().replace(distill__lr__x=1)
