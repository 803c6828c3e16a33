"""One process of a network teacher's training: the network is fine-tuned on human choice probabilities (no Ray).

The teacher predicts an image's human dimensions by kernel regression over the nearest annotated images
(models/kernel_head.py). An update takes some training objects, one image of each. Every image's dimensions are
predicted from the *other* images of the batch, as those of a new object will be. The loss compares the choices that
follow from these predictions with those of the human model, for all triplets of the batch.

The loop is `training/loop.py`. It adds the same loss on the embeddings themselves, so that the features learn as well
as the predictions made from them, and decay towards the pretrained weights. The update that is best on validation
objects is kept.

The head has no weights. A linear head would start at random, and its first gradients would distort the features (Kumar
et al., "Fine-tuning can distort pretrained features", ICLR 2022).
"""

import copy
import os

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from alignet_ray.artifacts.align import AlignArtifact
from alignet_ray.core import triplet_set
from alignet_ray.errors import UserError
from alignet_ray.human.dataset import SCORED_TRIPLETS
from alignet_ray.models.backbone import classifier, load_backbone
from alignet_ray.models.embedding_network import EmbeddingNetwork, Output
from alignet_ray.models.kernel_head import KernelHead, class_metric, group_positions
from alignet_ray.training.batches import Batch
from alignet_ray.training.circumstances import ORDINARY, Circumstances, take_notices
from alignet_ray.training.distributed import is_main_process, world_size
from alignet_ray.training.loop import Report, Training
from alignet_ray.training.recipe import teacher_recipe
from alignet_ray.training.teacher_job import AnnotatedBatch, TeacherJob
from alignet_ray.training.teacher_result import TeacherResult
from alignet_ray.training.teacher_validation import TeacherValidator, extract_features


class TeacherTraining(Training):
    """The loop, with every image's human dimensions predicted from the other images of its batch.

    Attributes:
        kernel_head: its metric, centre and temperature are used; the images that it holds are those of inference, and
            are not. Set before training.
    """

    kernel_head: KernelHead

    def representations(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predicted human dimensions of the images, and their unit-length embeddings."""
        assert isinstance(batch, AnnotatedBatch)
        dimensions = batch.dimensions.to(self.device)
        predicted = self.kernel_head.leave_one_out(output.embedding, dimensions)
        return predicted, nn.functional.normalize(output.embedding, dim=-1)


class TeacherWorker:
    """One training process. All processes compute the same validation figures, so they agree on the best update.

    Attributes:
        send_report: hands a dictionary to whoever watches the training, equally often in all processes: the metrics of
            each validation (an empty one except in the main process), and at the end the number of updates.
        pretrained_features: of all annotated objects' images, by the network before training.
    """

    def __init__(self, job: TeacherJob, device: str, report: Report, circumstances: Circumstances = ORDINARY) -> None:
        torch.set_num_threads(min(job.threads, os.cpu_count() or 1))
        self.job = job
        self.send_report = report
        backbone = load_backbone(job.model, job.size, job.seed).requires_grad_(True)
        recipe = teacher_recipe(job.settings, job.seed)
        self.training = TeacherTraining(EmbeddingNetwork(backbone, None), recipe, device)
        self.training.change(circumstances.micro_batch, circumstances.compile)

        # Features before training fix the head's centre and temperature, and are what the report compares with.
        # (Validation and report fill the head with features of the weights that they look at.)
        all_rows = np.arange(len(job.images.ids))
        self.pretrained_features = extract_features(self.training, job.images, all_rows)
        self.head = make_head(job, self.pretrained_features)
        # The loop's copy lies on the device; that of validation and report stays on the CPU.
        self.training.kernel_head = copy.deepcopy(self.head).to(device)
        self.validator = TeacherValidator(job, self.training, self.head)

    def train(self) -> None:
        """Train to the end; then the main process writes the best teacher and its report."""
        batches = self.job.batches(self._batch_size())
        self.training.calibrate(batches, self.job.images)

        # The pretrained network is a candidate, too: fine-tuning must be better than none.
        self.validate({})
        self.training.run(batches, self.job.images, self.on_update)

        # All updates were made; the one that was best on validation objects is the teacher.
        self.training.model.load_state_dict(self.validator.best.weights)
        if is_main_process():
            result = TeacherResult(self.job, self.training, self.head, self.pretrained_features, self.validator)
            result.write()
        self.send_report({"step": self.training.recipe.steps})

    def on_update(self, training: Training, figures: dict[str, float]) -> None:
        """Validate every few updates, and after the last one."""
        if training.step % self.job.settings.every == 0 or training.step == training.recipe.steps:
            self.validate({name: figures[name] for name in ("loss", "agreement", "lr")})

    def validate(self, figures: dict[str, float]) -> None:
        """Validate the teacher, and report a row of metrics: these figures and those of validation."""
        row = self.validator.validate(figures)
        # Ray Train waits until all processes have reported, so the others report as well.
        if is_main_process():
            AlignArtifact(self.job.out).write_metrics(self.validator.history)
            self.send_report(row | take_notices(self.training))
        else:
            self.send_report({})

    def _batch_size(self) -> int:
        """Objects of an update, over all processes: as many as the settings say and the training objects allow."""
        available = len(self.job.split["train"])
        batch_size = min(self.job.settings.batch_size, available)
        # A loss over triplets needs three objects, and every process one.
        if batch_size < max(3, world_size()):
            raise UserError(
                f"--align.network.batch-size {self.job.settings.batch_size} and {available} training objects leave "
                f"{batch_size} objects an update for {world_size()} processes; at least 3 are needed, and one for each"
            )
        return batch_size


def make_head(job: TeacherJob, features: Float[Tensor, "n d"]) -> KernelHead:
    """The kernel head over the training objects' images, with the given temperature or the best one.

    Args:
        job: what the teacher is trained on.
        features: of all annotated objects' images, by the network before training.
    """
    # The head reads images of training objects alone: validation and test objects must be predicted from others.
    members = job.split["train"]
    objects = np.repeat(list(members), [len(rows) for rows in members.values()])
    dimensions = torch.from_numpy(job.human.dimensions()[objects])

    metric = None
    if job.settings.metric == "classes":
        metric = _metric_of_classifier(job.model, features.shape[1])
    head = KernelHead.from_images(features[job.train_rows], objects, dimensions, metric, job.settings.own_weight)

    if job.settings.temperature is not None:
        head.temperature = torch.tensor(job.settings.temperature)
        return head

    # Choose the temperature at which training objects predict each other best. The head holds their images alone, so
    # the triplets' rows are counted among these, and not among all images.
    rows = dict(zip(members, group_positions(list(members.values())), strict=True))
    triplets = triplet_set.soft_targets(list(rows), rows, job.human, SCORED_TRIPLETS)

    def cross_entropy(predicted: Float[Tensor, "n k"]) -> float:
        return triplet_set.score(predicted, triplets, draws=2).cross_entropy

    head.choose_temperature(objects, cross_entropy)
    return head


def _metric_of_classifier(model: str, width: int) -> Float[Tensor, "d r"] | None:
    """How the network's own classifier weighs features; None where the network came without a classifier."""
    layer = classifier(model, width)
    if layer is None:
        return None
    return class_metric(layer.weight)
