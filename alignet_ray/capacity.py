"""Capacity planning: hours, storage and money of a run on a given cluster, step by step, with each step's bottleneck.

A step that streams images overlaps reading, decoding and forward passes, so the slowest of these sets the pace; other
steps are sums of a few terms. Every figure is marked as measured (and where) or assumed. The tests compare the plan
with an event-by-event simulation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignet_ray.config import Compute, Config
from alignet_ray.config.cluster_spec import ClusterSpec
from alignet_ray.errors import UserError
from alignet_ray.images.storage import FETCHES
from alignet_ray.screen import TableRow
from alignet_ray.stages import Node, graph
from alignet_ray.stages.embed_jobs import find_job, tunes_network

Real = float | int
UNIT = 256
"""Images that an embedding actor takes at a time."""


@dataclass(frozen=True)
class Figure:
    """A number that the plan rests on.

    Attributes:
        value: the number.
        what: its unit and meaning.
        source: where the number is from: where it was measured, or who gave it; empty for an assumption.
    """

    value: Real
    what: str
    source: str = ""

    @property
    def mark(self) -> str:
        """What a reader is told of where it is from."""
        return self.source or "assumed"


H100 = "measured on one H100 80 GB, 16 cores"
TWO_CORES = "measured on two CPU cores"
GIVEN = "given on the command line"
COUNTED = "counted"
FIGURES = {
    "decode": Figure(2_485 / 16, "images/s a core decodes (Pillow, and resizes; full-size JPEG)", H100),
    "turbo": Figure(7_313 / 16, "images/s a core decodes (libjpeg-turbo, full-size JPEG)", H100),
    "pass": Figure(0.028 / (1_281_167 * 1152 * 500), "s per image, dimension and centroid of a k-means pass", H100),
    "label": Figure(154_000 * 1152, "triplets/s times dimensions that a core labels", TWO_CORES),
    "bytes": Figure(
        1_950 / 1_152, "bytes of a stored float16 embedding per dimension (zstd)", "measured on random features"
    ),
    "list": Figure(20_000, "files/s that the driver lists, of an image folder"),
    "held": Figure(
        60, "bytes that the driver holds of each image: id, cluster, class", "measured on ten million images"
    ),
    "path": Figure(100, "bytes more of each image that training chooses from", "measured on paths of ImageNet's form"),
    "start": Figure(60, "s to start the processes of a step and load its model"),
    "sync": Figure(0.02, "s that each training step adds for synchronisation"),
    "human": Figure(60, "s to fit the model of human choices, 4.1 M responses (driver)", TWO_CORES),
    "affine": Figure(100, "s to fit an affine map, 1,854 x 1,152 (driver)", TWO_CORES),
    "report": Figure(300, "s for scores, intervals and the report (driver)"),
    "register": Figure(60, "s to register the student"),
    "triplet": Figure(30, "bytes of a stored triplet"),
    "weight": Figure(4, "bytes of a parameter in a file of weights (float32)", COUNTED),
    "state": Figure(12, "bytes of a parameter in a checkpoint: weights and two moments of Adam", COUNTED),
    "trained": Figure(20, "bytes of a parameter on a GPU in training: the same, gradient and initial value", COUNTED),
    "snapshot": Figure(2, "GB/s from a GPU to main memory, while training waits for a checkpoint"),
}
VIT_B = "vit_base_patch16"
TEACHERS = {
    "vit_so400m_patch14_siglip_384": (Figure(637, "images/s forward on one GPU (bfloat16, compiled)", H100), 1152),
    VIT_B: (Figure(10_996, "images/s forward on one GPU (bfloat16, compiled)", H100), 768),
}
"""Beginning of a model's name -> its rate and its width."""
PARAMETERS = {"vit_so400m_patch14_siglip_384": 428_225_600, VIT_B: 85_798_656}
"""Beginning of a model's name -> its parameters, as timm builds it without a classifier."""
TRAINING = Figure(2_265, "images/s trained on one GPU (bfloat16 autocast, eager)", H100)
"""Rate of a ViT-B/16 student."""

