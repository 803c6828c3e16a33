"""Which images each embedding job reads, and with which model."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from alignet_ray.artifacts.schemas import IMAGE_ROWS
from alignet_ray.artifacts.student_files import HeadUse
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.human import set_judgements
from alignet_ray.human.judgement_sets import JudgementSet, open_sets
from alignet_ray.images.file_kinds import LeftOut
from alignet_ray.images.listings import Listings
from alignet_ray.models.model_spec import ModelKind, ModelSpec
from alignet_ray.stages import human_inputs
from alignet_ray.store import JsonObject, digest

ImageSet = str
"""`corpus`, `objects` (images of annotated objects), `ood` (folder `evaluate.ood`), or `set:NAME` (annotated images
of a set)."""

SET = "set:"
"""Beginning of the image sets that are a set of human judgements."""

TEACHER = "teacher"
"""The teacher's name in a job on a set; on corpus and objects its jobs are called like the images."""


@dataclass(frozen=True)
class EmbedJob:
    """One embedding job.

    Attributes:
        name: the job's node is called `embed@NAME`.
        images: which images are embedded.
        models: model names, whose embeddings are concatenated; empty where a run trains the model.
        trained_by: node whose artifact holds the model; empty for given models.
        size: side of the input in pixels; None for the model's own.
        layer: layer that the embedding is taken from.
        head: what becomes of a student's triplet head.
        features: file of stored features in place of a model.
    """

    name: str
    images: ImageSet
    models: tuple[str, ...] = ()
    trained_by: str = ""
    size: int | None = None
    layer: str = "pre_logits"
    head: HeadUse = "none"
    features: str | None = None

    @property
    def node(self) -> str:
        """Name of the job's node."""
        return f"embed@{self.name}"

    @property
    def is_teacher(self) -> bool:
        """Whether the model is the teacher, fine-tuned or not."""
        return self.name in ("corpus", "objects", "raw") or self.name.endswith(f"-{TEACHER}")

    @property
    def tells_left_out(self) -> bool:
        """Whether the job says what its folder holds besides images: one of the jobs that list a folder does."""
        is_first = self.name == "corpus" or self.name.endswith("-base")
        return is_first and self.images != "objects"

    @property
    def parents(self) -> tuple[str, ...]:
        """Nodes whose artifacts the job reads."""
        if not self.trained_by:
            return ()
        return (self.trained_by,)

    def on_ood(self) -> "EmbedJob":
        """The same model on the out-of-distribution images."""
        return replace(self, name=f"ood-{self.name}", images="ood")

    def on_set(self, name: str) -> "EmbedJob":
        """The same model on the images of a set of human judgements."""
        return replace(self, name=f"set-{name}-{self.name}", images=f"{SET}{name}")

    def value(self) -> JsonObject:
        """All that decides the embeddings besides model names, which a stage writes in its own way."""
        if self.features:
            return {"images": self.images, "features": True}
        return {"images": self.images, "size": self.size, "layer": self.layer, "head": self.head}


def tunes_network(cfg: Config) -> bool:
    """Whether `align` fine-tunes the teacher network, so that the teacher's embeddings come after it."""
    return cfg.align.map == "network" and not cfg.align.from_


def has_images(cfg: Config) -> bool:
    """Whether a run reads images; on stored features alone it ends with the teacher."""
    return not cfg.embed.from_ or bool(cfg.corpus.path or cfg.objects.path)


def teacher_job(cfg: Config, images: ImageSet) -> EmbedJob:
    """The teacher on the corpus or on the objects' images; a fine-tuned one gives its head's outputs."""
    if cfg.embed.from_:
        return EmbedJob(images, images, features=cfg.embed.from_)
    if tunes_network(cfg):
        return EmbedJob(images, images, trained_by="align", layer=cfg.embed.layer, head="instead")
    return EmbedJob(images, images, cfg.embed.model, size=cfg.embed.size, layer=cfg.embed.layer)


def untuned_teacher_job(cfg: Config) -> EmbedJob:
    """The teacher before fine-tuning, on the corpus: it labels the control's triplets."""
    return EmbedJob("raw", "corpus", cfg.embed.model, size=cfg.embed.size, layer=cfg.embed.layer)


def base_job(cfg: Config) -> EmbedJob:
    """The student's backbone before training, on the objects' images."""
    return EmbedJob("base", "objects", (cfg.distill.model,), size=cfg.distill.size)


def student_job(role: str) -> EmbedJob:
    """The student or the control, on the objects' images."""
    return EmbedJob(role, "objects", trained_by=f"distill@{role}", head="beside")


