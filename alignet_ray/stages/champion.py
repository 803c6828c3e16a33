"""Whether a student is better than the reigning champion of the registry, on the validation objects of its own run."""

from functools import partial
from typing import NamedTuple

import numpy as np

from alignet_ray import registry
from alignet_ray.artifacts.embed import EmbedArtifact, EmbeddedRows
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.errors import UserError
from alignet_ray.evals import gate, suite
from alignet_ray.evals.spaces import EmbeddingSpace
from alignet_ray.human import objects
from alignet_ray.images.decode import decode
from alignet_ray.images.listing import read_bytes
from alignet_ray.images.storage import fetches
from alignet_ray.images.transform import DecodedImage
from alignet_ray.models import hub
from alignet_ray.models.features import Encoder
from alignet_ray.models.image_model import BATCH
from alignet_ray.stages import Work, embed_jobs, evaluation_inputs

CHUNK = 128
"""Images between two updates of the progress line."""

LEAST_GAIN = 0.001
"""How much nearer to people a student must be for sure (fraction): what is only as good takes nobody's place."""


class AgainstChampion(NamedTuple):
    """How a student compares with the champion.

    Attributes:
        version: of the champion.
        verdict: whether the student is to take its place.
        reasons: one sentence for each criterion.
    """

    version: str
    verdict: gate.Verdict
    reasons: list[str]


def compare(work: Work) -> AgainstChampion | None:
    """Score champion and student on the same images of validation objects; None without a champion to beat.

    The least gain of `evaluate.margin` is over the base; over a champion, `LEAST_GAIN` will do. A champion of another
    split may have been trained on some of these objects, which is to its advantage.
    """
    name = work.cfg.register.name
    reigning = registry.champion(work.tracker.uri, name)
    # The same student, registered once more, has nobody to beat.
    if reigning is None or reigning.student == work.parents["distill@student"].id:
        return None

    work.screen.line(f"   compared with the champion, version {reigning.version} of {name}, on validation objects")
    try:
        decision = _decide(work, f"models:/{name}/{reigning.version}")
    except UserError as error:
        # Its files may be gone with their root. Nobody takes its place unseen.
        return AgainstChampion(reigning.version, gate.Verdict.CANNOT_TELL, [f"it cannot be loaded: {error}"])
    return AgainstChampion(reigning.version, decision.verdict, decision.reasons)


def _decide(work: Work, champion: str) -> gate.Decision:
    """The gate's decision, with the champion in the place of the base."""
    student = EmbedArtifact(work.parents[embed_jobs.student_job("student").node])
    listed = evaluation_inputs.annotated_objects(SoftenArtifact(work.parents["soften"]), student)

    # Images of test objects are not looked at, and none that the student could not read.
    wanted = np.unique(np.concatenate([*listed.train.images, *listed.validation.images]))
    embedded = student.embeddings(only=wanted)
    reference = _embed(work, champion, student, embedded.ids)
    spaces = [
        EmbeddingSpace("base", gate.LAYER, *reference),
        EmbeddingSpace("student", gate.LAYER, *embedded),
    ]
    nobody = listed.test.take(np.empty(0, np.int64))
    splits = suite.SplitObjects(listed.train.embedded_in(spaces), listed.validation.embedded_in(spaces), nobody)
    scores = suite.validate(spaces, splits, evaluation_inputs.suite_options(work.cfg))
    return gate.decide(scores, margin=LEAST_GAIN, tolerance=work.cfg.evaluate.tolerance)


def _embed(work: Work, model: str, listed: EmbedArtifact, ids: np.ndarray) -> EmbeddedRows:
    """Embeddings of images by a registered model, without its head.

    Raises:
        UserError: the model cannot be loaded.
    """
    located = hub.locate(model, work.tracker.uri)
    encoder = Encoder.load([str(located or model)], None, "none", gate.LAYER, False)
    folder = objects.images_folder(work.cfg.objects.path, work.cfg.corpus.path)
    paths = listed.image_paths()

    def read(image_id: int) -> DecodedImage:
        return decode(read_bytes(folder, paths[image_id]))

    kept: list[np.ndarray] = []
    vectors: list[np.ndarray] = []
    with work.screen.progress(len(ids), "images") as bar:
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            files = [partial(read, image_id) for image_id in chunk.tolist()]
            encoded = encoder.encode(files, BATCH, fetches(folder))

            # Images that cannot be read any more are left out, for student and champion alike.
            kept.append(chunk[encoded.kept])
            vectors.append(encoded.columns["embedding"])
            bar.add(len(chunk))
    return EmbeddedRows(np.concatenate(kept), np.concatenate(vectors))
