"""embed: images -> embeddings, through Ray Data and a pool of actors that each hold the model.

Work is cut into units of consecutive images, the same for any number of actors; the actor that has finished a unit
writes it as `part-{unit:05d}.parquet` in one atomic step. A killed run leaves whole parts; the next skips them.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignet_ray import runtime, tracking
from alignet_ray.artifacts.schemas import IMAGES, check
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.images.quarantine import Quarantine
from alignet_ray.models import hub
from alignet_ray.models.model_spec import REGISTRY, HeadUse
from alignet_ray.stages import Work, embed_jobs

if TYPE_CHECKING:
    from alignet_ray.stages.embed_actor import EmbedActorJob

VERSION = 2

UNIT = (16, 256)
"""Least and most images of a unit: the grain of resuming, progress and load balance."""

BATCH = {True: 256, False: 32}
"""Images a forward pass, on a GPU and without."""

START = 600
"""Seconds within which all actors must have loaded their models."""


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """Config fields that change the embeddings of a role."""
    models, size, layer = embed_jobs.network(cfg, role)
    fields = {
        "models": [_name(cfg, m) for m in models],
        "size": size,
        "layer": layer,
        "judged": embed_jobs.judged(role),
    }
    heads = {"head": "beside"} if any(map(_student, models)) and embed_jobs.model_of(role).startswith("other") else {}
    decode = {} if cfg.embed.decode == "exact" else {"decode": "turbo"}
    return fields | heads | decode | {"dtype": cfg.embed.dtype, "compute": cfg.embed.compute}


def _name(cfg: Config, model: str) -> str:
    """A model's name in an id: a file's fingerprint is among the sources, a registered model's is its version."""
    if model.startswith(REGISTRY):
        return hub.identity(model, tracking.resolve_uri(cfg, runtime.state_dir(cfg)))
    name, _, file = model.partition("@")
    return f"{name}@{Path(file).name}" if file else name


def _student(model: str) -> bool:
    """Whether a model may bring a triplet head."""
    return model.startswith(REGISTRY) or (Path(model).expanduser() / "model.json").is_file()


def sources(cfg: Config, role: str) -> list[str]:
    """The image folder, the table of objects, and local weights files."""
    models = [m for m in embed_jobs.network(cfg, role).models if not m.startswith(REGISTRY)]
    files = [file for _, _, file in (model.partition("@") for model in models) if file]
    folders = [Path(model).expanduser() for model in models]
    students = [str(f) for folder in folders if (folder / "model.json").is_file() for f in sorted(folder.glob("*.*"))]
    table = [cfg.objects.table] if cfg.objects.table and embed_jobs.judged(role) else []
    return [embed_jobs.root(cfg, role), *table, *files, *students]


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """For the plan: what there is to read."""
    found = sources[0]
    if not isinstance(found, dict):
        return "one file"
    few = "the judged ones of " if embed_jobs.judged(role) else ""
    return f"{few}{found['files']:,} files, {max(1, round(found['bytes'] / 1e6)):,} MB"


def refuse(cfg: Config, role: str) -> None:
    """Refuse models that nobody knows before anything starts."""
    from alignet_ray.models.backbone import check as known

    for model in embed_jobs.network(cfg, role).models:
        if not model.startswith(REGISTRY):  # the plan has found it
            known(model)


def run(work: Work) -> None:
    """Embed the images of the role: parts, images.parquet, errors.parquet, model.json."""
    from alignet_ray.stages.embed_actor import cosines, errors

    table = embed_jobs.selection(work.cfg, work.role)
    unit = max(UNIT[0], min(UNIT[1], math.ceil(len(table) / 8)))
    work.out.write_table("images.parquet", check(table, IMAGES), row_group_size=unit)
    units = math.ceil(len(table) / unit)
    finished = {int(Path(name).stem.removeprefix("part-")) for name in work.out.parts()}
    if not work.out.has("model.json"):
        finished = set()
    tally = Quarantine(len(table), work.cfg.embed.max_bad)
    for k in sorted(finished):
        tally.add(errors(work.out, k))
    if finished:
        work.screen.line(f"   reused {len(finished)} finished parts of {units}")
    todo = [k for k in range(units) if k not in finished]
    done = sum(min(unit, len(table) - k * unit) for k in finished)
    actors: set[int] = set()
    with work.screen.progress(len(table), "images", done=done) as bar:
        for answer in _embed(work, todo, len(table) - done):
            if answer["problem"]:
                raise UserError(answer["problem"])
            tally.add(json.loads(answer["errors"]))
            bar.add(answer["images"])
            actors.add(answer["pid"])
    work.out.write_table("errors.parquet", tally.table())
    work.facts |= {"rows": len(table) - len(tally.errors), "quarantined": len(tally.errors)}
    work.facts |= {"reused_parts": len(finished), "actors": sorted(actors)}
    if near := cosines(work.out):
        mean, least = sum(near) / len(near), min(near)
        work.facts |= {"fast_cosine": mean, "fast_cosine_least": least}
        work.screen.line(
            f"   decoded fast: cosine to the exact embedding {mean:.4f} on average, {least:.4f} at least "
            f"({len(near)} images compared)"
        )