PRECISION = {"bfloat16": 1.0, "tf32": 0.5, "float32": 0.11}
"""Rate of a network in a number format, relative to bfloat16. Assumed, by what an H100's tensor cores and its other
units can do at most."""

DRIVER_FIGURES = {"soften": "human", "align": "affine", "evaluate": "report", "register": "register"}
"""Steps that the driver does alone -> the figure of their time."""

USABLE_MEMORY = 0.5
"""Share of a node's memory that a shared matrix may fill."""

HELPFUL_SAVING = 0.05
"""Share of the time that a change must save to be recommended."""

NETWORK_GB = 2
STUDENT_GB = 0.4
"""Storage of a fine-tuned teacher network, and of a student."""


@dataclass(frozen=True)
class Row:
    """One step of the plan.

    Attributes:
        node: its name.
        work: how much there is to do, in words.
        seconds: wall time.
        rate: units of work per second.
        limit: the bottleneck: read, decode, forward, step, synchronisation, compute, memory, driver.
        gigabytes: storage of its artifact.
        lost: seconds among them that machines which are taken away cost.
    """

    node: str
    work: str
    seconds: Real
    rate: Real
    limit: str
    gigabytes: Real
    lost: Real = 0.0


@dataclass(frozen=True)
class Plan:
    """All steps on one cluster."""

    on: ClusterSpec
    rows: list[Row]
    figures: dict[str, Figure]

    @property
    def seconds(self) -> Real:
        """Wall time of the whole pipeline."""
        return sum(row.seconds for row in self.rows)

    @property
    def gpu_hours(self) -> Real:
        """GPU hours that are paid for."""
        return sum(self.paid(row) for row in self.rows)

    def paid(self, row: Row) -> Real:
        """GPU hours of one step: all GPUs are paid for, unless the cluster is elastic and only the driver works."""
        # Workers that have nothing to do leave an elastic cluster; a fixed one is paid for while the driver works.
        if self.on.elastic and row.limit == "driver":
            return 0.0
        return row.seconds / 3600 * self.on.gpus

    @property
    def dollars(self) -> Real:
        """Price of the GPUs while it runs, and of the storage for a month."""
        return self.gpu_hours * self.on.gpu_hour + self.gigabytes * self.on.gb_month

    @property
    def gigabytes(self) -> Real:
        """Storage of all artifacts."""
        return sum(row.gigabytes for row in self.rows)

    @property
    def slowest(self) -> Row:
        """The step that takes longest."""
        return max(self.rows, key=lambda row: row.seconds)


def plan(cfg: Config, on: ClusterSpec) -> Plan:
    """The plan of a whole run on a cluster.

    Raises:
        UserError: a run that needs none.
    """
    if cfg.embed.from_:
        raise UserError("--on plans networks on images; with --embed.from there is nothing for a cluster")
    # The nodes are those of the pipeline itself, so a stage that a configuration skips is not counted.
    estimator = _Estimator(cfg, on, _figures(cfg, on))
    rows = [estimator.with_losses(estimator.row(node)) for node in graph(cfg)]
    return Plan(on, rows, estimator.figures)


def remedies(cfg: Config, on: ClusterSpec) -> list[tuple[str, Plan]]:
    """Plans with one improvement each, the one that saves most time first."""
    figures = _figures(cfg, on)
    variants: list[tuple[str, Config, dict[str, Real]]] = [
        ("twice the GPUs, with their cores", cfg, {"gpus": 2 * on.gpus}),
        ("twice the cores beside each GPU", cfg, {"cores": 2 * on.cores}),
        ("storage twice as fast", cfg, {"read": 2 * on.read}),
        ("a smaller teacher, at twice the rate", cfg, {"forward": 2 * figures["forward"].value}),
        ("a compiled or smaller student, at twice the rate", cfg, {"step": 2 * figures["step"].value}),
        ("--human.embedding, a published model of human choices", cfg.replace(human__embedding="given"), {}),
        ("--distill.no-control", cfg.replace(distill__control=False), {}),
    ]
    # One change at a time, so that its gain is its own.
    plans = []
    for name, changed_cfg, changes in variants:
        changed_on = on.model_copy(update=changes)
        plans.append((name, plan(changed_cfg, changed_on)))
    return sorted(plans, key=lambda named: named[1].seconds)


