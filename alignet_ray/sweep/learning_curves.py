"""Sample efficiency: held-out loss by images processed, and the images each alternative needs for the same loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class LearningCurve:
    """Held-out metrics of one training; every list has one entry per validation.

    Attributes:
        number: of the trial's setting.
        seed: of the trial.
        group: the alternative that it belongs to, such as a way to form batches.
        images: images that went through the network for training so far; ascending.
        loss: divergence from the teacher's choices on held-out triplets, nats.
        agreement: share of held-out triplets in which it picks the teacher's odd one.
    """

    number: int
    seed: int
    group: str
    images: Sequence[float]
    loss: Sequence[float]
    agreement: Sequence[float]

    def images_to_reach(self, target: float) -> float:
        """Images until the loss first is `target` or less, interpolated between validations; infinity if never."""
        if self.loss[0] <= target:
            return self.images[0]

        # Loss goes up and down between validations; the first crossing counts, also if it rises again later.
        points = zip(self.images, self.loss, strict=True)
        for (images_before, loss_before), (images_after, loss_after) in pairwise(points):
            if loss_after <= target:
                # Linear between the two validations around the target.
                weighted_images = (images_after - images_before) * (loss_before - target)
                return images_before + weighted_images / (loss_before - loss_after)
        return float("inf")


def best_of_groups(curves: Sequence[LearningCurve], seed: int) -> dict[str, list[LearningCurve]]:
    """For each group the setting with the lowest final loss: its training with `seed` first, then its other seeds."""
    # In order of first appearance, which keeps colours and rows of the report in the order of the trials.
    candidates_of: dict[str, list[LearningCurve]] = {}
    for curve in curves:
        candidates = candidates_of.setdefault(curve.group, [])
        if curve.seed == seed:
            candidates.append(curve)

    best: dict[str, list[LearningCurve]] = {}
    for group, candidates in candidates_of.items():
        # A group can have repeats alone while the trial that they repeat is missing.
        if not candidates:
            continue

        # By the final loss, which is that of the student it leaves; ties go to the earlier setting.
        chosen = min(candidates, key=lambda curve: (curve.loss[-1], curve.number))
        repeats = [curve for curve in curves if curve.number == chosen.number and curve.seed != seed]
        best[group] = [chosen, *sorted(repeats, key=lambda curve: curve.seed)]
    return best


def commonly_reached_loss(groups: Mapping[str, Sequence[LearningCurve]]) -> float:
    """The loss that every group reaches with every seed: the highest of their lowest losses."""
    # The highest of the minima: any lower target would be infinitely far for the training that it comes from.
    lowest: list[float] = []
    for curves in groups.values():
        lowest += [min(curve.loss) for curve in curves]
    return max(lowest)
