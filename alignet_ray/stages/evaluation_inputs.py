"""Inputs of the evaluations, read from artifacts and files: the models' embedding spaces and the annotated objects."""

import importlib.util
from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np

from alignet_ray.artifacts.align import AlignArtifact
from alignet_ray.artifacts.embed import EmbedArtifact, EmbeddedRows
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.config import Config
from alignet_ray.data import stored
from alignet_ray.errors import UserError
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.ood import OodFolder
from alignet_ray.evals.spaces import MODEL_TITLES, EmbeddingSpace, Kind
from alignet_ray.evals.suite import SplitObjects, SuiteOptions
from alignet_ray.images.class_names import class_title
from alignet_ray.models.model_spec import ModelKind, ModelSpec
from alignet_ray.stages import embed_jobs
from alignet_ray.stages.embed_jobs import EmbedJob
from alignet_ray.store import Artifact

Parents = Mapping[str, Artifact]


def stored_models(cfg: Config) -> list[str]:
    """The models of `evaluate.models` that are stored embeddings."""
    return [model for model in cfg.evaluate.models if ModelSpec.parse(model).kind is ModelKind.STORED]


def check_names(cfg: Config) -> None:
    """Raise a UserError if two models would have the same name in tables."""
    # Tables and files know models by name alone: a second `student` would be mixed with the run's own.
    models = {title: title for title in MODEL_TITLES}
    for model in cfg.evaluate.models:
        label = ModelSpec.parse(model).label
        if label in models:
            raise UserError(f"evaluate.models: {model} and {models[label]} would both be called {label!r}: rename one")
        models[label] = model


def check_map_method(method: str) -> None:
    """Refuse maps of objects whose package is not installed.

    Raises:
        UserError: saying how to install it.
    """
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise UserError("evaluate.maps umap needs its package: pip install umap-learn, or take pca")


def embedding_spaces(cfg: Config, parents: Parents) -> list[EmbeddingSpace]:
    """Every layer of every model: the base first, the teacher last."""
    head_similarity = _head_similarity(cfg)
    base = embed_jobs.base_job(cfg)
    if not embed_jobs.has_images(cfg):
        # No student is trained, so the teacher's features themselves are what its map is compared with.
        base = embed_jobs.teacher_job(cfg, "objects")
    spaces = _layers("base", base, parents)
    for role in embed_jobs.student_roles(cfg):
        spaces += _layers(role, embed_jobs.student_job(role), parents, head_similarity)

    objects = EmbedArtifact(parents["embed@objects"])
    embedded = objects.embeddings()
    # Stored embeddings need not hold images that this run could not read.
    readable = set(embedded.ids.tolist())
    ids_of_paths = {path: image_id for image_id, path in objects.image_paths().items() if image_id in readable}
    for model in cfg.evaluate.models:
        spec = ModelSpec.parse(model)
        if spec.kind is ModelKind.STORED:
            spaces.append(EmbeddingSpace(spec.label, "pre_logits", *stored.read(model, cfg.store.root, ids_of_paths)))
        else:
            spaces += _layers(spec.label, embed_jobs.extra_job(model), parents)

    return [*spaces, _teacher(embedded, parents)]


def _head_similarity(cfg: Config) -> Kind:
    """A head is scored by the similarity that it was trained with and answers by."""
    if cfg.distill.normalize:
        return "cosine"
    return "dot"


def _teacher(embedded: EmbeddedRows, parents: Parents) -> EmbeddingSpace:
    """The teacher's space, from its network's embeddings of some images."""
    # A fine-tuned network's embeddings are aligned already; other teachers still need their map.
    vectors = embedded.vectors
    align = AlignArtifact(parents["align"])
    if align.has_transform():
        vectors = align.transform()(vectors)
    return EmbeddingSpace("teacher", "aligned", embedded.ids, vectors, "dot")


