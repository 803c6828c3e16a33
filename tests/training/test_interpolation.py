"""The line between a student's pretrained weights and its trained ones."""

import copy

import numpy as np
import pytest
import torch
from support.training import make_recipe
from torch import nn

from alignet_ray.config import Config
from alignet_ray.evals import retention
from alignet_ray.human.dataset import human_model
from alignet_ray.human.objects import images_folder
from alignet_ray.images.listings import Listings
from alignet_ray.models.embedding_network import make_network
from alignet_ray.store import Artifact
from alignet_ray.training import interpolation
from alignet_ray.training.interpolation import StudentInterpolation, backbone_tensors, remember
from alignet_ray.training.loop import Training
from alignet_ray.training.validation import HumanValidation, human_validation, object_images

MODEL = "random:test_efficientnet"
"""With BatchNorm, whose statistics lie on the line, too."""


@pytest.fixture
def trained() -> Training:
    """A student whose weights and statistics are not those that it began with."""
    training = Training(make_network(MODEL, 32, 8, 0, False), make_recipe(steps=1, lr=1e-3))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in training.model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand(tensor.shape, generator=generator))
    return training


@pytest.fixture
def pretrained() -> nn.Module:
    return make_network(MODEL, 32, 8, 0, False).backbone


@pytest.fixture
def validation(cfg: Config, soften: Artifact) -> HumanValidation:
    view = make_network(MODEL, 32, 8, 0, False).backbone.pixel_transform
    images = object_images(soften, images_folder(cfg.objects.path, cfg.corpus.path), Listings(), view)
    return human_validation(soften, human_model(soften, cfg.soften.num_samples, cfg.seed), images, 8)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_weights_and_statistics_lie_on_the_line_and_the_head_stays(
    trained: Training, pretrained: nn.Module, share: float
) -> None:
    before = copy.deepcopy(trained.model.state_dict())
    StudentInterpolation(trained, pretrained).move_to(share)
    start = pretrained.state_dict()
    for name, tensor in trained.model.state_dict().items():
        expected = before[name]
        backbone_name = name.removeprefix("backbone.")
        if name != backbone_name and tensor.is_floating_point():
            expected = (1 - share) * start[backbone_name] + share * before[name]
        torch.testing.assert_close(tensor, expected, msg=name)
    assert any("running_mean" in name for name in before)


def test_moving_twice_starts_from_the_same_ends(trained: Training, pretrained: nn.Module) -> None:
    line = StudentInterpolation(trained, pretrained)
    line.move_to(0.3)
    once = [tensor.clone() for tensor in backbone_tensors(trained.model.backbone)]
    line.move_to(0.9)
    line.move_to(0.3)
    for first, second in zip(once, backbone_tensors(trained.model.backbone), strict=True):
        assert torch.equal(first, second)


def test_the_student_is_left_at_the_chosen_point(
    trained: Training, pretrained: nn.Module, validation: HumanValidation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MIN_OBJECTS", 2)
    monkeypatch.setattr(interpolation, "SHARES", (0.0, 0.5, 1.0))
    end = copy.deepcopy(trained.model.state_dict())
    found = StudentInterpolation(trained, pretrained).choose(validation, seed=0)
    assert [point.interpolation for point in found.points] == [0, 0.5, 1]
    assert found.chosen == retention.choose(found.points).interpolation
    assert found.points[0].neighbours_kept == 1
    unchanged = {name: change.change for name, change in found.points[0].kept.items()}
    assert unchanged == {"few_shot_1": 0, "same_object": 0}

    # What is written has the figures of its point.
    written = copy.deepcopy(trained.model.state_dict())
    again = Training(make_network(MODEL, 32, 8, 0, False), make_recipe(steps=1, lr=1e-3))
    again.model.load_state_dict(end)
    line = StudentInterpolation(again, pretrained)
    line.move_to(found.chosen)
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, written[name]), name
    chosen = next(point for point in found.points if point.interpolation == found.chosen)
    rows = [own[:1] for own in validation.rows]
    one_image = human_validation_agreement(again, validation, rows)
    assert chosen.agreement == pytest.approx(one_image, abs=0.15)


def human_validation_agreement(training: Training, validation: HumanValidation, rows: list[np.ndarray]) -> float:
    """Agreement of the embeddings of one image an object, computed plainly."""
    output = training.predict(validation.images.ids, validation.images)
    embeddings = nn.functional.normalize(output.embedding, dim=1)[np.concatenate(rows)].detach()
    gram = embeddings @ embeddings.T
    i, j, k = validation.triplets.triplets.T
    chosen = torch.stack([gram[i, j], gram[i, k], gram[j, k]], dim=1).argmax(dim=1)
    return float(validation.triplets.targets.gather(1, chosen[:, None]).mean())


def test_without_scores_the_safer_half_is_taken(
    trained: Training, pretrained: nn.Module, validation: HumanValidation
) -> None:
    """Few objects: what more would lose cannot be told."""
    found = StudentInterpolation(trained, pretrained).choose(validation, seed=0)
    assert found.chosen <= retention.SAFE_SHARE
    assert "cannot tell" in found.reason
    assert all(point.kept == {} for point in found.points)


def test_every_image_is_decoded_once() -> None:
    asked: list[int] = []

    def read(image_ids: np.ndarray) -> torch.Tensor:
        asked.extend(image_ids.tolist())
        return torch.from_numpy(image_ids).to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)

    remembered = remember(read)
    for ids in ([3, 5], [5, 7], [7, 3, 3]):
        pixels = remembered(np.array(ids))
        assert pixels[:, 0, 0, 0].tolist() == ids
    assert sorted(asked) == [3, 5, 7]
