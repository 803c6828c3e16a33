"""embed: images -> embeddings, by Ray Data with a pool of actors that each hold the model (a few images: without).

Images are processed in units: runs of consecutive images, cut without regard to the number of actors. Readers open the
images of a unit, an actor embeds them and writes them as one part, the unit's Parquet file, in one atomic step. So an
interrupted run goes on after the last whole part. (A block is Ray Data's word for what travels between its processes:
here one row, a unit's number, to which readers add the unit's pixels.)
"""

import math
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from alignet_ray import cluster_nodes, runtime, tracking
from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.embed import PART_BYTES, EmbedArtifact
from alignet_ray.config import Config
from alignet_ray.data import feature_files
from alignet_ray.errors import UserError
from alignet_ray.images import listing
from alignet_ray.images.decode import TWELVE_BIT_HELP
from alignet_ray.images.file_kinds import LeftOut
from alignet_ray.images.quarantine import Quarantine
from alignet_ray.models import hub
from alignet_ray.models.model_spec import ModelKind, ModelSpec
from alignet_ray.stages import Work, embed_jobs, human_inputs
from alignet_ray.stages.embed_jobs import EmbedJob
from alignet_ray.stages.ray_names import named_class, named_function
from alignet_ray.stages.ray_tasks import in_tasks
from alignet_ray.stages.small_work import stays_here
from alignet_ray.store import JsonObject

if TYPE_CHECKING:
    from alignet_ray.stages.embed_actor import ActorTask, UnitResult

VERSION = 5

MIN_UNIT = 16
MAX_UNIT = 256
"""Bounds of the images in a unit, which is the grain of resuming, progress and load balancing."""

UNITS = 8
"""Units that an image set is cut into, as far as the bounds allow."""

GPU_BATCH = 256
CPU_BATCH = 32
"""Default images per forward pass; a pass never spans two units, so more than `MAX_UNIT` has no effect."""

NOT_COMPILED = (
    "the network could not be compiled, so the images take longer: a C compiler is needed on every node (gcc), or "
    "--embed.compile off"
)

MERGE_SECONDS = 0.5
"""What merging the parts of a group takes at least; to decide where that is done."""

FEW_IMAGES = 2_000
"""Images that this process may begin with, to see how long they take."""

ACTOR_START_SECONDS = 600
"""Time within which all actors must have loaded their models."""


@dataclass(frozen=True)
class EmbedFacts:
    """What artifact.json says of an embedding job.

    Attributes:
        rows: embedded images.
        quarantined: images that could not be used.
        reused_parts: parts that an interrupted run had finished.
        actors: process ids of the actors.
        fast_cosine: mean cosine similarity of fast-decoded to exact embeddings; None for exact decoding.
        fast_cosine_min: the smallest of these.
    """

    rows: int
    quarantined: int
    reused_parts: int
    actors: list[int]
    fast_cosine: float | None = None
    fast_cosine_min: float | None = None


class Resources(NamedTuple):
    """What embedding can use: GPUs, Ray's CPU slots, and real cores."""

    gpus: int
    cpus: int
    cores: int


class Pool(NamedTuple):
    """Numbers of actors, and of processes that read images for them."""

    actors: int
    readers: int


def inputs(cfg: Config, role: str) -> JsonObject:
    """The job's value and the number formats."""
    # Number formats and decoding change the last digits of embeddings; batch size and number of actors do not.
    job = embed_jobs.find_job(cfg, role)
    models = [_identity(cfg, model) for model in job.models]
    if job.features:
        return job.value()
    formats = {"dtype": cfg.embed.dtype, "compute": cfg.embed.compute, "decode": cfg.embed.decode}
    return job.value() | {"models": models} | formats


def _identity(cfg: Config, model: str) -> str:
    """A model's name in an id; for a registered model this is the version that its alias points to now."""
    spec = ModelSpec.parse(model)
    if spec.kind is ModelKind.REGISTERED:
        return hub.identity(model, tracking.resolve_uri(cfg, runtime.state_dir(cfg)))
    return spec.identity


