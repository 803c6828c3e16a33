"""What a network on the line between its pretrained and its trained weights keeps, and which point to take.

Fine-tuning brings a network nearer to people and blurs what tells similar things apart. Points on the line between both
weights keep more of the latter than they lose of the former (Wortsman et al., "Robust fine-tuning of zero-shot models",
CVPR 2022). Everything here is computed on validation objects.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from alignet_ray.artifacts.distill import InterpolatedStudent, ScoreChange
from alignet_ray.core import scores
from alignet_ray.evals import paired, probe
from alignet_ray.evals.spaces import EmbeddingSpace

SHOTS = (1, 5)
"""Training images of the few-shot tasks."""

DRAWS = 5
"""Random draws of images in each few-shot task."""

TOLERANCE = 0.01
"""What a score may lose against the pretrained network: one point in a hundred."""

MIN_NEIGHBOURS = 0.66
"""Share of an image's ten nearest neighbours that a student keeps at least."""

MIN_OBJECTS = 20
"""Objects that a score needs to count."""

MAX_HALF_WIDTH = 0.08
"""Half the width of the mean change's 95 % interval above which nobody can tell whether something was lost."""

SAFE_SHARE = 0.5
"""Share of the way to its trained weights up to which a student may be where the loss cannot be judged."""

ObjectScores = Mapping[str, Float[np.ndarray, " o"]]
"""A score's name -> its value for every object; NaN for objects that do not take part in it."""


class Choice(NamedTuple):
    """The chosen share of the way, and why: one sentence."""

    interpolation: float
    reason: str


def object_scores(
    image_ids: Int[np.ndarray, " n"],
    embeddings: Float[np.ndarray, "n d"],
    images: Sequence[Int[np.ndarray, " _"]],
    seed: int,
) -> ObjectScores:
    """How well embeddings tell objects apart: few-shot classification, and whether the nearest image is of the same.

    Args:
        image_ids: ascending.
        embeddings: one row per image.
        images: image_ids of every object.
        seed: of the few-shot tasks.

    Returns:
        Scores that at least `MIN_OBJECTS` objects take part in; none where most objects have one image only.
    """
    space = EmbeddingSpace("student", "pre_logits", image_ids, embeddings)
    counts = np.array([len(members) for members in images])
    found: dict[str, Float[np.ndarray, " o"]] = {}
    for shots in SHOTS:
        task = probe.draw_few_shot_task(images, shots, DRAWS, seed)
        if task is not None:
            correct = probe.classify_few_shot(space, task, [probe.DEFAULT_PENALTY])[0]
            values = paired.mean_by_object(correct.ravel(), task.test_labels.ravel())
            found[f"few_shot_{shots}"] = _spread(values, counts > shots)

    found["same_object"] = _spread(probe.same_object_hits(space, images), counts > 1)
    return {name: values for name, values in found.items() if (~np.isnan(values)).sum() >= MIN_OBJECTS}


def _spread(values: Float[np.ndarray, " k"], takes_part: Bool[np.ndarray, " o"]) -> Float[np.ndarray, " o"]:
    """Values of the objects that take part, and NaN for the others."""
    everywhere = np.full(len(takes_part), np.nan)
    everywhere[takes_part] = values
    return everywhere


def changes(base: ObjectScores, point: ObjectScores, seed: int) -> dict[str, ScoreChange]:
    """Scores of a point and their differences to the base's on the same objects, with 95 % intervals."""
    return {name: _change(base[name], values, seed) for name, values in point.items()}


def mean_change(base: ObjectScores, point: ObjectScores, seed: int) -> ScoreChange | None:
    """All scores in one, which is known better than each: an object's value is the mean of its scores."""
    if not point:
        return None
    return _change(_mean_of_scores(base), _mean_of_scores(point), seed)


def _mean_of_scores(found: ObjectScores) -> Float[np.ndarray, " o"]:
    """The mean of every object's scores; NaN for an object without any."""
    stacked = np.stack(list(found.values()))
    known = ~np.isnan(stacked)
    sums = np.where(known, stacked, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), sums / np.maximum(known.sum(axis=0), 1), np.nan)


def _change(base: Float[np.ndarray, " o"], point: Float[np.ndarray, " o"], seed: int) -> ScoreChange:
    values = point[~np.isnan(point)]
    differences = (point - base)[~np.isnan(point)]
    low, high = scores.mean_interval(differences, seed=seed)
    return ScoreChange(float(values.mean()), float(differences.mean()), low, high)


def choose(points: Sequence[InterpolatedStudent]) -> Choice:
    """The point nearest to people of those that lose at most `TOLERANCE` of telling objects apart (mean of all scores).

    Every single score has too few objects to decide by, so their mean does. `MIN_NEIGHBOURS` are kept as well, except
    by a student that surely tells objects apart better than before: its new neighbours are no loss.

    Args:
        points: in ascending order; the first one is the pretrained network.
    """
    candidates = points[1:]
    keeping = [point for point in candidates if _keeps(point)]
    allowed_loss = f"{100 * TOLERANCE:.0f} point of telling objects apart"
    least_kept = f"{MIN_NEIGHBOURS:.0%} of neighbours"
    if keeping:
        best = max(keeping, key=_agreement)
        reason = f"nearest to people of those that lose no more than {allowed_loss} and keep {least_kept}"
        if _surely_gains(best):
            reason = "nearest to people of those allowed, and better at telling objects apart"
    else:
        # Losses mostly grow with the way, so the first point is taken; nothing compares their losses.
        best = candidates[0]
        reason = f"every point loses more than {allowed_loss} or keeps less than {least_kept}: the shortest way"

    doubt = _doubt(best)
    if not doubt:
        return Choice(best.interpolation, reason)
    allowed = keeping or candidates
    cautious = [point for point in allowed if point.interpolation <= min(best.interpolation, SAFE_SHARE)]
    safest = max(cautious, key=_agreement, default=candidates[0])
    return Choice(safest.interpolation, f"cannot tell what more would lose ({doubt}), so at most {SAFE_SHARE:.0%}")


def _keeps(point: InterpolatedStudent) -> bool:
    if _surely_gains(point):
        return True
    if point.neighbours_kept < MIN_NEIGHBOURS:
        return False
    return point.mean_change is None or point.mean_change.change >= -TOLERANCE


def _surely_gains(point: InterpolatedStudent) -> bool:
    """Whether the interval of its scores' mean change lies above zero."""
    return point.mean_change is not None and point.mean_change.low > 0


def _agreement(point: InterpolatedStudent) -> float:
    """Agreement with people of what users take: the embedding and, where there is one, the head."""
    if point.head_agreement is None:
        return point.agreement
    return (point.agreement + point.head_agreement) / 2


def _doubt(point: InterpolatedStudent) -> str:
    """Why the loss at a point cannot be judged; empty if it can."""
    if _surely_gains(point):
        return ""
    change = point.mean_change
    if change is None:
        return f"fewer than {MIN_OBJECTS} validation objects have several images"
    half_width = (change.high - change.low) / 2
    if half_width > MAX_HALF_WIDTH:
        return f"it is known to {100 * half_width:.0f} points only, there are too few validation objects"
    return ""