def _job(work: Work, images: int, actors: int, cores: int, gpus: int = 0) -> "EmbedActorJob":
    from alignet_ray.stages.embed_actor import EmbedActorJob

    cfg, model = work.cfg, embed_jobs.model_of(work.role)
    head: HeadUse = "none"
    models, size, layer = embed_jobs.network(cfg, work.role)
    if model in ("student", "control"):
        head, models = "beside", (str(work.parents[f"distill@{model}"].local()),)
    elif model.startswith("other") and _student(models[0]):
        head = "beside"
    elif "align" in work.parents:
        head, size, models = "instead", None, (str(work.parents["align"].local()),)
    return EmbedActorJob(
        out=work.out,
        uri=embed_jobs.root(cfg, work.role),
        models=models,
        registry=tracking.resolve_uri(cfg, runtime.state_dir(cfg)) if models[0].startswith(REGISTRY) else "",
        size=size,
        head=head,
        layer=layer,
        bfloat16=cfg.embed.compute == "bfloat16",
        fast=cfg.embed.decode == "fast",
        dtype=cfg.embed.dtype,
        batch=cfg.embed.batch_size or BATCH[gpus > 0],
        threads=max(1, cores // actors),
        whole=cfg.embed.resize == "device" or (cfg.embed.resize == "auto" and gpus > 0),
        compile=cfg.embed.compile,
        expected=math.ceil(images / actors),
    )


def _embed(work: Work, units: list[int], images: int) -> Iterator[dict[str, Any]]:
    """Run the units on the pool; answers come in the order in which they finish."""
    if not units:
        return
    import ray
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    from alignet_ray.stages.embed_actor import Embedder, read

    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))  # type: ignore[no-untyped-call]
    cores = min(cpus, len(ray.nodes()) * (os.cpu_count() or 1))  # type: ignore[no-untyped-call]
    actors, readers = pool(work.cfg, gpus, cpus, cores)
    job = _job(work, images, actors, cores, gpus)
    data: ray.data.Dataset = ray.data.from_items([{"unit": k} for k in units], override_num_blocks=len(units))
    data.set_name(work.node.name)  # what the dashboard and Prometheus call it
    if readers:
        data = data.map_batches(
            read,  # type: ignore[arg-type]
            fn_args=(job,),
            batch_size=1,
            num_cpus=1,
            compute=TaskPoolStrategy(size=readers),
        )
    answers = data.map_batches(
        Embedder,
        fn_constructor_args=(job,),
        batch_size=1,
        num_cpus=1,
        num_gpus=min(1.0, gpus / actors) if gpus else 0,
        compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        zero_copy_batch=True,
    )
    answers.context.wait_for_min_actors_s = START  # else the first one up would take most of a small set
    yield from answers.iter_rows()


def pool(cfg: Config, gpus: int, cpus: int, cores: int) -> tuple[int, int]:
    """How many actors, and how many processes that open images for them.

    Two actors share a GPU: one computes while the other writes its part. Opening images takes more cores than one
    process can use, so GPU actors leave it to others.

    Raises:
        UserError: the CPUs that Ray has are too few for the readers asked for; or there are none where they must be.
    """
    most = cpus if cfg.embed.readers == 0 or not (gpus or cfg.embed.readers) else cpus - 1
    actors = min(cfg.embed.actors or 2 * gpus or max(2, cores // 2), max(1, most))
    left = cpus - actors
    readers = cfg.embed.readers if cfg.embed.readers is not None else (left if gpus else 0)
    if readers > left:
        raise UserError(
            f"--embed.readers {readers} and {actors} actors need {readers + actors} CPUs, Ray has {cpus}: use "
            f"--embed.readers {max(0, left)} or --ray.num-cpus {readers + actors}"
        )
    if cfg.embed.resize == "device" and not readers:
        raise UserError("--embed.resize device needs processes that open images: add --embed.readers 1 or more")
    return actors, readers
