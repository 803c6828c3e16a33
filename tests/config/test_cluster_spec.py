"""The cluster of a plan: its defaults are known data sets, and what no cluster can be is refused."""

import pytest
from pydantic import ValidationError

from alignet_ray.capacity import plan
from alignet_ray.cli.options import PlanOptions
from alignet_ray.cli.parse import read
from alignet_ray.config import Config
from alignet_ray.config.cluster_spec import ClusterSpec
from alignet_ray.errors import UserError


def given(*args: str) -> ClusterSpec:
    return read(PlanOptions, "plan", args).on


def test_the_default_is_imagenet_with_things() -> None:
    assert ClusterSpec().images == 1_281_167
    assert ClusterSpec().annotated == 26_107
    assert given() == ClusterSpec()


def test_every_field_is_an_option() -> None:
    values = {
        "images": 10,
        "annotated": 0,
        "gpus": 2,
        "cores": 4,
        "memory": 16.5,
        "gpu_memory": 24.0,
        "machine_gpus": 4,
        "losses": 0.5,
        "download": 20.0,
        "read": 100.0,
        "latency": 30.0,
        "head_memory": 64.0,
        "image_kb": 50.0,
        "gpu_hour": 0.0,
        "gb_month": 0.0,
        "decode": 100.0,
        "forward": 200.0,
        "step": 300.0,
    }
    assert set(values) == set(ClusterSpec.model_fields) - {"elastic"}
    args = [f"--on.{name.replace('_', '-')}={value}" for name, value in values.items()]
    assert given(*args, "--on.elastic") == ClusterSpec(**values, elastic=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", "0"),
        ("annotated", "-1"),
        ("gpus", "0"),
        ("cores", "0"),
        ("memory", "0"),
        ("gpu-memory", "0"),
        ("machine-gpus", "0"),
        ("losses", "-1"),
        ("download", "0"),
        ("read", "0"),
        ("latency", "-1"),
        ("head-memory", "0"),
        ("image-kb", "-3"),
        ("gpu-hour", "-0.1"),
        ("gb-month", "-1"),
    ],
)
def test_what_no_cluster_can_be_is_refused_with_its_option(name: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"^--on\.{name} {value}(\.0)?: input should be greater than") as refused:
        given(f"--on.{name}={value}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["decode", "forward", "step"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_rate_is_a_number_above_zero(name: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"^--on\.{name} "):
        given(f"--on.{name}={value}")


@pytest.mark.parametrize("value", ["eight", "1.5", ""])
def test_a_number_of_gpus_is_a_whole_number(value: str) -> None:
    with pytest.raises(UserError, match=r"^--on\.gpus .*: expected INT$"):
        given(f"--on.gpus={value}")


def test_an_unknown_field_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(UserError, match=r"did you mean '--on\.memory'\?$"):
        given("--on.memry", "8")
    with pytest.raises(ValidationError, match="Extra inputs"):
        ClusterSpec(gpu=8)  # type: ignore[call-arg]


def test_a_spec_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ClusterSpec().gpus = 4  # type: ignore[misc]


def test_a_given_rate_replaces_the_measured_one() -> None:
    """Whole images a second by one core alone: the corpus then takes as long as the division says."""
    slow = ClusterSpec(images=3600 * 8, gpus=8, cores=1, decode=1.0)
    embed = next(row for row in plan(Config(), slow).rows if row.node == "embed@corpus")
    assert embed.limit == "decode"
    assert embed.rate == pytest.approx(8)


def test_an_elastic_cluster_is_not_paid_for_while_the_driver_works_alone() -> None:
    fixed, elastic = (plan(Config(), ClusterSpec(gpus=4, elastic=elastic)) for elastic in (False, True))
    driver = [row for row in fixed.rows if row.limit == "driver"]
    assert driver
    saved = sum(row.seconds for row in driver) / 3600 * 4
    assert fixed.seconds == elastic.seconds
    assert fixed.gpu_hours - elastic.gpu_hours == pytest.approx(saved)
