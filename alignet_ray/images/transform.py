"""How a network sees an image: its pixels after resizing and cropping. What is left, normalising, the device does.

Pixels stay 8-bit until then, a quarter of what floats take in memory and between processes. timm's own transform makes
its floats from the same pixels by the same two operations: not a digit is lost.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import PIL.Image
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from alignet_ray.images.resize import Axis

if TYPE_CHECKING:
    from torchvision.transforms import Compose

Picture = PIL.Image.Image | UInt8[Tensor, "3 h w"]
"""A decoded RGB image: Pillow's, or the pixels themselves from a quicker decoder."""


@dataclass(frozen=True)
class View:
    """A network's evaluation transform, in two halves.

    Attributes:
        data: timm's data config (input_size, mean, std, interpolation, crop_pct, crop_mode).
        fast: resize pixels that are no Pillow image by torchvision's 8-bit kernels, which round less finely.
    """

    data: dict[str, Any]
    fast: bool = False

    @property
    def size(self) -> int:
        """Side of the square input in pixels."""
        return int(self.data["input_size"][-1])

    @property
    def least(self) -> int:
        """The shortest side, in pixels, that an image need have so as not to be enlarged."""
        return math.floor(self.size / float(self.data.get("crop_pct") or 1))

    def __call__(self, picture: Picture) -> UInt8[Tensor, "3 s s"]:
        """Resize and crop, as timm does."""
        if isinstance(picture, Tensor):
            if self.fast:
                return self._quick(picture)
            picture = PIL.Image.fromarray(picture.permute(1, 2, 0).numpy())
        pixels: Tensor = self._transform(picture)
        return pixels

    def axes(self, height: int, width: int) -> tuple[Axis, Axis] | None:
        """What the transform does to the rows and columns of a picture, for `resample.resize`.

        None where that can't say it: another filter than bilinear or bicubic, or a border.
        """
        if self._plain is None:
            return None
        size, cubic = self._plain
        if isinstance(size, int):  # the shorter side's
            long = int(size * max(height, width) / min(height, width))
            size = (long, size) if height > width else (size, long)
        if min(size) < self.size:
            return None
        rows, columns = (
            Axis(length, whole, round((whole - self.size) / 2), self.size, cubic)
            for length, whole in zip((height, width), size, strict=True)
        )
        return rows, columns

    def normal(self, pixels: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        """What the network takes: pixels divided by 255, less the mean, divided by the standard deviation."""
        mean, std = (torch.tensor(self.data[key], device=pixels.device).view(3, 1, 1) for key in ("mean", "std"))
        return pixels.float().div_(255).sub_(mean).div_(std)

    @cached_property
    def _transform(self) -> "Compose":
        from timm.data.transforms_factory import create_transform

        return create_transform(**self.data, is_training=False, use_prefetcher=True)

    @cached_property
    def _plain(self) -> tuple[int | tuple[int, int], bool] | None:
        """Size that pictures are resized to and whether by the bicubic filter, where bilinear is the other one."""
        from torchvision.transforms import CenterCrop, InterpolationMode, Resize

        first, crop, *_ = self._transform.transforms
        filters = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
        if not isinstance(first, Resize) or not isinstance(crop, CenterCrop) or first.interpolation not in filters:
            return None
        size = first.size if isinstance(first.size, int) else tuple(first.size)
        return size, first.interpolation == InterpolationMode.BICUBIC

    @cached_property
    def _quick(self) -> Callable[[Tensor], Tensor]:
        from torchvision.transforms import v2

        if self._plain is None:
            return lambda pixels: self._transform(v2.functional.to_pil_image(pixels))
        first, *others = self._transform.transforms
        quick: Callable[[Tensor], Tensor] = v2.Compose(
            [v2.Resize(first.size, first.interpolation, antialias=True), *others]
        )
        return quick
