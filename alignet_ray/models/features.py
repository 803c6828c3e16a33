"""Frozen feature extraction: one or several networks behind one call, from files to columns of numbers."""

import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from alignet_ray.errors import UserError
from alignet_ray.models.backbone import Backbone, load_backbone
from alignet_ray.models.student import Student, load_student

Head = Literal["none", "beside", "instead"]
"""What becomes of a student's head: left out; a column `triplet_logits` beside the embedding; or the embedding itself,
divided by sqrt(tau), so that plain dot products are choice logits."""

Opened = list[Tensor] | str
"""An image ready for every member, or the reason why it is not."""

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
        head: see `Head`; students only.
        device: where they lie.
        bfloat16: compute matrix products and convolutions in bfloat16.
        most: images that one pass takes; halved whenever the GPU's memory is too small for that many.
    """

    members: tuple[Backbone | Student, ...]
    head: Head = "none"
    device: str = "cpu"
    bfloat16: bool = False
    most: int = sys.maxsize

    @classmethod
    def load(
        cls,
        specs: Sequence[str],
        size: int | None = None,
        head: Head = "none",
        layer: str = "pre_logits",
        bfloat16: bool = False,
    ) -> "Encoder":
        """Load networks onto the GPU if there is one; `size` and `layer` are for backbones, a student has its own.

        Raises:
            UserError: as `load_backbone` and `load_student`.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        members = [load_backbone(s, size, layer=layer) if head == "none" else load_student(s) for s in specs]
        return cls(tuple(member.to(device) for member in members), head, device, bfloat16)

    @property
    def widths(self) -> dict[str, int]:
        """Width of every column."""
        bodies = sum(self._body(member).width for member in self.members)
        heads = sum(m.head.out_features for m in self.members if isinstance(m, Student) and m.head is not None)
        if self.head == "instead":
            return {"embedding": heads}
        return {"embedding": bodies} | ({"triplet_logits": heads} if self.head == "beside" and heads else {})

    @property
    def least(self) -> int:
        """The shortest side, in pixels, that no member has to enlarge an image to reach."""
        bodies = [self._body(member) for member in self.members]
        return max(math.floor(body.size / float(body.data.get("crop_pct") or 1)) for body in bodies)

    def preprocess(self, image: Image) -> list[Tensor]:
        """Every member's input for an image: (3, s, s) each."""
        return [member.preprocess(image) for member in self.members]

    def forward(self, pictures: list[list[Tensor]]) -> dict[str, Float[np.ndarray, "b d"]]:
        """Columns of a batch of preprocessed images, in as many passes as the GPU's memory makes necessary.

        Raises:
            UserError: not even one image fits.
        """
        passes, start = [], 0
        while start < len(pictures):
            some = pictures[start : start + self.most]
            try:
                passes.append(self._pass(some))
                start += len(some)
            except torch.OutOfMemoryError as error:
                if len(some) == 1:
                    raise UserError(
                        "one image does not fit into the GPU's memory: use a smaller --embed.size"
                    ) from error
                self.most = len(some) // 2
            if start < len(pictures) and self.device == "cuda":
                torch.cuda.empty_cache()  # what the failed pass held in pieces
        return {name: np.concatenate([columns[name] for columns in passes]) for name in passes[0]}

    @torch.inference_mode()
    def _pass(self, pictures: list[list[Tensor]]) -> dict[str, Float[np.ndarray, "b d"]]:
        batches = [torch.stack(x).to(self.device) for x in zip(*pictures, strict=True)]
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            outputs = [self._columns(member, x) for member, x in zip(self.members, batches, strict=True)]
        return {
            name: torch.cat([o[name].float() for o in outputs if name in o], 1).cpu().numpy() for name in self.widths
        }

    def encode(self, images: Sequence[Callable[[], Image]], batch: int, readers: int = 1) -> Encoded:
        """Features of images; what cannot be opened, or gives no finite number, is an error.

        Args:
            images: functions that open an image as RGB, or raise ValueError or OSError with the reason why not.
            batch: images a forward pass.
            readers: threads that open and preprocess images while the network is busy.
        """
        kept: list[int] = []
        errors: list[tuple[int, str]] = []
        outputs: list[dict[str, np.ndarray]] = []
        pictures: list[list[Tensor]] = []
        for position, opened in enumerate(_ahead([partial(self._open, image) for image in images], 2 * batch, readers)):
            if isinstance(opened, str):
                errors.append((position, opened))
                continue
            pictures.append(opened)
            kept.append(position)
            if len(pictures) == batch:
                outputs.append(self.forward(pictures))
                pictures = []
        if pictures:
            outputs.append(self.forward(pictures))
        return self._sound(kept, outputs, errors)

    def _open(self, image: Callable[[], Image]) -> Opened:
        try:
            return self.preprocess(image())
        except (ValueError, OSError) as error:
            return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).split("\n")[0][
                :200
            ]

    def _sound(self, kept: list[int], outputs: list[dict[str, np.ndarray]], errors: list[tuple[int, str]]) -> Encoded:
        columns = {
            name: np.concatenate([o[name] for o in outputs]) if outputs else np.zeros((0, width), np.float32)
            for name, width in self.widths.items()
        }
        sound = np.all([np.isfinite(values).all(1) for values in columns.values()], axis=0)
        errors += [(position, NOT_FINITE) for position, fine in zip(kept, sound, strict=True) if not fine]
        kept = [position for position, fine in zip(kept, sound, strict=True) if fine]
        return Encoded(kept, {name: values[sound] for name, values in columns.items()}, sorted(errors))

    def describe(self) -> dict[str, Any]:
        """What `model.json` says: every network with its checksum and preprocessing, the head's use, the widths."""
        return {
            "members": [self._body(member).describe() for member in self.members],
            "head": self.head,
            "widths": self.widths,
            "compute": "bfloat16" if self.bfloat16 else "float32",
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


def _ahead(jobs: Sequence[Callable[[], Opened]], ahead: int, threads: int) -> Iterator[Opened]:
    """Results in order, with at most `ahead` of them computed before they are asked for: memory stays flat."""
    waiting: deque[Future[Opened]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
