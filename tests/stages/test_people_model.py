"""Which model of people is taken, and the curve of more answers."""

from collections.abc import Callable

import numpy as np
import pytest

from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.config import Config
from alignet_ray.core.comparisons import Comparisons, no_comparisons
from alignet_ray.core.triplet_rows import odd_last
from alignet_ray.core.triplets import gram_similarities
from alignet_ray.human.answers import Answers
from alignet_ray.stages import Work, people_model

OBJECTS = 40


def responses(count: int, seed: int = 0) -> np.ndarray:
    """Answers about four groups of ten objects."""
    rng = np.random.default_rng(seed)
    truth = np.eye(4, dtype=np.float32)[np.arange(OBJECTS) % 4] * 2
    rows = rng.permuted(np.tile(np.arange(OBJECTS), (count, 1)), axis=1)[:, :3].astype(np.int64)
    similarities = gram_similarities(truth @ truth.T, rows)
    return odd_last(rows, (similarities + rng.gumbel(size=similarities.shape)).argmax(axis=1))


@pytest.fixture
def cfg() -> Config:
    return Config().replace(soften__model="auto", soften__forecast=True, soften__dims=10, soften__steps=300)


def fit(cfg: Config, make_work: Callable[..., Work], given: Answers) -> tuple[people_model.PeopleFit, Work]:
    work = make_work(cfg, "soften")
    return people_model.fit(work, given, OBJECTS), work


def test_few_answers_are_modelled_with_the_prior_for_few(cfg: Config, make_work: Callable[..., Work]) -> None:
    found, _ = fit(cfg, make_work, Answers(responses(400), no_comparisons()))
    assert found.facts.model == "trace_norm"
    assert found.facts.cross_entropies is not None
    assert found.facts.cross_entropies["trace_norm"] < found.facts.cross_entropies["vice"]
    # A point estimate, as a published embedding is.
    assert not found.posterior.sigma.any()

    gram = found.posterior.mu @ found.posterior.mu.T
    same = np.arange(OBJECTS)[:, None] % 4 == np.arange(OBJECTS) % 4
    assert gram[same & ~np.eye(OBJECTS, dtype=bool)].mean() > gram[~same].mean() + 0.5


def test_the_curve_rises_and_promises_less_than_it_rose(cfg: Config, make_work: Callable[..., Work]) -> None:
    curve = fit(cfg, make_work, Answers(responses(2000), no_comparisons()))[0].curve
    assert curve is not None
    assert [point.answers for point in curve.points] == [225, 450, 900, 1800]
    assert curve.tested == 1000, "five times a tenth"
    assert curve.points[-1].accuracy > curve.points[0].accuracy
    assert [forecast.more for forecast in curve.forecasts] == [1000, 2000]
    for forecast in curve.forecasts:
        assert forecast.low <= forecast.gain <= forecast.high
        assert forecast.gain < curve.points[-1].accuracy - curve.points[0].accuracy


def test_a_model_that_is_named_is_taken(cfg: Config, make_work: Callable[..., Work]) -> None:
    given = Answers(responses(400), no_comparisons())
    found, _ = fit(cfg.replace(soften__model="vice"), make_work, given)
    assert found.facts.model == "vice"
    assert found.curve is not None
    assert found.curve.model == "vice"
    plain = cfg.replace(soften__model="trace_norm", soften__forecast=False)
    found, _ = fit(plain, make_work, given)
    assert (found.facts.model, found.facts.cross_entropies, found.curve) == ("trace_norm", None, None)


def test_too_few_answers_to_compare_models_are_said(cfg: Config, make_work: Callable[..., Work]) -> None:
    found, work = fit(cfg, make_work, Answers(responses(60), no_comparisons()))
    assert (found.facts.model, found.curve) == ("trace_norm", None)
    assert "60 answers are too few to hold some out (from 200 on)" in " ".join(work.warnings)


def test_comparisons_alone_are_compared_and_drawn_too(cfg: Config, make_work: Callable[..., Work]) -> None:
    rows = responses(800)
    # Of a response (pair, pair, odd) the first two are more alike than the first and the third.
    votes = np.tile([1.0, 0.0], (len(rows), 1))
    found, _ = fit(cfg, make_work, Answers(np.empty((0, 3), np.int64), Comparisons(rows, votes)))
    assert found.curve is not None
    assert found.curve.points[-1].accuracy > 0.6


def test_a_collapse_is_said_for_comparisons_too(cfg: Config, make_work: Callable[..., Work]) -> None:
    """Chance of two is 0.693 nats, far below chance of three."""
    rows = responses(300)
    given = Answers(np.empty((0, 3), np.int64), Comparisons(rows, np.tile([1.0, 0.0], (len(rows), 1))))
    strong = cfg.replace(soften__model="vice", soften__forecast=False, soften__spike=1e-3, soften__slab=1e-3)
    _, work = fit(strong.replace(soften__kl_anneal=0), make_work, given)
    assert "collapsed to 0 significant dimensions" in " ".join(work.warnings)
    assert "--soften.model trace_norm" in " ".join(work.warnings)


def test_settings_that_change_nothing_keep_the_artifacts_id(cfg: Config) -> None:
    assert not {"model", "forecast"} & set(people_model.inputs(Config()))
    assert people_model.inputs(cfg)["model"] == "auto"
    assert people_model.inputs(cfg)["forecast"] is True


def test_the_curve_is_read_as_it_was_written(cfg: Config, make_work: Callable[..., Work]) -> None:
    found, work = fit(cfg, make_work, Answers(responses(400), no_comparisons()))
    artifact = SoftenArtifact(work.out)
    assert artifact.learning_curve() is None
    assert found.curve is not None
    artifact.write_learning_curve(found.curve)
    assert artifact.learning_curve() == found.curve