def _figures(cfg: Config, on: ClusterSpec) -> dict[str, Figure]:
    """The figures of this plan; values from the command line replace measured ones."""
    # The embeddings of several teachers are concatenated: their times and widths add up.
    seconds_per_image = 0.0
    width = 0
    teachers = []
    for model in cfg.embed.model:
        figure, model_width = _model_figure(model)
        seconds_per_image += 1 / figure.value
        width += model_width
        teachers.append(figure)

    # A sum with one assumption in it is an assumption.
    source = ""
    if all(figure.source for figure in teachers):
        source = teachers[0].source

    student, _ = _model_figure(cfg.distill.model)
    forward = replace(teachers[0], value=1 / seconds_per_image, source=source)
    figures = FIGURES | {
        "forward": _in_format(forward, cfg.embed.compute),
        "step": _in_format(_training_figure(cfg.distill.model), cfg.distill.compute),
        "width": Figure(width, "dimensions of the teacher", source),
        "student": _in_format(student, cfg.embed.compute),
        "teacher_size": _parameters(cfg.embed.model, "teacher"),
        "student_size": _parameters((cfg.distill.model,), "student"),
    }

    for name in ("decode", "forward", "step"):
        given = getattr(on, name)
        if given:
            figures[name] = replace(figures[name], value=given, source=GIVEN)

    # The command line knows one rate of decoding, which is meant for both decoders.
    if on.decode:
        figures["turbo"] = figures["decode"]
    return figures


def _model_figure(model: str) -> tuple[Figure, int]:
    """Forward rate and width of a model; unknown models are assumed to be like a ViT-B/16."""
    # A beginning is enough: the rest of a timm name is about weights, not about the network.
    for known, figure_and_width in TEACHERS.items():
        if model.startswith(known):
            return figure_and_width
    figure, width = TEACHERS[VIT_B]
    return _as_vit_b(figure), width


def _parameters(models: Sequence[str], role: str) -> Figure:
    """Parameters of the networks together; unknown ones are assumed to be like a ViT-B/16."""
    counts = []
    for model in models:
        counts += [count for known, count in PARAMETERS.items() if model.startswith(known)]
    if len(counts) == len(models):
        return Figure(sum(counts), f"parameters of the {role}", COUNTED)
    unknown = len(models) - len(counts)
    return Figure(sum(counts) + unknown * PARAMETERS[VIT_B], f"parameters of the {role}, as a ViT-B/16")


def _training_figure(model: str) -> Figure:
    """Training rate of a student; unknown models are assumed to be like a ViT-B/16."""
    if model.startswith(VIT_B):
        return TRAINING
    return _as_vit_b(TRAINING)


def _in_format(figure: Figure, compute: Compute) -> Figure:
    """A rate that was measured in bfloat16, in another number format."""
    if compute == "bfloat16":
        return figure
    share = PRECISION[compute]
    return replace(figure, value=figure.value * share, what=f"{figure.what}, times {share:g} for {compute}", source="")


def _as_vit_b(figure: Figure) -> Figure:
    return replace(figure, what=f"{figure.what}, as a ViT-B/16", source="")


