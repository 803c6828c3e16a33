"""embed: images -> embeddings, through Ray Data and a pool of actors that each hold the model.

Work is cut into units of consecutive images, the same for any number of actors; the actor that has finished a unit
writes it as `part-{unit:05d}.parquet` in one atomic step. A killed run leaves whole parts; the next skips them.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL.Image import Image

from alignet_ray import runtime, tracking
from alignet_ray.config import Config
from alignet_ray.data import images as source
from alignet_ray.data import roles
from alignet_ray.data.quarantine import Quarantine
from alignet_ray.data.schemas import IMAGES, check, embeddings, tensors
from alignet_ray.errors import UserError
from alignet_ray.models import hub
from alignet_ray.stages import Work
from alignet_ray.store import Artifact, Draft

VERSION = 1

UNIT = (16, 256)
"""Least and most images of a unit: the grain of resuming, progress and load balance."""

START = 600
"""Seconds within which all actors must have loaded their models."""

ERRORS_KEY = b"alignet.errors"
"""Parquet metadata of a part: its images in quarantine, so that part and quarantine are one atomic file."""


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """Config fields that change the embeddings of a role."""
    models, size, layer = roles.network(cfg, role)
    fields = {"models": [_name(cfg, m) for m in models], "size": size, "layer": layer, "judged": roles.judged(role)}
    heads = {"head": "beside"} if any(map(_student, models)) and roles.model_of(role).startswith("other") else {}
    return fields | heads | {"dtype": cfg.embed.dtype, "compute": cfg.embed.compute}


def _name(cfg: Config, model: str) -> str:
    """A model's name in an id: a file's fingerprint is among the sources, a registered model's is its version."""
    if model.startswith(hub.REGISTRY):
        return hub.identity(model, tracking.resolve_uri(cfg, runtime.state_dir(cfg)))
    name, _, file = model.partition("@")
    return f"{name}@{Path(file).name}" if file else name


def _student(model: str) -> bool:
    """Whether a model may bring a triplet head."""
    return model.startswith(hub.REGISTRY) or (Path(model).expanduser() / "model.json").is_file()


def sources(cfg: Config, role: str) -> list[str]:
    """The image folder, the table of objects, and local weights files."""
    models = [m for m in roles.network(cfg, role).models if not m.startswith(hub.REGISTRY)]
    files = [file for _, _, file in (model.partition("@") for model in models) if file]
    folders = [Path(model).expanduser() for model in models]
    students = [str(f) for folder in folders if (folder / "model.json").is_file() for f in sorted(folder.glob("*.*"))]
    table = [cfg.objects.table] if cfg.objects.table and roles.judged(role) else []
    return [roles.root(cfg, role), *table, *files, *students]


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """For the plan: what there is to read."""
    found = sources[0]
    if not isinstance(found, dict):
        return "one file"
    few = "the judged ones of " if roles.judged(role) else ""
    return f"{few}{found['files']:,} files, {max(1, round(found['bytes'] / 1e6)):,} MB"


def refuse(cfg: Config, role: str) -> None:
    """Refuse models that nobody knows before anything starts."""
    from alignet_ray.models.backbone import check as known

    for model in roles.network(cfg, role).models:
        if not model.startswith(hub.REGISTRY):  # the plan has found it
            known(model)


@dataclass(frozen=True)
class Job:
    """What every actor needs to know.

    Attributes:
        out: where parts go; `images.parquet` lies there, one row group a unit.
        uri: folder of the images.
        models: spellings of the models whose embeddings are concatenated; `size` and `layer` as in the config.
        registry: MLflow server of registered models.
        head: what becomes of a student's head.
        dtype: stored number format.
        batch: images a forward pass.
        threads: CPU threads an actor.
    """

    out: Draft
    uri: str
    models: tuple[str, ...]
    registry: str
    size: int | None
    head: roles.Head
    layer: str
    bfloat16: bool
    dtype: str
    batch: int
    threads: int


def run(work: Work) -> None:
    """Embed the images of the role: parts, images.parquet, errors.parquet, model.json."""
    table = roles.selection(work.cfg, work.role)
    unit = max(UNIT[0], min(UNIT[1], math.ceil(len(table) / 8)))
    work.out.write_table("images.parquet", check(table, IMAGES), row_group_size=unit)
    units = math.ceil(len(table) / unit)
    finished = {int(Path(name).stem.removeprefix("part-")) for name in work.out.parts()}
    if not work.out.has("model.json"):
        finished = set()
    tally = Quarantine(len(table), work.cfg.embed.max_bad)
    for k in sorted(finished):
        tally.add(_errors(work.out, k))
    if finished:
        work.screen.line(f"   reused {len(finished)} finished parts of {units}")
    todo = [k for k in range(units) if k not in finished]
    done = sum(min(unit, len(table) - k * unit) for k in finished)
    actors: set[int] = set()
    with work.screen.progress(len(table), "images", done=done) as bar:
        for answer in _embed(work, todo):
            if answer["problem"]:
                raise UserError(answer["problem"])
            tally.add(json.loads(answer["errors"]))
            bar.add(answer["images"])
            actors.add(answer["pid"])
    work.out.write_table("errors.parquet", tally.table())
    work.facts |= {"rows": len(table) - len(tally.errors), "quarantined": len(tally.errors)}
    work.facts |= {"reused_parts": len(finished), "actors": sorted(actors)}


