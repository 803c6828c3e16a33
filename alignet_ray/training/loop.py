"""The training loop in plain PyTorch, for one process or several, without Ray. Start reading at `Training.run`.

Several processes split the images of a batch, gather their outputs and compute the loss over the whole batch. Loss,
gradient and schedule are then the same for any number of processes, and all of them see a non-finite loss at once.
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.optim.optimizer import StateDict

from alignet_ray.core import losses
from alignet_ray.core.gpu import set_tf32
from alignet_ray.core.optim import decay_to_init, l2_to_init, update_ema, warmup_cosine
from alignet_ray.core.triplets import choice_agreement
from alignet_ray.errors import UserError, in_one_line
from alignet_ray.images.transform import channel_statistics, standardize
from alignet_ray.models.backbone import Classifier
from alignet_ray.models.embedding_network import EmbeddingNetwork, Output
from alignet_ray.training.augment import apply_crops, draw_crops
from alignet_ray.training.batches import Batch, Batches
from alignet_ray.training.distributed import gather_rows, local_slice, world_size
from alignet_ray.training.objective import divergence, effective_rank, mean_of_hardest, spread, triplet_similarities
from alignet_ray.training.param_groups import choose_trainable, layer_groups
from alignet_ray.training.prefetch import ImageReader, prefetch
from alignet_ray.training.recipe import Recipe

ForwardPass = Callable[[Tensor], Output]
"""The network, perhaps compiled, and wrapped where several processes train it."""

OnUpdate = Callable[["Training", dict[str, float]], None]
"""Called after each update with its figures, to log or to save."""

Report = Callable[[dict[str, float | str]], None]
"""Takes a training process's row of metrics, perhaps with a text for a person: logs it, or hands it on."""

CALIBRATION_BATCHES = 4
"""Batches that the temperatures are calibrated on."""

LOCALITY_TAU = 0.1
"""Temperature of the local term's neighbour distributions (cosines)."""


class NonFiniteLoss(UserError):
    """The loss became infinite or not a number; the weights are those before the step."""


class BeginAgain(UserError):
    """A process cannot go on as it is, and not in another way by itself, as others wait for its outputs.

    Attributes:
        micro_batch: images in one pass with which all of them may begin again; None: that is not what is wrong.
        compile: whether they may compile the network.
    """

    def __init__(self, text: str, micro_batch: int | None = None, compile: bool = True) -> None:
        super().__init__(text)
        self.micro_batch = micro_batch
        self.compile = compile


class TrainingState(TypedDict):
    """What a training needs to go on from a step: tensors and numbers, readable without unpickling.

    Attributes:
        model: the network's weights and buffers.
        optimizer: Adam's moments.
        ema: moving average of the weights; empty without one.
        step: updates done.
        tau: temperature of the head.
        embedding_tau: temperature of the embeddings' cosines.
    """

    model: dict[str, Tensor]
    optimizer: StateDict
    ema: list[Tensor]
    step: int
    tau: float
    embedding_tau: float