@dataclass(frozen=True)
class _Estimator:
    """Estimates steps: one method for each kind."""

    cfg: Config
    on: ClusterSpec
    figures: dict[str, Figure]

    def __getitem__(self, name: str) -> Real:
        return self.figures[name].value

    def row(self, node: Node) -> Row:
        """The estimate of one node."""
        if node.stage == "embed":
            return self.embed(node)
        if node.stage == "cluster":
            return self.cluster(node)
        if node.stage == "label":
            return self.label(node)
        if node.stage == "distill":
            return self.distill(node)
        if node.stage == "align" and tunes_network(self.cfg):
            return self.fine_tuning(node)
        return self.driver(node)

    def driver(self, node: Node) -> Row:
        """A step that the driver does alone."""
        # What is given is only read and checked: reckoned like `register`, a minute.
        is_given = {"soften": self.cfg.human.embedding, "align": self.cfg.align.from_}
        if is_given.get(node.stage):
            return Row(node.name, "given", self["register"], 0, "driver", 0)
        return Row(node.name, "", self[DRIVER_FIGURES[node.stage]], 0, "driver", 0.01)

    def embed(self, node: Node) -> Row:
        """Reading, decoding and forward passes overlap, so the slowest of them sets the pace."""
        job = find_job(self.cfg, node.role)
        images = self.on.annotated
        if job.images == "corpus":
            images = self.on.images
        forward = self["student"]
        if job.is_teacher:
            forward = self["forward"]

        # GPUs resize, so the cores only decode.
        rates = self.image_rates(forward, "turbo")

        # Whole units go to GPUs, so the busiest GPU decides.
        units_per_gpu = math.ceil(math.ceil(images / UNIT) / self.on.gpus)

        # Listed by the driver before anything is read; objects' images lie in the same folder or in a small one.
        listing = 0.0
        if job.images == "corpus":
            listing = images / self["list"]
        times = {
            "read": images / rates["read"],
            "decode": images / rates["decode"],
            "forward": units_per_gpu * UNIT / forward,
        }
        limit = max(times, key=lambda name: times[name])
        # Weights come once, with the first step that needs them; later ones find them in the shared HF_HOME.
        download = 0.0
        if job.images == "corpus" and job.is_teacher:
            download = self.download("teacher_size")
        return Row(
            node=node.name,
            work=f"{images:,} images",
            seconds=self["start"] + listing + download + times[limit],
            rate=images / times[limit],
            limit=limit,
            gigabytes=images * self["width"] * self["bytes"] / 1e9,
        )

    def image_rates(self, forward: Real, decoder: str = "decode") -> dict[str, Real]:
        """Images per second of the whole cluster: reading, decoding and forward passes."""
        # A file travels for as long as its bytes take, and its request for as long as the storage takes to answer.
        read = self.on.read * 1e3 / self.on.image_kb
        if self.on.latency:
            in_flight = FETCHES * self.on.cores * self.on.gpus
            read = min(read, in_flight * 1e3 / self.on.latency)
        return {
            "read": read,
            "decode": self[decoder] * self.on.cores * self.on.gpus,
            "forward": forward * self.on.gpus,
        }

    def download(self, size: str) -> Real:
        """Seconds in which the weights of a network arrive."""
        return self[size] * self["weight"] / 1e6 / self.on.download

    def checkpoints(self, seconds: Real) -> Real:
        """Seconds that training for so long waits for its checkpoints."""
        gigabytes = self["student_size"] * self["state"] / 1e9
        every = self.cfg.distill.checkpoint_seconds(on_gpu=True)
        # A thread writes them; training waits for the copy, and for a file before that is not written yet.
        waiting = gigabytes / self["snapshot"] + max(0.0, gigabytes * 1e3 / self.on.read - every)
        return math.ceil(seconds / max(every, waiting)) * waiting

    def with_losses(self, row: Row) -> Row:
        """The row with what machines that are taken away cost: the head, where the driver works, stays.

        Raises:
            UserError: they go faster than the step makes progress.
        """
        if not self.on.losses or row.limit == "driver":
            return row

        machines = math.ceil(self.on.gpus / self.on.machine_gpus)
        if row.node.startswith("distill"):
            # All wait for the new machine, and do again on average half of what came since the last checkpoint.
            cost = self["start"] + self.cfg.distill.checkpoint_seconds(on_gpu=True) / 2
        else:
            # The others go on; parts that are finished stay.
            cost = self["start"] / machines
        share = self.on.losses * machines / 86_400 * cost
        if share >= 1:
            raise UserError(
                f"{row.node} would never end: {machines} machines are lost {self.on.losses:g} times a day each, and "
                f"every loss costs {cost:.0f} s: take machines that stay, or fewer (--on.losses, --on.gpus)"
            )
        seconds = row.seconds / (1 - share)
        return replace(row, seconds=seconds, lost=seconds - row.seconds)

    @property
    def matrix_gb(self) -> Real:
        """Size of the teacher's matrix in float16."""
        return self.on.images * self["width"] * 2 / 1e9

    def cluster(self, node: Node) -> Row:
        """k-means passes over shards that stay in memory, or are read again in every pass."""
        section = self.cfg.cluster
        passes = section.iterations * section.restarts

        # Every pass multiplies all rows with all centroids; all GPUs share the rows.
        compute = self["pass"] * self.on.images * self["width"] * section.k / self.on.gpus
        reading = self.matrix_gb * 1e3 / self.on.read
        fits = self.matrix_gb < USABLE_MEMORY * self.on.memory * self.on.gpus

        # What does not fit is read again in every pass, while the pass before is computed.
        per_pass = compute
        if not fits:
            per_pass = max(compute, reading)
        seconds = self["start"] + reading + passes * per_pass
        if not fits and reading > compute:
            limit = "memory"
        elif reading > passes * compute:
            limit = "read"
        else:
            limit = "compute"
        return Row(
            node=node.name,
            work=f"up to {passes} passes",
            seconds=seconds,
            rate=passes * self.on.images / seconds,
            limit=limit,
            gigabytes=self.on.images * 12 / 1e9,
        )

    def label(self, node: Node) -> Row:
        """Gathers of three rows per triplet from a matrix that each node maps; from storage if it does not fit."""
        triplets = self.cfg.label.train + self.cfg.label.valid
        compute = triplets * self["width"] / (self["label"] * self.on.cores * self.on.gpus)

        # Every node reads the whole matrix, or one page for each row of each triplet.
        fits = self.matrix_gb < USABLE_MEMORY * self.on.memory
        page_bytes = max(4096, self["width"] * 2)
        megabytes = self.matrix_gb * 1e3
        if not fits:
            megabytes = 3 * triplets * page_bytes / 1e6
        reading = megabytes / self.on.read

        if compute > reading:
            limit = "compute"
        elif fits:
            limit = "read"
        else:
            limit = "memory"

        # The cached matrix of the aligned teacher is counted, the raw teacher's is not.
        cache: Real = 0
        if node.role == "aligned":
            cache = self.matrix_gb
        return Row(
            node=node.name,
            work=f"{triplets:,} triplets",
            seconds=self["start"] + compute + reading,
            rate=triplets / (compute + reading),
            limit=limit,
            gigabytes=triplets * self["triplet"] / 1e9 + cache,
        )

    def fine_tuning(self, node: Node) -> Row:
        """A teacher network is fine-tuned on the annotated images; a training step takes three forward passes."""
        # A backward pass takes about twice the time of the forward pass, hence three in all.
        images = self.on.annotated * 3
        seconds = self["start"] + images * 3 / self["forward"]
        return Row(node.name, f"{images:,} images", seconds, self["forward"] / 3, "forward", NETWORK_GB)

    def distill(self, node: Node) -> Row:
        """Updates of a fixed batch: more GPUs share it, and each update waits for all of them.

        The student's run caches the pixels of all images first, which the control's run then reuses.
        """
        section = self.cfg.distill
        batch = section.images_per_step
        is_packed = section.packs(self.on.images)
        rates = self.image_rates(self["forward"])

        # Without cached pixels, images are read and decoded while the GPUs compute: the slower of the two decides.
        per_update, limit = self._update(batch)
        if not is_packed:
            feed = {"read": batch / rates["read"], "decode": batch / rates["decode"]}
            slowest_feed = max(feed, key=lambda name: feed[name])
            if feed[slowest_feed] > per_update:
                per_update = feed[slowest_feed]
                limit = slowest_feed

        # The pixels are cached once, before the first update.
        caching = 0.0
        if is_packed and node.role == "student":
            caching = max(self.on.images / rates["read"], self.on.images / rates["decode"])
        training = section.steps * per_update
        if caching > training:
            limit = min(("read", "decode"), key=lambda name: rates[name])

        # The control starts from the same weights, which are there by then.
        download = 0.0
        if node.role == "student":
            download = self.download("student_size")

        cache_gb = 0.0
        if caching:
            side = section.size or 224
            cache_gb = self.on.images * 3 * side**2 / 1e9
        return Row(
            node=node.name,
            work=f"{section.steps:,} updates of {batch:,}",
            seconds=self["start"] + download + caching + training + self.checkpoints(training),
            rate=batch / per_update,
            limit=limit,
            gigabytes=STUDENT_GB + cache_gb,
        )

    def _update(self, batch: int) -> tuple[Real, str]:
        """Seconds of one update with all pixels at hand, and its bottleneck."""
        # The GPU with the most images decides, as the others wait for it in the all-reduce.
        images_per_gpu = math.ceil(batch / self.on.gpus)
        step = images_per_gpu / self["step"]
        # Terms that compare with the network before training add its forward pass to the three of a step.
        if self.cfg.distill.locality or self.cfg.distill.class_retention:
            step = step * 4 / 3
        synchronisation: Real = 0.0
        if self.on.gpus > 1:
            synchronisation = self["sync"]

        limit = "step"
        if synchronisation > step:
            limit = "synchronisation"
        return step + synchronisation, limit


