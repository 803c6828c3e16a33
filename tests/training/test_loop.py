"""The training loop alone, on tiny networks: learning, exact resume, options, and its errors."""

import contextlib
import io
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import timm
import torch
from support.training import make_batches, make_recipe
from torch.nn.functional import linear

from alignet_ray.core.losses import class_retention, locality
from alignet_ray.core.optim import warmup_cosine
from alignet_ray.errors import UserError
from alignet_ray.models.backbone import Classifier
from alignet_ray.models.embedding_network import EmbeddingNetwork, make_network
from alignet_ray.training import loop
from alignet_ray.training.batches import Batch, Batches, InBatchTriplets, LabelledBatches
from alignet_ray.training.loop import BeginAgain, NonFiniteLoss, Training
from alignet_ray.training.objective import spread, triplet_similarities

COLOURS = 6
IDS = np.arange(48)
RNG = np.random.default_rng(0)
TINTS = np.array([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(COLOURS)]) * 150 + 50
PIXELS = np.clip(np.repeat(TINTS, 8, 0)[:, None, None] + RNG.normal(0, 25, (48, 32, 32, 3)), 0, 255).astype(np.uint8)
TEACHER = (2 * np.eye(COLOURS)[np.repeat(np.arange(COLOURS), 8)]).astype(np.float32)


def repeat(batch: Batch) -> Batches:
    """The same batch at every step."""
    return lambda step: batch


def images(ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(PIXELS[ids]).permute(0, 3, 1, 2)


def in_batch(batch_size: int = 16, max_triplets: int = 400) -> InBatchTriplets:
    return make_batches(IDS, TEACHER, IDS, batch_size, max_triplets=max_triplets)


def start(spec: str = "random:test_efficientnet_ln", head: int = 16, size: int = 32, **recipe: Any) -> Training:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"steps": 12, "lr": 3e-3, "warmup": 2, "decay_to_init": 0.1} | recipe
    return Training(make_network(spec, size, head, seed=0), make_recipe(**settings))


def trained_weights(training: Training) -> list[torch.Tensor]:
    """The weights of the finished student, those of the moving average if there is one."""
    with training.use_ema():
        return [value.clone() for value in training.model.state_dict().values()]


def train(training: Training, batches: Any = None, stop: int | None = None) -> list[dict[str, float]]:
    """Train to the end, or leave after `stop` updates as a kill would."""
    rows: list[dict[str, float]] = []

    class Stop(Exception):
        pass

    def on_update(_: Training, figures: dict[str, float]) -> None:
        rows.append(figures)
        if training.step == stop:
            raise Stop

    batches = batches or in_batch()
    if training.step == 0:
        training.calibrate(batches, images)
    with contextlib.suppress(Stop):
        training.run(batches, images, on_update)
    return rows


def test_it_learns_the_teachers_judgements():
    rows = train(start(steps=30, embedding_loss_weight=0.5))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert rows[-1]["agreement"] > 0.5  # of at most 0.61: most triplets of six colours have no odd one
    assert [row["lr"] for row in rows] == [warmup_cosine(i, 30, 2, 3e-3) for i in range(30)]


def test_the_published_scheme_learns_too():
    rng = np.random.default_rng(1)
    triplets = np.stack([rng.permutation(48)[:3] for _ in range(200)])
    teacher = TEACHER[triplets]
    similarities = np.stack([(teacher[:, a] * teacher[:, b]).sum(-1) for a, b in ((0, 1), (0, 2), (1, 2))], -1)
    rows = train(start(steps=20), LabelledBatches(triplets, similarities, batch_size=8, seed=0))
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
    train(whole)
    train(half, stop=5)
    sink = io.BytesIO()
    torch.save(half.state(), sink)
    sink.seek(0)
    again = start(**recipe)
    again.resume(torch.load(sink, weights_only=True))
    train(again)
    for a, b in zip(trained_weights(whole), trained_weights(again), strict=True):
        assert torch.equal(a, b)


def test_layer_groups_step_at_their_share_of_the_rate():
    training = start(layer_decay=0.5, decay_to_init=0.0, warmup=0, steps=2, spec="random:test_vit")
    before = [p.detach().clone() for p in training.parameters]
    train(training, stop=1)
    names = [name for name, p in training.model.named_parameters() if p.requires_grad]
    step = {n: float((p.detach() - b).abs().max()) for n, p, b in zip(names, training.parameters, before, strict=True)}
    assert step["head.weight"] == pytest.approx(3e-3, rel=0.01)  # Adam's first step is the rate itself
    blocks = [
        max(v for n, v in step.items() if f"blocks.{i}." in n) for i in range(len(training.model.backbone.net.blocks))
    ]
    assert blocks[-1] < step["head.weight"]
    for lower, upper in pairwise(blocks):
        assert lower == pytest.approx(upper / 2, rel=0.01)
    assert max(v for n, v in step.items() if "patch_embed" in n) == pytest.approx(blocks[0] / 2, rel=0.01)