def sources(cfg: Config, role: str) -> list[str]:
    """The image folder, the table of objects, and local weight files."""
    job = embed_jobs.find_job(cfg, role)
    if job.features and not embed_jobs.has_images(cfg):
        return feature_files.files(job.features)
    files = [embed_jobs.image_root(cfg, job.images)]
    if job.images == "objects":
        files += human_inputs.sources(cfg)
    if job.images.startswith(embed_jobs.SET):
        # Only annotated images are embedded.
        files += embed_jobs.find_set(cfg, job.images.removeprefix(embed_jobs.SET)).sources
    if job.features:
        files += feature_files.files(job.features)
    for model in job.models:
        files += ModelSpec.parse(model).local_files
    return files


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """Files and megabytes of the image folder."""
    listed = sources[0]
    if not isinstance(listed, dict):
        return "one file"
    megabytes = max(1, round(listed["bytes"] / 1e6))

    # The folder's files are counted; of some sets only the annotated images among them are embedded.
    which = ""
    images = embed_jobs.find_job(cfg, role).images
    if images == "objects" or images.startswith(embed_jobs.SET):
        which = "annotated ones of "
    return f"{which}{listed['files']:,} files, {megabytes:,} MB"


def refuse(cfg: Config, role: str) -> None:
    """Refuse unknown models and sizes before anything starts; the plan has looked registered ones up already."""
    from alignet_ray.models import backbone

    job = embed_jobs.find_job(cfg, role)
    if job.features:
        feature_files.read(job.features)
    else:
        _refuse_file(embed_jobs.image_root(cfg, job.images))
    for model in job.models:
        if ModelSpec.parse(model).kind is not ModelKind.REGISTERED:
            backbone.check_model(model, job.size)


def _refuse_file(root: str) -> None:
    """Refuse a root that is one file, and neither an image nor a shard of images; a folder was listed by the plan."""
    if "://" not in root and Path(root).expanduser().is_file():
        listing.fingerprint(root)


def run(work: Work) -> None:
    """Embed the images of the job."""
    artifact = EmbedArtifact(work.out)
    job = embed_jobs.find_job(work.cfg, work.role)
    if job.features:
        take_features(work, job, artifact)
        return

    total = artifact.write_images(_list_images(work, job))
    _tell_unlabelled(work, job, artifact)

    unit_size = images_per_unit(total)
    units = range(math.ceil(total / unit_size))
    finished = _finished_units(work, job, artifact, len(units), unit_size)

    # Finished parts count as well: their unusable images towards the tolerated share, all others towards the progress.
    quarantine = Quarantine(total, work.cfg.embed.max_bad)
    done = 0
    twelve_bit: list[str] = []
    if finished:
        for notes in artifact.notes():
            quarantine.add(notes.quarantined)
            twelve_bit += notes.twelve_bit
    for unit in finished:
        done += min(unit_size, total - unit * unit_size)

    todo = sorted(set(units) - set(finished))
    actors: set[int] = set()
    is_told = False

    # Closed where it is used: an error must not leave this process with an actor's model and threads.
    with (
        work.screen.progress(total, "images", done=done) as bar,
        closing(embed_units(work, job, todo, total - done)) as results,
    ):
        for result in results:
            if result.user_error:
                raise UserError(result.user_error)
            quarantine.add(result.quarantined)
            bar.add(result.images)
            actors.add(result.pid)
            twelve_bit += result.twelve_bit

            # Every actor says so, of the same networks: once is enough.
            if result.not_compiled and not is_told:
                work.warn(f"{NOT_COMPILED} ({result.not_compiled})")
                is_told = True

    _merge_parts(work, artifact, artifact.unit_groups(len(units), unit_size))
    artifact.write_quarantine(quarantine.table())
    if twelve_bit:
        work.warn(f"{len(twelve_bit):,} pictures (first: {min(twelve_bit)!r}): {TWELVE_BIT_HELP}")

    work.facts = EmbedFacts(
        rows=total - len(quarantine.errors),
        quarantined=len(quarantine.errors),
        reused_parts=len(finished),
        actors=sorted(actors),
    )
    _compare_fast_decoding(work, artifact)


