"""evaluate: scores of base, teacher, student and control on the objects that no training saw, and the report."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from alignet_ray import report
from alignet_ray.artifacts import schemas
from alignet_ray.config import Config
from alignet_ray.core import similarity
from alignet_ray.core.scores import Score
from alignet_ray.data import stored
from alignet_ray.errors import UserError
from alignet_ray.evals import external, gate, ood, suite, summary
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace
from alignet_ray.human import benchmarks, objects
from alignet_ray.human.matrices import read_participants
from alignet_ray.report import examples, figures
from alignet_ray.stages import Work, evaluation_inputs
from alignet_ray.stages import report_inputs as shown

VERSION = 4
OUTSIDE = ("answers", "choices", "matrix")


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """The section, and the seed of image draws and intervals; which files it names, their fingerprints say."""
    models = {"models": [evaluation_inputs.name(spec) for spec in cfg.evaluate.models]}
    return cfg.evaluate.result_fields() | models | {"seed": cfg.seed}


def sources(cfg: Config, role: str) -> list[str]:
    """Judgements from outside the run, and files of stored embeddings."""
    stores = [file for spec in cfg.evaluate.models if stored.is_stored(spec) for file in stored.files(spec)]
    return [str(getattr(cfg.evaluate, name)) for name in OUTSIDE if getattr(cfg.evaluate, name)] + stores


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """For the plan."""
    return f"{cfg.evaluate.num_samples} draws of images, scores and report"


def refuse(cfg: Config, role: str) -> None:
    """Refuse models of one name, and maps without their package, before anything starts."""
    evaluation_inputs.check_names(cfg)
    figures.check_map_method(cfg.evaluate.maps)


def run(work: Work) -> None:
    """Score every space, write the table and the report."""
    cfg, options = work.cfg, work.cfg.evaluate
    listing, soften = evaluation_inputs.listing(work.parents["embed@objects"]), work.parents["soften"]
    spaces = evaluation_inputs.spaces(cfg, work.parents, listing)
    test = evaluation_inputs.judged(soften, "test").enough_embedded_in(spaces)
    train = evaluation_inputs.judged(soften, "train").embedded_in(spaces)
    validation = evaluation_inputs.judged(soften, "validation").embedded_in(spaces)
    work.screen.line(f"   {len(test)} test objects, {len(spaces)} spaces")
    amount = suite.SuiteOptions(
        options.num_samples, options.triplets, options.bootstrap, cfg.soften.num_samples, options.shots, cfg.seed
    )
    found = suite.evaluate(
        spaces, suite.SplitObjects(train, validation, test), evaluation_inputs.answers(soften), amount
    )
    found = replace(found, scores=found.scores + outside_scores(work, spaces, test, listing))
    work.out.write_table("scores.parquet", scores_table(found.scores))
    rows = summary.rows(found.scores, [evaluation_inputs.name(spec) for spec in options.models])
    work.facts |= {"table": summary.lines(rows, len(found.trials), len(test)), "test_objects": len(test)}
    work.facts |= {
        f"{s.metric}_{s.model}_{s.layer}".rstrip("_"): s.value
        for s in found.scores
        if not s.level and s.dataset == "objects"
    }
    decision = gate.decide(found.scores, options.margin, options.tolerance)
    work.facts |= {"champion": decision.champion, "reasons": decision.reasons}
    work.out.write_bytes("report.html", build_report(work, spaces, test, found, rows, decision).encode())


def outside_scores(
    work: Work, spaces: list[EmbeddingSpace], test: AnnotatedObjects, listing: evaluation_inputs.Listing
) -> list[Score]:
    """Scores on the files of judgements and the folder of images that the config names."""
    options, seed = work.cfg.evaluate, work.cfg.seed
    known = set(np.unique(spaces[0].ids).tolist())
    paths = {path: image_id for path, image_id in listing.ids.items() if image_id in known}
    scores: list[Score] = []
    if options.answers:
        responses = benchmarks.read_image_responses(options.answers, paths, options.columns)
        scores += external.evaluate_responses(spaces, *responses, seed)
    if options.choices:
        scores += external.evaluate_choices(spaces, *benchmarks.read_choices(options.choices, paths), seed)
    if options.matrix:
        people = read_participants(options.matrix, options.matrix_kind)
        if people.shape[1] <= test.objects.max():
            raise UserError(
                f"{options.matrix} has {people.shape[1]} rows; one for every object of the human data is needed"
            )
        people = people[:, test.objects][:, :, test.objects]
        scores += external.evaluate_matrix(spaces, test, people, seed)
    if (folder := evaluation_inputs.elsewhere(work.cfg, work.parents)) is not None:
        scores += ood.evaluate(spaces, listing.labels, folder, seed)
    return scores


def scores_table(scores: list[Score]) -> pa.Table:
    """The tidy table."""
    rows = [asdict(score) for score in scores]
    return schemas.check(pa.Table.from_pylist(rows, schema=schemas.SCORES), schemas.SCORES)


def build_report(
    work: Work,
    spaces: list[EmbeddingSpace],
    judged: AnnotatedObjects,
    found: suite.SuiteResults,
    rows: list[dict[str, str]],
    decision: gate.Decision,
) -> str:
    """Gather what the report shows, and render it."""
    cfg, parents = work.cfg, work.parents
    human = judged.human_similarity()
    groups = examples.object_groups(judged, human)
    order = similarity.category_order(human, groups)
    compared = [s for s in spaces if s.layer == "pre_logits" and s.model in ("base", "student")]
    read_image = shown.pictures(parents["embed@objects"], objects.images_folder(cfg.objects.path, cfg.corpus.path))
    gains, regressions = examples.triplet_examples(
        found.responses, found.trials, judged, found.image_draws[0], read_image
    )
    contents = report.ReportContents(
        title=f"alignet_ray: {cfg.name}",
        provenance=shown.provenance(cfg, parents),
        summary=rows,
        scores=found.scores,
        losses=shown.losses(parents),
        matrices=examples.similarity_matrices(compared, judged, human, order),
        groups=[groups[row] for row in order],
        maps=examples.object_maps(compared, judged, cfg.evaluate.maps, cfg.seed),
        map_method=cfg.evaluate.maps,
        map_groups=groups,
        map_names=judged.names,
        decision=decision,
        gains=gains,
        regressions=regressions[:3],
        queries=examples.neighbour_queries(compared, judged, groups, read_image),
        clusters=shown.clusters(cfg, parents),
        cluster_candidates=shown.candidates(parents["cluster"]),
        labels=shown.labels(parents),
        teacher=shown.teacher(parents),
        calibration={m: curve for (m, layer), curve in found.curves.items() if layer in ("pre_logits", "aligned")},
    )
    return report.build(contents)
