"""The training loop in plain torch, for one process or several, with no Ray in it. Start reading at `Training.run`.

Several processes split the images of a batch, gather the outputs and compute the loss over the whole batch, so loss,
gradient and schedule are the same for any number of them, and all of them see a non-finite loss at once.
"""

import copy
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from alignet_ray.core import losses
from alignet_ray.core.optim import decay_to_init, l2_to_init, update_mean, warmup_cosine
from alignet_ray.core.triplets import choice_agreement, gram_similarities, pair_similarities
from alignet_ray.errors import UserError
from alignet_ray.models.student import Output, Student
from alignet_ray.training.augment import crop, draw_crops
from alignet_ray.training.batches import Batch, Batches
from alignet_ray.training.distributed import gather, rank, world
from alignet_ray.training.param_groups import choose_trainable, layer_groups

Images = Callable[[np.ndarray], Tensor]
"""Image ids -> (b, 3, s, s) uint8 pixels."""

CALIBRATION = 4
"""Batches that tau is calibrated on."""


@dataclass(frozen=True)
class Recipe:
    """What changes the result of training, but for the student and the batches.

    Attributes:
        steps, lr, warmup: number of updates, and the warm-up cosine schedule.
        objective: divergence between the teacher's and the student's choices.
        tau: divides the dot products of the head; None: calibrated, so that their spread equals the teacher's.
        normalize: whether the head's outputs are scaled to length 1 before their dot products.
        embedding_loss_weight: weight of the same loss on the cosines of the embeddings (with a tau of its own,
            always calibrated).
        similarity_spread: how many times as wide as before training these cosines are to spread within triplets. At
            1 the head
            does most of the work; wider ones make the embedding itself agree, and keep less of what it was.
        locality: weight of gLocal's local term between the embeddings before training and now.
        hard_fraction: share of a batch's triplets that count, those with the largest loss.
        decay_to_init: strength of the pull to the initial weights, relative to the learning rate.
        l2_to_init: weight of half the squared distance to the initial weights in the loss itself.
        layer_decay: learning rate of every layer group relative to the next one; the head's is 1.
        grad_clip: largest norm of the gradient; None: no limit.
        ema_decay: decay of a running mean of the weights, which is then the result; 0: the last weights are.
        frozen_norm: BatchNorm layers keep their pretrained statistics.
        trainable: all weights, only the head's, or the head's and this many of the last layer groups.
        crop: least share of an image's side that a random crop keeps (half of them are flipped, too); 1: no change.
        micro_batch: images in one forward pass of a process; None: all at once. Does not change the result (to
            rounding).
        bfloat16: forward and backward passes in bfloat16 where that is safe (autocast).
        seed: of augmentation.
    """

    steps: int
    lr: float
    warmup: int = 0
    objective: Literal["jsd", "kld", "contrastive"] = "jsd"
    tau: float | None = None
    normalize: bool = False
    embedding_loss_weight: float = 0.0
    similarity_spread: float = 1.0
    locality: float = 0.0
    hard_fraction: float = 1.0
    decay_to_init: float = 1.0
    l2_to_init: float = 0.0
    layer_decay: float = 1.0
    grad_clip: float | None = None
    ema_decay: float = 0.0
    frozen_norm: bool = True
    trainable: Literal["all", "head"] | int = "all"
    crop: float = 1.0
    micro_batch: int | None = None
    bfloat16: bool = False
    seed: int = 0


LOCALITY_TAU = 0.1
"""Temperature of the local term's neighbour distributions (cosines)."""


class NotFinite(UserError):
    """The loss became infinite or not a number; the weights are those before the step."""