def take_features(work: Work, job: EmbedJob, artifact: EmbedArtifact) -> None:
    """Take over stored features: those of the job's images, or, without images, all rows.

    Raises:
        UserError: as `feature_files.read`; images that have no row.
    """
    assert job.features is not None, "a job of stored features"
    rows = feature_files.read(job.features)
    if not embed_jobs.has_images(work.cfg):
        table = feature_files.image_table(rows)
        vectors = rows.vectors
    else:
        table = pa.Table.from_batches(_list_images(work, job), schema=schemas.IMAGES)
        vectors = feature_files.rows_of_images(job.features, rows, table["path"].to_pylist())

    # The same layout as embeddings of a network: readers need not know where they come from.
    artifact.write_images(embed_jobs.batched(table))
    if embed_jobs.has_images(work.cfg):
        _tell_unlabelled(work, job, artifact)

    # No network is described, but readers ask for the width and the name of what made the features.
    width = vectors.shape[1]
    name = Path(job.features).name
    artifact.write_networks({"members": [], "head": "none", "widths": {"embedding": width}, "features": name})

    schema = schemas.embeddings(width, str(vectors.dtype))
    rows_of_part = math.ceil(PART_BYTES / (width * vectors.itemsize))
    for number, start in enumerate(range(0, len(table), rows_of_part)):
        ids = table["image_id"][start : start + rows_of_part].combine_chunks()
        part = pa.table([ids, schemas.tensors(vectors[start : start + rows_of_part])], schema=schema)
        artifact.write_part(number, part, quarantined=[], twelve_bit=[])

    artifact.write_quarantine(Quarantine(len(table), work.cfg.embed.max_bad).table())
    work.facts = EmbedFacts(rows=len(table), quarantined=0, reused_parts=0, actors=[])
    work.screen.line(f"   {len(table):,} rows of {width} features from {name}")


def images_per_unit(total: int) -> int:
    """Images of a unit, where a job has so many of them.

    It depends on that number alone, so that a run may go on with other actors or on another machine.
    """
    return min(MAX_UNIT, max(MIN_UNIT, math.ceil(total / UNITS)))


def _list_images(work: Work, job: EmbedJob) -> Iterator[pa.RecordBatch]:
    """The job's images, batch by batch; what their folder holds besides is told once."""
    left_out = LeftOut()
    yield from embed_jobs.list_job_images(work.cfg, work.listings, job.images, left_out)
    # Several jobs list the same folder, and one of them tells. Jobs of annotated objects look at a part of it only.
    if job.tells_left_out:
        work.tell_left_out(left_out)


def _tell_unlabelled(work: Work, job: EmbedJob, artifact: EmbedArtifact) -> None:
    """Warn of images without a class among others, once; nobody asks for the classes of a set's images."""
    if job.tells_left_out and not job.images.startswith(embed_jobs.SET):
        without_class = listing.unlabelled(artifact.image_blocks(["path", "label"]))
        if without_class:
            work.warn(without_class)


def _finished_units(work: Work, job: EmbedJob, artifact: EmbedArtifact, units: int, unit_size: int) -> list[int]:
    """Units whose parts an interrupted run has written."""
    # Parts count only if the description of the networks that made them is there.
    if not artifact.has_networks():
        return []
    if artifact.finished_units():
        from alignet_ray.stages.embed_outages import forget_outages

        forgotten = forget_outages(artifact, embed_jobs.image_root(work.cfg, job.images), unit_size)
        if forgotten:
            work.screen.line(f"   {forgotten} parts are made again: images that could not be read then can be read now")
    finished = sorted(artifact.finished_units())
    if finished:
        work.screen.line(f"   reused {len(finished)} finished parts of {units}")
    return finished


def _merge_parts(work: Work, artifact: EmbedArtifact, groups: list[range]) -> None:
    """Make the parts of each group of units one: here if that takes seconds, otherwise in Ray's tasks."""
    if not groups:
        return
    with work.screen.progress(len(groups), "parts merged") as bar:
        if stays_here(work.cfg, len(groups) * MERGE_SECONDS):
            for group in groups:
                artifact.merge_units(group)
                bar.add(1)
            return

        import ray

        task = ray.remote(num_cpus=1)(EmbedArtifact.merge_units)

        def merge(group: range) -> Any:
            name = f"{work.node.name}: merge parts {group[0]} to {group[-1]}"
            return task.options(name=name).remote(artifact, group)

        for _ in in_tasks(groups, merge, max(1, cluster_nodes.cluster_resources().cpus)):
            bar.add(1)


