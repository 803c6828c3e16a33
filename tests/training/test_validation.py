from pathlib import Path

import pytest
import torch
from support.training import make_recipe

from alignet_ray.config import Config
from alignet_ray.human.dataset import human_model
from alignet_ray.human.objects import images_folder
from alignet_ray.images.listings import Listings
from alignet_ray.models.embedding_network import make_network
from alignet_ray.store import Artifact
from alignet_ray.training.loop import Training
from alignet_ray.training.validation import human_validation, object_images


@pytest.mark.parametrize("squash", [False, True])
def test_a_student_is_validated_on_objects_that_nothing_trains_on(cfg: Config, soften: Artifact, squash: bool) -> None:
    """One image each of the validation objects; the agreement is that of the embedding's cosines, computed plainly."""
    student = make_network("random:test_efficientnet_ln", 32, 8, 0, squash)
    view = student.backbone.pixel_transform
    images = object_images(soften, images_folder(cfg.objects.path, cfg.corpus.path), Listings(), view)
    human = human_model(soften, cfg.soften.num_samples, cfg.seed)
    several = human_validation(soften, human, images, 8)
    assert all(len(ids) == 2 for ids in several.image_ids())
    validation = several.one_image_each()
    table = soften.read_table("objects.parquet").to_pylist()
    held_out = {row["object"]: row["image_ids"] for row in table if row["split"] == "validation"}
    shown = validation.images.ids
    assert len(shown) == len(held_out)
    assert {int(i) for i in shown} <= {i for ids in held_out.values() for i in ids}
    assert validation.images.transform.data_config == view.data_config

    agreement = validation.agreement(Training(student, make_recipe(steps=1, lr=1e-3)))
    data = student.backbone.data_config
    mean, std = (torch.tensor(data[name]).view(3, 1, 1) for name in ("mean", "std"))
    pixels = (validation.images(shown).float() / 255 - mean) / std
    with torch.inference_mode():
        embeddings = torch.nn.functional.normalize(student.eval()(pixels).embedding, dim=1)
    embeddings = embeddings[validation.triplets.rows[:, 0]]
    gram = embeddings @ embeddings.T
    i, j, k = validation.triplets.triplets.T
    chosen = torch.stack([gram[i, j], gram[i, k], gram[j, k]], dim=1).argmax(dim=1)
    expected = validation.triplets.targets.gather(1, chosen[:, None]).mean()
    assert agreement == pytest.approx(float(expected), abs=1e-5)


def test_images_that_cannot_be_read_are_left_out(cfg: Config, soften: Artifact) -> None:
    """The first image of one object is cut off, and both of another one are no images."""
    view = make_network("random:test_efficientnet_ln", 32, 8, 0, False).backbone.pixel_transform
    images = object_images(soften, images_folder(cfg.objects.path, cfg.corpus.path), Listings(), view)
    human = human_model(soften, cfg.soften.num_samples, cfg.seed)
    whole = human_validation(soften, human, images, 8)
    folder = Path(str(cfg.corpus.path))
    path_of = dict(zip(images.ids.tolist(), images.paths.to_pylist(), strict=True))
    cut, *gone = (ids.tolist() for ids in whole.image_ids()[:2])
    cut_file = folder / path_of[cut[0]]
    cut_file.write_bytes(cut_file.read_bytes()[:60])
    for image_id in gone[0]:
        (folder / path_of[image_id]).write_text("<html>", encoding="utf-8")

    found = human_validation(soften, human, images, 8)
    assert len(found.rows) == len(whole.rows) - 1
    assert found.image_ids()[0].tolist() == cut[1:]
    assert found.one_image_each().image_ids()[0].tolist() == cut[1:]
    assert images.readable()[1] == sorted([path_of[cut[0]], *(path_of[image_id] for image_id in gone[0])])
