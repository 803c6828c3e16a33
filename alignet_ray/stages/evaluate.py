"""evaluate: scores of base, teacher, student and control on objects that no training used, and the report."""

from dataclasses import replace
from typing import Any

import numpy as np

from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.evaluate import EvaluateArtifact, EvaluateFacts
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.config import Config
from alignet_ray.core.scores import Score
from alignet_ray.errors import UserError
from alignet_ray.evals import external, gate, ood, suite, summary
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace
from alignet_ray.human import benchmarks
from alignet_ray.human.comparisons import read_table
from alignet_ray.human.matrices import read_participants
from alignet_ray.human.responses import read_responses
from alignet_ray.models.model_spec import ModelSpec
from alignet_ray.stages import Work, embed_jobs, evaluation_inputs, evaluation_sets
from alignet_ray.store import JsonObject

VERSION = 7


def inputs(cfg: Config, role: str) -> JsonObject:
    """The section, and the seed of image draws and intervals."""
    models = [ModelSpec.parse(model).label for model in cfg.evaluate.models]
    fields = cfg.evaluate.result_fields() | {"models": models, "seed": cfg.seed}
    # Only where there are sets: without them nothing about them changes anything.
    del fields["sets"]
    if cfg.evaluate.sets:
        fields["sets"] = evaluation_sets.inputs(cfg)
    return fields


def sources(cfg: Config, role: str) -> list[str]:
    """External judgements, and files of stored embeddings."""
    evaluate = cfg.evaluate
    files = [path for path in (evaluate.answers, evaluate.choices, evaluate.matrix) if path]
    for model in evaluation_inputs.stored_models(cfg):
        files += ModelSpec.parse(model).local_files
    return files + evaluation_sets.sources(cfg)


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """What is computed."""
    return f"{cfg.evaluate.num_samples} draws of images, scores and report"


def refuse(cfg: Config, role: str) -> None:
    """Refuse models of one name, maps without their package, and unreadable files before anything starts."""
    evaluation_inputs.check_names(cfg)
    needs_images = cfg.evaluate.ood or cfg.evaluate.sets or embed_jobs.extra_models(cfg)
    if not embed_jobs.has_images(cfg) and needs_images:
        raise UserError(
            "evaluate.ood, evaluate.sets and evaluate.models embed images by networks, and this run has neither: "
            "give --corpus.path as well"
        )
    evaluation_sets.refuse(cfg)
    evaluation_inputs.check_map_method(cfg.evaluate.maps)
    # Their images are looked up when all is embedded, hours later; their form can be checked now.
    evaluate = cfg.evaluate
    if evaluate.answers:
        read_responses(evaluate.answers, benchmarks.column_names(evaluate.columns))
    if evaluate.choices:
        read_table(evaluate.choices)
    if evaluate.matrix:
        read_participants(evaluate.matrix, evaluate.matrix_kind)


def run(work: Work) -> None:
    """Score every space, write the table of scores and the report."""
    # Drawing takes half a second to import: commands that only plan do without it.
    from alignet_ray.stages import evaluation_report

    cfg = work.cfg
    evaluate = cfg.evaluate
    artifact = EvaluateArtifact(work.out)
    images = EmbedArtifact(work.parents["embed@objects"])
    soften = SoftenArtifact(work.parents["soften"])

    # Scores use images that all spaces hold.
    spaces = evaluation_inputs.embedding_spaces(cfg, work.parents)
    listed = evaluation_inputs.annotated_objects(soften, images)
    test = listed.test.enough_embedded_in(spaces)
    splits = suite.SplitObjects(listed.train.embedded_in(spaces), listed.validation.embedded_in(spaces), test)
    work.screen.line(f"   {len(test)} test objects, {len(spaces)} spaces")

    options = evaluation_inputs.suite_options(cfg)
    results = suite.evaluate(spaces, splits, soften.responses(), options, soften.comparisons())
    external_results = external_scores(work, spaces, test, images)
    ood_results = ood_scores(work, spaces, images)
    sets = evaluation_sets.score(work)
    results = replace(results, scores=results.scores + external_results + ood_results + sets.scores)
    artifact.write_scores(results.scores)

    # Test objects decide nothing: the gate looks at validation objects. Without a student there is nothing to decide.
    decision = None
    verdict = ""
    reasons: list[str] = []
    if embed_jobs.has_images(cfg):
        decision = gate.decide(suite.validate(spaces, splits, options), evaluate.margin, evaluate.tolerance)
        verdict = decision.verdict
        reasons = decision.reasons
    rows = summary.rows(results.scores, [ModelSpec.parse(model).label for model in evaluate.models])
    artifact.write_report(evaluation_report.build(work, spaces, test, results, rows, decision, sets.facts))
    work.facts = EvaluateFacts(
        table=summary.lines(rows, len(results.trials), len(test), summary.comparison_line(results.scores)),
        test_objects=len(test),
        verdict=verdict,
        reasons=reasons,
        scores=_scores_by_name(results.scores),
        sets=sets.facts or None,
    )


def _scores_by_name(scores: list[Score]) -> dict[str, float]:
    """Overall scores on the test objects by `METRIC_MODEL_LAYER`, for the tracking server."""
    by_name = {}
    for score in scores:
        if score.dataset == "objects" and not score.level:
            name = f"{score.metric}_{score.model}_{score.layer}".rstrip("_")
            by_name[name] = score.value
    return by_name


def external_scores(
    work: Work, spaces: list[EmbeddingSpace], test: AnnotatedObjects, images: EmbedArtifact
) -> list[Score]:
    """Scores on the external judgements that the config names."""
    cfg = work.cfg
    evaluate = cfg.evaluate
    # Judgements of quarantined images cannot be scored.
    embedded = set(np.unique(spaces[0].ids).tolist())
    ids_of_paths = {path: image_id for image_id, path in images.image_paths().items() if image_id in embedded}

    scores: list[Score] = []
    if evaluate.answers:
        responses = benchmarks.read_image_responses(evaluate.answers, ids_of_paths, evaluate.columns)
        if responses.unread_times:
            work.warn(responses.unread_times)
        scores += external.evaluate_responses(spaces, responses.triplets, responses.levels, responses.times, cfg.seed)
    if evaluate.choices:
        choices = benchmarks.read_choices(evaluate.choices, ids_of_paths)
        scores += external.evaluate_choices(spaces, choices, cfg.seed)
    if evaluate.matrix:
        participants = read_participants(evaluate.matrix, evaluate.matrix_kind)
        size = participants.shape[1]
        if size <= test.objects.max():
            raise UserError(f"{evaluate.matrix} has {size} rows; one for every object of the human data is needed")
        # Scores are about test objects alone: other objects took part in training.
        of_test_objects = participants[:, test.objects][:, :, test.objects]
        scores += external.evaluate_matrix(spaces, test, of_test_objects, cfg.seed)
    return scores


def ood_scores(work: Work, spaces: list[EmbeddingSpace], images: EmbedArtifact) -> list[Score]:
    """Scores on the out-of-distribution images, if the config names a folder of them."""
    folder = evaluation_inputs.ood_folder(work.cfg, work.parents)
    if folder is None:
        return []
    embedded = set(images.embedded_ids().tolist())
    labels = {image_id: label for image_id, label in images.image_labels().items() if image_id in embedded}
    return ood.evaluate(spaces, labels, folder, work.cfg.seed)
