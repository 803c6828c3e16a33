"""The finished network teacher's folder, and its report: human agreement, and neighbourhoods kept."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from alignet_ray.artifacts.align import (
    SPLITS,
    AlignArtifact,
    AlignReport,
    InterpolationPoint,
    SplitAgreement,
    split_agreement,
)
from alignet_ray.core import teacher_metrics, triplet_set
from alignet_ray.core.similarity import unit_rows
from alignet_ray.models.embedding_network import EmbeddingNetwork
from alignet_ray.models.kernel_head import KernelHead
from alignet_ray.training.interpolation import interpolate
from alignet_ray.training.loop import Training
from alignet_ray.training.outputs import write_network
from alignet_ray.training.teacher_job import TeacherJob
from alignet_ray.training.teacher_validation import TeacherValidator, extract_features

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Points between the pretrained weights (0) and the fine-tuned ones (1) at which the teacher is scored."""


class TeacherResult:
    """Writes the teacher; `training` holds the best update's weights by then.

    Args:
        job: what the teacher was trained on.
        training: holds the network.
        head: the kernel head over pretrained features.
        pretrained_features: of all annotated objects' images by the network before training.
        validator: its history and best update.
    """

    def __init__(
        self,
        job: TeacherJob,
        training: Training,
        head: KernelHead,
        pretrained_features: Float[Tensor, "n d"],
        validator: TeacherValidator,
    ) -> None:
        self.job = job
        self.training = training
        self.head = head
        self.pretrained_features = pretrained_features
        self.validator = validator

    def write(self) -> None:
        """Interpolate the weights as the settings say, then write the teacher's folder and its report."""
        # Where no update was better than none, both ends of the line are the pretrained weights.
        curve: list[InterpolationPoint] = []
        if self.validator.best.row["step"]:
            fine_tuned = [parameter.detach().clone() for parameter in self.training.parameters]
            curve = self.interpolation_curve(fine_tuned)
            self._interpolate(fine_tuned, self.job.settings.interpolation)

        # The head is rebuilt over features of the final weights: keys of other weights would be compared with them.
        features = self._features()
        head = self.head.with_features(features[self.job.train_rows])
        model = self.training.model
        teacher = EmbeddingNetwork(model.backbone, head, model.tau)
        write_network(self.job.out, teacher, self.job.provenance)
        AlignArtifact(self.job.out).write_report(self._report(features, head, curve))

    def interpolation_curve(self, fine_tuned: list[Tensor]) -> list[InterpolationPoint]:
        """Score the teacher at points between pretrained and fine-tuned weights, on validation objects.

        Any of them is a teacher, too: nearer to the pretrained weights it agrees less with people, and keeps more
        neighbourhoods (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
        """
        triplets = self.validator.triplets
        curve = []
        for share in SHARES:
            self._interpolate(fine_tuned, share)
            features = self._features()

            # The head compares with features of the same weights, and the features are scored by their cosines too.
            predicted = self.head.with_features(features[self.job.train_rows])(features)
            cosine_features = torch.from_numpy(unit_rows(features.numpy()))
            point = InterpolationPoint(
                interpolation=share,
                accuracy=triplet_set.score(predicted, triplets).accuracy,
                features=triplet_set.score(cosine_features, triplets).accuracy,
                kept=teacher_metrics.overlap(self.pretrained_features.numpy(), features.numpy()),
            )
            curve.append(point)
        return curve

    def _interpolate(self, fine_tuned: list[Tensor], share: float) -> None:
        interpolate(self.training.parameters, self.training.initial, fine_tuned, share)

    def _features(self) -> Float[Tensor, "n d"]:
        """Features of all annotated objects' images as the network is now."""
        images = self.job.images
        return extract_features(self.training, images, np.arange(len(images.ids)))

    def _report(self, features: Float[Tensor, "n d"], head: KernelHead, curve: list[InterpolationPoint]) -> AlignReport:
        pretrained = self.pretrained_features.numpy()
        predicted = head(features).numpy()
        spaces = {
            "base": unit_rows(pretrained),
            "features": unit_rows(features.numpy()),
            "aligned": predicted,
        }

        # Networks with a classifier compare images along the directions that it uses, see `kernel_head.class_metric`.
        metric = "plain"
        if head.metric is not None:
            metric = "classes"
        return AlignReport(
            map="network",
            step=self.validator.best.row["step"],
            history=self.validator.history,
            splits={split: self._agreement(split, spaces) for split in SPLITS},
            neighbours_kept=teacher_metrics.overlap(pretrained, features.numpy()),
            aligned_neighbours_kept=teacher_metrics.overlap(pretrained, predicted),
            curve=curve,
            temperature=float(head.temperature),
            metric=metric,
        )

    def _agreement(self, split: str, spaces: Mapping[str, np.ndarray]) -> SplitAgreement:
        """Agreement of these spaces with people on the objects of one split."""
        triplets = self.job.triplet_set(split)
        figures = {}
        for name, space in spaces.items():
            figures[name] = teacher_metrics.figures(space, triplets, self.job.seed)
        # No model can agree more often than with the likeliest choice of each triplet.
        ceiling = float(triplets.targets.max(dim=1).values.mean())
        return split_agreement(figures, ceiling)