def _compare_fast_decoding(work: Work, artifact: EmbedArtifact) -> None:
    """Say how near fast-decoded embeddings come to exact ones, if images were decoded fast."""
    cosines = artifact.fast_cosines()
    if not cosines:
        return
    mean = sum(cosines) / len(cosines)
    work.facts = replace(work.facts, fast_cosine=mean, fast_cosine_min=min(cosines))
    work.screen.line(
        f"   decoded fast: cosine to the exact embedding {mean:.4f} on average, {min(cosines):.4f} at least "
        f"({len(cosines)} images compared)"
    )


def embed_units(work: Work, job: EmbedJob, units: list[int], images: int) -> Generator["UnitResult"]:
    """Embed units: in this process while that takes seconds, the others on a pool of actors.

    Args:
        work: the stage's work.
        job: the images and the model.
        units: units to embed.
        images: number of images in these units.

    Yields:
        The result of each unit, in the order in which they finish.
    """
    if not units:
        return

    # A few images are embedded before actors would have loaded their models.
    resources = available_resources()
    remaining = units
    if _may_start_here(work.cfg, resources, images):
        with closing(_embed_here(work, job, units, images, resources)) as here:
            for result, left in here:
                yield result
                remaining = left
    if remaining:
        yield from _embed_on_actors(work, job, remaining, images, resources)


def _may_start_here(cfg: Config, resources: Resources, images: int) -> bool:
    """Whether so few images are worth a try without actors; these share GPUs, which the driver would keep."""
    asks_for_processes = cfg.embed.actors or cfg.embed.readers
    return images <= FEW_IMAGES and not resources.gpus and not asks_for_processes and stays_here(cfg, 0)


def _embed_here(
    work: Work, job: EmbedJob, units: list[int], images: int, resources: Resources
) -> Generator[tuple["UnitResult", list[int]]]:
    """Embed units in this process until the rest of them would take longer than to start actors.

    Yields:
        The result of each unit, and the units that are left.
    """
    import torch

    from alignet_ray.stages.embed_actor import Embedder

    threads_before = torch.get_num_threads()
    # An actor's settings of warnings and threads are its own; this process belongs to whoever called.
    with warnings.catch_warnings():
        embedder = Embedder(actor_task(work, job, images, Pool(actors=1, readers=0), resources))
        try:
            for position, unit in enumerate(units, start=1):
                start = time.perf_counter()
                result = embedder.embed(unit)
                left = units[position:]
                yield result, left

                seconds = time.perf_counter() - start
                if not stays_here(work.cfg, seconds * len(left)):
                    return
        finally:
            torch.set_num_threads(threads_before)


def _embed_on_actors(
    work: Work, job: EmbedJob, units: list[int], images: int, resources: Resources
) -> Generator["UnitResult"]:
    """Embed units on a pool of actors; the result of each, in the order in which they finish."""
    import ray
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    from alignet_ray.stages.embed_actor import Embedder, UnitResult, read_unit

    pool = pool_size(work.cfg, resources)
    task = actor_task(work, job, images, pool, resources)

    # One row a block, or Ray Data would hand several units to the same actor while another one has none.
    data: ray.data.Dataset = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
    data.set_name(work.node.name)  # the name in Ray's dashboard and in Prometheus
    if pool.readers:
        data = data.map_batches(
            named_function(read_unit, f"{work.node.name}: read images"),
            fn_args=(task,),
            batch_size=1,
            num_cpus=1,
            compute=TaskPoolStrategy(size=pool.readers),
        )

    gpus_per_actor = min(1.0, resources.gpus / pool.actors)
    # Two tasks in flight: the next unit's pixels are fetched while an actor computes.
    answers = data.map_batches(
        named_class(Embedder, f"{work.node.name}: embed images"),
        fn_constructor_args=(task,),
        batch_size=1,
        num_cpus=1,
        num_gpus=gpus_per_actor,
        compute=ActorPoolStrategy(
            min_size=first_actors(pool, cluster_nodes.free_resources(), gpus_per_actor),
            max_size=pool.actors,
            max_tasks_in_flight_per_actor=2,
        ),
        zero_copy_batch=True,
    )
    # Without this the first actor to start would take most of a small image set.
    answers.context.wait_for_min_actors_s = ACTOR_START_SECONDS
    for row in answers.iter_rows():
        yield UnitResult.from_row(row)


