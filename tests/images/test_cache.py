import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alignet_ray.images.cache import Decoder, Pack, Packed
from alignet_ray.images.transform import View
from alignet_ray.models.backbone import load_backbone, preprocessing


@pytest.fixture(params=["test_efficientnet", "vit_base_patch16_siglip_224"])
def decoder(request: pytest.FixtureRequest, tmp_path: Path) -> Decoder:
    rng = np.random.default_rng(0)
    for i in range(7):
        Image.fromarray(rng.integers(0, 256, (60, 50 + i, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    if request.param.startswith("vit"):  # the data config alone: SigLIP's mean and standard deviation of 0.5
        data = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.9}
    else:
        data = load_backbone(f"random:{request.param}", 32).data
    paths = tuple(f"{i}.png" for i in range(7))
    ids = np.arange(10, 24, 2)
    return Decoder(str(tmp_path), ids, paths, View(data), threads=2)


def test_pixels_normalised_again_equal_the_preprocessing(decoder: Decoder):
    pixels = decoder(np.array([14, 10]))
    assert pixels.dtype == torch.uint8
    preprocess = preprocessing(decoder.view.data)
    expected = torch.stack([preprocess(Image.open(Path(decoder.uri) / f"{i}.png")) for i in (2, 0)])
    assert torch.equal(decoder.view.normal(pixels), expected)


def test_packed_rows_equal_decoded_ones(decoder: Decoder, tmp_path: Path):
    pack = Pack.begin(tmp_path / "cache/x.u8", decoder)
    for start, stop in ((3, 7), (0, 3)):
        pickle.loads(pickle.dumps(pack)).write(start, stop)
    assert not pack.target.exists()
    pack.finish()
    packed = Packed(pack.target, decoder.ids, decoder.size)
    ids = np.array([22, 10, 10, 16])
    assert torch.equal(packed(ids), decoder(ids))
    assert torch.equal(pickle.loads(pickle.dumps(packed))(ids), decoder(ids))
    assert packed(ids).is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(AssertionError, match="may not see"):
        packed(np.array([11]))
