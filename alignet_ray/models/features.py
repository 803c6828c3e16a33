"""Frozen feature extraction: one or several networks behind one call, from image files to columns of numbers."""

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from alignet_ray.artifacts.student_files import EmbeddingSource, HeadUse
from alignet_ray.errors import UserError, in_one_line
from alignet_ray.images.ahead import prefetch
from alignet_ray.images.transform import DecodedImage, PixelTransform
from alignet_ray.models.backbone import Backbone, default_device, load_backbone
from alignet_ray.models.embedding_network import EmbeddingNetwork, load_network
from alignet_ray.models.kernel_head import KernelHead

Result = TypeVar("Result")

NOT_FINITE = "the model's output is not finite"

FLOAT32_MODULES = (nn.modules.batchnorm._BatchNorm, KernelHead)
"""Modules whose tensors stay float32 in a bfloat16 network: their statistics and stored keys need the digits."""


class Encoded(NamedTuple):
    """Features of a list of images, and why some have none.

    Attributes:
        kept: positions of the images that have features.
        columns: name -> (len(kept), width) float32.
        errors: (position, reason) of the others.
    """

    kept: list[int]
    columns: dict[str, Float[np.ndarray, "n d"]]
    errors: list[tuple[int, str]]


@dataclass
class Encoder:
    """Networks that encode the same images; their embeddings are concatenated.

    Attributes:
        members: frozen backbones or students.
        head: see `HeadUse`; students only.
        device: where they lie.
        fast: see `PixelTransform`.
        bfloat16: see `to_bfloat16`.
        max_batch: images that one pass takes; halved whenever the GPU's memory is too small for that many.
        compiled_batch: images that every pass takes once the networks are compiled, filled up where there are fewer.
        not_compiled: why compiling failed, after which passes go on as before; empty if it did not.
    """

    members: tuple[Backbone | EmbeddingNetwork, ...]
    head: HeadUse = "none"
    device: str = "cpu"
    fast: bool = False
    bfloat16: bool = False
    max_batch: int = sys.maxsize
    compiled_batch: int = 0
    not_compiled: str = ""

    @classmethod
    def load(
        cls,
        names: Sequence[str],
        size: int | None = None,
        head: HeadUse = "none",
        layer: str = "pre_logits",
        fast: bool = False,
    ) -> "Encoder":
        """Load networks onto the GPU if there is one; `size` and `layer` are for backbones, a student has its own.

        Raises:
            UserError: as `load_backbone` and `load_network`.
        """
        device = default_device()
        members: list[Backbone | EmbeddingNetwork] = []
        for name in names:
            # A student is a backbone, too: only the use of its head asks for the whole network.
            member: Backbone | EmbeddingNetwork
            if head == "none":
                member = load_backbone(name, size, layer=layer)
            else:
                member = load_network(name)
            member = member.to(device)
            if is_convolutional(member):
                member = member.to(memory_format=torch.channels_last)
            members.append(member)
        return cls(tuple(members), head, device, fast)

    def to_bfloat16(self) -> None:
        """Make the networks' weights bfloat16, except for the tensors of `FLOAT32_MODULES`."""
        self.bfloat16 = True
        for member in self.members:
            # `bfloat16()` converts all tensors in place and rounds them, so the exempt ones are kept aside before.
            originals: dict[nn.Module, dict[str, Any]] = {}
            for module in member.modules():
                if isinstance(module, FLOAT32_MODULES):
                    originals[module] = module.state_dict()

            member.bfloat16()
            for module, tensors in originals.items():
                # `float()` alone would keep the rounded values, in more bits.
                module.float()
                module.load_state_dict(tensors)

    def compile(self, batch: int, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the networks for passes of `batch` images; the next pass takes the time (a minute or so).

        Where that fails (no compiler on the machine, a network that cannot be compiled) passes go on as before, and
        `not_compiled` says why.
        """
        self.compiled_batch = batch
        self._compiled = torch.compile(self._outputs, dynamic=False, backend=backend)

    @property
    def widths(self) -> dict[str, int]:
        """Width of every column."""
        backbone_width = 0
        head_width = 0
        for member in self.members:
            backbone_width += _backbone_of(member).width
            if isinstance(member, EmbeddingNetwork) and member.head is not None:
                head_width += member.head.out_features

        if self.head == "instead":
            return {"embedding": head_width}
        widths = {"embedding": backbone_width}
        if self.head == "beside" and head_width:
            widths["triplet_logits"] = head_width
        return widths

    @cached_property
    def transforms(self) -> list[PixelTransform]:
        """Every member's resizing and cropping."""
        transforms = []
        for member in self.members:
            transform = _backbone_of(member).pixel_transform
            transforms.append(replace(transform, fast=self.fast))
        return transforms

    @cached_property
    def channels_last(self) -> list[bool]:
        """Whether every member takes images with the channels last in memory."""
        return [is_convolutional(member) for member in self.members]

    def forward(self, pixels: list[UInt8[Tensor, "b 3 _ _"]]) -> dict[str, Float[np.ndarray, "b d"]]:
        """Columns of a batch, from every member's pixels, in as many passes as the GPU's memory makes necessary.

        Raises:
            UserError: not even one image fits.
        """
        # Memory cannot be foreseen for any network and GPU, so a pass that fails is tried again with half the images.
        passes: list[dict[str, np.ndarray]] = []
        count = len(pixels[0])
        start = 0
        while start < count:
            part = _rows(pixels, start, start + self.max_batch)
            part_size = len(part[0])
            try:
                passes.append(self._forward_once(part))
                start += part_size
            except torch.OutOfMemoryError as error:
                if part_size == 1:
                    raise UserError(
                        "one image does not fit into the GPU's memory: use a smaller --embed.size"
                    ) from error
                self.max_batch = part_size // 2

            # The failed pass leaves fragments of memory behind, into which the next one may not fit.
            if start < count and self.device == "cuda":
                torch.cuda.empty_cache()

        joined = {}
        for name in passes[0]:
            joined[name] = np.concatenate([columns[name] for columns in passes])
        return joined

    @torch.no_grad()  # under inference mode tensors would be of two kinds, and the compiler would build a network each
    def _forward_once(self, pixels: list[UInt8[Tensor, "b 3 _ _"]]) -> dict[str, Float[np.ndarray, "b d"]]:
        # A compiled network knows one batch size: the first image is repeated to fill the batch up.
        count = len(pixels[0])
        padding = min(self.compiled_batch, self.max_batch) - count
        batches = []
        for images in pixels:
            batch = images
            if padding > 0:
                copies = images[:1].expand(padding, *images.shape[1:])
                batch = torch.cat([images, copies])

            if self.device == "cuda":
                batch = self._to_gpu(batch)
            batches.append(batch)

        # What was computed of the copies goes.
        columns = {}
        for name, values in self._compiled_outputs(batches, count).items():
            columns[name] = values[:count].cpu().numpy()
        return columns

    def _compiled_outputs(self, pixels: list[Tensor], count: int) -> dict[str, Tensor]:
        """Outputs of the compiled networks, where they are compiled and that works; otherwise as they are.

        Args:
            pixels: every member's, filled up to the size that networks are compiled for.
            count: the images among them that are no copies.
        """
        if not self.compiled_batch:
            return self._outputs(pixels)
        try:
            return self._compiled(pixels)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise errors of many kinds, and none of them is worth a run
            self.not_compiled = in_one_line(error)
            self.compiled_batch = 0
            return self._outputs(_rows(pixels, 0, count))

    def _to_gpu(self, images: Tensor) -> Tensor:
        if images.is_cuda:
            return images
        # Pinned memory is copied straight to the GPU; any other goes through a buffer of the driver first.
        return images.pin_memory().to(self.device, non_blocking=True)

    def _outputs(self, pixels: list[Tensor]) -> dict[str, Tensor]:
        dtype = torch.float32
        if self.bfloat16:
            dtype = torch.bfloat16

        outputs: dict[str, list[Tensor]] = {name: [] for name in self.widths}
        for member, transform, channels_last, images in zip(
            self.members, self.transforms, self.channels_last, pixels, strict=True
        ):
            # Normalised in float32, so that pixels are rounded once.
            normalised = transform.normalize(images).to(dtype)
            if channels_last:
                normalised = normalised.contiguous(memory_format=torch.channels_last)
            for name, values in self._columns(member, normalised).items():
                outputs[name].append(values.float())
        return {name: torch.cat(values, 1) for name, values in outputs.items()}

    def encode(self, images: Sequence[Callable[[], DecodedImage]], batch: int, readers: int = 1) -> Encoded:
        """Features of images; an image that cannot be opened, or gives a number that is not finite, is an error.

        Args:
            images: functions that open an image as RGB, or raise ValueError or OSError with the reason why not.
            batch: images a forward pass.
            readers: threads that open and preprocess images while the network is busy.
        """
        kept: list[int] = []
        errors: list[tuple[int, str]] = []
        outputs: list[dict[str, np.ndarray]] = []
        waiting: list[list[Tensor]] = []  # images of the next batch, each as every member takes it

        # Two batches ahead: one that waits for the network, and one that is being read meanwhile.
        jobs = [partial(open_image, image, self._transform_image) for image in images]
        with closing(prefetch(jobs, 2 * batch, readers)) as prepared:
            for position, opened in enumerate(prepared):
                if isinstance(opened, str):
                    errors.append((position, opened))
                    continue

                kept.append(position)
                waiting.append(opened)
                if len(waiting) == batch:
                    outputs.append(self._forward_images(waiting))
                    waiting = []

        # The last batch may be a smaller one.
        if waiting:
            outputs.append(self._forward_images(waiting))
        return self._without_non_finite(kept, outputs, errors)

    def encode_pixels(
        self, pixels: list[UInt8[Tensor, "n 3 _ _"]], kept: list[int], errors: list[tuple[int, str]], batch: int
    ) -> Encoded:
        """As `encode`, for images that another process has opened.

        Args:
            pixels: every member's.
            kept: the images' positions.
            errors: (position, reason) of those that could not be opened.
            batch: images a forward pass.
        """
        outputs: list[dict[str, np.ndarray]] = []
        for start in range(0, len(kept), batch):
            part = _rows(pixels, start, start + batch)
            outputs.append(self.forward(part))
        return self._without_non_finite(kept, outputs, errors)

    def _transform_image(self, image: DecodedImage) -> list[Tensor]:
        return [transform(image) for transform in self.transforms]

    def _forward_images(self, images: list[list[Tensor]]) -> dict[str, np.ndarray]:
        # Members may differ in the size of their images, so every one has a batch of its own.
        by_member = zip(*images, strict=True)
        return self.forward([torch.stack(pixels) for pixels in by_member])

    def _without_non_finite(
        self, kept: list[int], outputs: list[dict[str, np.ndarray]], errors: list[tuple[int, str]]
    ) -> Encoded:
        columns = {}
        for name, width in self.widths.items():
            # Where no image could be opened, there are no batches; the table has its columns all the same.
            nothing = np.zeros((0, width), np.float32)
            batches = [output[name] for output in outputs]
            columns[name] = np.concatenate([nothing, *batches])

        # All columns are one table, so an image must be finite in every one of them to stay.
        is_finite = np.ones(len(kept), dtype=bool)
        for values in columns.values():
            is_finite &= np.isfinite(values).all(axis=1)

        positions = np.array(kept, dtype=np.int64)
        failed = [(position, NOT_FINITE) for position in positions[~is_finite].tolist()]
        finite_columns = {name: values[is_finite] for name, values in columns.items()}
        return Encoded(positions[is_finite].tolist(), finite_columns, sorted(errors + failed))

    def describe(self) -> EmbeddingSource:
        """An embed artifact's `model.json`: every network with its checksum and preprocessing, head's use, widths."""
        return {
            "members": [_backbone_of(member).describe() for member in self.members],
            "head": self.head,
            "widths": self.widths,
        }

    def _columns(self, member: Backbone | EmbeddingNetwork, images: Tensor) -> dict[str, Tensor]:
        if isinstance(member, Backbone):
            return {"embedding": member(images)}
        embedding, logits = member(images)
        if self.head == "instead":
            # Split evenly between both factors of a dot product, the division makes it a choice logit.
            return {"embedding": logits / member.tau**0.5}
        if self.head == "beside" and logits is not None:
            return {"embedding": embedding, "triplet_logits": logits}
        return {"embedding": embedding}


def _rows(pixels: list[Tensor], start: int, stop: int) -> list[Tensor]:
    """Some images of a batch, of every member's pixels."""
    return [images[start:stop] for images in pixels]


def is_convolutional(network: nn.Module) -> bool:
    """Whether a network convolves its way from the pixels to the features: a ResNet does, a ViT cuts patches once.

    Such a network is a third faster with the channels last in memory, on a CPU as well (jobs/EXPERIMENTS.md). It goes
    by the network and not by a measurement, as the last digits depend on it.
    """
    convolutions = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            convolutions += 1
    return convolutions > 1


def open_image(open_file: Callable[[], DecodedImage], convert: Callable[[DecodedImage], Result]) -> Result | str:
    """The image that `open_file` opens, converted; or the reason why there is none."""
    try:
        return convert(open_file())
    except (ValueError, OSError) as error:
        # The text of an OSError repeats the path, which stands beside the reason in any case.
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = error.strerror
        return text.split("\n")[0][:200]


def _backbone_of(member: Backbone | EmbeddingNetwork) -> Backbone:
    if isinstance(member, EmbeddingNetwork):
        return member.backbone
    return member