def describe(result: Plan) -> list[TableRow]:
    """The plan as rows of a table, with their sum."""
    # The sum has no rate and no bottleneck of its own.
    rows = [_table_row(result, row, result.paid(row)) for row in result.rows]
    total = Row("all", f"{result.on.gpus} GPUs", result.seconds, 0, "", result.gigabytes)
    return [*rows, _table_row(result, total, result.gpu_hours)]


def _table_row(result: Plan, row: Row, paid: Real) -> TableRow:
    # A step of the driver alone has no rate.
    rate = ""
    if row.rate:
        rate = f"{row.rate:,.0f}"
    return {
        "node": row.node,
        "work": row.work,
        "rate/s": rate,
        "hours": f"{row.seconds / 3600:.2f}",
        "GPU hours": f"{paid:,.1f}",
        "GB": f"{row.gigabytes:,.2f}",
        "$": f"{paid * result.on.gpu_hour:,.2f}",
        "held back by": row.limit,
    }


def verdict(cfg: Config, result: Plan) -> list[str]:
    """The bottleneck, what would help, and the figures that the plan rests on, as lines of text."""
    on = result.on
    slowest = result.slowest
    share = slowest.seconds / result.seconds
    lines = [f"{slowest.node} takes {share:.0%} of the time, held back by: {slowest.limit}"]

    if on.losses:
        lost = sum(row.lost for row in result.rows)
        lines.append(f"machines that are taken away cost {lost / 3600:.2f} of the hours ({lost / result.seconds:.0%})")

    # More than three would be a list to choose from, and not advice.
    for name, better in remedies(cfg, on)[:3]:
        saved = 1 - better.seconds / result.seconds
        if saved > HELPFUL_SAVING:
            change = better.dollars - result.dollars
            lines.append(f"would help: {name} (saves {saved:.0%} of the time, {change:+,.0f} $ with storage)")

    lines.append("rests on:")
    for figure in result.figures.values():
        number = f"{figure.value:.4g}"
        lines.append(f"  {number} {figure.what} ({figure.mark})")
    prices = f"{on.gpu_hour:g} $ a GPU hour, {on.gb_month:g} $ a GB and month, {on.read:g} MB/s"
    return [*lines, f"  {prices} (assumed unless given with --on.)"]
