"""The base and the aligned student on the same images: their odd ones out, and their nearest neighbours."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL.Image import Image

from alignet_ray.artifacts.student_files import IMPORTED, StudentDescription
from alignet_ray.core.similarity import unit_rows
from alignet_ray.core.triplets import choice_probabilities, pair_similarities
from alignet_ray.errors import UserError
from alignet_ray.models.backbone import default_device, load_backbone
from alignet_ray.models.embedding_network import EmbeddingNetwork
from alignet_ray.models.features import Encoder
from alignet_ray.models.hub import load, locate

MODELS = ("base", "aligned")

FEATURES = "aligned_features"
"""Beside what an aligned student with a head answers by: its features, as a model without a head is used."""

TEMPERATURE = 0.1
"""Default temperature of cosines as choice logits: about the spread of cosines among photographs in pretrained
networks."""

SAME = 1 - 1e-5
"""Cosine from which on two pictures are one."""

TEMPERATURES: list[float] = np.geomspace(1e-3, 10, 81).tolist()
"""Candidates for the base's temperature."""

TRIALS = 5_000
"""Random triplets on which the base's temperature is set, and among which disagreements are searched."""


class ModelView(NamedTuple):
    """One model's vectors for n images.

    Attributes:
        embedding: rows of unit length: dot products are cosines.
        choice: rows whose dot products are logits of the choice of a pair.
    """

    embedding: Float[np.ndarray, "n d"]
    choice: Float[np.ndarray, "n k"]

    def take(self, rows: Any) -> "ModelView":
        """A subset of the rows."""
        return ModelView(self.embedding[rows], self.choice[rows])

    def odd_probabilities(self, triplets: Int[np.ndarray, "t 3"]) -> Float[np.ndarray, "t 3"]:
        """Probability that the first, second or third image of each triplet of rows is the odd one."""
        vectors = torch.from_numpy(self.choice)[torch.from_numpy(triplets)]
        # Choosing the pair (0, 1) makes 2 the odd one, and so on: the order of the pairs is reversed.
        return choice_probabilities(pair_similarities(vectors)).flip(-1).numpy()

    def nearest(self, query: "ModelView", count: int) -> Int[np.ndarray, " c"]:
        """Rows nearest to one image by the similarity that choices go by; without the image itself and its copies."""
        is_copy = self.embedding @ query.embedding[0] >= SAME
        # The image itself may be among the rows, and any number of copies of it.
        order = np.argsort(-(self.choice @ query.choice[0]), kind="stable")
        return np.asarray(order[~is_copy[order]][:count])


ModelViews = dict[str, ModelView]
"""What the models answer by, by the names in `MODELS`; of a student with a head by FEATURES as well."""


def stacked(views: Sequence[ModelView]) -> ModelView:
    """The rows of several views, one after the other."""
    embeddings = np.concatenate([view.embedding for view in views])
    return ModelView(embeddings, np.concatenate([view.choice for view in views]))


class Vectors(NamedTuple):
    """What both networks compute from n images, without any temperature.

    Attributes:
        base: features of the base, rows of unit length.
        student: features of the student, rows of unit length.
        head: the student's triplet logits, whose dot products are logits of the choice; None without a head.
    """

    base: Float[np.ndarray, "n d"]
    student: Float[np.ndarray, "n e"]
    head: Float[np.ndarray, "n k"] | None

    def take(self, rows: Any) -> "Vectors":
        """A subset of the images."""
        head = None
        if self.head is not None:
            head = self.head[rows]
        return Vectors(self.base[rows], self.student[rows], head)


def joined(parts: Sequence[Vectors]) -> Vectors:
    """Vectors of several lists of images as those of one."""
    heads = [part.head for part in parts if part.head is not None]
    head = None
    if heads:
        head = np.concatenate(heads)
    return Vectors(
        np.concatenate([part.base for part in parts]), np.concatenate([part.student for part in parts]), head
    )


class EncodedImages(NamedTuple):
    """Both models' vectors for a list of images.

    Attributes:
        kept: positions of the images that have vectors.
        vectors: their vectors.
        reasons: why the others have none.
    """

    kept: list[int]
    vectors: Vectors
    reasons: list[str]


