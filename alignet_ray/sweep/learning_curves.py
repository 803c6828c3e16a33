"""What the held-out figures of a training were after every forwarded image, and how many images a goal took."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Course:
    """One training.

    Attributes:
        number, seed: of the trial.
        group: the alternative that it belongs to.
        images: images that went through the network for training, at every look; ascending.
        loss: divergence from the teacher's choices on held-out triplets, in nats, at every look.
        agreement: share of held-out triplets in which it picks the teacher's odd one, at every look.
    """

    number: int
    seed: int
    group: str
    images: Sequence[float]
    loss: Sequence[float]
    agreement: Sequence[float]

    def needed(self, goal: float) -> float:
        """Images until the loss first is `goal` or less, linear between two looks; infinity if it never is."""
        if self.loss[0] <= goal:
            return self.images[0]
        looks = zip(self.images, self.loss, strict=True)
        for (before, high), (after, low) in pairwise(looks):
            if low <= goal:
                return before + (after - before) * (high - goal) / (high - low)
        return float("inf")


def best_of_groups(courses: Sequence[Course], seed: int) -> dict[str, list[Course]]:
    """For each group the setting that ended lowest with `seed`: its trainings with all seeds, that one first."""
    found: dict[str, list[Course]] = {}
    for group in dict.fromkeys(c.group for c in courses):
        own = [c for c in courses if c.group == group and c.seed == seed]
        if own:
            best = min(own, key=lambda c: (c.loss[-1], c.number))
            others = [c for c in courses if c.number == best.number and c.seed != seed]
            found[group] = [best, *sorted(others, key=lambda c: c.seed)]
    return found


def within_reach(groups: dict[str, list[Course]]) -> float:
    """The loss that every group reaches: the highest of the lowest losses of all trainings in it."""
    return max(min(c.loss) for courses in groups.values() for c in courses)
