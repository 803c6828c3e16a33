"""What a run would take on a given cluster: rates, hours, storage and money, step by step, and what holds it back.

A step that streams images is a line of reading, decoding and forward passes that overlap, so its slowest part sets the
pace; the other steps are a few terms each. Every figure is marked as measured (and where) or assumed. Checked in the
tests against a simulation of the line, event by event.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from alignet_ray.config import Config
from alignet_ray.config.cluster_spec import ClusterSpec
from alignet_ray.stages import Node, graph
from alignet_ray.stages.embed_jobs import find_job

Real = float | int
UNIT = 256
"""Images that an embedding actor takes at a time."""


@dataclass(frozen=True)
class Figure:
    """A number that the plan rests on.

    Attributes:
        value: the number.
        what: its unit and meaning.
        source: where it was measured; empty for an assumption.
    """

    value: Real
    what: str
    source: str = ""

    @property
    def mark(self) -> str:
        """`measured, SOURCE` or `assumed`."""
        return f"measured, {self.source}" if self.source else "assumed"


H100 = "one H100 80 GB, 16 cores"
FIGURES = {
    "decode": Figure(2_485 / 16, "images/s a core decodes (Pillow, and resizes; full-size JPEG)", H100),
    "turbo": Figure(7_313 / 16, "images/s a core decodes (libjpeg-turbo, full-size JPEG)", H100),
    "pass": Figure(0.028 / (1_281_167 * 1152 * 500), "s per image, dimension and centroid of a k-means pass", H100),
    "label": Figure(154_000 * 1152, "triplets/s times dimensions that a core labels", "two CPU cores"),
    "bytes": Figure(1_950 / 1_152, "bytes of a stored float16 embedding per dimension (zstd)", "random features"),
    "start": Figure(60, "s to start the processes of a step and load its model"),
    "sync": Figure(0.02, "s that each training step adds for synchronisation"),
    "human": Figure(60, "s to fit the model of human choices, 4.1 M answers (driver)", "two CPU cores"),
    "affine": Figure(100, "s to fit an affine map, 1,854 x 1,152 (driver)", "two CPU cores"),
    "report": Figure(300, "s for scores, intervals and the report (driver)"),
    "register": Figure(60, "s to register the student"),
    "triplet": Figure(30, "bytes of a stored triplet"),
}
TEACHERS = {
    "vit_so400m_patch14_siglip_384": (Figure(637, "images/s forward on one GPU (bfloat16, compiled)", H100), 1152),
    "vit_base_patch16": (Figure(10_996, "images/s forward on one GPU (bfloat16, compiled)", H100), 768),
}
STUDENTS = {"vit_base_patch16": Figure(2_265, "images/s trained on one GPU (bfloat16 autocast, eager)", H100)}


@dataclass(frozen=True)
class Row:
    """One step of the plan.

    Attributes:
        node: its name.
        work: how much of what, for a person.
        seconds: wall time.
        rate: units of work a second.
        limit: what holds it back: read, decode, forward, step, synchronisation, memory, driver.
        gigabytes: what it stores.
    """

    node: str
    work: str
    seconds: Real
    rate: Real
    limit: str
    gigabytes: Real


@dataclass(frozen=True)
class Plan:
    """All steps on one cluster."""

    on: ClusterSpec
    rows: list[Row]
    figures: dict[str, Figure]

    @property
    def seconds(self) -> Real:
        """Wall time of the whole line."""
        return sum(r.seconds for r in self.rows)

    @property
    def gpu_hours(self) -> Real:
        """GPU hours that are paid for."""
        return sum(self.paid(r) for r in self.rows)

    def paid(self, row: Row) -> Real:
        """GPU hours of one step: the cluster is held, unless it is elastic and only the driver works."""
        idle = self.on.elastic and row.limit == "driver"
        return 0.0 if idle else row.seconds / 3600 * self.on.gpus

    @property
    def dollars(self) -> Real:
        """Price of the GPUs while it runs, and of the storage for a month."""
        return self.gpu_hours * self.on.gpu_hour + self.gigabytes * self.on.gb_month

    @property
    def gigabytes(self) -> Real:
        """Storage of all artifacts."""
        return sum(r.gigabytes for r in self.rows)

    @property
    def slowest(self) -> Row:
        """The step that takes longest."""
        return max(self.rows, key=lambda r: r.seconds)


def plan(cfg: Config, on: ClusterSpec) -> Plan:
    """The plan of a whole run on a cluster."""
    estimate = _Estimate(cfg, on, _figures(cfg, on))
    return Plan(on, [estimate.row(node) for node in graph(cfg)], estimate.figures)


def remedies(cfg: Config, on: ClusterSpec) -> list[tuple[str, Plan]]:
    """Plans with one thing improved each, the one that saves most time first."""
    fast = _figures(cfg, on)
    variants: list[tuple[str, Config, dict[str, Any]]] = [
        ("twice the GPUs, with their cores", cfg, {"gpus": 2 * on.gpus}),
        ("twice the cores beside each GPU", cfg, {"cores": 2 * on.cores}),
        ("storage twice as fast", cfg, {"read": 2 * on.read}),
        ("a smaller teacher, at twice the rate", cfg, {"forward": 2 * fast["forward"].value}),
        ("a compiled or smaller student, at twice the rate", cfg, {"step": 2 * fast["step"].value}),
        ("--human.embedding, a published model of human choices", cfg.replace(human__embedding="given"), {}),
        (
            "--distill.cache-pixels False, since few of the images are drawn",
            cfg.replace(distill__cache_pixels=False),
            {},
        ),
        ("--distill.control False", cfg.replace(distill__control=False), {}),
    ]
    plans = [(name, plan(changed, on.model_copy(update=update))) for name, changed, update in variants]
    return sorted(plans, key=lambda named: named[1].seconds)


def _figures(cfg: Config, on: ClusterSpec) -> dict[str, Figure]:
    """The figures that this plan uses, with those of the command line in their place."""
    teacher, width = 0.0, 0
    marks = []
    for name in cfg.embed.model:
        figure, d = _known(name, TEACHERS)
        teacher, width = teacher + 1 / figure.value, width + d
        marks.append(figure)
    forward = replace(marks[0], value=1 / teacher, source=marks[0].source if all(m.source for m in marks) else "")
    found = FIGURES | {
        "forward": forward,
        "step": _known_step(cfg),
        "width": Figure(width, "dimensions of the teacher", forward.source),
    }
    base, _ = _known(cfg.distill.model, TEACHERS)
    found["student"] = base
    for name in ("decode", "forward", "step"):
        if getattr(on, name):
            found[name] = replace(found[name], value=getattr(on, name), source="given on the command line")
    if on.decode:
        found["turbo"] = found["decode"]
    return found


def _known(name: str, table: dict[str, tuple[Figure, int]]) -> tuple[Figure, int]:
    for known, entry in table.items():
        if name.startswith(known):
            return entry
    figure, width = table["vit_base_patch16"]
    return replace(figure, what=f"{figure.what}, as a ViT-B/16", source=""), width


def _known_step(cfg: Config) -> Figure:
    known = STUDENTS["vit_base_patch16"]
    if cfg.distill.model.startswith("vit_base_patch16"):
        return known
    return replace(known, what=f"{known.what}, as a ViT-B/16", source="")


@dataclass(frozen=True)
class _Estimate:
    cfg: Config
    on: ClusterSpec
    figures: dict[str, Figure]

    def __getitem__(self, name: str) -> Real:
        return self.figures[name].value

    def row(self, node: Node) -> Row:
        ways: dict[str, Callable[[Node], Row]] = {
            "embed": self.embed,
            "cluster": self.cluster,
            "label": self.label,
            "distill": self.distill,
        }
        if node.stage == "align" and self.cfg.align.map == "network" and not self.cfg.align.from_:
            return self.tune(node)
        return ways.get(node.stage, self.driver)(node)

    def driver(self, node: Node) -> Row:
        names = {"soften": "human", "align": "affine", "evaluate": "report", "register": "register"}
        if (node.stage == "soften" and self.cfg.human.embedding) or (node.stage == "align" and self.cfg.align.from_):
            return Row(node.name, "given", self["register"], 0, "driver", 0)
        return Row(node.name, "", self[names[node.stage]], 0, "driver", 0.01)

    def embed(self, node: Node) -> Row:
        """Images through reading, decoding and the network; what overlaps costs only its slowest part."""
        job = find_job(self.cfg, node.role)
        n = self.on.images if job.images == "corpus" else self.on.judged
        forward = self["forward"] if job.is_teacher else self["student"]
        rates = self.rates(forward, "turbo")  # resizing is the GPU's
        busiest = math.ceil(math.ceil(n / UNIT) / self.on.gpus) * UNIT  # the GPU with most units
        times = {"read": n / rates["read"], "decode": n / rates["decode"], "forward": busiest / forward}
        limit = max(times, key=lambda name: times[name])
        seconds = self["start"] + times[limit]
        return Row(
            node.name, f"{n:,} images", seconds, n / times[limit], limit, n * self["width"] * self["bytes"] / 1e9
        )

    def rates(self, forward: Real, decoder: str = "decode") -> dict[str, Real]:
        """Images a second of the whole cluster, part by part."""
        on, decode = self.on, self[decoder]
        return {
            "read": on.read * 1e3 / on.image_kb,
            "decode": decode * on.cores * on.gpus,
            "forward": forward * on.gpus,
        }

    @property
    def matrix(self) -> Real:
        """GB of the teacher's matrix in float16."""
        return self.on.images * self["width"] * 2 / 1e9

    def cluster(self, node: Node) -> Row:
        """k-means passes over shards that stay in memory, or are read again in every pass."""
        c, passes = self.cfg.cluster, self.cfg.cluster.iterations * self.cfg.cluster.restarts
        compute = self["pass"] * self.on.images * self["width"] * c.k / self.on.gpus
        reading = self.matrix * 1e3 / self.on.read
        fits = self.matrix < 0.5 * self.on.memory * self.on.gpus
        seconds = self["start"] + reading + passes * (compute if fits else max(compute, reading))
        limit = "memory" if not fits and reading > compute else "read" if reading > passes * compute else "compute"
        return Row(
            node.name,
            f"up to {passes} passes",
            seconds,
            passes * self.on.images / seconds,
            limit,
            self.on.images * 12 / 1e9,
        )

    def label(self, node: Node) -> Row:
        """Gathers of three rows a triplet from a matrix that each node maps; from storage if it does not fit."""
        n = self.cfg.label.train + self.cfg.label.valid
        compute = n * self["width"] / (self["label"] * self.on.cores * self.on.gpus)
        page = max(4096, self["width"] * 2)
        fits = self.matrix < 0.5 * self.on.memory  # any one node reads all of it
        reading = (self.matrix * 1e3 if fits else 3 * n * page / 1e6) / self.on.read
        seconds = self["start"] + compute + reading
        limit = "compute" if compute > reading else "read" if fits else "memory"
        stored = n * self["triplet"] / 1e9
        cache = self.matrix if node.role == "aligned" else 0
        return Row(node.name, f"{n:,} triplets", seconds, n / (compute + reading), limit, stored + cache)

    def distill(self, node: Node) -> Row:
        """Updates of a fixed batch: more GPUs share it, and each update waits for all of them."""
        d = self.cfg.distill
        batch = d.batch_size * (1 if d.batching == "in_batch" else 3)
        return self.updates(node, d.steps, batch, packed=d.cache_pixels)

    def tune(self, node: Node) -> Row:
        """A network teacher: fine-tuned on the judged images, whose features the forward figure stands for."""
        images = self.on.judged * 3
        seconds = self["start"] + images * 3 / self["forward"]
        return Row(node.name, f"{images:,} images", seconds, self["forward"] / 3, "forward", 2)

    def updates(self, node: Node, steps: int, batch: int, packed: bool) -> Row:
        share = math.ceil(batch / self.on.gpus)
        rates = self.rates(self["forward"])
        times = {"step": share / self["step"], "synchronisation": self["sync"] if self.on.gpus > 1 else 0.0}
        feed = {"read": batch / rates["read"], "decode": batch / rates["decode"]}
        packing = 0.0
        if packed and node.role == "student":
            packing = max(self.on.images / rates["read"], self.on.images / rates["decode"])
        slow = max(times, key=lambda name: times[name])
        each = sum(times.values())
        if not packed and max(feed.values()) > each:
            slow = max(feed, key=lambda name: feed[name])
            each = feed[slow]
        seconds = self["start"] + packing + steps * each
        if packing > steps * each:
            slow = "decode" if rates["decode"] < rates["read"] else "read"
        size = self.cfg.distill.size or 224
        stored = 0.4 + (self.on.images * 3 * size**2 / 1e9 if packing else 0)
        return Row(node.name, f"{steps:,} updates of {batch:,}", seconds, batch / each, slow, stored)


