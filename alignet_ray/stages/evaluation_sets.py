"""Sets of human judgements in a run: checked at its start, and scored on images that no training saw."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.evaluate import SetFacts
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.config import Config
from alignet_ray.core.scores import Score
from alignet_ray.evals import judgement_sets as scored_sets
from alignet_ray.evals.spaces import shared_ids
from alignet_ray.human import set_judgements
from alignet_ray.human.benchmarks import ImageResponses
from alignet_ray.human.judgement_sets import JudgementSet, open_sets
from alignet_ray.images.listings import Listings
from alignet_ray.images.overlap import Source, shared_images
from alignet_ray.stages import Work, embed_jobs, evaluation_inputs
from alignet_ray.stages.evaluation_inputs import Parents
from alignet_ray.store import JsonObject


class ScoredSets(NamedTuple):
    """Scores on all sets, and how much of each set was scored."""

    scores: list[Score]
    facts: list[SetFacts]


def inputs(cfg: Config) -> list[JsonObject]:
    """What decides the scores besides the content of files."""
    return [judgements.value() for judgements in open_sets(cfg.evaluate.sets)]


def sources(cfg: Config) -> list[str]:
    """Files of judgements; the images are sources of their embeddings."""
    files = []
    for judgements in open_sets(cfg.evaluate.sets):
        files += judgements.sources
    return files


def refuse(cfg: Config) -> None:
    """Read all judgements, and look up their images.

    Raises:
        UserError: as `embed_jobs.list_job_images`.
    """
    for judgements in open_sets(cfg.evaluate.sets):
        list(embed_jobs.list_job_images(cfg, Listings(), f"{embed_jobs.SET}{judgements.name}"))


def score(work: Work) -> ScoredSets:
    """Scores of all models on all sets that the config names."""
    opened = open_sets(work.cfg.evaluate.sets)
    if not opened:
        return ScoredSets([], [])

    seen = seen_images(work.cfg, work.parents)
    scores: list[Score] = []
    facts: list[SetFacts] = []
    for judgement_set in opened:
        set_scores, set_facts = _score_set(work, judgement_set, seen)
        scores += set_scores
        facts.append(set_facts)
        work.screen.line(f"   {_in_words(set_facts)}")
    return ScoredSets(scores, facts)


def seen_images(cfg: Config, parents: Parents) -> list[Source]:
    """Images that training or the choice of a student saw: all of corpus and objects but those of test objects."""
    assert cfg.corpus.path is not None, "sets need models, and these a corpus"
    # Validation objects choose the student's place and the champion: they count as seen. Test objects decide nothing.
    tested = SoftenArtifact(parents["soften"]).test_image_ids()
    corpus = EmbedArtifact(parents["embed@corpus"]).images()
    if cfg.objects.path is None:
        return [Source(cfg.corpus.path, _without(corpus, tested))]
    objects = EmbedArtifact(parents["embed@objects"]).images()
    return [Source(cfg.corpus.path, corpus), Source(cfg.objects.path, _without(objects, tested))]


def _without(images: pa.Table, image_ids: Int64[np.ndarray, " k"]) -> pa.Table:
    is_in = pc.is_in(images["image_id"], pa.array(image_ids))
    return images.filter(pc.invert(is_in))


def _score_set(work: Work, judgement_set: JudgementSet, seen: list[Source]) -> tuple[list[Score], SetFacts]:
    cfg = work.cfg
    name = judgement_set.name
    # The images as they were listed for embedding: paths and ids belong together there, whatever the folder holds now.
    spaces = evaluation_inputs.set_spaces(cfg, work.parents, name)
    images = EmbedArtifact(work.parents[embed_jobs.base_job(cfg).on_set(name).node]).images()
    paths = dict(zip(images["path"].to_pylist(), images["image_id"].to_pylist(), strict=True))
    judgements = set_judgements.read(judgement_set, paths)

    # An image that training saw would show what was learned by heart.
    overlap = shared_images(Source(judgement_set.images, images), seen)
    if overlap.unread:
        work.warn(
            f"{overlap.unread:,} images of the corpus or the objects can no longer be read: images of {name} of the "
            "same size are left out, as if training had seen them"
        )

    # An image that one model could not read is left out for all, so that every model is asked the same.
    embedded = shared_ids(spaces)
    kept = set_judgements.keep(judgements, np.setdiff1d(embedded, overlap.image_ids))
    if isinstance(judgements, ImageResponses) and judgements.unread_times:
        work.warn(judgements.unread_times)

    number = set_judgements.count(kept)
    facts = SetFacts(
        name=name,
        kind=judgement_set.description.kind,
        images=len(images),
        seen=len(overlap.image_ids),
        unreadable=len(np.setdiff1d(images["image_id"].to_numpy(), embedded)),
        judgements=number,
        left_out=set_judgements.count(judgements) - number,
        people=set_judgements.people(kept),
        citation=judgement_set.description.citation,
        licence=judgement_set.description.licence,
    )
    return scored_sets.evaluate(name, kept, spaces, cfg.seed), facts


def _in_words(facts: SetFacts) -> str:
    """How much of a set is scored, in one line."""
    text = f"{facts.name}: {facts.judgements:,} judgements of {facts.images:,} images"
    if facts.seen:
        text += f", {facts.seen:,} of which training saw and which are left out"
    if not facts.judgements:
        text += ": nothing is left to score"
    return text
