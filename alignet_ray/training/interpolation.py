"""Weight interpolation (WiSE-FT): chooses the finished student between its pretrained and its trained weights."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from alignet_ray.artifacts.distill import InterpolatedStudent, Interpolation
from alignet_ray.core import teacher_metrics, triplet_set
from alignet_ray.evals import retention
from alignet_ray.training.batches import Batch
from alignet_ray.training.loop import Training
from alignet_ray.training.prefetch import ImageReader
from alignet_ray.training.validation import HumanValidation

SHARES = (0.0, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0)
"""Points between the pretrained weights (0) and the trained ones (1) at which the student is scored."""


@torch.no_grad()
def interpolate(
    tensors: Sequence[Tensor], pretrained: Sequence[Tensor], trained: Sequence[Tensor], share: float
) -> None:
    """Interpolate tensors between their pretrained values (0) and the trained ones (1), in place."""
    for tensor, start, end in zip(tensors, pretrained, trained, strict=True):
        tensor.copy_(torch.lerp(start, end, share))


def backbone_tensors(backbone: nn.Module) -> list[Tensor]:
    """The weights of a backbone, and the statistics of its BatchNorm layers; the tensors themselves, no copies."""
    return [tensor for tensor in backbone.state_dict().values() if tensor.is_floating_point()]


class StudentInterpolation:
    """Scores a trained student at points towards its pretrained weights, and leaves it at one of them.

    The head stays as it was trained: before training it had random weights. Several processes share the images of each
    forward pass; all of them come to the same choice.

    Args:
        training: holds the trained student.
        pretrained: its backbone before training.
    """

    def __init__(self, training: Training, pretrained: nn.Module) -> None:
        self.training = training
        self.tensors = backbone_tensors(training.model.backbone)
        self.trained = [tensor.clone() for tensor in self.tensors]
        self.pretrained = [tensor.to(training.device) for tensor in backbone_tensors(pretrained)]

    def move_to(self, share: float) -> None:
        """Set the weights to this share of the way from the pretrained to the trained ones."""
        interpolate(self.tensors, self.pretrained, self.trained, share)

    def choose(self, validation: HumanValidation, seed: int) -> Interpolation:
        """Set the weights to the point that `retention.choose` takes: close to people, no worse at what must be kept.

        Args:
            validation: validation objects with several images each.
            seed: of few-shot tasks and intervals.
        """
        read_images = remember(validation.images)
        points: list[InterpolatedStudent] = []
        base_embeddings = None
        base_scores: retention.ObjectScores = {}
        for share in SHARES:
            self.move_to(share)
            embeddings, head_outputs = self._outputs(validation, read_images)
            found = retention.object_scores(validation.images.ids, embeddings, validation.image_ids(), seed)

            # The first share is 0: the pretrained weights, with which all others are compared.
            if base_embeddings is None:
                base_embeddings = embeddings
                base_scores = found

            head_agreement = None
            if head_outputs is not None:
                head_agreement = _agreement(head_outputs, validation)
            points.append(
                InterpolatedStudent(
                    interpolation=share,
                    agreement=_agreement(embeddings, validation),
                    head_agreement=head_agreement,
                    neighbours_kept=teacher_metrics.overlap(base_embeddings, embeddings),
                    kept=retention.changes(base_scores, found, seed),
                    mean_change=retention.mean_change(base_scores, found, seed),
                )
            )

        choice = retention.choose(points)
        self.move_to(choice.interpolation)
        return Interpolation(choice.interpolation, choice.reason, points)

    def _outputs(
        self, validation: HumanValidation, read_images: ImageReader
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n w"] | None]:
        """Unit-length embeddings of the validation images, and the head's outputs as the loss compares them."""
        ids = validation.images.ids
        output = self.training.predict_distributed(ids, read_images)
        batch = Batch(ids, validation.triplets.triplets, validation.triplets.targets)
        head_outputs, embeddings = self.training.representations(output, batch)
        if output.triplet_logits is None:
            return embeddings.cpu().numpy(), None
        return embeddings.cpu().numpy(), head_outputs.cpu().numpy()


def _agreement(features: Float[np.ndarray, "n d"], validation: HumanValidation) -> float:
    return triplet_set.score(torch.from_numpy(features), validation.triplets).accuracy


def remember(images: ImageReader) -> ImageReader:
    """A reader that keeps every image it has read, so that each is decoded once."""
    kept: dict[int, Tensor] = {}

    def read(image_ids: Int64[np.ndarray, " n"]) -> UInt8[Tensor, "n 3 s s"]:
        missing = np.array([image_id for image_id in image_ids if int(image_id) not in kept], dtype=np.int64)
        if len(missing):
            for image_id, pixels in zip(missing, images(missing), strict=True):
                kept[int(image_id)] = pixels
        return torch.stack([kept[int(image_id)] for image_id in image_ids])

    return read
