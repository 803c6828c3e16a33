"""evaluate: scores of base, teacher, student and control on the objects that no training saw, and the report."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from safetensors.numpy import load_file

from alignet_ray import report
from alignet_ray.config import Config
from alignet_ray.core import similarity
from alignet_ray.core.scores import Score
from alignet_ray.data import embeddings, images, objects, outside, schemas
from alignet_ray.data.matrices import read_matrix
from alignet_ray.data.official import load_transform
from alignet_ray.errors import UserError
from alignet_ray.evals import gate, judgements, suite, summary
from alignet_ray.evals.spaces import Judged, Space
from alignet_ray.report import gather
from alignet_ray.stages import Work
from alignet_ray.store import Artifact

VERSION = 1
STUDENTS = ("base", "student", "control")
OUTSIDE = ("answers", "choices", "matrix")


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """The section, and the seed of image draws and intervals."""
    files = {name: bool(getattr(cfg.evaluate, name)) for name in OUTSIDE}  # which they are, their fingerprints say
    return cfg.evaluate.model_dump(mode="json") | files | {"seed": cfg.seed}


def sources(cfg: Config, role: str) -> list[str]:
    """Judgements from outside the run."""
    return [str(getattr(cfg.evaluate, name)) for name in OUTSIDE if getattr(cfg.evaluate, name)]


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """For the plan."""
    return f"{cfg.evaluate.draws} draws of images, scores and report"


def run(work: Work) -> None:
    """Score every space, write the table and the report."""
    cfg, options = work.cfg, work.cfg.evaluate
    spaces, soften = read_spaces(work), work.parents["soften"]
    test = read_judged(soften, "test").seen_by(spaces)
    train, validation = (read_judged(soften, split).shown(spaces) for split in ("train", "validation"))
    work.screen.line(f"   {len(test)} test objects, {len(spaces)} spaces")
    amount = suite.Options(
        options.draws, options.triplets, options.bootstrap, cfg.soften.draws, options.shots, cfg.seed
    )
    found = suite.evaluate(spaces, suite.Sides(train, validation, test), read_answers(soften), amount)
    found = found._replace(scores=found.scores + outside_scores(work, spaces, test))
    work.out.write_table("scores.parquet", scores_table(found.scores))
    rows = summary.rows(found.scores, options.models)
    work.facts |= {"table": summary.lines(rows, len(found.trials.triplets), len(test)), "test_objects": len(test)}
    work.facts |= {
        f"{s.metric}_{s.model}_{s.layer}".rstrip("_"): s.value
        for s in found.scores
        if not s.level and s.dataset == "objects"
    }
    decision = gate.decide(
        [asdict(s) for s in found.scores if s.dataset == "objects"], options.margin, options.tolerance
    )
    work.facts |= {"champion": decision.champion, "reasons": decision.reasons}
    work.out.write_bytes("report.html", build_report(work, spaces, test, found, rows, decision).encode())


def read_spaces(work: Work) -> list[Space]:
    """Every layer of every model that was embedded: the base first, the teacher last."""
    spaces = []
    for model in STUDENTS:
        artifact = work.parents.get(f"embed@{model}")
        if artifact is None:
            continue
        spaces.append(Space(model, "pre_logits", *embeddings.load(artifact)))
        if "triplet_logits" in artifact.read_table(artifact.parts()[0]).column_names:
            spaces.append(Space(model, "head", *embeddings.load(artifact, "triplet_logits")))
    for i, name in enumerate(work.cfg.evaluate.models):
        spaces.append(Space(name, "pre_logits", *embeddings.load(work.parents[f"embed@other{i}"])))
    ids, x = embeddings.load(work.parents["embed@objects"])
    align = work.parents["align"]
    if align.has(embeddings.TRANSFORM):
        x = load_transform(str(align.local(embeddings.TRANSFORM)))(x)
    return [*spaces, Space("teacher", "aligned", ids, x, "dot")]


def read_judged(soften: Artifact, split: str) -> Judged:
    """The objects of one split, with images or without."""
    table = soften.read_table("objects.parquet")
    human = load_file(soften.local("embedding.safetensors"))
    image_ids = [np.array(ids, np.int64) for ids in table["image_ids"].to_pylist()]
    names = [name.replace("_", " ").rstrip("0123456789") for name in table["name"].to_pylist()]
    categories = table["category"].to_pylist()
    every = Judged(table["object"].to_numpy(), names, categories, image_ids, human["mu"], human["sigma"])
    return every.take(np.flatnonzero(np.array(table["split"].to_pylist()) == split))


def read_answers(soften: Artifact) -> np.ndarray:
    """The raw answers of people: rows (pair, pair, odd) of object numbers."""
    table = soften.read_parts(columns=["i", "j", "k"])
    return np.stack([table[column].to_numpy() for column in "ijk"], axis=1)


def outside_scores(work: Work, spaces: list[Space], test: Judged) -> list[Score]:
    """Scores on the files of judgements that the config names."""
    options, seed = work.cfg.evaluate, work.cfg.seed
    listing = work.parents["embed@objects"].read_table("images.parquet", ["image_id", "path"])
    known = set(np.unique(spaces[0].ids).tolist())
    pairs = zip(listing["path"].to_pylist(), listing["image_id"].to_pylist(), strict=True)
    paths = {path: image_id for path, image_id in pairs if image_id in known}
    scores: list[Score] = []
    if options.answers:
        answers = outside.read_image_answers(options.answers, paths, options.columns)
        scores += judgements.evaluate_answers(spaces, *answers, seed)
    if options.choices:
        scores += judgements.evaluate_choices(spaces, *outside.read_choices(options.choices, paths), seed)
    if options.matrix:
        matrix = read_matrix(options.matrix, options.matrix_kind)
        if len(matrix) <= test.objects.max():
            raise UserError(
                f"{options.matrix} has {len(matrix)} rows; one for every object of the human data is needed"
            )
        scores += judgements.evaluate_matrix(spaces, test, matrix[np.ix_(test.objects, test.objects)], seed)
    return scores


def scores_table(scores: list[Score]) -> pa.Table:
    """The tidy table."""
    rows = [asdict(score) for score in scores]
    return schemas.check(pa.Table.from_pylist(rows, schema=schemas.SCORES), schemas.SCORES)


def build_report(
    work: Work,
    spaces: list[Space],
    judged: Judged,
    found: suite.Results,
    rows: list[dict[str, str]],
    decision: gate.Decision,
) -> str:
    """Gather what the report shows, and render it."""
    human = judged.human_similarity()
    groups = gather.groups(judged, human)
    order = similarity.category_order(human, groups)
    backbones = [s for s in spaces if s.layer == "pre_logits"]
    compared = [s for s in backbones if s.model in ("base", "student")]
    picture = pictures(work.parents["embed@objects"], objects.images_uri(work.cfg))
    gains, slips = gather.examples(found.answers, found.trials, judged, found.picks[0], picture)
    material = report.Material(
        title=f"alignet_ray: {work.cfg.name}",
        facts=provenance(work),
        table=rows,
        scores=found.scores,
        losses=losses(work),
        matrices=gather.matrices(compared, judged, human, order),
        groups=[groups[row] for row in order],
        maps=gather.maps(compared, judged),
        map_groups=groups,
        map_names=judged.names,
        decision=decision,
        gains=gains,
        slips=slips[:3],
        queries=gather.queries(compared, judged, groups, picture),
        clusters=clusters(work),
        calibration={m: curve for (m, layer), curve in found.curves.items() if layer in ("pre_logits", "aligned")},
    )
    return report.build(material)


def pictures(embed: Artifact, uri: str) -> Callable[[int], Image.Image | None]:
    """image_id -> picture, through the listing of an embed artifact."""
    listing = embed.read_table("images.parquet", ["image_id", "path"])
    paths = dict(zip(listing["image_id"].to_pylist(), listing["path"].to_pylist(), strict=True))

    @lru_cache(maxsize=256)
    def picture(image_id: int) -> Image.Image | None:
        try:
            image = images.decode(images.read_bytes(uri, paths[image_id]))
        except (OSError, ValueError):
            return None  # the images have gone since they were embedded: the report shows grey squares
        image.thumbnail((160, 160))
        return image

    return picture


def losses(work: Work) -> list[report.Curve]:
    """Training curves of student and control: on the training triplets, and on those held out."""
    curves = []
    for role in ("student", "control"):
        artifact = work.parents.get(f"distill@{role}")
        if artifact is None or not artifact.has("metrics.jsonl"):
            continue
        rows = [json.loads(line) for line in artifact.read_bytes("metrics.jsonl").decode().splitlines() if line.strip()]
        for key in ("loss", "valid_loss"):
            points = [(float(row["step"]), float(row[key])) for row in rows if key in row]
            if points:
                curves.append(report.Curve(role, key == "valid_loss", *map(list, zip(*points, strict=True))))
    return curves


def clusters(work: Work) -> dict[str, list[Image.Image | None]]:
    """Contact sheets of a few clusters of the corpus."""
    parts = work.parents["cluster"].read_parts()
    assert work.cfg.corpus.path is not None, "a run has a corpus"
    picture = pictures(work.parents["embed@corpus"], work.cfg.corpus.path)
    return gather.contact_sheets(parts["image_id"].to_numpy(), parts["cluster"].to_numpy().astype(np.int64), picture)


def provenance(work: Work) -> dict[str, str]:
    """What the run was made of."""
    cfg = work.cfg
    facts = {
        "teacher": " + ".join(cfg.embed.model),
        "map to human similarity": cfg.align.from_ or cfg.align.map,
        "student": cfg.distill.model,
        "corpus": str(cfg.corpus.path),
        "human data": cfg.human.embedding or str(cfg.human.triplets),
        "seed": str(cfg.seed),
    }
    return facts | {name: artifact.id for name, artifact in work.parents.items()}