class Training:
    """A network in training, a student or a teacher: what a checkpoint holds, and the loop.

    Attributes:
        model: the network and its head; its `tau` is set by `calibrate`.
        parameters: those of its weights that train.
        initial: their values before training.
        ema: exponential moving average of the weights; empty without one.
        embedding_tau: divides the cosines of the embeddings; set by `calibrate`.
        step: updates done.
        micro_batch: images in one pass of a process; None: all at once. Begins as the recipe says, and is halved when a
            GPU's memory is too small.
        class_layer: the network's own classifier, whose probabilities are to stay as they are; None: they need not.
        notices: what a person should be told of, until somebody takes it.
    """

    def __init__(
        self,
        model: EmbeddingNetwork,
        recipe: Recipe,
        device: str = "cpu",
        compile: bool = False,
        class_layer: Classifier | None = None,
    ) -> None:
        # Convolutions in mixed precision are faster with the channels last in memory.
        model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        choose_trainable(model, recipe.trainable)
        self.model = model
        self.recipe = recipe
        self.device = device
        self.compile = compile
        self.step = 0
        self.micro_batch = recipe.micro_batch
        self.notices: list[str] = []
        self.parallel: nn.parallel.DistributedDataParallel | None = None
        set_tf32(recipe.compute == "tf32")
        self.embedding_tau = 1.0

        # Initial weights of a resumed run are those before step 0, so a checkpoint need not hold them.
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.initial = [parameter.detach().clone() for parameter in self.parameters]
        self.ema: list[Tensor] = []
        if recipe.ema_decay:
            self.ema = [parameter.detach().clone() for parameter in self.parameters]
        self.reference_backbone = None
        self.class_layer = None
        if class_layer is not None:
            self.class_layer = Classifier(class_layer.weight.to(device), class_layer.bias.to(device))
        if recipe.locality or self.class_layer:
            self.reference_backbone = copy.deepcopy(model.backbone).requires_grad_(False).eval()

        # The decay to the initial weights is the loop's own (`optimizer_step`), so plain Adam is enough.
        self.groups = layer_groups(model, self.parameters, recipe.layer_decay)
        groups = []
        for group in self.groups:
            members = [self.parameters[i] for i in group.members]
            groups.append({"params": members})
        self.optimizer = torch.optim.Adam(groups, lr=recipe.lr, fused=True)

        self.mean, self.std = channel_statistics(model.backbone.data_config, device)

    # --- The loop ---

    def run(self, batches: Batches, images: ImageReader, on_update: OnUpdate) -> None:
        """Train from `step` to the end. A new training is calibrated first (`calibrate`).

        Raises:
            NonFiniteLoss: before the optimizer's step, in all processes alike.
            UserError: the GPU's memory is too small for a whole batch.
        """
        # The wrapped network shares the model's weights, so the model is up to date at every step.
        self.network = self.parallel_network()
        loaded = prefetch(batches, images, self.step, self.recipe.steps, pin=self.device != "cpu")
        with closing(loaded) as loaded_batches:
            for batch, pixels, waited in loaded_batches:
                figures = self._update(pixels, batch)
                figures["stall"] = waited
                on_update(self, figures)

    def _update(self, pixels: UInt8[Tensor, "b 3 s s"], batch: Batch) -> dict[str, float]:
        """One update of the weights; returns its figures."""
        self.set_train_mode()
        figures = None
        while figures is None:
            self.optimizer.zero_grad(set_to_none=True)
            figures = self._try_backward(pixels, batch)

        # L2-SP is a part of the loss, so clipping sees its gradient, too; without a limit it is measured only.
        l2_to_init(self.parameters, self.initial, self.recipe.l2_to_init)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.grad_clip or math.inf)
        lr = warmup_cosine(self.step, self.recipe.steps, self.recipe.warmup_steps, self.recipe.lr)
        self.optimizer_step(lr)
        if self.ema:
            update_ema(self.ema, self.parameters, self.recipe.ema_decay)
        self.step += 1

        figures["lr"] = lr
        figures["gradient"] = float(norm)
        figures["images"] = float(len(batch.image_ids))
        return figures

    def _try_backward(self, pixels: UInt8[Tensor, "b 3 s s"], batch: Batch) -> dict[str, float] | None:
        """`backward`, or None where it is to be tried again in another way, which is then set.

        Raises:
            UserError: memory is too small for anything that would change nothing.
            BeginAgain: another way is left, but other processes wait.
        """
        try:
            return self.backward(self.network, self.preprocess(pixels, len(batch.image_ids)), batch)
        except torch.OutOfMemoryError as error:
            change: UserError = self._too_many_images(len(pixels))
            if not isinstance(change, BeginAgain) or world_size() > 1:
                raise change from error
        except UserError:
            raise
        except Exception as error:  # compilers raise errors of many kinds, and none of them is worth a training
            if not self.compile:
                raise
            reason = in_one_line(error)
            change = BeginAgain(f"the network cannot be compiled, so training takes longer ({reason})", compile=False)
            if world_size() > 1:
                raise change from error

        # Outside of the handlers, which would hold on to the memory of the failed pass.
        self.notices.append(str(change))
        self.change(change.micro_batch, change.compile)
        self.network = self.parallel_network()
        if self.device != "cpu":
            torch.cuda.empty_cache()
        return None

    def change(self, micro_batch: int | None, compile: bool) -> None:
        """Go on in a way that takes longer and gives the same result: in smaller passes, or without compiling."""
        self.micro_batch = micro_batch or self.micro_batch
        self.compile = self.compile and compile

    def optimizer_step(self, lr: float) -> None:
        """Adam's step with the decoupled decay to the initial weights, at each layer group's learning rate."""
        # The decay comes first: it uses the weights from before Adam's step (core/optim.py).
        for group, adam_group in zip(self.groups, self.optimizer.param_groups, strict=True):
            adam_group["lr"] = lr * group.scale
            initial = [self.initial[i] for i in group.members]
            decay_to_init(adam_group["params"], initial, adam_group["lr"] * self.recipe.decay_to_init)
        self.optimizer.step()

    def preprocess(self, pixels: UInt8[Tensor, "b 3 s s"], count: int) -> Float[Tensor, "b 3 s s"]:
        """Pixels as the network takes them: on the device, randomly cropped if the recipe says so, normalised.

        Args:
            pixels: this process's share of the batch.
            count: images of the whole batch.
        """
        images = pixels.to(self.device, non_blocking=True).float().div_(255)
        if self.recipe.crop < 1:
            # Drawn for all processes alike, so that an image's crop does not depend on their number.
            crops = draw_crops([self.recipe.seed, self.step], count, self.recipe.crop)
            images = apply_crops(images, crops[local_slice(count)].to(self.device))
        return standardize(images, self.mean, self.std).contiguous(memory_format=torch.channels_last)

    # --- Loss and gradients ---

    def backward(self, network: ForwardPass, images: Float[Tensor, "b 3 s s"], batch: Batch) -> dict[str, float]:
        """Add the gradients of the loss over the whole batch to `.grad`; returns the figures of the step.

        Args:
            network: the model, compiled or wrapped for several processes.
            images: this process's share of the batch.
            batch: of all processes.
        """
        # As many passes in every process, but for one that would be empty: only the last one synchronises.
        share = math.ceil(len(batch.image_ids) / world_size())
        passes = math.ceil(share / (self.micro_batch or share))
        chunks = [chunk for chunk in torch.tensor_split(images, passes) if len(chunk)]
        reference = self.reference_embeddings(chunks, len(batch.image_ids))
        if passes == 1:
            return self._single_pass(network, images, batch, reference)
        # Triplets join images of different chunks: plain accumulation, a loss for each chunk, would lose them.
        return self._cached_pass(network, chunks, batch, reference)

    def _single_pass(
        self, network: ForwardPass, images: Tensor, batch: Batch, reference: Tensor | None
    ) -> dict[str, float]:
        """All images of this process in one forward and one backward pass."""
        loss, figures = self.loss(self.forward(network, images), batch, reference)

        # The gradient is the sum of what the processes find for their own images. DDP takes the mean instead, so the
        # loss is multiplied by their number.
        torch.autograd.backward(loss * world_size())
        return figures

    def _cached_pass(
        self, network: ForwardPass, chunks: Sequence[Tensor], batch: Batch, reference: Tensor | None
    ) -> dict[str, float]:
        """GradCache: the gradient of a loss over the whole batch, with the activations of one chunk in memory.

        Both forward passes of a chunk must give the same outputs, and do: timm's networks have no dropout unless it is
        asked for, and `_statistics_kept` keeps the first pass out of BatchNorm's running statistics. The result is that
        of a single pass, except with `batch_norm: train`, where BatchNorm sees a chunk instead of the whole share. Gao
        et al., "Scaling deep contrastive learning batch size under memory limited setup", RepL4NLP 2021.
        """
        # First pass, without activations: the outputs of all chunks. The loss on them gives its gradient with respect
        # to each output, which stays in their `.grad`.
        with torch.no_grad(), _statistics_kept(self.model):
            outputs = concatenate([self.forward(network, chunk) for chunk in chunks])
        cached = map_output(lambda rows: rows.requires_grad_(), outputs)
        loss, figures = self.loss(cached, batch, reference)
        torch.autograd.backward(loss * world_size())

        # Second pass, with activations: every chunk carries its part of that gradient into the weights (chain rule).
        start = 0
        for number, chunk in enumerate(chunks, start=1):
            stop = start + len(chunk)
            with self._gradient_sync(is_last=number == len(chunks)):
                recomputed = self.forward(network, chunk)

                # Embedding and triplet logits; what the loss does not use of them has no gradient.
                tensors, gradients = [], []
                for tensor, cache in zip(recomputed, cached, strict=True):
                    if tensor is not None and cache is not None and cache.grad is not None:
                        tensors.append(tensor)
                        gradients.append(cache.grad[start:stop])
                torch.autograd.backward(tensors, gradients)
            start = stop
        return figures

    @torch.no_grad()
    def reference_embeddings(self, chunks: Sequence[Tensor], count: int) -> Tensor | None:
        """Embeddings of the whole batch by the backbone before training; None unless a term compares with them."""
        if self.reference_backbone is None:
            return None
        embeddings = [self.reference_backbone(chunk).float() for chunk in chunks]
        return gather_rows(torch.cat(embeddings), count)

    def forward(self, network: ForwardPass, images: Tensor) -> Output:
        """Outputs in float32, whatever the precision of the pass."""
        device_type = torch.device(self.device).type
        with torch.autocast(device_type, torch.bfloat16, enabled=self.recipe.compute == "bfloat16"):
            output = Output(*network(images))
        return map_output(lambda rows: rows.float(), output)

    def loss(self, local: Output, batch: Batch, reference: Tensor | None = None) -> tuple[Tensor, dict[str, float]]:
        """Loss over the whole batch, and figures about it.

        Args:
            local: outputs for this process's images.
            batch: of all processes.
            reference: what `reference_embeddings` gives.

        Raises:
            NonFiniteLoss: naming the step and the first images.
        """
        recipe = self.recipe
        targets = batch.targets(self.device)
        triplets = batch.triplets.to(self.device)
        whole = map_output(lambda rows: gather_rows(rows, len(batch.image_ids)), local)
        outputs, embeddings = self.representations(whole, batch)

        # The outputs learn the choices, the embedding by the second term. The figure `loss` is the first term alone.
        similarities = triplet_similarities(outputs, triplets)
        loss = self.mean_divergence(similarities, targets, self.model.tau)
        figures = {"loss": loss.detach()}
        if recipe.embedding_loss_weight:
            cosines = triplet_similarities(embeddings, triplets)
            embedding_loss = self.mean_divergence(cosines, targets, self.embedding_tau)
            loss = loss + recipe.embedding_loss_weight * embedding_loss
            figures["loss_embedding"] = embedding_loss.detach()
        if recipe.locality and reference is not None:
            local_term = losses.locality(reference, embeddings, LOCALITY_TAU)
            loss = loss + recipe.locality * local_term
            figures["loss_locality"] = local_term.detach()
        if self.class_layer is not None and reference is not None:
            before = linear(reference, *self.class_layer)
            class_term = losses.class_retention(before, linear(whole.embedding, *self.class_layer))
            loss = loss + recipe.class_retention * class_term
            figures["loss_classes"] = class_term.detach()

        figures["agreement"] = choice_agreement(similarities.detach(), targets).float().mean()
        figures["all_equal"] = (similarities.amax(-1) == similarities.amin(-1)).float().mean()

        # One transfer for all of them: a GPU has to finish its work for each. Checked before the optimizer's step, so
        # that the weights stay usable.
        total, *values = torch.stack([loss.detach(), *figures.values()]).cpu().tolist()
        if not math.isfinite(total):
            raise self._non_finite_loss(batch)
        return loss, dict(zip(figures, values, strict=True))

    def mean_divergence(
        self, similarities: Float[Tensor, "t 3"], targets: Float[Tensor, "t 3"], tau: float
    ) -> Float[Tensor, ""]:
        """Mean divergence over a batch's triplets, or over the hardest share of them."""
        values = divergence(self.recipe.objective, similarities, targets, tau)
        return mean_of_hardest(values, self.recipe.hard_fraction)

    def representations(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the loss compares: the head's outputs (without a head the embeddings), and unit-length embeddings."""
        head_outputs = output.triplet_logits
        if head_outputs is None:
            head_outputs = output.embedding
        if self.recipe.normalize:
            head_outputs = nn.functional.normalize(head_outputs, dim=-1)
        return head_outputs, nn.functional.normalize(output.embedding, dim=-1)

    def _non_finite_loss(self, batch: Batch) -> NonFiniteLoss:
        first_ids = ", ".join(map(str, batch.image_ids[:8]))
        fix = f"set a lower --{self.recipe.section}.lr"
        if self.recipe.grad_clip is None:
            fix += f" or --{self.recipe.section}.grad-clip 1"
        return NonFiniteLoss(
            f"the loss of update {self.step} is not finite: {fix} (image ids of its batch: {first_ids} ...)"
        )

    def _too_many_images(self, count: int) -> UserError:
        """What to do about a GPU whose memory is too small: half as many images at once, where that changes nothing."""
        at_once = min(count, self.micro_batch or count)
        if at_once == 1:
            size = {"distill": "--distill.size", "align.network": "--embed.size"}[self.recipe.section]
            return UserError(f"one image does not fit into the GPU's memory: set a smaller {size}")
        half = at_once // 2
        if self.recipe.batch_norm == "train":
            return UserError(
                f"{at_once} images at once are too many for this GPU: set --distill.micro-batch {half} or less "
                "(BatchNorm then sees fewer images)"
            )
        return BeginAgain(
            f"{at_once} images at once are too many for this GPU: going on with {half}, the result stays the same", half
        )

    # --- Calibration and validation ---

    @torch.no_grad()
    def calibrate(self, batches: Batches, images: ImageReader) -> None:
        """Set both temperatures so that similarities spread within triplets as the teacher's do before training.

        Cosines cannot grow with the scale of a head, so theirs is `similarity_spread` times larger. Every process does
        all of it, so that the result does not depend on their number.
        """
        head_spreads = []
        cosine_spreads = []
        teacher_spreads = []
        for step in range(CALIBRATION_BATCHES):
            batch = batches(step)
            outputs, embeddings = self.representations(self.predict(batch.image_ids, images), batch)
            triplets = batch.triplets.to(self.device)
            head_spreads.append(spread(triplet_similarities(outputs, triplets)))
            cosine_spreads.append(spread(triplet_similarities(embeddings, triplets)))
            teacher_spreads.append(spread(batch.targets(self.device)))

        # A temperature divides similarities, so the ratio of the spreads makes both equally wide.
        teacher = max(_mean(teacher_spreads), 1e-12)
        self.embedding_tau = self.recipe.similarity_spread * _mean(cosine_spreads) / teacher
        if self.recipe.tau == "auto":
            self.model.tau = _mean(head_spreads) / teacher
        else:
            self.model.tau = self.recipe.tau

    def predict(self, image_ids: Int64[np.ndarray, " n"], images: ImageReader, chunk_size: int = 64) -> Output:
        """Outputs for images, `chunk_size` at a time, in evaluation mode and without augmentation."""
        self.model.eval()
        outputs = []
        for start in range(0, len(image_ids), chunk_size):
            pixels = images(image_ids[start : start + chunk_size])
            inputs = standardize(pixels.to(self.device).float().div_(255), self.mean, self.std)
            outputs.append(self.forward(self.model, inputs))
        return concatenate(outputs)

    @torch.no_grad()
    def predict_distributed(self, image_ids: Int64[np.ndarray, " n"], images: ImageReader) -> Output:
        """As `predict`, with the images split among the processes; all of them get all outputs."""
        count = len(image_ids)
        share = image_ids[local_slice(count)]
        # Where there are fewer images than processes, some would have none: they take one, and drop its outputs.
        wanted = share
        if not len(share):
            wanted = image_ids[:1]
        local = self.predict(wanted, images)
        return map_output(lambda rows: gather_rows(rows[: len(share)], count), local)

    @torch.no_grad()
    def validate(self, batch: Batch, images: ImageReader) -> dict[str, float]:
        """Loss and agreement with the teacher on held-out triplets, and the outputs' effective rank."""
        outputs, _ = self.representations(self.predict_distributed(batch.image_ids, images), batch)
        similarities = triplet_similarities(outputs, batch.triplets.to(self.device))
        targets = batch.targets(self.device)
        values = divergence(self.recipe.objective, similarities, targets, self.model.tau)
        return {
            "valid_loss": float(values.mean()),
            "valid_agreement": float(choice_agreement(similarities, targets).float().mean()),
            "valid_rank": effective_rank(outputs),
        }

    # --- State ---

    def parallel_network(self) -> ForwardPass:
        """The model, wrapped so that gradients are averaged over the processes if there are several."""
        network: nn.Module = self.model
        self.parallel = None
        if world_size() > 1:
            # Only BatchNorm layers that learn their statistics have buffers that change.
            self.parallel = _distributed(network, sync_buffers=self.recipe.batch_norm == "train")
            network = self.parallel
        # Compiled around the wrapper, so that gradients travel while others are still computed.
        if self.compile:
            return torch.compile(network)
        return network

    def _gradient_sync(self, is_last: bool) -> AbstractContextManager[None]:
        """Lets DDP average the gradients over the processes once, with the last chunk."""
        if is_last or self.parallel is None:
            return nullcontext()
        return self.parallel.no_sync()

    def set_train_mode(self) -> None:
        """Training mode, except for BatchNorm layers that keep their statistics."""
        self.model.train()
        if self.recipe.batch_norm == "train":
            return
        # `train()` reaches every module, so these are put back after each call.
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def state(self) -> TrainingState:
        """All that a checkpoint needs to hold of the training."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "step": self.step,
            "tau": self.model.tau,
            "embedding_tau": self.embedding_tau,
        }

    def resume(self, state: TrainingState) -> None:
        """Go on from a checkpoint of the same recipe. The decay still aims at the weights before step 0."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for average, stored in zip(self.ema, state["ema"], strict=True):
            average.copy_(stored)
        self.step = state["step"]
        self.model.tau = state["tau"]
        self.embedding_tau = state["embedding_tau"]

    @contextmanager
    def use_ema(self) -> Iterator[None]:
        """Inside, the model has the moving average of its weights (its weights themselves where there is none)."""
        self.swap_ema()
        try:
            yield
        finally:
            self.swap_ema()

    @torch.no_grad()
    def swap_ema(self) -> None:
        """Exchange the weights and their moving average, if there is one."""
        if not self.ema:
            return
        # Storage is exchanged, not copied: it takes no memory, and the optimizer keeps its parameters.
        for parameter, average in zip(self.parameters, self.ema, strict=True):
            current = parameter.data
            parameter.data = average.data
            average.data = current


def map_output(function: Callable[[Tensor], Tensor], output: Output) -> Output:
    """Apply a function to both members of an output."""
    embedding = function(output.embedding)
    if output.triplet_logits is None:
        return Output(embedding, None)
    return Output(embedding, function(output.triplet_logits))


def concatenate(outputs: Sequence[Output]) -> Output:
    """Join the rows of outputs."""
    embedding = torch.cat([output.embedding for output in outputs])
    logits = [output.triplet_logits for output in outputs if output.triplet_logits is not None]
    if not logits:
        return Output(embedding, None)
    return Output(embedding, torch.cat(logits))


def _mean(values: Sequence[Tensor]) -> float:
    return float(torch.stack(list(values)).mean())


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Within it BatchNorm layers normalise as they do, but learn nothing: the same images come a second time."""
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _distributed(network: nn.Module, sync_buffers: bool) -> nn.parallel.DistributedDataParallel:
    """A network whose gradients are averaged over the processes.

    Args:
        network: the same in all of them.
        sync_buffers: whether the main process sends its buffers to all others in every pass.
    """
    # Newer versions of torch warn of the old name, older ones do not know the new one.
    if "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters:
        return nn.parallel.DistributedDataParallel(network, forward_sync_buffers=sync_buffers)
    return nn.parallel.DistributedDataParallel(network, broadcast_buffers=sync_buffers)
