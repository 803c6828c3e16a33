"""One trial of a sweep: the search space that it comes from, and what it reports to Ray Tune."""

from typing import Any
from unittest.mock import create_autospec

import pytest

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.store import Store
from alignet_ray.sweep import trial
from alignet_ray.sweep.search_space import parse
from alignet_ray.sweep.selection import FAILED, FINISHED, Trial
from alignet_ray.tracking import Session, Tracker

WITH_RESPONSES = {"human__triplets": "x", "corpus__path": "x"}


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ((), "a sweep needs --sweep.space"),
        (("align.lr=choice(1,2)", "distill.lr=choice(1,2)"), "not of both"),
        (("cluster.k=choice(5,6)",), "cluster.k is no field of align or of distill"),
        (("lr=choice(5,6)",), r"lr is no field of align or of distill.*: did you mean align\.lr\?"),
        (("distil.head=choice(5,6)",), r"did you mean distill\.head\?"),
        (("align.pul=choice(1,2)",), "no field align.pul"),
        (("distill.learning-rate=uniform(1,2)",), r"no field distill\.learning_rate: did you mean distill\.lr\?"),
        (("distill.steps=uniform(1,5)",), r"distill\.steps takes whole numbers: write randint\(\.\.\.\)"),
        (("align.rank=loguniform(1,5)",), r"align\.rank takes whole numbers: write lograndint\(\.\.\.\)"),
        (("distill.tau=uniform(-1,1)",), "distill.tau cannot be -1"),
        (("distill.trainable=choice(head,0)",), "distill.trainable cannot be 0"),
        (("align.rank=uniform(1.5,2.5)",), "align.rank cannot be 1.5"),
        (("align.lr=uniform(-1,1)",), "align.lr cannot be -1"),
        (("distill.log_every=choice(1,2)",), "changes no result"),
        (("distill.batching=choice(triplets,nothing)",), "cannot be 'nothing'"),
    ],
)
def test_invalid_spaces_are_refused(texts: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        trial.read_space(Config().replace(sweep__space=texts, **WITH_RESPONSES))
    assert "\n" not in str(error.value)


def test_a_narrow_range_at_the_end_of_what_a_field_takes_is_read() -> None:
    cfg = Config().replace(sweep__space=("distill.hard_fraction=uniform(0.9999,1)",), **WITH_RESPONSES)
    _, space = trial.read_space(cfg)
    assert space["distill.hard_fraction"].values == (0.9999, 1.0)


def test_a_sweep_needs_human_responses_to_select_by() -> None:
    cfg = Config().replace(sweep__space=("distill.lr=choice(1,2)",), align__from_="map.npz")
    with pytest.raises(UserError, match="people's answers"):
        trial.read_space(cfg)


def test_a_nested_field_is_found() -> None:
    cfg = Config().replace(
        sweep__space=("align.network.lr=loguniform(1e-5,1e-3)",), align__map="network", **WITH_RESPONSES
    )
    stage, space = trial.read_space(cfg)
    assert stage == "align"
    assert list(space) == ["align.network.lr"]


def test_the_tracker_reports_the_live_metric_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", reported.append)
    tracker = trial.TuneTracker("", "run", "", "loss")
    tracker.log_curve({"loss": 1.5, "other": 2.0}, 20)
    tracker.log_curve({"other": 2.0}, 40)
    assert reported == [{"step": 20, "live": 1.5, "run_id": "run", "score": None}]
    assert isinstance(tracker, Tracker)


def test_bounds_of_a_list_are_as_the_config_holds_them() -> None:
    cfg = Config().replace(sweep__space=("distill.decay_to_init=choice(0,1)",), **WITH_RESPONSES)
    stage, space = trial.read_space(cfg)
    assert stage == "distill"
    values = space["distill.decay_to_init"].values
    assert values == (0.0, 1.0)
    assert all(isinstance(value, float) for value in values)


def test_alternatives_are_the_fields_whose_values_are_names() -> None:
    space = parse(["align.map=choice(affine,low_rank)", "align.rank=choice(20,50)", "align.lr=uniform(1,2)"])
    assert trial.alternatives(space) == ["align.map"]


def setup_of(stage: str) -> trial.TrialSetup:
    """A setup whose session is never asked."""
    session = create_autospec(Session, instance=True)
    return trial.TrialSetup(Config(), trial.OBJECTIVES[stage], {}, {}, session, Tracker())


def test_a_trial_trains_in_one_process_unless_told_otherwise() -> None:
    distill = Config().replace(distill__steps=7)
    assert trial.with_one_worker(distill).distill.workers == 1
    assert trial.with_one_worker(distill).align.network.workers == 1
    told = distill.replace(distill__workers=4, align__network__workers=2)
    assert trial.with_one_worker(told) == told
    elastic = distill.replace(distill__min_workers=3)
    assert trial.with_one_worker(elastic).distill.workers == 3
    # It stays the same artifact: the winner's run finds what its trial made.
    assert trial.with_one_worker(distill).distill.result_fields() == distill.distill.result_fields()


def test_a_trials_config_has_its_parameters_and_its_seed_and_nothing_else() -> None:
    setup = setup_of("align")
    made = setup.config({"align.network.lr": 0.5, "align.map": "affine"}, seed=3)
    assert made == Config().replace(align__network__lr=0.5, align__map="affine", seed=3)


@pytest.mark.parametrize("field", trial.LOSS_FIELDS)
def test_no_curves_are_compared_where_a_field_of_the_loss_is_searched(store: Store, field: str) -> None:
    values = {"objective": "jsd,kl", "normalize": "true,false"}.get(field, "1,2")
    space = parse([f"distill.{field}=choice({values})"])
    done = [Trial(0, {f"distill.{field}": 1}, 0, FINISHED)]
    assert trial.learning_curves(setup_of("distill"), store, done, space) == []


def test_trials_that_are_not_finished_have_no_curve(store: Store) -> None:
    space = parse(["distill.lr=choice(1,2)"])
    failed = [Trial(0, {"distill.lr": 1}, 0, FAILED)]
    assert trial.learning_curves(setup_of("distill"), store, failed, space) == []


def test_any_error_of_a_trial_is_reported_in_one_line_and_does_not_end_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", reported.append)

    def fail(*args: object) -> None:
        raise RuntimeError("Traceback ...\nCUDA out of memory")

    monkeypatch.setattr(trial, "_begin", fail)
    trial.run_trial({"job": {"number": 1, "params": {}, "seed": 0}}, setup_of("align"))
    assert reported == [{"problem": "RuntimeError: CUDA out of memory", "score": None, "run_id": ""}]
