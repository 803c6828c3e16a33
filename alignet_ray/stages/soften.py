"""soften: human responses -> a probabilistic model of human choices, and the split of objects."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from alignet_ray.artifacts.soften import ROWS_PER_PART, Posterior, SoftenArtifact
from alignet_ray.config import Config
from alignet_ray.core import vice
from alignet_ray.core.calibration import calibration_error
from alignet_ray.core.comparisons import single_answers
from alignet_ray.core.splits import Fold
from alignet_ray.data import feature_files
from alignet_ray.errors import UserError, require_existing
from alignet_ray.human import answers, objects
from alignet_ray.human.answers import Answers
from alignet_ray.images.file_kinds import LeftOut
from alignet_ray.stages import Work, human_inputs, kept_fits, people_model, people_screen
from alignet_ray.stages.embed_jobs import has_images
from alignet_ray.stages.people_model import FitFacts, PeopleFit
from alignet_ray.store import JsonObject

VERSION = 3

SPLITS = ("train", "validation", "test")

MIN_OBJECTS = 3
"""Objects with images that every split needs: fewer make no triplet."""


@dataclass
class SoftenFacts:
    """What artifact.json says of the human model.

    Attributes:
        rows: odd-one-out responses.
        objects: objects of the human data.
        dims: dimensions of the human embedding.
        published: whether the embedding was given instead of fitted.
        train_objects, validation_objects, test_objects: objects with images in each split.
        fit: figures of the fit; None for a published embedding.
        held_out: predictions of held-out answers; None without any.
        questions, votes: reference comparisons, and the answers to all of them.
        people: participants that the responses name.
        screened: responses of people who were left out.
    """

    rows: int
    objects: int
    dims: int
    published: bool
    train_objects: int
    validation_objects: int
    test_objects: int
    fit: FitFacts | None = None
    held_out: "HeldOutFacts | None" = None
    questions: int = 0
    votes: int = 0
    people: int = 0
    screened: int = 0


@dataclass
class HeldOutFacts:
    """How well the model predicts answers that it was not fitted to; cross-entropy in nats."""

    validation_accuracy: float
    validation_cross_entropy: float
    validation_calibration_error: float


def inputs(cfg: Config, role: str) -> JsonObject:
    """The seed, the fold, and how human files are read and modelled."""
    fit: JsonObject = {}
    if not cfg.human.embedding:
        fit = people_model.inputs(cfg)
    human = cfg.human.result_fields()
    # Only where there are comparisons: without any, the answers are what they were.
    if not cfg.human.comparisons:
        del human["comparisons"]
    if not cfg.human.screen:
        del human["screen"]
    fields: JsonObject = {
        "seed": cfg.seed,
        "human": human,
        "in_corpus": cfg.objects.path is None,
        "fit": fit,
    }
    # Only where there are folds: how many there would be changes nothing.
    fold = _fold(cfg)
    if fold is not None:
        fields["fold"] = fold._asdict()
    return fields


def sources(cfg: Config, role: str) -> list[str]:
    """The human files, the objects' table and names, and the folder of the objects' images."""
    human = cfg.human
    if not human_inputs.has_answers(cfg):
        # A preset's own answers go with its generated world: with another corpus there are none, and a wrong path is
        # the likelier mistake.
        for folder in filter(None, (cfg.corpus.path, cfg.objects.path)):
            require_existing(folder)
        raise UserError(
            "no human judgements: give --human.triplets (odd-one-out responses), --human.comparisons (reference "
            "comparisons) or --human.embedding"
        )
    files = (human.triplets, human.comparisons, human.validation, human.embedding, human.reference, human.order)
    tables = (cfg.objects.table, cfg.objects.concepts)
    if cfg.embed.from_ and not has_images(cfg):
        return [*filter(None, files), *filter(None, tables), *feature_files.files(cfg.embed.from_)]

    # The folder of images is a source too: which objects have images decides the split's sizes.
    return [*filter(None, files), *filter(None, tables), objects.images_folder(cfg.objects.path, cfg.corpus.path)]


def refuse(cfg: Config, role: str) -> None:
    """Refuse files about people that cannot be read, or do not fit each other, before anything starts."""
    human_inputs.check(cfg)


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """Number and length of the fits."""
    if cfg.human.embedding:
        return "a published embedding"
    return people_model.estimate(cfg)


def run(work: Work) -> None:
    """Read and check the responses, fit the human model, and write choice probabilities and the split of objects."""
    cfg = work.cfg
    artifact = SoftenArtifact(work.out)
    data = human_inputs.read(cfg)
    published = data.published
    given = data.given
    count = data.count
    shown = _object_images(work)
    if shown is None:
        shown = _rows_as_images(cfg, count)

    table = objects.objects_table(cfg.seed, count, data.concepts, shown, _fold(cfg))
    with_images = _count_objects_with_images(table)
    _require_objects(with_images)

    fitted = _model(work, given, count, published)
    responses = data.files.triplet_table
    people = people_screen.review(work, given, responses, fitted.posterior)
    # Who answers at random is found by a model of all answers; the final one is fitted without them.
    if cfg.human.screen and responses is not None and any(person.reason for person in people):
        given = given._replace(triplets=given.triplets[people_screen.kept(responses, people)])
        fitted = _model(work, given, count, published)

    posterior = fitted.posterior
    if people:
        artifact.write_people(people)
    if fitted.curve is not None:
        artifact.write_learning_curve(fitted.curve)

    artifact.write_posterior(posterior)
    _write_probabilities(work, artifact, given.triplets, posterior)
    asked = given.comparisons
    if len(asked.rows):
        probabilities = vice.comparison_probabilities(*posterior, asked.rows, cfg.soften.num_samples, cfg.seed)
        artifact.write_comparisons(asked, probabilities)

    held_out = None
    if cfg.human.validation:
        held_out = _evaluate_held_out(work, answers.read_validation(data.files, data.names, count), posterior)
    artifact.write_objects(table)

    dims = posterior.mu.shape[1]
    work.facts = SoftenFacts(
        rows=len(given.triplets),
        objects=count,
        dims=dims,
        published=published is not None,
        train_objects=with_images["train"],
        validation_objects=with_images["validation"],
        test_objects=with_images["test"],
        fit=fitted.facts,
        held_out=held_out,
        questions=len(asked.rows),
        votes=asked.answers,
        people=len(people),
        screened=len(data.given.triplets) - len(given.triplets),
    )
    counts = ", ".join(f"{with_images[split]} {split}" for split in SPLITS)
    work.screen.line(f"   {count:,} objects, {_counted(given)}, {dims} dimensions; with images: {counts}")


def _model(work: Work, given: Answers, count: int, published: Float32[np.ndarray, "m d"] | None) -> PeopleFit:
    """The published embedding, which is a point estimate (a posterior without spread), or a fit."""
    if published is None:
        return kept_fits.fit(work, given, count, VERSION)
    return PeopleFit(Posterior(published, np.zeros_like(published)), None, None)


def _counted(given: Answers) -> str:
    """How many answers of each kind there are."""
    parts = []
    if len(given.triplets) or not len(given.comparisons.rows):
        parts.append(f"{len(given.triplets):,} responses")
    if len(given.comparisons.rows):
        parts.append(f"{given.comparisons.answers:,} votes on {len(given.comparisons.rows):,} comparisons")
    return ", ".join(parts)


def _object_images(work: Work) -> dict[int, list[int]] | None:
    """Images of every object that has some; None where every object has one row of features."""
    cfg = work.cfg
    if cfg.embed.from_ and not has_images(cfg):
        features = feature_files.read(cfg.embed.from_)
        if features.names is None:
            return None
        # Rows that have names are in an order of their own, which only a table can bring to the objects'.
        shown = human_inputs.object_images(cfg, feature_files.image_table(features), cfg.embed.from_)
    else:
        folder = objects.images_folder(cfg.objects.path, cfg.corpus.path)
        left_out = LeftOut()
        shown = human_inputs.object_images(cfg, work.listings.table(folder, left_out), folder)
        # Files of the corpus are counted where all of it is embedded.
        if cfg.objects.path:
            work.tell_left_out(left_out)
    if shown.unmatched:
        work.warn(shown.unmatched)
    return shown.image_ids


def _rows_as_images(cfg: Config, count: int) -> dict[int, list[int]]:
    """Row i of the features is the one image of object i.

    Raises:
        UserError: not as many rows as objects.
    """
    assert cfg.embed.from_ is not None, "there are features"
    rows = len(feature_files.read(cfg.embed.from_).vectors)
    if rows != count:
        raise UserError(
            f"{cfg.embed.from_} has {rows:,} rows without names, the human data has {count:,} objects: give one row "
            "for each object, or rows with names and --objects.table"
        )
    return {number: [number] for number in range(count)}


def _fold(cfg: Config) -> Fold | None:
    """The fold that decides the split of objects, if one does."""
    if cfg.objects.fold is None:
        return None
    return Fold(cfg.objects.fold, cfg.objects.folds)


def _count_objects_with_images(table: pa.Table) -> dict[str, int]:
    """Number of objects with images in each split."""
    counts = dict.fromkeys(SPLITS, 0)
    for split, image_ids in zip(table["split"].to_pylist(), table["image_ids"].to_pylist(), strict=True):
        if image_ids:
            counts[split] += 1
    return counts


def _require_objects(with_images: dict[str, int]) -> None:
    """Raise a UserError if a split has too few objects to fit, stop or test on."""
    for split in SPLITS:
        if with_images[split] < MIN_OBJECTS:
            raise UserError(
                f"only {with_images[split]} {split} objects have images, at least {MIN_OBJECTS} are needed: give more "
                f"annotated objects with images ({sum(with_images.values())} now), of which each split gets its share"
            )


def _write_probabilities(
    work: Work, artifact: SoftenArtifact, triplets: Int64[np.ndarray, "n 3"], posterior: Posterior
) -> None:
    """Choice probabilities of every response, in parts; one part without rows if there are no responses."""
    starts = range(0, max(len(triplets), 1), ROWS_PER_PART)
    for part, start in enumerate(starts):
        rows = triplets[start : start + ROWS_PER_PART]
        probabilities = vice.choice_probabilities(*posterior, rows, work.cfg.soften.num_samples, work.cfg.seed)
        artifact.write_soft_responses(part, rows, probabilities)


def _evaluate_held_out(work: Work, held_out: Answers, posterior: Posterior) -> HeldOutFacts:
    """How well the model predicts the answers of `human.validation`."""
    votes = single_answers(held_out.comparisons)
    found = vice.predict(*posterior, held_out.triplets, votes, work.cfg.soften.num_samples, work.cfg.seed)
    facts = HeldOutFacts(
        validation_accuracy=float(found.is_hit.mean()),
        validation_cross_entropy=found.cross_entropy,
        validation_calibration_error=calibration_error(found.confidence, found.is_hit.astype(np.float64)),
    )
    work.screen.line(
        f"   held-out answers: {facts.validation_accuracy:.1%} predicted, cross-entropy "
        f"{facts.validation_cross_entropy:.3f} nats, calibration error {facts.validation_calibration_error:.3f}"
    )
    return facts
