"""The plan of a run on a cluster, against a simulation of its parts event by event, and against worked numbers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignet_ray import capacity
from alignet_ray.capacity import FIGURES, UNIT, ClusterSpec
from alignet_ray.cli import main
from alignet_ray.cli.options import PlanOptions
from alignet_ray.cli.parse import read
from alignet_ray.config import Config, presets
from alignet_ray.errors import UserError
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
        images=gpus * per_gpu * UNIT + 17,
        gpus=gpus,
        cores=cores,
        read=read,
        forward=forward,
        decode=decode,
        download=1e9,
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
    embed = row(ClusterSpec(gpus=1, forward=637, download=1e9))
    assert embed.limit == "forward"
    listing = 1_281_167 / 20_000
    assert embed.seconds == pytest.approx(
        START + listing + math.ceil(1_281_167 / 256) * 256 / 637
    )  # the measured 34 minutes
    assert (embed.seconds - START - listing) / 60 == pytest.approx(33.5, abs=0.1)
    assert embed.gigabytes == pytest.approx(1_281_167 * 1_950 / 1e9, rel=1e-3)
    distill = row(ClusterSpec(gpus=1, step=2_922), "distill@control")
    checkpoints = 59 * 85_798_656 * 12 / 2e9  # one every three minutes, see below
    assert distill.seconds == pytest.approx(START + 20_000 * 1_536 / 2_922 + checkpoints)


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
    assert any("storage" in name for name in helps)


def test_images_are_packed_where_more_are_drawn_than_there_are() -> None:
    drawn = 2 * 20_000 * 1_536
    fewer = ClusterSpec(gpus=64, images=drawn - 1)
    assert row(fewer, "distill@student").seconds > 5 * row(fewer, "distill@control").seconds, "the student packs"
    more = ClusterSpec(gpus=64, images=drawn)
    assert row(more, "distill@student").seconds < 2 * row(more, "distill@control").seconds
    packed = CFG.replace(distill__cache_pixels="on")
    assert row(more, "distill@student", packed).seconds > 2 * row(more, "distill@student").seconds
    assert row(more, "distill@student", packed).gigabytes > row(more, "distill@student").gigabytes


@pytest.mark.parametrize("map", ["low_rank", "network"])
def test_every_node_has_a_row(map: str) -> None:
    cfg = CFG.replace(align__map=map)
    assert [r.node for r in capacity.plan(cfg, ClusterSpec()).rows] == [n.name for n in graph(cfg)]


def test_a_number_format_has_its_rate_and_says_that_it_is_assumed() -> None:
    """`paper` computes in TF32: its rates are half of those that were measured in bfloat16."""
    on = ClusterSpec()
    measured = capacity.plan(presets.imagenet(), on).figures["forward"]
    assert (measured.value, measured.mark) == (pytest.approx(637), capacity.H100)
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


def test_weights_are_downloaded_once() -> None:
    """428 M parameters in float32 are 1.713 GB: 17.13 s at 100 MB/s, twice that at half the rate, and only once."""
    fast = ClusterSpec(download=1e9)
    slow = ClusterSpec(download=100)
    gained = {}
    for before, after in zip(capacity.plan(CFG, fast).rows, capacity.plan(CFG, slow).rows, strict=True):
        gained[before.node] = after.seconds - before.seconds
    assert gained.pop("embed@corpus") == pytest.approx(428_225_600 * 4 / 100e6, rel=1e-3)
    assert gained.pop("distill@student") == pytest.approx(85_798_656 * 4 / 100e6, rel=1e-3)
    assert set(gained.values()) == {0}


def test_training_waits_for_its_checkpoints() -> None:
    """A checkpoint of 85.8 M parameters has 1.03 GB (12 bytes each): 0.51 s at 2 GB/s, every three minutes."""
    training = 20_000 * 1_536 / 2_922
    on = ClusterSpec(gpus=1, step=2_922)
    gigabytes = 85_798_656 * 12 / 1e9
    checkpoints = math.ceil(training / 180)
    assert checkpoints == 59
    assert row(on, "distill@control").seconds == pytest.approx(START + training + 59 * gigabytes / 2)

    # On storage that takes 5 MB/s a file is under way for longer than that, and the next checkpoint waits for it.
    writing = gigabytes * 1e3 / 5
    waiting = gigabytes / 2 + writing - 180
    slow = row(on.model_copy(update={"read": 5}), "distill@control", CFG.replace(distill__cache_pixels="on"))
    assert slow.seconds == pytest.approx(START + training + 59 * waiting)


def test_machines_that_are_taken_away_cost_what_has_to_be_done_again() -> None:
    """Eight machines that go four times a day each are 32 losses a day. Each costs training 60 s and half of 180 s."""
    calm = ClusterSpec(gpus=64, machine_gpus=8)
    spot = calm.model_copy(update={"losses": 4})
    for name, cost in {"distill@student": 60 + 90, "embed@corpus": 60 / 8, "evaluate": 0}.items():
        before = row(calm, name)
        after = row(spot, name)
        # Losses go on while what was lost is done again: T = work + T * losses a second * cost.
        assert after.seconds == pytest.approx(before.seconds / (1 - 32 / 86_400 * cost))
        assert after.lost == pytest.approx(after.seconds - before.seconds)
    assert "machines that are taken away cost 0." in "\n".join(capacity.verdict(CFG, capacity.plan(CFG, spot)))
    with pytest.raises(UserError, match=r"would never end: 8 machines are lost 100 times a day each, .* costs 150 s"):
        capacity.plan(CFG, calm.model_copy(update={"losses": 100}))


def test_losses_are_as_a_simulation_says() -> None:
    """Training with random losses, second by second: the mean of many runs."""
    rng = np.random.default_rng(0)
    work, every, start, gap = 20_000, 180, 60, 3_000.0
    totals = []
    for _ in range(200):
        clock = done = saved = 0.0
        loss = rng.exponential(gap)
        while done < work:
            step = min(saved + every, work) - done
            if clock + step < loss:
                clock, done = clock + step, done + step
                saved = done
            else:
                # Lost before the next checkpoint; the new machine is there after a while.
                clock, done = loss + start, saved
                loss = clock + rng.exponential(gap)
        totals.append(clock)
    on = ClusterSpec(gpus=1, machine_gpus=1, losses=86_400 / gap)
    estimator = capacity._Estimator(CFG, on, capacity._figures(CFG, on))
    planned = estimator.with_losses(capacity.Row("distill@student", "", work, 0, "step", 0)).seconds
    assert planned == pytest.approx(np.mean(totals), rel=0.05)


def test_every_figure_says_where_it_comes_from() -> None:
    unknown = CFG.replace(embed__model=("my_network",), distill__model="other")
    for cfg in (CFG, unknown):
        result = capacity.plan(cfg, ClusterSpec(decode=500))
        text = "\n".join(capacity.verdict(cfg, result))
        for figure in result.figures.values():
            assert figure.what in text
        assert "given on the command line" in text
    assert result.figures["forward"].mark == "assumed"
    known = capacity.plan(CFG, ClusterSpec(decode=500)).figures
    assert known["forward"].mark == "measured on one H100 80 GB, 16 cores"
    assert known["human"].mark == "measured on two CPU cores"
    assert known["decode"].mark == "given on the command line"
    assert known["teacher_size"].mark == "counted"
    assert result.figures["teacher_size"].mark == "assumed"


def test_options_for_the_cluster_leave_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    options = read(PlanOptions, "plan", ["smoke", "--on.gpus", "4", "--seed", "3", "--on.gpu-hour=2.5"])
    assert options.on == ClusterSpec(gpus=4, gpu_hour=2.5)
    assert options.settings == presets.smoke().replace(seed=3)
    main(["plan", "--on.gpus", "8"])
    out = capsys.readouterr().out
    assert "embed@corpus" in out
    assert "held back by" in out
    assert "assumed" in out


@pytest.mark.parametrize("term", ["locality", "class_retention"])
def test_a_term_that_compares_with_the_base_costs_its_forward_pass(term: str) -> None:
    """On one GPU, where nobody waits for anybody."""
    rates = []
    for weight in (0.0, 0.1):
        cfg = Config().replace(**{f"distill__{term}": weight})
        row = next(row for row in capacity.plan(cfg, ClusterSpec(gpus=1)).rows if row.node == "distill@student")
        rates.append(row.rate)
    assert rates[0] / rates[1] == pytest.approx(4 / 3)
