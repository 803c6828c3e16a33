"""Before any image is opened: how many processes embed, and which models are refused."""

import pytest

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.stages import embed


@pytest.mark.parametrize(
    ("settings", "gpus", "cpus", "expected"),
    [
        ({}, 0, 4, (2, 0)),
        ({}, 0, 32, (16, 0)),
        ({}, 1, 16, (2, 14)),
        ({}, 8, 128, (16, 112)),
        ({}, 4, 6, (4, 2)),
        ({"readers": 0}, 1, 16, (2, 0)),
        ({"readers": 3, "actors": 1}, 0, 4, (1, 3)),
        ({"readers": 1}, 0, 2, (1, 1)),
        ({"actors": 9}, 0, 4, (4, 0)),
    ],
)
def test_the_pool(settings: dict[str, int], gpus: int, cpus: int, expected: tuple[int, int]) -> None:
    cfg = Config().replace(**{f"embed__{name}": value for name, value in settings.items()})
    assert embed.pool_size(cfg, embed.Resources(gpus, cpus, cpus)) == expected


def test_more_readers_than_cpus_are_refused() -> None:
    with pytest.raises(UserError, match=r"need 8 CPUs, Ray has 4: use --embed.readers 2 or --ray.num-cpus 8"):
        embed.pool_size(Config().replace(embed__readers=6), embed.Resources(0, 4, 4))


def test_resizing_on_the_device_needs_readers() -> None:
    with pytest.raises(UserError, match=r"add --embed.readers 1 or more"):
        embed.pool_size(Config().replace(embed__resize="device"), embed.Resources(0, 4, 4))


@pytest.mark.parametrize(
    ("model", "mend"),
    [
        ("random:resnet1888", "did you mean"),
        ("resnet18@nowhere.pth", "weights file nowhere.pth does not exist"),
        ("resnet18.in1", "no pretrained weights"),
        ("some/where", "no folder with model.json"),
        ("pip:lite7", "there are pip:efficientnet-lite0"),
    ],
)
def test_a_model_that_cannot_be_is_refused_before_the_start(model: str, mend: str) -> None:
    with pytest.raises(UserError, match=mend):
        embed.refuse(Config().replace(corpus__path="x", embed__model=(model,)), "corpus")


@pytest.mark.parametrize(("gpus", "cpus", "expected"), [(4, 8, 4), (2, 4, 2), (2, 16, 4), (3, 8, 6), (1, 4, 2)])
def test_actors_share_gpus_evenly(gpus: int, cpus: int, expected: int) -> None:
    pool = embed.pool_size(Config(), embed.Resources(gpus, cpus, cpus))
    assert pool.actors == expected
    assert pool.actors <= gpus or pool.actors % gpus == 0


def test_a_number_of_actors_that_gpus_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match=r"--embed\.actors 3 cannot be spread evenly over 2 GPUs: use 2 or 4"):
        embed.pool_size(Config().replace(embed__actors=3), embed.Resources(2, 16, 16))
