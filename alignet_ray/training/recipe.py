"""What decides the result of training besides network and batches, taken from the config sections."""

from dataclasses import dataclass
from typing import Literal

from alignet_ray.config import Compute, Distill, Network


@dataclass(frozen=True)
class Recipe:
    """Settings of the training loop. Defaults stand in the config sections alone.

    Attributes:
        steps: number of updates.
        lr: peak learning rate of Adam.
        warmup_steps: updates of linear warm-up; a cosine to 0 follows.
        objective: divergence between the teacher's and the student's choices.
        tau: divides the dot products of the head; auto: calibrated, so that their spread equals the teacher's.
        normalize: whether the head's outputs are scaled to unit length before their dot products.
        embedding_loss_weight: weight of the same loss on the cosines of the embeddings, whose own temperature is
            always calibrated.
        similarity_spread: how many times as wide as before training these cosines are to spread within triplets. At 1
            the head does most of the work; wider ones change the embedding itself, and keep less of what it was.
        locality: weight of gLocal's local term between the embeddings before training and now.
        class_retention: weight of the divergence between the class probabilities before training and now.
        hard_fraction: share of a batch's triplets that count, those with the largest loss.
        decay_to_init: strength of the decoupled decay to the initial weights, relative to the learning rate.
        l2_to_init: weight of half the squared distance to the initial weights in the loss itself (L2-SP).
        layer_decay: learning rate of every layer group relative to the next one; the head's is `lr`.
        grad_clip: largest norm of the gradient; None: no limit.
        ema_decay: decay of the exponential moving average of the weights, which is then the result; 0: the last
            weights are.
        batch_norm: BatchNorm layers keep their pretrained statistics (`frozen`), or normalise by those of the images of
            a forward pass (`train`).
        trainable: all weights, only the head's, or the head's and those of this many last layer groups.
        crop: smallest side of a random crop, as a share of the image's (half of the crops are flipped); 1: images as
            they are.
        micro_batch: images in one forward pass of a process; None: all at once. Does not change the result (to
            rounding), unless BatchNorm layers take their statistics from these images.
        compute: number format of forward and backward passes; bfloat16 where that is safe (autocast).
        seed: of augmentation.
        section: the config section that these settings come from, as messages name its options.
    """

    steps: int
    lr: float
    warmup_steps: int
    objective: Literal["jsd", "kld", "contrastive"]
    tau: float | Literal["auto"]
    normalize: bool
    embedding_loss_weight: float
    similarity_spread: float
    locality: float
    class_retention: float
    hard_fraction: float
    decay_to_init: float
    l2_to_init: float
    layer_decay: float
    grad_clip: float | None
    ema_decay: float
    batch_norm: Literal["frozen", "train"]
    trainable: Literal["all", "head"] | int
    crop: float
    micro_batch: int | None
    compute: Compute
    seed: int
    section: str


def student_recipe(section: Distill, seed: int) -> Recipe:
    """The recipe of a student."""
    warmup = section.warmup
    if warmup < 1:
        warmup = warmup * section.steps
    return section.settings(Recipe, warmup_steps=round(warmup), seed=seed, section="distill")


def teacher_recipe(section: Network, seed: int) -> Recipe:
    """The recipe of a network teacher; what its section lacks is fixed here."""
    return section.settings(
        Recipe,
        warmup_steps=round(0.1 * section.steps),
        objective="kld",
        tau=1.0,  # dot products of human dimensions are choice logits as they are
        normalize=False,
        class_retention=0.0,
        hard_fraction=1.0,
        l2_to_init=0.0,
        layer_decay=1.0,
        grad_clip=1.0,
        ema_decay=0.0,
        batch_norm="frozen",
        trainable="all",
        micro_batch=None,
        seed=seed,
        section="align.network",
    )
