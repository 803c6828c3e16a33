"""The loop alone: a few tiny networks, exact resume, the objective's pieces, and what it says when it goes wrong."""

import contextlib
import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import timm
import torch

from alignet_ray.core.losses import locality
from alignet_ray.core.optim import warmup_cosine
from alignet_ray.errors import UserError
from alignet_ray.models.student import Student, make_student
from alignet_ray.training.augment import crop, draw_crops
from alignet_ray.training.batches import Batch, InBatch, LabelledBatches, repeat
from alignet_ray.training.loop import (
    NotFinite,
    Recipe,
    Training,
    effective_rank,
    objective,
    prefetch,
    similarities,
    spread,
)

COLOURS = 6
IDS = np.arange(48)
RNG = np.random.default_rng(0)
TINTS = np.array([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(COLOURS)]) * 150 + 50
PIXELS = np.clip(np.repeat(TINTS, 8, 0)[:, None, None] + RNG.normal(0, 25, (48, 32, 32, 3)), 0, 255).astype(np.uint8)
TEACHER = (2 * np.eye(COLOURS)[np.repeat(np.arange(COLOURS), 8)]).astype(np.float32)


def images(ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(PIXELS[ids]).permute(0, 3, 1, 2)


def in_batch(batch: int = 16, most: int = 400) -> InBatch:
    return InBatch(IDS, TEACHER, IDS, batch, seed=0, most=most)


def start(spec: str = "random:test_efficientnet_ln", head: int = 16, size: int = 32, **recipe: Any) -> Training:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"steps": 12, "lr": 3e-3, "warmup": 2, "decay_to_init": 0.1} | recipe
    return Training(make_student(spec, size, head, seed=0), Recipe(**settings))


def go(training: Training, batches: Any = None, stop: int | None = None) -> list[dict[str, float]]:
    """Train to the end, or leave after `stop` updates as a kill would."""
    rows: list[dict[str, float]] = []

    class Stop(Exception):
        pass

    def after(_: Training, figures: dict[str, float]) -> None:
        rows.append(figures)
        if training.step == stop:
            raise Stop

    batches = batches or in_batch()
    if training.step == 0:
        training.calibrate(batches, images)
    with contextlib.suppress(Stop):
        training.run(batches, images, after)
    return rows


def test_it_learns_the_teachers_judgements():
    rows = go(start(steps=30, embedding_loss_weight=0.5))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert rows[-1]["agreement"] > 0.5  # of at most 0.61: most triplets of six colours have no odd one
    assert [row["lr"] for row in rows] == [warmup_cosine(i, 30, 2, 3e-3) for i in range(30)]


def test_the_published_scheme_learns_too():
    rng = np.random.default_rng(1)
    triplets = np.stack([rng.permutation(48)[:3] for _ in range(200)])
    x = TEACHER[triplets]
    sims = np.stack([(x[:, a] * x[:, b]).sum(-1) for a, b in ((0, 1), (0, 2), (1, 2))], -1)
    rows = go(start(steps=20), LabelledBatches(triplets, sims, batch=8, seed=0))
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


EVERYTHING = {
    "ema_decay": 0.9,
    "embedding_loss_weight": 0.5,
    "crop": 0.7,
    "layer_decay": 0.7,
    "hard_fraction": 0.5,
    "l2_to_init": 0.01,
}


