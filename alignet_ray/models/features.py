"""Frozen feature extraction: one or several networks behind one call, from files to columns of numbers."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from alignet_ray.errors import UserError
from alignet_ray.images.transform import Picture, View
from alignet_ray.models.backbone import Backbone, load_backbone
from alignet_ray.models.kernel_head import KernelHead
from alignet_ray.models.model_spec import HeadUse
from alignet_ray.models.student import Student, load_student

Look = TypeVar("Look")

Opened = list[Tensor] | str
"""An image's pixels (uint8) as every member sees them, or the reason why there are none."""

NOT_FINITE = "the model's output is not finite"


class Encoded(NamedTuple):
    """What became of a list of images.

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
    """Networks that see the same images; their embeddings are concatenated.

    Attributes:
        members: frozen backbones or students.
        head: see `HeadUse`; students only.
        device: where they lie.
        fast: see `View`.
        bfloat16: see `narrow`.
        most: images that one pass takes; halved whenever the GPU's memory is too small for that many.
        fixed: images that every pass takes once the networks are compiled, filled up where there are fewer.
    """

    members: tuple[Backbone | Student, ...]
    head: HeadUse = "none"
    device: str = "cpu"
    fast: bool = False
    bfloat16: bool = False
    most: int = sys.maxsize
    fixed: int = 0

    @classmethod
    def load(
        cls,
        specs: Sequence[str],
        size: int | None = None,
        head: HeadUse = "none",
        layer: str = "pre_logits",
        fast: bool = False,
    ) -> "Encoder":
        """Load networks onto the GPU if there is one; `size` and `layer` are for backbones, a student has its own.

        Raises:
            UserError: as `load_backbone` and `load_student`.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        members = [load_backbone(s, size, layer=layer) if head == "none" else load_student(s) for s in specs]
        return cls(tuple(member.to(device) for member in members), head, device, fast)

    def narrow(self) -> None:
        """Make the networks' weights bfloat16, but for BatchNorm's statistics and what a teacher knows of people."""
        self.bfloat16 = True
        for member in self.members:
            for module in member.modules():
                if not isinstance(module, nn.modules.batchnorm._BatchNorm | KernelHead):
                    for tensors in (module._parameters, module._buffers):
                        for value in tensors.values():
                            if value is not None and value.is_floating_point():
                                value.data = value.data.bfloat16()

    def compile(self, batch: int, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the networks for passes of `batch` images; the next pass takes the time (a minute or so)."""
        self.fixed = batch
        self._outputs = torch.compile(self._outputs, dynamic=False, backend=backend)  # type: ignore[method-assign]

    @property
    def widths(self) -> dict[str, int]:
        """Width of every column."""
        bodies = sum(self._body(member).width for member in self.members)
        heads = sum(m.head.out_features for m in self.members if isinstance(m, Student) and m.head is not None)
        if self.head == "instead":
            return {"embedding": heads}
        return {"embedding": bodies} | ({"triplet_logits": heads} if self.head == "beside" and heads else {})

    @cached_property
    def views(self) -> list[View]:
        """How every member sees an image."""
        return [replace(self._body(member).view, fast=self.fast) for member in self.members]

    def forward(self, pixels: list[UInt8[Tensor, "b 3 _ _"]]) -> dict[str, Float[np.ndarray, "b d"]]:
        """Columns of a batch, from every member's pixels, in as many passes as the GPU's memory makes necessary.

        Raises:
            UserError: not even one image fits.
        """
        passes, start, count = [], 0, len(pixels[0])
        while start < count:
            some = [x[start : start + self.most] for x in pixels]
            try:
                passes.append(self._pass(some))
                start += len(some[0])
            except torch.OutOfMemoryError as error:
                if len(some[0]) == 1:
                    raise UserError(
                        "one image does not fit into the GPU's memory: use a smaller --embed.size"
                    ) from error
                self.most = len(some[0]) // 2
            if start < count and self.device == "cuda":
                torch.cuda.empty_cache()  # what the failed pass held in pieces
        return {name: np.concatenate([columns[name] for columns in passes]) for name in passes[0]}

    @torch.no_grad()  # inference mode would make tensors of two kinds, and the compiler a network for each
    def _pass(self, pixels: list[UInt8[Tensor, "b 3 _ _"]]) -> dict[str, Float[np.ndarray, "b d"]]:
        count, full = len(pixels[0]), min(self.fixed, self.most)
        if count < full:  # a compiled network knows one size of batch
            pixels = [torch.cat([x, x[:1].expand(full - count, *x.shape[1:])]) for x in pixels]
        if self.device == "cuda":
            pixels = [x if x.is_cuda else x.pin_memory().to(self.device, non_blocking=True) for x in pixels]
        return {name: x[:count].cpu().numpy() for name, x in self._outputs(pixels).items()}

    def _outputs(self, pixels: list[Tensor]) -> dict[str, Tensor]:
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        outputs = [
            self._columns(member, view.normal(x).to(dtype))
            for member, view, x in zip(self.members, self.views, pixels, strict=True)
        ]
        return {name: torch.cat([o[name].float() for o in outputs if name in o], 1) for name in self.widths}

    def encode(self, images: Sequence[Callable[[], Picture]], batch: int, readers: int = 1) -> Encoded:
        """Features of images; what cannot be opened, or gives no finite number, is an error.

        Args:
            images: functions that open an image as RGB, or raise ValueError or OSError with the reason why not.
            batch: images a forward pass.
            readers: threads that open and preprocess images while the network is busy.
        """
        kept: list[int] = []
        errors: list[tuple[int, str]] = []
        outputs: list[dict[str, np.ndarray]] = []
        pixels: list[list[Tensor]] = []
        views = self.views
        jobs = [partial(open_image, image, lambda picture: [view(picture) for view in views]) for image in images]
        opened = ahead(jobs, 2 * batch, readers)
        for position, found in enumerate(opened):
            if isinstance(found, str):
                errors.append((position, found))
                continue
            pixels.append(found)
            kept.append(position)
            if len(pixels) == batch:
                outputs.append(self.forward([torch.stack(x) for x in zip(*pixels, strict=True)]))
                pixels = []
        if pixels:
            outputs.append(self.forward([torch.stack(x) for x in zip(*pixels, strict=True)]))
        return self._sound(kept, outputs, errors)

    def encode_pixels(
        self, pixels: list[UInt8[Tensor, "n 3 _ _"]], kept: list[int], errors: list[tuple[int, str]], batch: int
    ) -> Encoded:
        """As `encode`, for images that were opened elsewhere.

        Args:
            pixels: every member's.
            kept: the images' positions.
            errors: (position, reason) of those that could not be opened.
            batch: images a forward pass.
        """
        starts = range(0, len(kept), batch)
        outputs = [self.forward([x[start : start + batch] for x in pixels]) for start in starts]
        return self._sound(kept, outputs, errors)

    def _sound(self, kept: list[int], outputs: list[dict[str, np.ndarray]], errors: list[tuple[int, str]]) -> Encoded:
        columns = {
            name: np.concatenate([o[name] for o in outputs]) if outputs else np.zeros((0, width), np.float32)
            for name, width in self.widths.items()
        }
        sound = np.all([np.isfinite(values).all(1) for values in columns.values()], axis=0)
        errors = errors + [(position, NOT_FINITE) for position, fine in zip(kept, sound, strict=True) if not fine]
        kept = [position for position, fine in zip(kept, sound, strict=True) if fine]
        return Encoded(kept, {name: values[sound] for name, values in columns.items()}, sorted(errors))

    def describe(self) -> dict[str, Any]:
        """What `model.json` says: every network with its checksum and preprocessing, the head's use, the widths."""
        return {
            "members": [self._body(member).describe() for member in self.members],
            "head": self.head,
            "widths": self.widths,
        }

    def _columns(self, member: Backbone | Student, x: Tensor) -> dict[str, Tensor]:
        if isinstance(member, Backbone):
            return {"embedding": member(x)}
        embedding, logits = member(x)
        if self.head == "instead":
            return {"embedding": logits / member.tau**0.5}
        return {"embedding": embedding} | ({} if logits is None else {"triplet_logits": logits})

    @staticmethod
    def _body(member: Backbone | Student) -> Backbone:
        return member.backbone if isinstance(member, Student) else member


def open_image(image: Callable[[], Picture], look: Callable[[Picture], Look]) -> Look | str:
    """What `look` makes of the picture that `image` opens, or the reason why there is none."""
    try:
        return look(image())
    except (ValueError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return text.split("\n")[0][:200]


def ahead(jobs: Sequence[Callable[[], Opened]], count: int, threads: int) -> Iterator[Opened]:
    """Results in order, with at most `count` of them computed before they are asked for: memory stays flat."""
    waiting: deque[Future[Opened]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
