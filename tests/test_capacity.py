"""The plan of a run on a cluster, against a simulation of its parts event by event, and against worked numbers."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignet_ray import capacity
from alignet_ray.capacity import FIGURES, UNIT, ClusterSpec
from alignet_ray.cli import main
from alignet_ray.cli.options import PlanOptions
from alignet_ray.cli.parse import read
from alignet_ray.config import Config, presets
from alignet_ray.stages import graph

CFG = Config().replace(
    embed__compute="bfloat16",
    label__train=10_000_000,
    distill__steps=20_000,
    distill__batch_size=1_536,
    distill__compute="bfloat16",
)
START = FIGURES["start"].value


def row(on: ClusterSpec, name: str = "embed@corpus", cfg: Config = CFG) -> capacity.Row:
    return next(r for r in capacity.plan(cfg, on).rows if r.node == name)


def simulate(on: ClusterSpec, forward: float, decode: float, batch: int = 32) -> float:
    """Seconds to embed the corpus, batch by batch: one link to the storage, each GPU's cores and its forward passes.

    An actor takes the next unit of images when it has room for it, two units ahead of its GPU.
    """
    units = [UNIT] * (on.images // UNIT) + ([on.images % UNIT] if on.images % UNIT else [])
    link, cores, gpus = 0.0, [0.0] * on.gpus, [0.0] * on.gpus
    ends: list[list[float]] = [[] for _ in range(on.gpus)]  # when each actor's units were done
    for size in units:
        room = [e[-2] if len(e) > 1 else 0.0 for e in ends]
        actor = min(range(on.gpus), key=lambda g: (room[g], cores[g], g))
        for images in [batch] * (size // batch) + ([size % batch] if size % batch else []):
            link = max(link, room[actor]) + images * on.image_kb / 1e3 / on.read
            cores[actor] = max(cores[actor], link) + images / (decode * on.cores)
            gpus[actor] = max(gpus[actor], cores[actor]) + images / forward
        ends[actor].append(gpus[actor])
    return max(gpus)


@given(
    gpus=st.sampled_from([1, 3, 8, 16]),
    cores=st.integers(2, 64),
    read=st.floats(50, 5_000),
    forward=st.floats(200, 8_000),
    per_gpu=st.integers(64, 200),
)
@settings(max_examples=60, deadline=None)
def test_embedding_takes_as_long_as_the_simulation(
    gpus: int, cores: int, read: float, forward: float, per_gpu: int
) -> None:
    decode = 155.0
    on = ClusterSpec(
        images=gpus * per_gpu * UNIT + 17, gpus=gpus, cores=cores, read=read, forward=forward, decode=decode
    )
    planned = row(on).seconds - START - on.images / FIGURES["list"].value
    assert planned == pytest.approx(simulate(on, forward, decode), rel=0.08)


def test_the_limit_is_the_part_that_helps_when_doubled() -> None:
    """Doubling what the plan names saves time; doubling the others saves none."""
    parts = {"read": "read", "decode": "cores", "forward": "forward"}
    for on in (
        ClusterSpec(gpus=4, read=100, cores=64, forward=2_000),
        ClusterSpec(gpus=4, read=9_000, cores=2, forward=2_000),
        ClusterSpec(gpus=4, read=9_000, cores=64, forward=300),
    ):
        before = row(on)
        for part, field in parts.items():
            after = row(on.model_copy(update={field: 2 * getattr(on, field)}))
            assert (after.seconds < before.seconds) == (part == before.limit)


def test_worked_numbers_for_imagenet_on_one_gpu() -> None:
    embed = row(ClusterSpec(gpus=1, forward=637))
    assert embed.limit == "forward"
    listing = 1_281_167 / 20_000
    assert embed.seconds == pytest.approx(
        START + listing + math.ceil(1_281_167 / 256) * 256 / 637
    )  # the measured 34 minutes
    assert (embed.seconds - START - listing) / 60 == pytest.approx(33.5, abs=0.1)
    assert embed.gigabytes == pytest.approx(1_281_167 * 1_950 / 1e9, rel=1e-3)
    distill = row(ClusterSpec(gpus=1, step=2_922), "distill@control")
    assert distill.seconds == pytest.approx(START + 20_000 * 1_536 / 2_922)


def test_more_machines_never_take_longer_and_do_not_pay_forever() -> None:
    plans = [capacity.plan(CFG, ClusterSpec(gpus=g)) for g in (1, 8, 64, 512)]
    hours = [p.seconds for p in plans]
    assert hours == sorted(hours, reverse=True)
    assert hours[0] / hours[1] > 3
    assert hours[2] / hours[3] < 1.5, "the driver's own steps remain"
    assert [p.dollars for p in plans] == sorted(p.dollars for p in plans)
    assert capacity.plan(CFG, ClusterSpec(gpus=64, elastic=True)).dollars < plans[2].dollars


def test_a_billion_images_meet_other_limits() -> None:
    on = ClusterSpec(gpus=64, images=10**9)
    assert row(on, "label@aligned").limit == "memory", "the matrix (2.3 TB) fits in no node"
    assert row(on, "cluster").limit in ("read", "memory")
    assert capacity.plan(CFG, on).slowest.limit == "read"
    helps = [name for name, _ in capacity.remedies(CFG, on)[:3]]
    assert any("no-cache-pixels" in name for name in helps), (
        "30 million of the images are drawn, a billion would be packed"
    )
    assert any("storage" in name for name in helps)


@pytest.mark.parametrize("map", ["low_rank", "network"])
def test_every_node_has_a_row(map: str) -> None:
    cfg = CFG.replace(align__map=map)
    assert [r.node for r in capacity.plan(cfg, ClusterSpec()).rows] == [n.name for n in graph(cfg)]


def test_a_number_format_has_its_rate_and_says_that_it_is_assumed() -> None:
    """`paper` computes in TF32: its rates are half of those that were measured in bfloat16."""
    on = ClusterSpec()
    measured = capacity.plan(presets.imagenet(), on).figures["forward"]
    assert (measured.value, measured.mark) == (pytest.approx(637), f"measured, {capacity.H100}")
    halved = capacity.plan(presets.paper(), on).figures["forward"]
    assert halved.value == pytest.approx(637 / 2)
    assert halved.mark == "assumed"
    assert halved.what.endswith(", times 0.5 for tf32")
    full = capacity.plan(presets.imagenet().replace(embed__compute="float32"), on).figures["forward"]
    assert full.value == pytest.approx(637 * 0.11)


def test_requests_that_wait_for_an_answer_are_reckoned() -> None:
    """Eight GPUs with one core each have 192 requests under way: 6,400 files a second at 30 ms, whatever the link."""
    on = ClusterSpec(gpus=8, cores=1, read=1e6, forward=1e6, decode=1e6, latency=30)
    embed = row(on)
    assert embed.limit == "read"
    assert embed.rate == pytest.approx(8 * 24 / 0.03)
    assert row(on.model_copy(update={"latency": 0})).rate > 10 * embed.rate


def test_what_does_not_fit_the_driver_is_said_first() -> None:
    result = capacity.plan(CFG, ClusterSpec(images=1_000_000_000))
    first = capacity.verdict(CFG, result)[0]
    assert first.startswith("cannot run: the driver would hold 157 GB of paths, and the head has 32 GB: give it 314 GB")
    fits = capacity.plan(CFG, ClusterSpec(images=1_000_000_000, head_memory=314))
    assert not capacity.too_large(fits)
    assert not capacity.too_large(capacity.plan(CFG, ClusterSpec()))


def test_every_figure_says_where_it_comes_from() -> None:
    unknown = CFG.replace(embed__model=("my_network",), distill__model="other")
    for cfg in (CFG, unknown):
        result = capacity.plan(cfg, ClusterSpec(decode=500))
        text = "\n".join(capacity.verdict(cfg, result))
        for figure in result.figures.values():
            assert figure.what in text
        assert "given on the command line" in text
    assert result.figures["forward"].mark == "assumed"
    assert capacity.plan(CFG, ClusterSpec()).figures["forward"].mark.startswith("measured, one H100")


def test_options_for_the_cluster_leave_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    options = read(PlanOptions, "plan", ["smoke", "--on.gpus", "4", "--seed", "3", "--on.gpu-hour=2.5"])
    assert options.on == ClusterSpec(gpus=4, gpu_hour=2.5)
    assert options.settings == presets.smoke().replace(seed=3)
    main(["plan", "--on.gpus", "8"])
    out = capsys.readouterr().out
    assert "embed@corpus" in out
    assert "held back by" in out
    assert "assumed" in out