class ModelComparison:
    """The base and the student behind one call.

    Attributes:
        base: the network before alignment.
        student: the network after it.
        labels: display name of each of them.
        temperature: of the base's cosines: a base has learned no temperature of its own.
        features_temperature: of the student's cosines, where it has a head beside them.
    """

    def __init__(self, student: EmbeddingNetwork, base: EmbeddingNetwork, labels: dict[str, str]) -> None:
        device = default_device()
        self.encoder = Encoder((base.to(device), student.to(device)), "beside", device)
        self.base = base
        self.student = student
        self.labels = labels
        self.temperature = TEMPERATURE
        self.features_temperature = TEMPERATURE

    @property
    def has_head(self) -> bool:
        """Whether the student answers by a head, so that its features are a second space."""
        return self.student.head is not None

    @classmethod
    def open(cls, name: str, base: str | None = None, tracking_uri: str | None = None) -> "ModelComparison":
        """Load a student and its base.

        Args:
            name: a student, as `hub.load` takes it.
            base: the network before alignment. Default: the one that the student started from.
            tracking_uri: MLflow server of a `models:/` name.

        Raises:
            UserError: as `hub.load`; or no base is given and none is known, as of an imported student.
        """
        folder = locate(name, tracking_uri)
        student, _ = load(folder or name)
        if base is None:
            if folder is None:
                raise UserError(f"{name} is not a student's folder: name the network to compare it with, --base NAME")
            description = StudentDescription.read(folder)
            # Imported weights began from others, which the file does not hold, and its name is no name of a network.
            if description.provenance.get("role") == IMPORTED:
                raise UserError(
                    f"{name} was imported, and nothing here knows its network before alignment: name that one with "
                    f"--base NAME (--base {description.architecture} is timm's network of this architecture)"
                )
            base = description.model

        # At the student's size: the two must see the same pixels.
        try:
            base_backbone = load_backbone(base, student.backbone.size)
        except UserError as error:
            raise UserError(f"the base cannot be loaded: {error}; name another with --base") from error
        return cls(student, EmbeddingNetwork(base_backbone, None).eval(), {"base": base, "aligned": name})

    def encode_image(self, image: Image) -> Vectors:
        """Both models' vectors for one image.

        Raises:
            ValueError: a model's output is not finite.
        """
        encoded = self.encode([lambda: image])
        if encoded.reasons:
            raise ValueError(encoded.reasons[0])
        return encoded.vectors

    def encode(self, images: Sequence[Callable[[], Image]], batch: int = 32, readers: int = 1) -> EncodedImages:
        """Both models' vectors for many images, which `readers` threads open."""
        encoded = self.encoder.encode(images, batch, readers)

        # The encoder puts the members' features side by side.
        embeddings = encoded.columns["embedding"]
        base_width = self.base.backbone.width
        head = encoded.columns.get("triplet_logits")
        if head is not None:
            # The root of the temperature in both factors of a dot product divides it by the temperature.
            head = (head / self.student.tau**0.5).astype(np.float32)
        vectors = Vectors(unit_rows(embeddings[:, :base_width]), unit_rows(embeddings[:, base_width:]), head)
        reasons = [reason for _, reason in encoded.errors]
        return EncodedImages(encoded.kept, vectors, reasons)

    def views(self, vectors: Vectors) -> ModelViews:
        """What each model answers by, at the temperatures of now."""
        features = _view_at(vectors.student, self.features_temperature)
        views = {"base": _view_at(vectors.base, self.temperature), "aligned": features}
        if vectors.head is not None:
            views["aligned"] = ModelView(vectors.student, vectors.head)
            views[FEATURES] = features
        return views

    def match_confidence(self, vectors: Vectors, seed: int = 0) -> None:
        """Set the temperature of cosines so that they are on average as sure as the student on random triplets.

        Then a difference between two models is one of opinion, not of scale.
        """
        triplets = random_triplets(len(vectors.base), TRIALS, seed)
        confidence = _mean_confidence(self.views(vectors)["aligned"], triplets)
        self.temperature = _temperature_for(confidence, vectors.base, triplets)
        if vectors.head is not None:
            self.features_temperature = _temperature_for(confidence, vectors.student, triplets)


def _view_at(unit_rows: Float[np.ndarray, "n d"], temperature: float) -> ModelView:
    """A model without a head: its cosines, divided by a temperature, are its choice logits."""
    return ModelView(unit_rows, (unit_rows / temperature**0.5).astype(np.float32))


def _temperature_for(confidence: float, unit_rows: Float[np.ndarray, "n d"], triplets: Int[np.ndarray, "t 3"]) -> float:
    """Temperature at which cosines are so sure on average."""

    def gap(temperature: float) -> float:
        return abs(_mean_confidence(_view_at(unit_rows, temperature), triplets) - confidence)

    # Confidence falls as the temperature rises, so a grid finds where the two meet.
    return min(TEMPERATURES, key=gap)


def _mean_confidence(view: ModelView, triplets: Int[np.ndarray, "t 3"]) -> float:
    return float(view.odd_probabilities(triplets).max(axis=1).mean())


def random_triplets(images: int, count: int, seed: int) -> Int[np.ndarray, "t 3"]:
    """At most `count` random triplets of different rows; repeats are possible."""
    # Drawn with repetition at once; the few triplets that hold a row twice are dropped.
    triplets = np.random.default_rng(seed).integers(0, images, (count, 3))
    first, second, third = triplets.T
    is_distinct = (first != second) & (first != third) & (second != third)
    return np.asarray(triplets[is_distinct])


def disputed_triplets(views: ModelViews, seed: int, keep: int = 50) -> Int[np.ndarray, "t 3"]:
    """Random triplets on which the two models disagree: the `keep` where the less decided of them is most decided."""
    triplets = random_triplets(len(views["base"].embedding), TRIALS, seed)
    rows = np.arange(len(triplets))
    base_odds = views["base"].odd_probabilities(triplets)
    aligned_odds = views["aligned"].odd_probabilities(triplets)
    base_picks = base_odds.argmax(axis=1)
    aligned_picks = aligned_odds.argmax(axis=1)

    # How much more likely each model finds its own pick than the other model's.
    base_lead = base_odds[rows, base_picks] - base_odds[rows, aligned_picks]
    aligned_lead = aligned_odds[rows, aligned_picks] - aligned_odds[rows, base_picks]
    decidedness = np.where(base_picks != aligned_picks, np.minimum(base_lead, aligned_lead), -1.0)

    best = np.argsort(-decidedness)[:keep]
    return np.asarray(triplets[best[decidedness[best] >= 0]])
