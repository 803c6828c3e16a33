"""What does not fit is refused, with what would."""

import pytest

from alignet_ray import capacity
from alignet_ray.capacity_memory import too_large
from alignet_ray.cli import main
from alignet_ray.config import Config
from alignet_ray.config.cluster_spec import ClusterSpec


def problems(cfg: Config, **on: float) -> list[str]:
    return too_large(cfg, capacity.plan(cfg, ClusterSpec(**on)))


def test_images_fill_at_most_half_of_the_head() -> None:
    """60 bytes for each of a billion images, and 100 more for four times the 128,000 that training draws."""
    (line,) = problems(Config(), images=1_000_000_000)
    assert line == (
        "the driver would hold 60 GB of ids, clusters and paths, and the head has 32 GB: give it 121 GB "
        "(--on.head-memory), or take 265,813,333 images at most"
    )
    assert not problems(Config(), images=1_000_000_000, head_memory=121)
    assert not problems(Config(), images=265_813_333)
    assert problems(Config(), images=265_813_334)


def test_a_long_training_chooses_from_all_images() -> None:
    """160 bytes for each image, where training draws more than a quarter of them."""
    long = Config().replace(distill__steps=1_000_000)
    assert not problems(long, images=100_000_000)
    (line,) = problems(long, images=100_000_001)
    assert line.endswith("or take 100,000,000 images at most")


def test_a_network_and_its_training_state_fit_on_each_gpu() -> None:
    """The teacher's 428.2 M parameters take 1.71 GB where they only embed, and 20 bytes each where they are trained.

    So do the 85.8 M of the student: 1.72 GB.
    """
    assert not problems(Config(), gpu_memory=2.2)
    student, teacher = problems(Config(), gpu_memory=2)
    assert student == (
        "the student would take 1.7 GB of each GPU, which has 2 GB: take GPUs with 3 GB (--on.gpu-memory), or a "
        "network of 80 M parameters at most"
    )
    assert teacher == (
        "the teacher would take 1.7 GB of each GPU, which has 2 GB: take GPUs with 3 GB (--on.gpu-memory), or a "
        "network of 400 M parameters at most"
    )
    tuned = Config().replace(align__map="network")
    (line,) = problems(tuned, gpu_memory=10)
    assert line.startswith("the teacher would take 8.6 GB of each GPU, which has 10 GB: take GPUs with 11 GB")
    assert not problems(tuned, gpu_memory=10.8)


def test_the_command_refuses_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["plan", "imagenet", "--on.images", "1000000000"])
    printed = capsys.readouterr()
    assert "this run cannot be done: the driver would hold 72 GB of ids, clusters and paths" in printed.err
    assert "embed@corpus" not in printed.out