@pytest.mark.parametrize("recipe", [{}, EVERYTHING], ids=["plain", "everything"])
def test_resume_is_exact(recipe: dict[str, Any]):
    whole, half = start(**recipe), start(**recipe)
    go(whole)
    go(half, stop=5)
    sink = io.BytesIO()
    torch.save(half.state(), sink)
    sink.seek(0)
    again = start(**recipe)
    again.resume(torch.load(sink, weights_only=True))
    go(again)
    for a, b in zip(whole.result().state_dict().values(), again.result().state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_layer_groups_step_at_their_share_of_the_rate():
    training = start(layer_decay=0.5, decay_to_init=0.0, warmup=0, steps=2, spec="random:test_vit")
    before = [p.detach().clone() for p in training.parameters]
    go(training, stop=1)
    names = [name for name, p in training.student.named_parameters() if p.requires_grad]
    step = {n: float((p.detach() - b).abs().max()) for n, p, b in zip(names, training.parameters, before, strict=True)}
    assert step["head.weight"] == pytest.approx(3e-3, rel=0.01)  # Adam's first step is the rate itself
    blocks = [
        max(v for n, v in step.items() if f"blocks.{i}." in n) for i in range(len(training.student.backbone.net.blocks))
    ]
    assert blocks[-1] < step["head.weight"]
    for lower, upper in pairwise(blocks):
        assert lower == pytest.approx(upper / 2, rel=0.01)
    assert max(v for n, v in step.items() if "patch_embed" in n) == pytest.approx(blocks[0] / 2, rel=0.01)


def test_the_hardest_triplets_alone_can_count():
    whole, half = start(), start(hard_fraction=0.25)
    student, teacher = torch.randn(40, 3), torch.randn(40, 3)
    values = objective("jsd", student, teacher, 1.0)
    torch.testing.assert_close(whole.mean_loss(student, teacher, 1.0), values.mean())
    torch.testing.assert_close(half.mean_loss(student, teacher, 1.0), values.sort().values[-10:].mean())


def test_pieces_give_the_gradient_of_the_whole_batch():
    whole, pieces = start(), start(micro_batch=5)
    batch = in_batch()(0)
    for training in (whole, pieces):
        training.calibrate(in_batch(), images)
        training.set_mode()
        training.backward(training.student, training.prepare(images(batch.ids)), batch)
    for a, b in zip(whole.parameters, pieces.parameters, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


def test_calibrated_tau_gives_the_student_the_teachers_spread():
    training, batch = start(), in_batch()(0)
    training.calibrate(in_batch(), images)
    z, _ = training.judged(training.outputs(batch, images), batch)
    s = similarities(z.detach(), batch.triplets) / training.student.tau
    t = batch.similarities
    deviation = [float((v - v.mean(-1, keepdim=True)).square().mean().sqrt()) for v in (s, t)]
    assert deviation[0] == pytest.approx(deviation[1], rel=0.2)  # over four batches, of which this is one
    fixed = start(tau=7.0)
    fixed.calibrate(in_batch(), images)
    assert fixed.student.tau == 7.0


def test_cosines_are_asked_to_spread_wider_by_the_stretch():
    taus = {}
    for stretch in (1.0, 4.0):
        training, batch = start(similarity_spread=stretch, embedding_loss_weight=1.0), in_batch()(0)
        training.calibrate(in_batch(), images)
        taus[stretch] = training.feature_tau
        _, cosine = training.judged(training.outputs(batch, images), batch)
        s = similarities(cosine.detach(), batch.triplets) / training.feature_tau
        assert float(spread(s) / spread(batch.similarities)) == pytest.approx(1 / stretch, rel=0.3)
    assert taus[4.0] == pytest.approx(4 * taus[1.0])


def test_batch_norm_statistics_stay_or_are_renewed():
    for frozen in (True, False):
        training = start("random:test_efficientnet", frozen_norm=frozen, steps=2)
        before = {k: v.clone() for k, v in training.student.named_buffers()}
        go(training)
        same = all(torch.equal(v, before[k]) for k, v in training.student.named_buffers())
        assert same == frozen


def test_trainable_parts():
    head = start(trainable="head", steps=3)
    before = {k: v.clone() for k, v in head.student.backbone.state_dict().items()}
    go(head)
    assert all(torch.equal(v, before[k]) for k, v in head.student.backbone.state_dict().items())
    last = start("random:test_vit", size=32, trainable=1)
    frozen = [k for k, p in last.student.backbone.net.named_parameters() if not p.requires_grad]
    assert "patch_embed.proj.weight" in frozen
    assert any(k.startswith("norm") for k, p in last.student.backbone.net.named_parameters() if p.requires_grad)


def test_a_loss_that_is_not_finite_stops_before_the_update():
    training = start()

    def poisoned(step: int) -> Batch:
        batch = in_batch()(step)
        return batch if step < 5 else Batch(batch.ids, batch.triplets, batch.similarities * float("nan"))

    seen: list[torch.Tensor] = []
    training.calibrate(poisoned, images)
    with pytest.raises(NotFinite, match=r"update 5 is not finite.*image ids"):
        training.run(poisoned, images, lambda t, _: seen.append(t.student.head.weight.detach().clone()))
    assert training.step == 5
    assert torch.equal(training.student.head.weight, seen[-1])


def test_the_local_term_holds_on_to_the_neighbours():
    free, held = start(steps=20, embedding_loss_weight=1.0), start(steps=20, embedding_loss_weight=1.0, locality=3.0)
    first = free.outputs(in_batch()(0), images).embedding
    rows = [go(training) for training in (free, held)]
    assert "loss_locality" in rows[1][-1]
    free_loss, held_loss = (
        float(locality(first, t.outputs(in_batch()(0), images).embedding, 0.1)) for t in (free, held)
    )
    assert held_loss < free_loss


def test_validation_and_collapse():
    training = start()
    training.calibrate(in_batch(), images)
    figures = training.validate(in_batch()(0), images)
    assert figures["valid_rank"] > 1.5
    assert effective_rank(torch.ones(5, 3)) <= 1.0 + 1e-5
    assert effective_rank(torch.randn(40, 8)) > 5


def test_the_running_mean_is_what_is_judged():
    plain, looked = start(ema_decay=0.9), start(ema_decay=0.9)
    go(plain)
    seen: list[dict[str, float]] = []

    def after(training: Training, _: dict[str, float]) -> None:
        training.swap()
        seen.append(training.validate(in_batch()(0), images))
        training.swap()

    looked.calibrate(in_batch(), images)
    looked.run(in_batch(), images, after)
    last = looked.validate(in_batch()(0), images)
    assert seen[-1] != last
    for a, b in zip(plain.result().state_dict().values(), looked.result().state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert looked.validate(in_batch()(0), images) == seen[-1]


def test_a_batch_can_be_learned_by_heart():
    one = in_batch()(0)
    rows = go(start(steps=40, lr=2e-3, decay_to_init=0.0), repeat(one))
    assert rows[-1]["loss"] < 0.05 * rows[0]["loss"]


@pytest.mark.parametrize("objective", ["jsd", "kld", "contrastive"])
@pytest.mark.parametrize("options", [{"normalize": True}, {"grad_clip": 0.1}, {"bfloat16": True}], ids=str)
def test_options_take_a_step(objective: str, options: dict[str, Any]):
    rows = go(start(steps=2, objective=objective, **options))
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_crops_are_the_same_for_the_same_step_and_shape_preserving():
    x = torch.rand(4, 3, 16, 16)
    place = draw_crops([0, 3], 4, 0.7)
    assert torch.equal(place, draw_crops([0, 3], 4, 0.7))
    assert crop(x, place).shape == x.shape
    whole = torch.eye(2, 3).expand(4, 2, 3)
    assert torch.allclose(crop(x, whole), x, atol=1e-5)
    corners = place[:, :, :2].abs().sum(2) + place[:, :, 2].abs()
    assert (corners <= 1 + 1e-6).all()  # crops stay inside the image


def small(name: str) -> Student:
    return make_student(f"random:{name}", None, 8, seed=0)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_convnext", "test_efficientnet", "test_resnet"])
def test_families_take_a_step(name: str):
    student = small(name)
    size = student.backbone.size
    training = Training(student, Recipe(steps=1, lr=1e-3, embedding_loss_weight=0.5))
    pixels = torch.randint(0, 256, (48, 3, size, size), dtype=torch.uint8)
    rows: list[dict[str, float]] = []
    training.calibrate(in_batch(4, 4), lambda ids: pixels[ids])
    training.run(in_batch(4, 4), lambda ids: pixels[ids], lambda _, figures: rows.append(figures))
    assert np.isfinite(rows[0]["loss"])


REAL = (
    "vit_base_patch16_siglip_224",
    "vit_base_patch16_clip_224",
    "vit_small_patch14_dinov2",
    "convnext_tiny",
    "tf_efficientnet_lite0",
    "vit_base_patch16_224",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_architectures_take_a_step(name: str):
    assert timm.is_model(name)
    training = Training(small(name), Recipe(steps=1, lr=1e-5, embedding_loss_weight=0.5))
    size = training.student.backbone.size
    pixels = torch.randint(0, 256, (48, 3, size, size), dtype=torch.uint8)
    before = [p.detach().clone() for p in training.parameters]
    training.calibrate(in_batch(4, 4), lambda ids: pixels[ids])
    training.run(in_batch(4, 4), lambda ids: pixels[ids], lambda *_: None)
    assert any(not torch.equal(a, b) for a, b in zip(before, training.parameters, strict=True))


def test_a_batch_that_a_gpu_cannot_hold_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    training = start()
    training.calibrate(in_batch(), images)
    monkeypatch.setattr(training, "backward", full)
    with pytest.raises(UserError, match=r"16 images at once are too many .*--distill\.micro 8"):
        training.run(in_batch(), images, lambda *_: None)


def test_reading_ahead_computes_alone_and_leaves_the_trainings_threads() -> None:
    before, seen = torch.get_num_threads(), []

    def images(ids: np.ndarray) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return torch.zeros(len(ids), 3, 8, 8, dtype=torch.uint8)

    torch.set_num_threads(2)
    try:
        batches = InBatch(np.arange(9), np.eye(9, dtype=np.float32), np.arange(9), 6, seed=0)
        during = [torch.get_num_threads() for _ in prefetch(batches, images, 0, 3)]
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 1]
    assert during == [2, 2, 2]