def extra_job(model: str) -> EmbedJob:
    """A model of `evaluate.models`, on the objects' images; its name depends on nothing but the model's name."""
    # Two models may have the same readable name, hence the hash; the whole is also a folder's name.
    readable = re.sub(r"[^A-Za-z0-9_.]+", "-", Path(model).name).strip("-")
    head: HeadUse = "none"
    if ModelSpec.parse(model).may_have_head:
        head = "beside"
    return EmbedJob(f"{readable}-{digest(model, 6)}", "objects", (model,), head=head)


def teacher_jobs(cfg: Config, with_objects: bool = True) -> list[EmbedJob]:
    """Jobs of the teacher."""
    jobs = []
    if with_objects:
        jobs.append(teacher_job(cfg, "objects"))
    jobs.append(teacher_job(cfg, "corpus"))
    if tunes_network(cfg) and cfg.distill.control:
        jobs.append(untuned_teacher_job(cfg))
    return jobs


def student_roles(cfg: Config) -> tuple[str, ...]:
    """The students that a run trains."""
    if not cfg.distill.control:
        return ("student",)
    return ("student", "control")


def evaluation_jobs(cfg: Config) -> list[EmbedJob]:
    """Jobs of the models to be scored: base, students, further models; then the same on other images."""
    # The base comes first: tables and the report compare everything with it.
    jobs = [base_job(cfg), *(student_job(role) for role in student_roles(cfg))]
    jobs += [extra_job(model) for model in extra_models(cfg)]
    elsewhere = []
    if cfg.evaluate.ood:
        elsewhere += [job.on_ood() for job in jobs]
    for judgements in open_sets(cfg.evaluate.sets):
        elsewhere += [job.on_set(judgements.name) for job in jobs]
        elsewhere += set_teacher_jobs(cfg, judgements.name)
    return jobs + elsewhere


def set_teacher_jobs(cfg: Config, name: str) -> list[EmbedJob]:
    """The job of the teacher on a set's images; none where the teacher is stored features, which know no new images."""
    if cfg.embed.from_:
        return []
    return [replace(teacher_job(cfg, "objects"), name=TEACHER).on_set(name)]


def extra_models(cfg: Config) -> list[str]:
    """The models of `evaluate.models` that have to be embedded: the others are stored embeddings."""
    return [model for model in cfg.evaluate.models if ModelSpec.parse(model).kind is not ModelKind.STORED]


def find_job(cfg: Config, name: str) -> EmbedJob:
    """The job of a node `embed@NAME`."""
    jobs = {job.name: job for job in [*teacher_jobs(cfg), untuned_teacher_job(cfg), *evaluation_jobs(cfg)]}
    return jobs[name]


def find_set(cfg: Config, name: str) -> JudgementSet:
    """The set of human judgements with this name."""
    named = {judgements.name: judgements for judgements in open_sets(cfg.evaluate.sets)}
    return named[name]


def image_root(cfg: Config, images: ImageSet) -> str:
    """Folder that a set of images lies in.

    Raises:
        UserError: the config names none.
    """
    if images.startswith(SET):
        return find_set(cfg, images.removeprefix(SET)).images
    folders = {
        "corpus": cfg.corpus.path,
        "objects": cfg.objects.path or cfg.corpus.path,
        "ood": cfg.evaluate.ood,
    }
    folder = folders[images]
    if not folder:
        raise UserError("no images: give a folder with --corpus.path")
    return folder


def list_job_images(
    cfg: Config, listings: Listings, images: ImageSet, left_out: LeftOut | None = None
) -> Iterator[pa.RecordBatch]:
    """IMAGES rows of a set of images: all under its folder, those of annotated objects, or those with judgements.

    Args:
        cfg: says where the folders are.
        listings: of the run's folders.
        images: which set.
        left_out: counts the files of the folder that are no images.

    Raises:
        UserError: as `image_root` and `list_images`; no image belongs to an annotated object; judgements that do not
            fit the images.
    """
    root = image_root(cfg, images)
    if images != "objects" and not images.startswith(SET):
        yield from listings.batches(root, left_out)
        return

    table = listings.table(root, left_out)
    if images.startswith(SET):
        # Judgements may be about a few thousand images of ImageNet's million.
        paths = dict(zip(table["path"].to_pylist(), table["image_id"].to_pylist(), strict=True))
        judgements = set_judgements.read(find_set(cfg, images.removeprefix(SET)), paths)
        chosen = set_judgements.image_ids(judgements).tolist()
    else:
        image_ids = human_inputs.object_images(cfg, table, root).image_ids
        chosen = sorted(set().union(*image_ids.values()))
    yield from batched(table.take(chosen))  # an image_id is a row number of the whole listing


def batched(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Rows of a table in batches as `EmbedArtifact.write_images` takes them."""
    for start in range(0, len(table), IMAGE_ROWS):
        yield from table.slice(start, IMAGE_ROWS).combine_chunks().to_batches()
