from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.images.listings import Listings
from alignet_ray.screen import Screen
from alignet_ray.stages import pipeline
from alignet_ray.stages.amounts import refuse_amounts

NODES = ("embed@corpus", "cluster", "label@aligned", "distill@student")


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """Forty images, of which four are held out, and amounts that they just give."""
    for number in range(40):
        file = tmp_path / "images" / f"class{number % 4}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
    changes = {"cluster__k": 40, "label__train": 36 * 35 * 34 // 6, "distill__batch_size": 36}
    return Config().replace(corpus__path=str(tmp_path / "images"), store__root=str(tmp_path / "runs"), **changes)


def test_what_the_images_can_just_give_passes(cfg: Config) -> None:
    refuse_amounts(cfg, NODES, Listings())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cluster__k": 41}, "cluster.k asks for 41 clusters, but only 40 images may be clustered: set a smaller"),
        ({"cluster__candidates": (2, 5, 90)}, "cluster.candidates asks for 90 clusters"),
        ({"label__train": 7141}, "--label.train 7141: the 36 images for it give only 7140 distinct triplets"),
        ({"label__held_out": 0.05}, "2 of 40 images are for valid triplets"),
        ({"label__held_out": 0.95}, "2 of 40 images are for train triplets"),
        ({"distill__batch_size": 37}, "a batch of 37 distinct images, but only 36 to train on"),
    ],
)
def test_what_they_cannot_give_is_refused(cfg: Config, changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        refuse_amounts(cfg.replace(**changes), NODES, Listings())


def test_only_what_the_run_still_makes_is_refused(cfg: Config) -> None:
    much = cfg.replace(cluster__k=41, label__train=9999, distill__batch_size=99)
    refuse_amounts(much, ["embed@corpus"], Listings())
    refuse_amounts(much, ["cluster", "label@aligned", "distill@student"], Listings())
    # Labelled triplets, three images each, may come again.
    refuse_amounts(cfg.replace(distill__batching="triplets", distill__batch_size=99), NODES, Listings())
    refuse_amounts(cfg.replace(label__from_="labels.npz", label__train=9999), NODES, Listings())


def test_a_run_stops_before_it_embeds(cfg: Config, tmp_path: Path) -> None:
    np.save(tmp_path / "people.npy", np.random.default_rng(0).random((4, 3)))
    names = {"embed__model": ("random:test_vit",), "distill__model": "random:test_vit", "cluster__k": 41}
    given = {"human__embedding": str(tmp_path / "people.npy"), "objects__table": str(tmp_path / "objects.csv")}
    rows = "".join(f"class{number},{number}\n" for number in range(4))
    (tmp_path / "objects.csv").write_text(f"label,object\n{rows}")
    with pytest.raises(UserError, match="41 clusters, but only 40 images"):
        pipeline.run(cfg.replace(**names, **given, embed__size=64, distill__size=64), Screen())
    assert not list((tmp_path / "runs").glob("embed/*"))
    assert not list((tmp_path / "runs").glob("soften/*"))
