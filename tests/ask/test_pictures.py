"""Copies of the images: readable ones alone, without what their files say besides, and changes that are noticed."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.studies import begin_study, write_pictures

from alignet_ray.ask.folder import StudyFolder
from alignet_ray.ask.pictures import SIDE, changes, jpeg, prepare
from alignet_ray.errors import UserError
from alignet_ray.images.decode import decode
from alignet_ray.screen import Screen


def test_unreadable_images_are_left_out_and_named(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images")
    folder = StudyFolder(tmp_path / "study")
    prepared = prepare(str(images), "images", folder, Screen())
    assert [entry.path for entry in prepared.left_out] == ["round/broken.jpg"]
    assert "HTML" in prepared.left_out[0].reason
    assert prepared.objects == [image.path for image in prepared.images]
    # Numbers without gaps, and every copy shows the image of its number.
    assert [image.image for image in prepared.images] == list(range(12))
    for image in prepared.images:
        copy = decode(folder.picture(image.image).read_bytes())
        assert copy.size == decode((images / image.path).read_bytes()).size
    assert len(list(folder.pictures.iterdir())) == 12


def test_a_folder_can_be_an_object(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for number in range(8):
        file = images / f"class{number // 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number, 0, 0)).save(file)
    prepared = prepare(str(images), "folders", StudyFolder(tmp_path / "a"), Screen())
    assert prepared.objects == ["class0", "class1", "class2", "class3"]
    assert [image.object for image in prepared.images] == [0, 0, 1, 1, 2, 2, 3, 3]

    Image.new("RGB", (20, 20)).save(images / "loose.png")
    with pytest.raises(UserError, match=r"'loose.png' lies in no folder"):
        prepare(str(images), "folders", StudyFolder(tmp_path / "b"), Screen())


def test_images_and_folders_whose_names_differ_in_case_are_objects_of_their_own(tmp_path: Path) -> None:
    images = tmp_path / "images"
    paths = ["Cat/A.png", "Cat/a.png", "Dog/a.png", "cat/a.png", "dog/A.png"]
    for number, path in enumerate(paths):
        (images / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(images / path)
    folder = StudyFolder(tmp_path / "a")
    prepared = prepare(str(images), "images", folder, Screen())
    assert prepared.objects == paths
    colours = [decode(folder.picture(image.image).read_bytes()).getpixel((0, 0))[0] for image in prepared.images]
    np.testing.assert_allclose(colours, [0, 40, 80, 120, 160], atol=3)
    by_folder = prepare(str(images), "folders", StudyFolder(tmp_path / "b"), Screen())
    assert by_folder.objects == ["Cat", "Dog", "cat", "dog"]
    assert [image.object for image in by_folder.images] == [0, 0, 1, 2, 3]


def test_too_few_images_make_no_study(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", 3)
    with pytest.raises(UserError, match="has 3 objects"):
        prepare(str(images), "images", StudyFolder(tmp_path / "a"), Screen())
    with pytest.raises(UserError, match="does not exist"):
        prepare(str(tmp_path / "nowhere"), "images", StudyFolder(tmp_path / "a"), Screen())


def test_a_copy_is_small_and_says_nothing_but_its_pixels() -> None:
    image = Image.new("RGB", (2000, 1000), "red")
    image.info["comment"] = b"taken at home"
    exif = Image.Exif()
    exif[0x010F] = "my camera"
    image.info["exif"] = exif.tobytes()
    data = jpeg(image)
    assert Image.open(io.BytesIO(data)).size == (SIDE, SIDE // 2)
    assert b"camera" not in data
    assert b"home" not in data


def test_a_folder_that_changes_is_noticed(tmp_path: Path) -> None:
    folder, study = begin_study(tmp_path)
    settings = study.settings

    def found() -> str:
        return changes(settings.images, settings.fingerprint, study.images(), study.left_out())

    images = Path(settings.images)
    assert found() == ""
    Image.new("RGB", (9, 9)).save(images / "round" / "new.png")
    assert "1 added, 0 removed, 0 of another size; first: 'round/new.png'" in found()
    (images / "round" / "new.png").unlink()
    (images / "sharp" / "01.png").unlink()
    Image.new("RGB", (300, 300), "red").save(images / "round" / "00.png")
    assert "0 added, 1 removed, 1 of another size" in found()
    for file in images.rglob("*.*"):
        file.unlink()
    assert "cannot be listed any more" in found()
    assert folder.picture(0).is_file()
