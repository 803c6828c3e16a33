"""Fits of the model of people, kept in the cache: all folds of a study, and runs with the same answers, share one.

A fold changes who is tested, not what people said, so that the fit of a study's first fold serves the others too.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from filelock import FileLock

from alignet_ray.artifacts.soften import LearningCurve, Posterior
from alignet_ray.data.files import replacing, writing_tensors
from alignet_ray.human.answers import Answers
from alignet_ray.stages import Work, people_model
from alignet_ray.stages.people_model import FitFacts, PeopleFit
from alignet_ray.store import digest

ABOUT = "alignet.fit"
"""Key of the file's metadata that holds all but the arrays, as JSON."""


def fit(work: Work, given: Answers, count: int, version: int) -> PeopleFit:
    """The model of people for some answers: a kept one if there is one, else a new fit, which is kept.

    Args:
        work: of `soften`; without a cache, nothing is kept.
        given: the answers.
        count: number of objects.
        version: of the stage: fits of another version are not taken.
    """
    if work.cache is None:
        return people_model.fit(work, given, count)

    # Whatever a fit depends on is in the file's name, the answers themselves included.
    settings = people_model.inputs(work.cfg)
    name = digest([version, settings, work.cfg.seed, count, _fingerprint(given)])
    path = work.cache / f"people-{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of two runs with the same answers, one fits and the other waits.
    with FileLock(path.with_name(f"{path.name}.lock")):
        kept = _read(path)
        if kept is None:
            said = len(work.warnings)
            fitted = people_model.fit(work, given, count)
            _write(path, fitted, work.warnings[said:])
            return fitted

    fitted, warnings = kept
    work.screen.line("   the model of people is there already, from an earlier fit to the same answers")
    for warning in warnings:
        work.warn(warning)
    if fitted.facts is not None:
        people_model.log_history(work, fitted.facts)
    return fitted


def _fingerprint(given: Answers) -> str:
    """Hash of all answers, in their order: the order decides which of them a step of the fit sees."""
    hashed = hashlib.sha256()
    for rows in (given.triplets, given.comparisons.rows, given.comparisons.votes):
        # Without the shape, a row could move from one table to the next.
        hashed.update(repr((rows.shape, rows.dtype.str)).encode())
        hashed.update(np.ascontiguousarray(rows).tobytes())
    return hashed.hexdigest()


def _write(path: Path, fitted: PeopleFit, warnings: list[str]) -> None:
    """Keep a fit, and what the user was told about it."""
    about: dict[str, Any] = {"warnings": warnings, "facts": None, "curve": None}
    if fitted.facts is not None:
        about["facts"] = asdict(fitted.facts)
    if fitted.curve is not None:
        about["curve"] = fitted.curve.to_json()
    # safetensors writes memory as it lies, so rows must come first.
    arrays = {name: np.ascontiguousarray(array) for name, array in fitted.posterior._asdict().items()}
    with replacing(path) as temporary, writing_tensors(temporary):
        safetensors.numpy.save_file(arrays, temporary, metadata={ABOUT: json.dumps(about)})


def _read(path: Path) -> tuple[PeopleFit, list[str]] | None:
    """A kept fit, and what the user was told about it; None without one, or if it cannot be read."""
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "numpy") as stored:
            about: Mapping[str, Any] = json.loads(stored.metadata()[ABOUT])
            posterior = Posterior(stored.get_tensor("mu"), stored.get_tensor("sigma"))
        facts = None
        if about["facts"] is not None:
            facts = FitFacts(**about["facts"])
        curve = None
        if about["curve"] is not None:
            curve = LearningCurve.from_json(about["curve"])
        return PeopleFit(posterior, facts, curve), list(about["warnings"])
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError):
        # It can be made again, which is why it lies in the cache.
        return None