def describe(result: Plan) -> list[dict[str, Any]]:
    """The plan as rows for a table, with a sum."""

    def line(
        name: str, work: str, rate: Real, seconds: Real, paid: Real, gigabytes: Real, limit: str
    ) -> dict[str, Any]:
        return {
            "node": name,
            "work": work,
            "rate/s": f"{rate:,.0f}" if rate else "",
            "hours": f"{seconds / 3600:.2f}",
            "GPU hours": f"{paid:,.1f}",
            "GB": f"{gigabytes:,.2f}",
            "$": f"{paid * result.on.gpu_hour:,.2f}",
            "held back by": limit,
        }

    rows = [line(r.node, r.work, r.rate, r.seconds, result.paid(r), r.gigabytes, r.limit) for r in result.rows]
    return [*rows, line("all", f"{result.on.gpus} GPUs", 0, result.seconds, result.gpu_hours, result.gigabytes, "")]


def verdict(cfg: Config, result: Plan) -> list[str]:
    """What limits, what would help, and what the plan rests on, as lines for a person."""
    slow = result.slowest
    share = slow.seconds / result.seconds
    lines = [f"{slow.node} takes {share:.0%} of the time, held back by: {slow.limit}"]
    for name, better in remedies(cfg, result.on)[:3]:
        saved = 1 - better.seconds / result.seconds
        if saved > 0.05:
            change = better.dollars - result.dollars
            lines.append(f"would help: {name} (saves {saved:.0%} of the time, {change:+,.0f} $ with storage)")
    lines.append("rests on:")
    lines += [f"  {f.value:.4g} {f.what} ({f.mark})" for f in result.figures.values()]
    prices = f"{result.on.gpu_hour:g} $ a GPU hour, {result.on.gb_month:g} $ a GB and month, {result.on.read:g} MB/s"
    return [*lines, f"  {prices} (assumed unless given with --on.)"]
