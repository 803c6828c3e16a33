"""The base network that comes with the package is the one of the present recipe, and knows what it is meant to know."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

from alignet_ray.synthetic import base
from alignet_ray.synthetic.pretrain import SHAPE_SHARE, BaseRecipe, appearance_targets, random_traits
from alignet_ray.synthetic.render import render, sample_appearance
from alignet_ray.synthetic.world import WORLDS

SMOKE = WORLDS["smoke"]
QUICK = BaseRecipe(images=16, steps=2, batch_size=4)


def test_the_package_has_the_weights_of_the_present_recipe_alone() -> None:
    file = base.file_of(SMOKE.base, SMOKE.size, SMOKE.seed)
    assert list(base.FOLDER.glob("*.safetensors")) == [file]
    assert not SMOKE.trains_base
    # Whatever the weights depend on makes another file.
    for other in (
        base.file_of(replace(SMOKE.base, steps=1201), SMOKE.size, SMOKE.seed),
        base.file_of(SMOKE.base, 64, SMOKE.seed),
        base.file_of(SMOKE.base, SMOKE.size, 1),
    ):
        assert other != file


def test_weights_that_come_along_are_taken_as_they_are(tmp_path: Path) -> None:
    steps: list[int] = []
    base.write(tmp_path / "base.safetensors", SMOKE.base, SMOKE.size, SMOKE.seed, steps.append)
    shipped = base.file_of(SMOKE.base, SMOKE.size, SMOKE.seed)
    assert (tmp_path / "base.safetensors").read_bytes() == shipped.read_bytes()
    assert steps == []


def test_other_weights_are_trained(tmp_path: Path) -> None:
    assert WORLDS["tiny"].trains_base
    steps: list[int] = []
    base.write(tmp_path / "base.safetensors", QUICK, 32, 0, steps.append)
    assert steps == [1, 2]
    timm.create_model(QUICK.arch, num_classes=0).load_state_dict(load_file(tmp_path / "base.safetensors"))


def explained(weights: Path) -> tuple[float, float, float]:
    """What a linear reader explains of appearance and of shape on new images, and shape's share of the variance."""
    rng = np.random.default_rng(7)
    traits = random_traits(1200, rng)
    appearance = sample_appearance(1200, rng)
    pixels = torch.from_numpy(render(traits, appearance, SMOKE.size, rng)).permute(0, 3, 1, 2).float() / 127.5 - 1
    network = timm.create_model(SMOKE.base.arch, num_classes=0)
    network.load_state_dict(load_file(weights))
    with torch.no_grad():
        features = network.eval()(pixels).numpy()

    scores = []
    for target in (appearance_targets(appearance)[:, :6], traits):
        reader = RidgeCV(np.logspace(-2, 4, 7)).fit(features[:800], target[:800])
        scores.append(float(r2_score(target[800:], reader.predict(features[800:]))))
    variance = features.var(0)
    return scores[0], scores[1], float(variance[: len(variance) // SHAPE_SHARE].sum() / variance.sum())


def check(weights: Path) -> None:
    """It knows colours well, shapes less, and the shape hardly shows in distances."""
    colours, shape, share = explained(weights)
    assert colours > 0.7
    assert 0.3 < shape < 0.95
    assert share < 0.1


def test_it_knows_appearances_well_and_shapes_faintly() -> None:
    check(base.file_of(SMOKE.base, SMOKE.size, SMOKE.seed))


@pytest.mark.slow
def test_training_it_again_gives_such_a_network(tmp_path: Path) -> None:
    # Not the same bytes: the last bits of sums differ between processors, and a training carries them on.
    base.train(tmp_path / "again.safetensors", SMOKE.base, SMOKE.size, SMOKE.seed)
    check(tmp_path / "again.safetensors")
