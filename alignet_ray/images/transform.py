"""Resize and crop; normalisation runs on the device.

Pixels stay 8-bit until then, a quarter of what floats take in memory and between processes. timm's own transform makes
its floats from the same pixels by the same two operations, so the result is equal bit for bit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import PIL.Image
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from alignet_ray.artifacts.student_files import DataConfig
from alignet_ray.images.resize import Axis

if TYPE_CHECKING:
    from torchvision.transforms import Compose

DecodedImage = PIL.Image.Image | UInt8[Tensor, "3 h w"]
"""A decoded RGB image: Pillow's, or the pixels themselves from a faster decoder."""


class ResizeRule(NamedTuple):
    """How a transform resizes before its centre crop.

    Attributes:
        size: side that the shorter side is resized to, or (height, width) of the result.
        is_bicubic: whether the filter is bicubic and not bilinear.
    """

    size: int | tuple[int, int]
    is_bicubic: bool


@dataclass(frozen=True)
class PixelTransform:
    """A network's evaluation transform in two halves: resizing and cropping of 8-bit pixels, then normalisation.

    Attributes:
        data_config: timm's data config (input_size, mean, std, interpolation, crop_pct, crop_mode).
        fast: resize decoded pixels (tensors) by torchvision's 8-bit kernels, which round less finely than Pillow.
    """

    data_config: DataConfig
    fast: bool = False

    @property
    def size(self) -> int:
        """Side of the square input in pixels."""
        return int(self.data_config["input_size"][-1])

    @property
    def min_image_side(self) -> int:
        """The shortest side in pixels that an image can have without being enlarged."""
        return math.floor(self.size / float(self.data_config.get("crop_pct") or 1))

    def __call__(self, image: DecodedImage) -> UInt8[Tensor, "3 s s"]:
        """Resize and crop, as timm does."""
        if isinstance(image, Tensor):
            if self.fast:
                return self._fast_transform(image)
            image = PIL.Image.fromarray(image.permute(1, 2, 0).numpy())
        pixels: Tensor = self._timm_transform(image)
        return pixels

    def resize_axes(self, height: int, width: int) -> tuple[Axis, Axis] | None:
        """The transform of an image's rows and of its columns, for `resize.resize`.

        None where two axes cannot express it: another filter than bilinear or bicubic, or a border.
        """
        rule = self._resize_rule
        if rule is None:
            return None

        # torchvision's rule for one number: the shorter side gets it, the longer one is rounded down.
        if isinstance(rule.size, tuple):
            resized_height, resized_width = rule.size
        else:
            longer_side = int(rule.size * max(height, width) / min(height, width))
            if height > width:
                resized_height, resized_width = longer_side, rule.size
            else:
                resized_height, resized_width = rule.size, longer_side

        # A crop larger than the image gets a border, which no resized axis can give.
        if min(resized_height, resized_width) < self.size:
            return None

        rows = self._cropped_axis(height, resized_height, rule.is_bicubic)
        columns = self._cropped_axis(width, resized_width, rule.is_bicubic)
        return rows, columns

    def _cropped_axis(self, length: int, resized: int, is_bicubic: bool) -> Axis:
        return Axis(length, resized, round((resized - self.size) / 2), self.size, is_bicubic)

    def normalize(self, pixels: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        """Pixels as the network takes them: divided by 255, less the mean, divided by the standard deviation."""
        mean, std = channel_statistics(self.data_config, pixels.device)
        return standardize(pixels.float().div_(255), mean, std)

    @cached_property
    def _timm_transform(self) -> "Compose":
        from timm.data.transforms_factory import create_transform

        # With its prefetcher timm leaves normalisation to the device, so its transform ends at 8-bit pixels.
        options: Any = self.data_config  # timm's types know tuples only, its code takes the lists of JSON as well
        return create_transform(**options, is_training=False, use_prefetcher=True)

    @cached_property
    def _resize_rule(self) -> ResizeRule | None:
        """None where the transform is not a plain bilinear or bicubic resize and a centre crop."""
        from torchvision.transforms import CenterCrop, InterpolationMode, Resize

        resize, crop, *_ = self._timm_transform.transforms
        filters = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
        if not isinstance(resize, Resize) or not isinstance(crop, CenterCrop) or resize.interpolation not in filters:
            return None
        size = resize.size
        if not isinstance(size, int):
            size = tuple(size)
        return ResizeRule(size, resize.interpolation == InterpolationMode.BICUBIC)

    @cached_property
    def _fast_transform(self) -> Callable[[Tensor], Tensor]:
        from torchvision.transforms import v2

        if self._resize_rule is None:
            return lambda pixels: self._timm_transform(v2.functional.to_pil_image(pixels))
        resize, *others = self._timm_transform.transforms
        fast_resize = v2.Resize(resize.size, resize.interpolation, antialias=True)
        transform: Callable[[Tensor], Tensor] = v2.Compose([fast_resize, *others])
        return transform


def channel_statistics(
    data_config: DataConfig, device: torch.device | str
) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """Mean and standard deviation of the channels, as fractions of 255."""
    mean = torch.tensor(data_config["mean"], device=device).view(3, 1, 1)
    std = torch.tensor(data_config["std"], device=device).view(3, 1, 1)
    return mean, std


def standardize(
    images: Float[Tensor, "b 3 s s"], mean: Float[Tensor, "3 1 1"], std: Float[Tensor, "3 1 1"]
) -> Float[Tensor, "b 3 s s"]:
    """Subtract the mean and divide by the standard deviation of every channel, in place."""
    return images.sub_(mean).div_(std)