def _layers(model: str, job: EmbedJob, parents: Parents, head_similarity: Kind = "dot") -> list[EmbeddingSpace]:
    """The spaces of one embedding job: the backbone's, and that of the head if there is one.

    Args:
        model: name of the model in tables.
        job: its embedding job; without an artifact of it there are no spaces.
        parents: artifacts by node name.
        head_similarity: of the head's outputs.
    """
    # Without a control, or with stored embeddings only, some jobs were not part of the run.
    if job.node not in parents:
        return []
    artifact = EmbedArtifact(parents[job.node])
    spaces = [EmbeddingSpace(model, "pre_logits", *artifact.embeddings())]
    if artifact.has_triplet_logits():
        spaces.append(EmbeddingSpace(model, "head", *artifact.embeddings("triplet_logits"), head_similarity))
    return spaces


def suite_options(cfg: Config) -> SuiteOptions:
    """How much the evaluations sample."""
    evaluate = cfg.evaluate
    return SuiteOptions(
        image_draws=evaluate.num_samples,
        triplets=evaluate.triplets,
        bootstrap=evaluate.bootstrap,
        posterior_draws=cfg.soften.num_samples,
        shots=evaluate.shots,
        seed=cfg.seed,
    )


def ood_folder(cfg: Config, parents: Parents) -> OodFolder | None:
    """The out-of-distribution images in the models' spaces; None if the config names no folder of them."""
    if not cfg.evaluate.ood:
        return None

    base = embed_jobs.base_job(cfg)
    spaces = _layers("base", base.on_ood(), parents)
    for role in embed_jobs.student_roles(cfg):
        spaces += _layers(role, embed_jobs.student_job(role).on_ood(), parents)
    for model in embed_jobs.extra_models(cfg):
        spaces += _layers(ModelSpec.parse(model).label, embed_jobs.extra_job(model).on_ood(), parents)

    labels = EmbedArtifact(parents[base.on_ood().node]).image_labels()
    return OodFolder({space.name: space for space in spaces}, labels)


def set_spaces(cfg: Config, parents: Parents, name: str) -> list[EmbeddingSpace]:
    """The images of a set of human judgements in the spaces of every model that embedded them.

    Stored embeddings, of a teacher or of `evaluate.models`, hold no images of sets.
    """
    spaces = _layers("base", embed_jobs.base_job(cfg).on_set(name), parents)
    for role in embed_jobs.student_roles(cfg):
        spaces += _layers(role, embed_jobs.student_job(role).on_set(name), parents, _head_similarity(cfg))
    for model in embed_jobs.extra_models(cfg):
        spaces += _layers(ModelSpec.parse(model).label, embed_jobs.extra_job(model).on_set(name), parents)
    for job in embed_jobs.set_teacher_jobs(cfg, name):
        spaces.append(_teacher(EmbedArtifact(parents[job.node]).embeddings(), parents))
    return spaces


def annotated_objects(soften: SoftenArtifact, images: EmbedArtifact) -> SplitObjects:
    """The objects of every split, with images or without.

    Args:
        soften: the objects.
        images: of these objects; their folders name objects that have no name.
    """
    table = soften.objects()
    posterior = soften.posterior()
    labels = images.image_labels()
    paths = images.image_paths()
    names = []
    for row in table.select(["object", "name", "image_ids"]).to_pylist():
        shown = [image_id for image_id in row["image_ids"] if image_id in paths]
        # Names of THINGS such as `bat1` are numbered where a word has several meanings.
        spaced = row["name"].replace("_", " ").strip()
        name = spaced.rstrip("0123456789").strip() or spaced
        if not name and shown:
            name = _name_by_images({labels[image_id] for image_id in shown}, paths[shown[0]])
        names.append(name or f"object {row['object']}")

    objects = AnnotatedObjects(
        table["object"].to_numpy(),
        names,
        table["category"].to_pylist(),
        [np.array(image_ids, np.int64) for image_ids in table["image_ids"].to_pylist()],
        posterior.mu,
        posterior.sigma,
    )
    split = np.array(table["split"].to_pylist())
    return SplitObjects(
        train=objects.take(np.flatnonzero(split == "train")),
        validation=objects.take(np.flatnonzero(split == "validation")),
        test=objects.take(np.flatnonzero(split == "test")),
    )


def _name_by_images(labels: set[str], first_path: str) -> str:
    """What an object without a name is called: the class folder of its images if they share one, else a file's name."""
    if len(labels) == 1:
        label = labels.pop()
        if label:
            return class_title(label)
    return PurePosixPath(first_path).stem
