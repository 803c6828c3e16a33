import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alignet_ray.images.cache import CachedImages, CacheWriter, DecodedImages
from alignet_ray.images.transform import PixelTransform
from alignet_ray.models.backbone import load_backbone, preprocessing


@pytest.fixture(params=["test_efficientnet", "vit_base_patch16_siglip_224"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> DecodedImages:
    rng = np.random.default_rng(0)
    for i in range(7):
        Image.fromarray(rng.integers(0, 256, (60, 50 + i, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    if request.param.startswith("vit"):  # the data config alone: SigLIP's mean and standard deviation of 0.5
        data = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.9}
    else:
        data = load_backbone(f"random:{request.param}", 32).data_config
    paths = tuple(f"{i}.png" for i in range(7))
    ids = np.arange(10, 24, 2)
    return DecodedImages(str(tmp_path), ids, paths, PixelTransform(data), threads=2)


def test_normalized_pixels_equal_timms_preprocessing(images: DecodedImages):
    pixels = images(np.array([14, 10]))
    assert pixels.dtype == torch.uint8
    preprocess = preprocessing(images.transform.data_config)
    expected = torch.stack([preprocess(Image.open(Path(images.uri) / f"{i}.png")) for i in (2, 0)])
    assert torch.equal(images.transform.normalize(pixels), expected)


def test_cached_rows_equal_decoded_ones(images: DecodedImages, tmp_path: Path):
    writer = CacheWriter.begin(tmp_path / "cache/x.u8", images)
    for start, stop in ((3, 7), (0, 3)):
        pickle.loads(pickle.dumps(writer)).write(start, stop)
    assert not writer.target.exists()
    writer.finish()
    cached = CachedImages(writer.target, images.ids, images.size)
    ids = np.array([22, 10, 10, 16])
    assert torch.equal(cached(ids), images(ids))
    assert torch.equal(pickle.loads(pickle.dumps(cached))(ids), images(ids))
    assert cached(ids).is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(AssertionError, match="may not see"):
        cached(np.array([11]))
