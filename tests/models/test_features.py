"""Features of images: what happens when the memory of the device is too small for a batch."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alignet_ray.errors import UserError
from alignet_ray.models.features import Encoder


class Small(Encoder):
    """An encoder on a device that holds `room` images."""

    room = 3

    def _columns(self, member: object, x: Tensor) -> dict[str, Tensor]:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._columns(member, x)  # type: ignore[arg-type]


def pictures(n: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(n)]


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    whole = Encoder.load(["random:test_efficientnet_ln"], 32)
    small = Small(whole.members)
    images = [lambda image=image: image for image in pictures(11)]
    expected, found = whole.encode(images, 8), small.encode(images, 8)
    assert small.most == 2
    assert found.kept == expected.kept == list(range(11))
    assert not found.errors
    np.testing.assert_allclose(found.columns["embedding"], expected.columns["embedding"], rtol=1e-4, atol=1e-5)


def test_an_image_that_never_fits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Small, "room", 0)
    small = Small(Encoder.load(["random:test_efficientnet_ln"], 32).members)
    with pytest.raises(UserError, match="use a smaller"):
        small.encode([lambda: pictures(1)[0]], 8)


def test_the_least_side_is_what_the_transform_resizes_to() -> None:
    encoder = Encoder.load(["random:test_efficientnet_ln", "random:test_vit"], 32)
    resizes = [member.preprocess.transforms[0].size for member in encoder.members]  # type: ignore[union-attr]
    assert encoder.least == max(size if isinstance(size, int) else max(size) for size in resizes)