class Training:
    """A student in training: what a checkpoint holds, and the loop.

    Attributes:
        student: the network (its `tau` is set by the calibration).
        feature_tau: divides the cosines of the embeddings.
        step: updates done.
    """

    def __init__(self, student: Student, recipe: Recipe, device: str = "cpu", compile: bool = False) -> None:
        self.student = student
        student.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.device, self.compile, self.step, self.feature_tau = recipe, device, compile, 0, 1.0
        choose_trainable(student, recipe.trainable)
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.initial = [p.detach().clone() for p in self.parameters]
        self.mean = [p.detach().clone() for p in self.parameters] if recipe.ema_decay else []
        self.before = copy.deepcopy(student.backbone).requires_grad_(False).eval() if recipe.locality else None
        self.groups = layer_groups(student, self.parameters, recipe.layer_decay)
        groups = [{"params": [self.parameters[i] for i in group.members]} for group in self.groups]
        self.optimizer = torch.optim.Adam(groups, lr=recipe.lr, fused=True)
        data = student.backbone.data
        self.shift = torch.tensor(data["mean"], device=device).view(3, 1, 1)
        self.scale = torch.tensor(data["std"], device=device).view(3, 1, 1)

    def run(self, batches: Batches, images: Images, after: Callable[["Training", dict[str, float]], None]) -> None:
        """Train from `step` to the end, after `calibrate`; `after` gets the figures of each update (to log or save).

        Raises:
            NotFinite: before the optimiser's step, in all processes alike.
            UserError: the GPU's memory is too small for a whole batch.
        """
        net = self.parallel()
        for batch, pixels, waited in prefetch(batches, images, self.step, self.recipe.steps):
            self.set_mode()
            self.optimizer.zero_grad(set_to_none=True)
            try:
                figures = self.backward(net, self.prepare(pixels), batch)
            except torch.OutOfMemoryError as error:
                n = len(pixels)
                mend = f"set --distill.micro-batch {max(1, n // 2)} or less (the result stays the same)"
                raise UserError(f"{n} images at once are too many for this GPU: {mend}") from error
            l2_to_init(self.parameters, self.initial, self.recipe.l2_to_init)
            norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.grad_clip or math.inf)
            rate = warmup_cosine(self.step, self.recipe.steps, self.recipe.warmup, self.recipe.lr)
            self.descend(rate)
            if self.mean:
                update_mean(self.mean, self.parameters, self.recipe.ema_decay)
            self.step += 1
            facts = {"lr": rate, "gradient": float(norm), "images": float(len(batch.ids)), "stall": waited}
            after(self, {**figures, **facts})

    def descend(self, rate: float) -> None:
        """The optimiser's step, every layer group at its share of the learning rate, and the decoupled pull."""
        for group, own in zip(self.groups, self.optimizer.param_groups, strict=True):
            own["lr"] = rate * group.scale
            initial = [self.initial[i] for i in group.members]
            decay_to_init(own["params"], initial, own["lr"] * self.recipe.decay_to_init)
        self.optimizer.step()

    def prepare(self, pixels: Tensor) -> Tensor:
        """Pixels as the network wants them: on the device, cropped where the recipe says so, normalised."""
        x = pixels.to(self.device, non_blocking=True).float().div_(255)
        if self.recipe.crop < 1:
            place = draw_crops([self.recipe.seed, self.step], len(x) * world(), self.recipe.crop)
            x = crop(x, place[rank() * len(x) :][: len(x)].to(self.device))
        return x.sub_(self.shift).div_(self.scale).contiguous(memory_format=torch.channels_last)

    def backward(self, net: Callable[[Tensor], Output], x: Tensor, batch: Batch) -> dict[str, float]:
        """Gradients of the loss over the whole batch into `.grad`; the figures of the step.

        With `micro`, outputs are computed piece by piece without a graph, the loss gives their gradients, and a second
        forward pass carries each piece's into the weights: the loss over all pairs of the batch, whatever fits at once.
        """
        pieces = torch.split(x, self.recipe.micro_batch or len(x))
        first = self.first(pieces)
        if len(pieces) == 1:
            loss, figures = self.loss(self.forward(net, x), batch, first)
            torch.autograd.backward(loss * world())  # processes average gradients; each holds its part of their sum
            return figures
        with torch.no_grad():
            whole = join([self.forward(net, p) for p in pieces])
        leaves = each(lambda z: z.requires_grad_(), whole)
        loss, figures = self.loss(leaves, batch, first)
        torch.autograd.backward(loss * world())
        grads = [(i, z.grad) for i, z in enumerate(leaves) if z is not None and z.grad is not None]
        for at, piece in enumerate(pieces):
            start = at * len(pieces[0])
            with nullcontext() if at == len(pieces) - 1 or world() == 1 else net.no_sync():  # type: ignore[attr-defined]
                z = self.forward(net, piece)
                parts = [part for i, _ in grads if (part := z[i]) is not None]
                torch.autograd.backward(parts, [g[start : start + len(piece)] for _, g in grads])
        return figures

    @torch.no_grad()
    def first(self, pieces: Sequence[Tensor]) -> Tensor | None:
        """Embeddings of the whole batch by the backbone as it was before training, for the local term."""
        if self.before is None:
            return None
        return gather(torch.cat([self.before(piece).float() for piece in pieces]))

    def forward(self, net: Callable[[Tensor], Output], x: Tensor) -> Output:
        """Outputs in float32, whatever the precision of the pass."""
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.recipe.bfloat16):
            z, logits = net(x)
        return Output(z.float(), None if logits is None else logits.float())

    def loss(self, local: Output, batch: Batch, first: Tensor | None = None) -> tuple[Tensor, dict[str, float]]:
        """Loss over the whole batch, and figures about it.

        Raises:
            NotFinite: naming the step and the first images.
        """
        recipe = self.recipe
        teacher, triplets = batch.similarities.to(self.device), batch.triplets.to(self.device)
        head, cosine = self.judged(each(gather, local), batch)
        student = similarities(head, triplets)
        loss = self.mean_loss(student, teacher, self.student.tau)
        figures = {"loss": loss.detach()}
        if recipe.embedding_loss_weight:
            extra = self.mean_loss(similarities(cosine, triplets), teacher, self.feature_tau)
            loss, figures["loss_features"] = loss + recipe.embedding_loss_weight * extra, extra.detach()
        if first is not None:
            local_loss = losses.locality(first, cosine, LOCALITY_TAU)
            loss, figures["loss_locality"] = loss + recipe.locality * local_loss, local_loss.detach()
        right = choice_agreement(student.detach(), teacher).float().mean()
        ties = (student.amax(-1) == student.amin(-1)).float().mean()
        values = {k: float(v) for k, v in {**figures, "agreement": right, "ties": ties}.items()}
        if not math.isfinite(values["loss"]) or not bool(torch.isfinite(loss)):
            raise NotFinite(
                f"the loss of update {self.step} is not finite: set a lower --distill.lr or --distill.grad-clip 1 "
                f"(image ids of its batch: {', '.join(map(str, batch.ids[:8]))} ...)"
            )
        return loss, values

    def mean_loss(self, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
        """Mean divergence of a batch's triplets, or of the hardest share of them."""
        values = objective(self.recipe.objective, student, teacher, tau)
        if self.recipe.hard_fraction < 1:
            values = values.topk(max(1, round(self.recipe.hard_fraction * len(values))), sorted=False).values
        return values.mean()

    def judged(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the loss compares: the head's outputs (the embedding's without a head), and embeddings of length 1."""
        z = output.embedding if output.triplet_logits is None else output.triplet_logits
        cosine = nn.functional.normalize(output.embedding, dim=-1)
        return nn.functional.normalize(z, dim=-1) if self.recipe.normalize else z, cosine

    @torch.no_grad()
    def calibrate(self, batches: Batches, images: Images) -> None:
        """Set the taus, so that the student's first similarities spread within triplets as the teacher's do.

        Cosines cannot grow with the head's scale: theirs is `stretch` times larger.

        Every process does all of it, so the result does not depend on their number.
        """
        spreads: list[tuple[Tensor, ...]] = []
        for step in range(CALIBRATION):
            batch = batches(step)
            outputs = self.judged(self.outputs(batch, images), batch)
            both = [similarities(z, batch.triplets.to(self.device)) for z in outputs]
            spreads.append(tuple(spread(s) for s in (*both, batch.similarities)))
        head, cosine, teacher = (float(torch.stack(v).mean()) for v in zip(*spreads, strict=True))
        self.student.tau = self.recipe.tau or head / max(teacher, 1e-12)
        self.feature_tau = self.recipe.similarity_spread * cosine / max(teacher, 1e-12)

    def outputs(self, batch: Batch, images: Images, size: int = 64) -> Output:
        """Outputs for all images of a batch, `size` at a time, in evaluation mode and uncropped."""
        self.student.eval()
        parts = []
        for start in range(0, len(batch.ids), size):
            x = images(batch.ids[start : start + size]).to(self.device).float().div_(255)
            parts.append(self.forward(self.student, x.sub_(self.shift).div_(self.scale)))
        return join(parts)

    @torch.no_grad()
    def shared(self, batch: Batch, images: Images) -> Output:
        """`outputs`, for which processes split the images; all of them get the whole."""
        share = -(-len(batch.ids) // world())
        padded = np.pad(batch.ids, (0, share * world() - len(batch.ids)), mode="edge")
        mine = replace(batch, ids=padded[rank() * share :][:share])
        return each(lambda z: gather(z)[: len(batch.ids)], self.outputs(mine, images))

    @torch.no_grad()
    def validate(self, batch: Batch, images: Images) -> dict[str, float]:
        """Loss and agreement on held-out triplets, and the outputs' effective rank."""
        z, _ = self.judged(self.shared(batch, images), batch)
        s, t = similarities(z, batch.triplets.to(self.device)), batch.similarities.to(self.device)
        return {
            "valid_loss": float(objective(self.recipe.objective, s, t, self.student.tau).mean()),
            "valid_agreement": float(choice_agreement(s, t).float().mean()),
            "valid_rank": effective_rank(z),
        }

    def parallel(self) -> Callable[[Tensor], Output]:
        """The student, wrapped so that gradients are averaged over the processes if there are several."""
        net: nn.Module = torch.compile(self.student) if self.compile else self.student  # type: ignore[assignment]
        if world() == 1:
            return net
        return nn.parallel.DistributedDataParallel(net, broadcast_buffers=not self.recipe.frozen_norm)

    def set_mode(self) -> None:
        """Training mode, but for BatchNorm layers that keep their statistics."""
        self.student.train()
        for module in self.student.modules():
            if self.recipe.frozen_norm and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def state(self) -> dict[str, Any]:
        """All that a checkpoint holds: tensors and numbers, readable without unpickling."""
        return {
            "model": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mean": self.mean,
            "step": self.step,
            "tau": self.student.tau,
            "feature_tau": self.feature_tau,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint of the same recipe (the pull stays towards the weights before step 0)."""
        self.student.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for mean, value in zip(self.mean, state["mean"], strict=True):
            mean.copy_(value)
        self.step, self.student.tau, self.feature_tau = state["step"], state["tau"], state["feature_tau"]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their running mean, if there is one: what is judged is what `result` will give."""
        for p, mean in zip(self.parameters, self.mean, strict=bool(self.mean)):
            p.data, mean.data = mean.data, p.data

    def result(self) -> Student:
        """The trained student, with the running mean of the weights if there is one; training is over after it."""
        self.swap()
        return self.student.eval()


def each(function: Callable[[Tensor], Tensor], output: Output) -> Output:
    """A function of both members of an output."""
    logits = output.triplet_logits
    return Output(function(output.embedding), None if logits is None else function(logits))


def join(parts: list[Output]) -> Output:
    """Outputs one after the other."""
    logits = [p.triplet_logits for p in parts if p.triplet_logits is not None]
    return Output(torch.cat([p.embedding for p in parts]), torch.cat(logits) if logits else None)


def objective(name: str, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """A divergence by its name, a value a triplet."""
    return {"jsd": losses.jsd, "kld": losses.kld, "contrastive": losses.contrastive}[name](student, teacher, tau)


def similarities(z: Float[Tensor, "n d"], triplets: Tensor) -> Float[Tensor, "t 3"]:
    """Similarities of triplets of rows: one by one where they are few, from the Gram matrix where they are many."""
    return pair_similarities(z[triplets]) if 3 * len(triplets) <= len(z) else gram_similarities(z @ z.T, triplets)


def spread(s: Float[Tensor, "t 3"]) -> Tensor:
    """Root mean square deviation of similarities from their triplet's mean: the part that a softmax sees."""
    return (s - s.mean(-1, keepdim=True)).square().mean().sqrt()


def effective_rank(z: Float[Tensor, "n d"]) -> float:
    """Exponential of the entropy of the centred Gram matrix's eigenvalue shares: 1 or less is a collapse."""
    shares = torch.linalg.svdvals(z - z.mean(0)).square()
    shares = shares / shares.sum().clamp_min(1e-30)
    return float(torch.special.entr(shares).sum().exp())


def prefetch(batches: Batches, images: Images, start: int, stop: int) -> Iterator[tuple[Batch, Tensor, float]]:
    """Batches `start` to `stop`, this process's share of their pixels, and the seconds that were waited for them.

    A thread reads two steps ahead. It computes alone: a second team of OpenMP threads on the same cores would put the
    training's own to sleep between any two operations, which took a tenth of its time.
    """

    def read(step: int) -> tuple[Batch, Tensor]:
        batch = batches(step)
        share = len(batch.ids) // world()
        return batch, images(batch.ids[rank() * share :][:share])

    ahead: deque[Future[tuple[Batch, Tensor]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        threads = torch.get_num_threads()
        pool.submit(torch.set_num_threads, 1).result()
        pool.submit(torch.get_num_threads).result()  # else a thread takes the process's number at its first operation
        torch.set_num_threads(threads)  # of this thread, and of those that begin later
        for step in range(start, stop):
            while len(ahead) < min(2, stop - step):
                ahead.append(pool.submit(read, step + len(ahead)))
            begin = time.monotonic()
            batch, pixels = ahead.popleft().result()
            yield batch, pixels, time.monotonic() - begin
