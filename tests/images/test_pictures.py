import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from support.image_files import write_tar

from alignet_ray.images.pictures import list_pictures, open_picture


def test_a_shard_counts_as_a_folder_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    sink = io.BytesIO()
    PIL.Image.new("RGB", (20, 20), "red").save(sink, "PNG")
    write_tar(tmp_path / "a.tar", {"1.png": sink.getvalue(), "2.heic": b"H"})
    with pytest.warns(UserWarning, match=r"1 files are no images and left out: 1 \.heic"):
        pictures = list_pictures(tmp_path / "a.tar")
    assert [picture.name for picture in pictures] == ["a.tar/1.png"]
    assert pictures[0].open().getpixel((3, 3)) == (255, 0, 0)


def test_a_picture_of_12_bits_in_16_is_told(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    PIL.Image.fromarray(values).save(tmp_path / "scan.png")
    with pytest.warns(UserWarning, match=r"scan\.png: 16 bits of which a sixteenth"):
        open_picture(tmp_path / "scan.png")
