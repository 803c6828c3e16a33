"""The report of a run, built from what `evaluate` scored and from the run's artifacts."""

from dataclasses import replace

from alignet_ray import report
from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.evaluate import SetFacts
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.core import similarity
from alignet_ray.evals import gate, suite
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace
from alignet_ray.evals.uncertainty import ReliabilityCurve
from alignet_ray.human import objects
from alignet_ray.report import examples
from alignet_ray.stages import Work, embed_jobs, report_inputs


def build(
    work: Work,
    spaces: list[EmbeddingSpace],
    test: AnnotatedObjects,
    results: suite.SuiteResults,
    rows: list[dict[str, str]],
    decision: gate.Decision | None,
    sets: list[SetFacts],
) -> str:
    """Gather the contents of the report, and render it.

    Args:
        work: names the settings and the artifacts.
        spaces: embedding spaces of all models and layers.
        test: the test objects.
        results: scores of the suite, and what the models chose.
        rows: of the table of agreement with people.
        decision: of the gate on validation objects; None without a student.
        sets: how much was scored of each set of judgements from outside.

    Returns:
        One HTML page.
    """
    cfg = work.cfg
    parents = work.parents
    human = test.human_similarity()
    groups = examples.object_groups(test, human)
    order = similarity.category_order(human, groups)
    compared = [space for space in spaces if space.layer == "pre_logits" and space.model in ("base", "student")]
    # The teacher has a space of its own, in which the student is to see: it belongs beside both.
    with_teacher = compared + [space for space in spaces if space.model == "teacher"]

    contents = report.ReportContents(
        title=f"alignet_ray: {cfg.name}",
        people=report_inputs.people(cfg, SoftenArtifact(parents["soften"])),
        about=report_inputs.about(parents),
        provenance=report_inputs.provenance(cfg, parents),
        summary=rows,
        scores=results.scores,
        sets=sets,
        losses=report_inputs.loss_curves(parents),
        matrices=examples.similarity_matrices(with_teacher, test, human, order),
        groups=[groups[row] for row in order],
        maps=examples.object_maps(with_teacher, test, cfg.evaluate.maps, cfg.seed),
        map_method=cfg.evaluate.maps,
        map_groups=groups,
        map_names=test.names,
        decision=decision,
        labels=report_inputs.label_statistics(parents),
        teacher=report_inputs.teacher_report(parents),
        calibration=_calibration(results),
        learning_curve=SoftenArtifact(parents["soften"]).learning_curve(),
    )
    # Stored features come without pictures, and end with the teacher.
    if embed_jobs.has_images(cfg):
        contents = _with_pictures(work, contents, compared, test, results)
    return report.build(contents)


def _calibration(results: suite.SuiteResults) -> dict[str, ReliabilityCurve]:
    """One curve for each model, of the layer that it is compared by."""
    curves = {}
    for (model, layer), curve in results.curves.items():
        if layer in ("pre_logits", "aligned"):
            curves[model] = curve
    return curves


def _with_pictures(
    work: Work,
    contents: report.ReportContents,
    compared: list[EmbeddingSpace],
    test: AnnotatedObjects,
    results: suite.SuiteResults,
) -> report.ReportContents:
    """The contents with all that shows images: examples, neighbours, clusters, and the student's use.

    Args:
        work: names the images and the artifacts.
        contents: everything else.
        compared: spaces whose neighbours are shown.
        test: the test objects.
        results: what the models chose, on which images.
    """
    cfg = work.cfg
    parents = work.parents
    folder = objects.images_folder(cfg.objects.path, cfg.corpus.path)
    read_image = report_inputs.image_reader(EmbedArtifact(parents["embed@objects"]), folder)
    image_of_object = results.image_draws[0]
    return replace(
        contents,
        use=report.use(cfg.register.name, cfg.register.alias),
        map_pictures=[read_image(int(image_id)) for image_id in image_of_object],
        disagreements=examples.triplet_examples(results.responses, results.trials, test, image_of_object, read_image),
        queries=examples.neighbour_queries(compared, test, contents.map_groups, read_image),
        clusters=report_inputs.cluster_sheets(cfg, parents),
        cluster_candidates=report_inputs.cluster_candidates(parents),
        interpolation=report_inputs.student_interpolation(parents),
    )
