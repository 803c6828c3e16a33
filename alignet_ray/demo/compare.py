"""Two models that look at the same pictures: the base and the aligned student, which one is odd, and what is near."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL.Image import Image

from alignet_ray.core.similarity import unit_rows
from alignet_ray.core.triplets import choice_probabilities, pair_similarities
from alignet_ray.errors import UserError
from alignet_ray.models.backbone import load_backbone
from alignet_ray.models.features import Encoder
from alignet_ray.models.hub import load, locate
from alignet_ray.models.student import Student, read_model

NAMES = ("base", "aligned")
TEMPERATURE = 0.1
"""What divides cosines to make them choice logits where nothing better is known: about the spread of cosines among
photographs in pretrained networks."""

TEMPERATURES = np.geomspace(1e-3, 10, 81).tolist()
"""Where the base's temperature is sought."""

TRIALS = 5_000  # random triplets by which the base's temperature is set, and among which disputed ones are sought


class ModelView(NamedTuple):
    """How one model sees n pictures.

    Attributes:
        embedding: rows of unit length: dot products are cosines.
        choice: rows whose dot products are logits of the choice of a pair.
    """

    embedding: Float[np.ndarray, "n d"]
    choice: Float[np.ndarray, "n k"]

    def take(self, rows: Any) -> "ModelView":
        """Some of the rows."""
        return ModelView(self.embedding[rows], self.choice[rows])

    def odd(self, triplets: Int[np.ndarray, "t 3"]) -> Float[np.ndarray, "t 3"]:
        """Probability that the first, second or third picture of each triplet of rows is the odd one."""
        z = torch.from_numpy(self.choice)[torch.from_numpy(triplets)]
        return choice_probabilities(pair_similarities(z)).flip(-1).numpy()  # pair (0, 1) leaves 2 out, and so on

    def nearest(self, one: "ModelView", count: int) -> tuple[Int[np.ndarray, " c"], Float[np.ndarray, " c"]]:
        """Rows nearest to one picture by cosine, and the cosines; the picture itself (cosine 1) is left out."""
        cosines = self.embedding @ one.embedding[0]
        order = np.argsort(-cosines)[: count + 1]
        order = order[cosines[order] < 1 - 1e-5][:count]
        return order, cosines[order]


Sights = dict[str, ModelView]


class Seen(NamedTuple):
    """What became of pictures: positions of those that were seen, their sights, and why the others were not."""

    kept: list[int]
    sights: Sights
    reasons: list[str]


def join(sights: Sequence[Sights]) -> Sights:
    """Several pictures' sights as one."""
    return {name: ModelView(*map(np.concatenate, zip(*(s[name] for s in sights), strict=True))) for name in NAMES}


class ModelComparison:
    """The base and the student behind one call.

    Attributes:
        labels: what to call each of them.
        temperature: what divides the base's cosines: a base has learned no temperature of its own.
    """

    def __init__(self, student: Student, base: Student, labels: dict[str, str]) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = Encoder((base.to(device), student.to(device)), "beside", device)
        self.base, self.student, self.labels = base, student, labels
        self.temperature = TEMPERATURE

    @classmethod
    def open(cls, spec: str, base: str | None = None, tracking_uri: str | None = None) -> "ModelComparison":
        """Load a student and its base.

        Args:
            spec: a student, as `hub.load` takes it.
            base: the network before alignment; None: the one that the student says it started from.
            tracking_uri: MLflow server of a `models:/` name.

        Raises:
            UserError: as `hub.load`; or no base is given and none is known.
        """
        folder = locate(spec, tracking_uri)
        student, _ = load(folder or spec)
        if base is None:
            if folder is None:
                raise UserError(f"{spec} is no student's folder: name the network to compare it with, --base NAME")
            base = str(read_model(folder)["model"])
        try:
            before = load_backbone(base, student.backbone.size)
        except UserError as error:
            raise UserError(f"the base cannot be loaded: {error}; name another with --base") from error
        return cls(student, Student(before, None).eval(), {"base": base, "aligned": spec})

    def look(self, picture: Image) -> Sights:
        """Both models' sights of one picture.

        Raises:
            ValueError: a model's output is not finite.
        """
        found = self.see([lambda: picture])
        if found.reasons:
            raise ValueError(found.reasons[0])
        return found.sights

    def see(self, pictures: Sequence[Callable[[], Image]], batch: int = 32, readers: int = 1) -> Seen:
        """Both models' sights of many pictures, opened by `readers` threads."""
        found = self.encoder.encode(pictures, batch, readers)
        split = self.base.backbone.width
        bodies = {"base": found.columns["embedding"][:, :split], "aligned": found.columns["embedding"][:, split:]}
        units = {name: unit_rows(x) for name, x in bodies.items()}
        logits = found.columns.get("triplet_logits")
        choice = units["aligned"] / TEMPERATURE**0.5 if logits is None else logits / self.student.tau**0.5
        sights = {"base": self._base(units["base"]), "aligned": ModelView(units["aligned"], choice.astype(np.float32))}
        return Seen(found.kept, sights, [reason for _, reason in found.errors])

    def _base(self, unit: Float[np.ndarray, "n d"]) -> ModelView:
        return ModelView(unit, (unit / self.temperature**0.5).astype(np.float32))

    def settle(self, sights: Sights, seed: int = 0) -> Sights:
        """Set the base's temperature so that on random triplets it is on average as sure as the student.

        Then a difference between the two is one of opinion, not of scale. Returns the sights at that temperature.
        """
        triplets = random_triplets(len(sights["base"].embedding), TRIALS, seed)
        wanted = sights["aligned"].odd(triplets).max(1).mean()
        unit = sights["base"].embedding
        misses = []
        for self.temperature in TEMPERATURES:
            misses.append(abs(self._base(unit).odd(triplets).max(1).mean() - wanted))
        self.temperature = TEMPERATURES[int(np.argmin(misses))]
        return sights | {"base": self._base(unit)}


def random_triplets(n: int, count: int, seed: int) -> Int[np.ndarray, "t 3"]:
    """Random triplets of different rows; repeats are possible."""
    drawn = np.random.default_rng(seed).integers(0, n, (count, 3))
    different = (drawn[:, 0] != drawn[:, 1]) & (drawn[:, 0] != drawn[:, 2]) & (drawn[:, 1] != drawn[:, 2])
    return np.asarray(drawn[different])


def disputed(sights: Sights, seed: int, keep: int = 50) -> Int[np.ndarray, "t 3"]:
    """Random triplets on which the two disagree: the `keep` where the less decided of them is most decided."""
    triplets = random_triplets(len(sights["base"].embedding), TRIALS, seed)
    odd = [sights[name].odd(triplets) for name in NAMES]
    picks, rows = [p.argmax(1) for p in odd], np.arange(len(triplets))
    leads = [p[rows, own] - p[rows, other] for p, own, other in zip(odd, picks, picks[::-1], strict=True)]
    decided = np.where(picks[0] != picks[1], np.minimum(*leads), -1.0)
    best = np.argsort(-decided)[:keep]
    return np.asarray(triplets[best[decided[best] >= 0]])
