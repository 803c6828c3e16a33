"""Whole runs as named functions: each returns a full configuration; its docstring gives the command and what to expect.

The values that a paper fixes stand here with their source, and nowhere else.
"""

from collections.abc import Callable

from alignet_ray.config import Cluster, Config, Corpus, Distill, Embed, Label


def smoke() -> Config:
    """A generated world with a known answer, through the whole line on two cores: about four minutes.

    alignet-ray run smoke
    """
    return Config(
        name="smoke",
        corpus=Corpus(path="synthetic:smoke"),
        embed=Embed(model=("synthetic:smoke",)),
        cluster=Cluster(k=12),
        label=Label(train=20_000, valid=2_000),
        distill=Distill(model="synthetic:smoke"),
    )


def sample() -> Config:
    """A few hundred real images with real pretrained weights, at 128 px on two cores: under 45 minutes.

    alignet-ray run sample --corpus.path DIR --objects.table CSV --human.triplets FILE
    """
    return Config(
        name="sample",
        embed=Embed(model=("pip:efficientnet-lite0",), size=160),
        cluster=Cluster(k=30),
        label=Label(train=100_000, valid=10_000),
        distill=Distill(model="pip:efficientnet-lite0", size=128),
    )


PRESETS: dict[str, Callable[[], Config]] = {f.__name__: f for f in (smoke, sample)}