def _errors(out: Artifact, unit: int) -> list[dict[str, Any]]:
    fs, path = out.where(_part(unit))
    return list(json.loads(pq.read_metadata(path, filesystem=fs).metadata[ERRORS_KEY]))


def _part(unit: int) -> str:
    return f"part-{unit:05d}.parquet"


def _job(work: Work, actors: int, cores: int) -> Job:
    cfg, model = work.cfg, roles.model_of(work.role)
    head: roles.Head = "none"
    models, size, layer = roles.network(cfg, work.role)
    if model in ("student", "control"):
        head, models = "beside", (str(work.parents[f"distill@{model}"].local()),)
    elif model.startswith("other") and _student(models[0]):
        head = "beside"
    elif "align" in work.parents:
        head, size, models = "instead", None, (str(work.parents["align"].local()),)
    registry = tracking.resolve_uri(cfg, runtime.state_dir(cfg)) if models[0].startswith(hub.REGISTRY) else ""
    threads = max(1, cores // actors)
    how = (size, head, layer, cfg.embed.compute == "bfloat16")
    uri = roles.root(cfg, work.role)
    return Job(work.out, uri, models, registry, *how, cfg.embed.dtype, cfg.embed.batch, threads)


def _embed(work: Work, units: list[int]) -> Iterator[dict[str, Any]]:
    """Run the units on the pool; answers come in the order in which they finish."""
    if not units:
        return
    import ray
    from ray.data import ActorPoolStrategy

    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))  # type: ignore[no-untyped-call]
    cores = min(cpus, len(ray.nodes()) * (os.cpu_count() or 1))  # type: ignore[no-untyped-call]
    actors = min(work.cfg.embed.actors or gpus or max(2, cores // 2), cpus)
    data = ray.data.from_items([{"unit": k} for k in units], override_num_blocks=len(units))
    data.set_name(work.node.name)  # what the dashboard and Prometheus call it
    answers = data.map_batches(
        _Embedder,
        fn_constructor_args=(_job(work, actors, cores),),
        batch_size=1,
        num_cpus=1,
        num_gpus=min(1.0, gpus / actors) if gpus else 0,
        compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
    )
    answers.context.wait_for_min_actors_s = START  # else the first one up would take most of a small set
    yield from answers.iter_rows()


class _Embedder:
    """One actor: holds the model, turns a unit into a part."""

    def __init__(self, job: Job) -> None:
        import torch

        from alignet_ray.models.features import Encoder

        torch.set_num_threads(job.threads)
        self.job, self.problem = job, ""
        try:
            models = [str(hub.locate(model, job.registry or None) or model) for model in job.models]
            self.encoder = Encoder.load(models, job.size, job.head, job.layer, job.bfloat16)
        except UserError as error:  # told to the driver by the first answer: an actor that fails to start is retried
            self.problem = str(error)
            return
        if not job.out.has("model.json"):
            job.out.write_json("model.json", self.encoder.describe())

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """One unit: read, decode, forward, write."""
        answer: dict[str, Any] = {"pid": os.getpid(), "problem": self.problem, "errors": "[]", "images": 0}
        if not self.problem:
            try:
                answer |= self._unit(int(batch["unit"][0]))
            except UserError as error:
                answer["problem"] = str(error)
        return {key: [value] for key, value in answer.items()}

    def _unit(self, unit: int) -> dict[str, Any]:
        fs, path = self.job.out.where("images.parquet")
        rows = pq.ParquetFile(path, filesystem=fs).read_row_group(unit).to_pylist()
        done = self.encoder.encode(
            [partial(_open, self.job.uri, row["path"]) for row in rows], self.job.batch, self.job.threads
        )
        errors = [{"image_id": rows[i]["image_id"], "path": rows[i]["path"], "reason": why} for i, why in done.errors]
        ids = pa.array([rows[i]["image_id"] for i in done.kept], pa.int64())
        arrays = [tensors(_narrow(values, self.job.dtype)) for values in done.columns.values()]
        widths = self.encoder.widths
        schema = embeddings(widths["embedding"], self.job.dtype, widths.get("triplet_logits", 0))
        table = check(pa.Table.from_arrays([ids, *arrays], schema=schema), schema)
        self.job.out.write_table(_part(unit), table.replace_schema_metadata({ERRORS_KEY: json.dumps(errors)}))
        return {"errors": json.dumps(errors), "images": len(rows)}


def _open(uri: str, path: str) -> Image:
    return source.decode(source.read_bytes(uri, path))


def _narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    most = float(np.abs(values).max(initial=0))
    if most > float(np.finfo(dtype).max):
        raise UserError(f"embeddings reach {most:.3g}, too much for {dtype}: use --embed.dtype float32")
    return values.astype(dtype)
