import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from alignet_ray.errors import UserError
from alignet_ray.images import cache
from alignet_ray.images.cache import CachedImages, CacheWriter, DecodedImages, pack_once
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
    paths = pa.array([f"{i}.png" for i in range(7)])
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


class Counted(DecodedImages):
    """Images that count which of their rows are decoded."""

    made: ClassVar[list[int]] = []

    def rows(self, positions: np.ndarray) -> np.ndarray:
        self.made.extend(positions.tolist())
        return super().rows(positions)


def test_a_machine_that_lacks_the_file_makes_it_once_for_all_its_processes(images: DecodedImages, tmp_path: Path):
    """Two machines with folders of their own, of the same name; on the second one four processes start at once."""
    source = Counted(images.uri, images.ids, images.paths, images.transform, images.threads)
    for machine in ("first", "second"):
        path = tmp_path / machine / "x.u8"
        processes = [CachedImages(path, images.ids, images.size, source) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(CachedImages.require, processes))
        assert sorted(Counted.made) == list(range(7))
        Counted.made.clear()
        assert torch.equal(pickle.loads(pickle.dumps(processes[3]))(images.ids), images(images.ids))


def test_whoever_wants_the_same_file_waits_and_takes_nothing_away(images: DecodedImages, tmp_path: Path):
    """Two trials of a sweep: the second one does not delete what the first one is writing."""
    target = tmp_path / "cache" / "x.u8"
    begun, go_on = threading.Event(), threading.Event()
    packs: list[str] = []

    def slowly(pack: CacheWriter) -> None:
        packs.append("first")
        begun.set()
        assert go_on.wait(60)
        assert pack.temporary.exists()
        pack.write(0, 7)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(pack_once, target, images, slowly)
        assert begun.wait(60)
        second = pool.submit(pack_once, target, images, lambda pack: packs.append("second"))
        go_on.set()
        first.result()
        second.result()
    assert packs == ["first"]
    assert torch.equal(CachedImages(target, images.ids, images.size)(images.ids), images(images.ids))


def test_pieces_make_up_the_file(images: DecodedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "PIECE", 2)
    pack_once(tmp_path / "x.u8", images, lambda pack: pack.write(0, 7))
    assert torch.equal(CachedImages(tmp_path / "x.u8", images.ids, images.size)(images.ids), images(images.ids))


def test_a_disk_that_is_too_small_is_found_before_anything_is_decoded(
    images: DecodedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    needed = 7 * 3 * images.size**2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(UserError, match=rf"too small: {needed:,} bytes are needed, {needed - 1:,} are free: make room"):
        CacheWriter.begin(tmp_path / "x.u8", images)
    assert not list(tmp_path.glob("*.u8*"))