def first_actors(pool: Pool, free: cluster_nodes.ClusterResources, gpus_per_actor: float) -> int:
    """Actors that work begins with: those that fit beside what others run; the rest of the pool joins when it can."""
    # A slot is left to a reader, for whose images actors would wait.
    fitting = free.cpus - min(1, pool.readers)
    if gpus_per_actor:
        fitting = min(fitting, round(free.gpus / gpus_per_actor))
    return max(1, min(pool.actors, fitting))


def available_resources() -> Resources:
    """What the cluster offers; a local Ray may have more CPU slots than the machine has cores."""
    offered = cluster_nodes.cluster_resources()
    return Resources(offered.gpus, offered.cpus, cluster_nodes.cores())


def pool_size(cfg: Config, resources: Resources) -> Pool:
    """How many actors, and how many processes that read images for them.

    Two actors share a GPU: one computes while the other writes its part. Reading and decoding images takes more cores
    than one process can use, so GPU actors leave it to readers.

    Raises:
        UserError: Ray has too few CPUs for the readers asked for, or there are no readers where they are needed.
    """
    embed = cfg.embed
    may_have_readers = embed.readers is None and resources.gpus > 0
    # One CPU is kept back for readers: actors on all of them would wait for ever for images that nobody can open.
    most_actors = resources.cpus
    if embed.readers or may_have_readers:
        most_actors -= 1
    most_actors = max(1, most_actors)
    actors = min(most_actors, embed.actors or 2 * resources.gpus or max(2, resources.cores // 2))
    actors = _spread_over_gpus(actors, resources.gpus, embed.actors)

    free = resources.cpus - actors
    readers = embed.readers
    if readers is None:
        # CPU actors compute on all cores, so that readers would only take cores from them.
        readers = 0
        if resources.gpus:
            readers = free
    if readers > free:
        raise UserError(
            f"--embed.readers {readers} and {actors} actors need {readers + actors} CPUs, Ray has {resources.cpus}: "
            f"use --embed.readers {max(0, free)} or --ray.num-cpus {readers + actors}"
        )
    if embed.resize == "device" and not readers:
        raise UserError("--embed.resize device needs processes that open images: add --embed.readers 1 or more")
    return Pool(actors, readers)


def _spread_over_gpus(actors: int, gpus: int, wanted: int | None) -> int:
    """As many actors on every GPU: Ray gives an actor a share of one GPU, and 3 shares of 2/3 do not fit on 2 GPUs.

    Raises:
        UserError: the number of actors that the user asked for cannot be spread.
    """
    if not gpus or actors <= gpus or actors % gpus == 0:
        return actors
    fitting = actors // gpus * gpus
    if wanted:
        raise UserError(
            f"--embed.actors {wanted} cannot be spread evenly over {gpus} GPUs: use {fitting} or {fitting + gpus}"
        )
    return fitting


def actor_task(work: Work, job: EmbedJob, images: int, pool: Pool, resources: Resources) -> "ActorTask":
    """What every process of the pool needs to know."""
    from alignet_ray.stages.embed_actor import ActorTask

    cfg = work.cfg
    # A model that this run trained is read from its artifact's folder.
    trained = None
    if job.trained_by:
        trained = work.parents[job.trained_by]

    # Actors may run on machines whose environment does not name the MLflow server: the task brings its address.
    registry = ""
    if any(ModelSpec.parse(model).kind is ModelKind.REGISTERED for model in job.models):
        registry = tracking.resolve_uri(cfg, runtime.state_dir(cfg))

    has_gpu = resources.gpus > 0
    default_batch = CPU_BATCH
    if has_gpu:
        default_batch = GPU_BATCH
    artifact = EmbedArtifact(work.out)
    return ActorTask(
        artifact=artifact,
        image_root=embed_jobs.image_root(cfg, job.images),
        models=job.models,
        trained=trained,
        registry=registry,
        size=job.size,
        head=job.head,
        layer=job.layer,
        compute=cfg.embed.compute,
        fast=cfg.embed.decode == "fast",
        dtype=cfg.embed.dtype,
        batch_size=cfg.embed.batch_size or default_batch,
        threads=max(1, resources.cores // pool.actors),
        resize_on_device=cfg.embed.resize == "device" or (cfg.embed.resize == "auto" and has_gpu),
        compile=cfg.embed.compile,
        images_per_actor=math.ceil(images / pool.actors),
        unit_size=images_per_unit(artifact.image_count()),
    )