def test_gradient_caching_gives_the_gradient_of_the_whole_batch():
    whole, cached = start(), start(micro_batch=5)
    batch = in_batch()(0)
    for training in (whole, cached):
        training.calibrate(in_batch(), images)
        training.set_train_mode()
        training.backward(training.model, training.preprocess(images(batch.image_ids), 16), batch)
    for a, b in zip(whole.parameters, cached.parameters, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


def test_calibrated_tau_gives_the_student_the_teachers_spread():
    training, batch = start(), in_batch()(0)
    training.calibrate(in_batch(), images)
    outputs, _ = training.representations(training.predict(batch.image_ids, images), batch)
    student = triplet_similarities(outputs.detach(), batch.triplets) / training.model.tau
    student_deviation, teacher_deviation = (
        float((logits - logits.mean(-1, keepdim=True)).square().mean().sqrt())
        for logits in (student, batch.targets("cpu"))
    )
    assert student_deviation == pytest.approx(teacher_deviation, rel=0.2)  # over four batches, of which this is one
    fixed = start(tau=7.0)
    fixed.calibrate(in_batch(), images)
    assert fixed.model.tau == 7.0


def test_cosines_are_asked_to_spread_wider_by_similarity_spread():
    taus = {}
    for width in (1.0, 4.0):
        training, batch = start(similarity_spread=width, embedding_loss_weight=1.0), in_batch()(0)
        training.calibrate(in_batch(), images)
        taus[width] = training.embedding_tau
        _, embeddings = training.representations(training.predict(batch.image_ids, images), batch)
        student = triplet_similarities(embeddings.detach(), batch.triplets) / training.embedding_tau
        assert float(spread(student) / spread(batch.targets("cpu"))) == pytest.approx(1 / width, rel=0.3)
    assert taus[4.0] == pytest.approx(4 * taus[1.0])


def test_batch_norm_statistics_stay_or_are_renewed():
    for batch_norm in ("frozen", "train"):
        training = start("random:test_efficientnet", batch_norm=batch_norm, steps=2)
        before = {k: v.clone() for k, v in training.model.named_buffers()}
        train(training)
        same = all(torch.equal(v, before[k]) for k, v in training.model.named_buffers())
        assert same == (batch_norm == "frozen")


def test_trainable_parts():
    head = start(trainable="head", steps=3)
    before = {k: v.clone() for k, v in head.model.backbone.state_dict().items()}
    train(head)
    assert all(torch.equal(v, before[k]) for k, v in head.model.backbone.state_dict().items())
    last = start("random:test_vit", size=32, trainable=1)
    frozen = [k for k, p in last.model.backbone.net.named_parameters() if not p.requires_grad]
    assert "patch_embed.proj.weight" in frozen
    assert any(k.startswith("norm") for k, p in last.model.backbone.net.named_parameters() if p.requires_grad)


def test_a_loss_that_is_not_finite_stops_before_the_update():
    training = start()

    def poisoned(step: int) -> Batch:
        batch = in_batch()(step)
        return batch if step < 5 else Batch(batch.image_ids, batch.triplets, batch.targets("cpu") * float("nan"))

    seen: list[torch.Tensor] = []
    training.calibrate(poisoned, images)
    with pytest.raises(NonFiniteLoss, match=r"update 5 is not finite.*image ids"):
        training.run(poisoned, images, lambda t, _: seen.append(t.model.head.weight.detach().clone()))
    assert training.step == 5
    assert torch.equal(training.model.head.weight, seen[-1])


def test_the_local_term_holds_on_to_the_neighbours():
    free, held = start(steps=20, embedding_loss_weight=1.0), start(steps=20, embedding_loss_weight=1.0, locality=3.0)
    image_ids = in_batch()(0).image_ids
    before = free.predict(image_ids, images).embedding
    rows = [train(training) for training in (free, held)]
    assert "loss_locality" in rows[1][-1]
    free_loss, held_loss = (
        float(locality(before, training.predict(image_ids, images).embedding, 0.1)) for training in (free, held)
    )
    assert held_loss < free_loss


def test_the_network_goes_on_telling_the_classes_that_it_was_trained_with():
    weight = torch.randn(10, start().model.backbone.width, generator=torch.Generator().manual_seed(3))
    classes = Classifier(weight, torch.randn(10, generator=torch.Generator().manual_seed(4)))
    settings = {"steps": 20, "lr": 3e-3, "warmup": 2, "decay_to_init": 0.1, "embedding_loss_weight": 1.0}
    found = []
    for retention in (0.0, 1.0):
        network = make_network("random:test_efficientnet_ln", 32, 16, seed=0)
        recipe = make_recipe(**settings, class_retention=retention)
        training = Training(network, recipe, class_layer=classes)
        image_ids = in_batch()(0).image_ids
        before = linear(training.predict(image_ids, images).embedding, *classes)
        rows = train(training)
        after = linear(training.predict(image_ids, images).embedding, *classes)
        found.append((float(class_retention(before, after)), rows))
    (free, _), (held, rows) = found
    assert held < free / 2
    assert rows[0]["loss_classes"] < 1e-4 < rows[-1]["loss_classes"], "nothing has changed before the first update"


def test_a_fresh_student_has_not_collapsed():
    training = start()
    training.calibrate(in_batch(), images)
    figures = training.validate(in_batch()(0), images)
    assert figures["valid_rank"] > 1.5


def test_validation_inside_use_ema_sees_the_moving_average_and_changes_nothing():
    plain, validated = start(ema_decay=0.9), start(ema_decay=0.9)
    train(plain)
    seen: list[dict[str, float]] = []

    def on_update(training: Training, _: dict[str, float]) -> None:
        with training.use_ema():
            seen.append(training.validate(in_batch()(0), images))

    validated.calibrate(in_batch(), images)
    validated.run(in_batch(), images, on_update)
    assert seen[-1] != validated.validate(in_batch()(0), images)
    for a, b in zip(trained_weights(plain), trained_weights(validated), strict=True):
        assert torch.equal(a, b)
    with validated.use_ema():
        assert validated.validate(in_batch()(0), images) == seen[-1]


def test_without_a_moving_average_use_ema_leaves_the_weights():
    training = start(steps=1)
    train(training)
    before = [parameter.detach().clone() for parameter in training.parameters]
    with training.use_ema():
        assert all(torch.equal(a, b) for a, b in zip(before, training.parameters, strict=True))


def test_a_batch_can_be_learned_by_heart():
    one = in_batch()(0)
    rows = train(start(steps=40, lr=2e-3, decay_to_init=0.0), repeat(one))
    assert rows[-1]["loss"] < 0.05 * rows[0]["loss"]


@pytest.mark.parametrize("objective", ["jsd", "kld", "contrastive"])
@pytest.mark.parametrize("options", [{"normalize": True}, {"grad_clip": 0.1}, {"compute": "bfloat16"}], ids=str)
def test_options_take_a_step(objective: str, options: dict[str, Any]):
    rows = train(start(steps=2, objective=objective, **options))
    assert all(np.isfinite(row["loss"]) for row in rows)


def small(name: str) -> EmbeddingNetwork:
    return make_network(f"random:{name}", None, 8, seed=0)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_convnext", "test_efficientnet", "test_resnet"])
def test_families_take_a_step(name: str):
    student = small(name)
    size = student.backbone.size
    training = Training(student, make_recipe(steps=1, lr=1e-3, embedding_loss_weight=0.5))
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
    training = Training(small(name), make_recipe(steps=1, lr=1e-5, embedding_loss_weight=0.5))
    size = training.model.backbone.size
    pixels = torch.randint(0, 256, (48, 3, size, size), dtype=torch.uint8)
    before = [p.detach().clone() for p in training.parameters]
    training.calibrate(in_batch(4, 4), lambda ids: pixels[ids])
    training.run(in_batch(4, 4), lambda ids: pixels[ids], lambda *_: None)
    assert any(not torch.equal(a, b) for a, b in zip(before, training.parameters, strict=True))


class SmallMemory:
    """A network on a GPU that holds the activations of `room` images."""

    def __init__(self, training: Training, room: int) -> None:
        self.forward = training.forward
        self.room = room

    def __call__(self, network: Any, pixels: torch.Tensor) -> Any:
        if torch.is_grad_enabled() and len(pixels) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.forward(network, pixels)


def test_passes_are_halved_until_they_fit_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 images where 3 fit: passes of 8, 4, and then 2, from the first update on."""
    whole, small = start(steps=3), start(steps=3)
    train(whole)
    monkeypatch.setattr(small, "forward", SmallMemory(small, room=3))
    train(small)
    assert small.micro_batch == 2
    assert [re.search(r"going on with (\d+)", notice).group(1) for notice in small.notices] == ["8", "4", "2"]
    for a, b in zip(trained_weights(whole), trained_weights(small), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "room", "says"),
    [
        ({}, 0, r"one image does not fit into the GPU's memory: set a smaller --distill\.size"),
        ({"batch_norm": "train"}, 3, r"16 images .*--distill\.micro-batch 8 or less \(BatchNorm then sees"),
        ({"batch_norm": "train", "micro_batch": 8}, 3, r"8 images at once .*--distill\.micro-batch 4 or less"),
    ],
)
def test_where_nothing_is_left_to_try_the_message_says_what_to_set(
    recipe: dict[str, Any], room: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = start(**recipe)
    training.calibrate(in_batch(), images)
    monkeypatch.setattr(training, "forward", SmallMemory(training, room))
    with pytest.raises(UserError, match=says) as raised:
        training.run(in_batch(), images, lambda *_: None)
    assert not isinstance(raised.value, BeginAgain)


def with_others(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a second process waited for this one's outputs."""
    training.calibrate(in_batch(), images)
    monkeypatch.setattr(loop, "world_size", lambda: 2)
    monkeypatch.setattr(training, "parallel_network", lambda: training.model)


def test_where_others_wait_all_begin_again_with_smaller_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for this one's outputs, so it cannot try again alone; see `ray_train`."""
    training = start()
    monkeypatch.setattr(training, "forward", SmallMemory(training, room=3))
    with_others(training, monkeypatch)
    with pytest.raises(BeginAgain, match="16 images at once are too many for this GPU: going on with 8") as raised:
        training.run(in_batch(), images, lambda *_: None)
    assert (raised.value.micro_batch, raised.value.compile) == (8, True)


def test_where_others_wait_all_begin_again_without_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    training = start()
    with_others(training, monkeypatch)
    training.compile = True
    monkeypatch.setattr(training, "forward", broken)
    with pytest.raises(BeginAgain, match=r"cannot be compiled.*Failed to find C compiler") as raised:
        training.run(in_batch(), images, lambda *_: None)
    assert (raised.value.micro_batch, raised.value.compile) == (None, False)


def test_a_network_that_cannot_be_compiled_is_trained_as_it_is() -> None:
    plain, compiled = start(steps=3), start(steps=3)
    train(plain)
    compiled.compile = True
    compile_network = torch.compile

    def broken(network: Any) -> Any:
        def backend(*_: object) -> None:
            raise RuntimeError("Failed to find C compiler")

        return compile_network(network, backend=backend)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(torch, "compile", broken)
        train(compiled)
    assert len(compiled.notices) == 1
    assert "Failed to find C compiler" in compiled.notices[0]
    for a, b in zip(trained_weights(plain), trained_weights(compiled), strict=True):
        assert torch.equal(a, b)


def test_an_error_of_a_network_that_is_not_compiled_is_no_failure_of_the_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    training = start()
    training.calibrate(in_batch(), images)
    monkeypatch.setattr(training, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        training.run(in_batch(), images, lambda *_: None)


def test_statistics_are_learned_once_where_images_pass_twice() -> None:
    """Four passes of four images: BatchNorm counts each of them once, as it does without gradient caching."""
    training = start("random:test_efficientnet", batch_norm="train", micro_batch=4)
    training.calibrate(in_batch(), images)
    training.set_train_mode()
    batch = in_batch()(0)
    layer = next(m for m in training.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    expected = start("random:test_efficientnet", batch_norm="train")
    expected.set_train_mode()
    other = next(m for m in expected.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    pixels = training.preprocess(images(batch.image_ids), 16)
    training.backward(training.model, pixels, batch)
    for chunk in torch.split(pixels, 4):
        expected.model(chunk)
    torch.testing.assert_close(layer.running_mean, other.running_mean)
    assert layer.momentum == other.momentum


@pytest.mark.parametrize("on", [False, True])
def test_the_recipe_says_how_a_gpu_multiplies(on: bool, tf32: None) -> None:
    start(compute="tf32" if on else "float32")
    assert torch.backends.cuda.matmul.allow_tf32 is on


@pytest.mark.parametrize("section", ["distill", "align.network"])
def test_messages_name_the_options_of_the_training_that_failed(section: str) -> None:
    training = start()
    training.recipe = replace(training.recipe, section=section)
    size = {"distill": "distill.size", "align.network": "embed.size"}[section]
    assert f"set a smaller --{size}" in str(training._too_many_images(1))
    assert f"--{section}.lr" in str(training._non_finite_loss(in_batch()(0)))
