"""Fits that are kept: taken for the same answers and settings alone, equal to the fit, and never half."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alignet_ray.config import Config
from alignet_ray.core.comparisons import Comparisons, no_comparisons
from alignet_ray.human.answers import Answers
from alignet_ray.images.listings import Listings
from alignet_ray.stages import Work, kept_fits, people_model
from alignet_ray.stages.people_model import PeopleFit
from tests.stages.test_people_model import OBJECTS, responses


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for every fit that is really made."""
    made: list[str] = []
    real = people_model.fit

    def fit(work: Work, given: Answers, count: int) -> PeopleFit:
        made.append(work.cfg.soften.model)
        return real(work, given, count)

    monkeypatch.setattr(people_model, "fit", fit)
    return made


@pytest.fixture
def cfg() -> Config:
    return Config().replace(soften__model="auto", soften__forecast=True, soften__dims=10, soften__steps=60)


@pytest.fixture
def given() -> Answers:
    return Answers(responses(400), no_comparisons())


@pytest.fixture
def work(make_work: Callable[..., Work], cfg: Config, tmp_path: Path) -> Work:
    made = make_work(cfg, "soften")
    made.listings = Listings(tmp_path / "cache")
    return made


def test_the_second_fold_takes_the_fit_of_the_first(work: Work, given: Answers, fits: list[str]) -> None:
    first = kept_fits.fit(work, given, OBJECTS, 1)
    work.cfg = work.cfg.replace(objects__fold=1, objects__folds=5)
    second = kept_fits.fit(work, given, OBJECTS, 1)
    assert fits == ["auto"]
    np.testing.assert_array_equal(second.posterior.mu, first.posterior.mu)
    np.testing.assert_array_equal(second.posterior.sigma, first.posterior.sigma)
    assert second.facts == first.facts
    assert first.curve is not None
    assert second.curve == first.curve


def test_what_changes_a_fit_makes_a_new_one(work: Work, given: Answers, fits: list[str]) -> None:
    work.cfg = work.cfg.replace(soften__model="trace_norm", soften__forecast=False)
    kept_fits.fit(work, given, OBJECTS, 1)
    before = work.cfg

    kept_fits.fit(work, Answers(given.triplets[::-1], given.comparisons), OBJECTS, 1)
    rows = np.array([[0, 1, 2]])
    kept_fits.fit(work, Answers(given.triplets, Comparisons(rows, np.array([[1.0, 0.0]]))), OBJECTS, 1)
    kept_fits.fit(work, Answers(given.triplets, Comparisons(rows, np.array([[0.0, 1.0]]))), OBJECTS, 1)
    kept_fits.fit(work, given, OBJECTS + 1, 1)
    kept_fits.fit(work, given, OBJECTS, 2)
    work.cfg = before.replace(seed=1)
    kept_fits.fit(work, given, OBJECTS, 1)
    work.cfg = before.replace(soften__dims=9)
    kept_fits.fit(work, given, OBJECTS, 1)
    assert len(fits) == 8

    work.cfg = before
    kept_fits.fit(work, given, OBJECTS, 1)
    assert len(fits) == 8


def test_warnings_of_the_fit_are_said_again(work: Work, cfg: Config) -> None:
    few = Answers(responses(60), no_comparisons())
    work.warn("of another matter")
    kept_fits.fit(work, few, OBJECTS, 1)
    once = work.warnings[1:]
    assert any("too few to hold some out" in warning for warning in once)

    work.warnings.clear()
    kept_fits.fit(work, few, OBJECTS, 1)
    assert work.warnings == once


def test_a_kept_fit_has_its_curve_in_every_run(work: Work, given: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    monkeypatch.setattr(type(work.tracker), "log_curve", lambda _, values, step: logged.append((step, values)))
    work.cfg = work.cfg.replace(soften__model="vice", soften__forecast=False)
    kept_fits.fit(work, given, OBJECTS, 1)
    once = list(logged)
    assert once[-1][0] == work.cfg.soften.steps

    logged.clear()
    kept_fits.fit(work, given, OBJECTS, 1)
    assert logged == once


@pytest.mark.parametrize("left", [0, 7, 100, 2000])
def test_a_damaged_file_is_made_again(work: Work, given: Answers, fits: list[str], left: int) -> None:
    work.cfg = work.cfg.replace(soften__model="trace_norm", soften__forecast=False)
    first = kept_fits.fit(work, given, OBJECTS, 1)
    assert work.cache is not None
    (file,) = work.cache.glob("people-*.safetensors")
    whole = file.read_bytes()
    assert len(whole) > left
    file.write_bytes(whole[:left])

    again = kept_fits.fit(work, given, OBJECTS, 1)
    assert len(fits) == 2
    np.testing.assert_array_equal(again.posterior.mu, first.posterior.mu)
    assert file.read_bytes() == whole


def test_without_a_cache_nothing_is_kept(work: Work, given: Answers, fits: list[str], tmp_path: Path) -> None:
    work.cfg = work.cfg.replace(soften__model="trace_norm", soften__forecast=False)
    work.listings = Listings()
    kept_fits.fit(work, given, OBJECTS, 1)
    kept_fits.fit(work, given, OBJECTS, 1)
    assert len(fits) == 2
    assert not (tmp_path / "cache").exists()
