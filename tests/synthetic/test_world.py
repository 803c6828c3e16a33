"""The generated worlds: the known truth holds, appearance is independent of meaning, and the bytes are reproducible."""

import csv
import hashlib
import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from scipy.stats import chisquare, f_oneway
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from alignet_ray.core.splits import split_of
from alignet_ray.synthetic import base, pretrain, render, world
from alignet_ray.synthetic.pretrain import BaseRecipe, Targets
from alignet_ray.synthetic.render import TRAITS, Appearance, sample_appearance
from alignet_ray.synthetic.world import WORLDS, Meaning

SMOKE = WORLDS["smoke"]


@pytest.fixture(scope="module")
def truth() -> Meaning:
    return world.meaning(SMOKE)


@pytest.fixture(scope="module")
def rendered(truth: Meaning) -> tuple[np.ndarray, Appearance]:
    images, appearance = world.render_images(SMOKE, truth)
    return images.reshape(len(images), -1) / 255.0, appearance


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "tiny"
    world.materialise("tiny", folder)
    return folder


def digests(folder: Path) -> dict[str, tuple[str, float]]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        p.relative_to(folder).as_posix(): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime) for p in files
    }


def rows_of(table: str | Path) -> list[dict[str, str]]:
    with Path(table).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def centre_of_mass(figures: np.ndarray) -> np.ndarray:
    """Centre of mass of each figure, x and y in [-1, 1]."""
    at = (np.arange(figures.shape[1]) + 0.5) / figures.shape[1] * 2 - 1
    mass = figures.sum((1, 2))
    return np.stack([(figures * at).sum((1, 2)), (figures * at[:, None]).sum((1, 2))], axis=1) / mass[:, None]


def accuracy(model: object, x: np.ndarray, y: np.ndarray, train: np.ndarray) -> float:
    return float(model.fit(x[train], y[train]).score(x[~train], y[~train]))  # type: ignore[attr-defined]


def probes() -> list[object]:
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=100))
    return [KNeighborsClassifier(1), KNeighborsClassifier(10), linear]


def halved(pictures: np.ndarray, size: int) -> np.ndarray:
    """Pictures of half the side: pixels are still pixels, and the probes are four times faster."""
    blocks = pictures.reshape(len(pictures), size // 2, 2, size // 2, 2, 3)
    return blocks.mean(axis=(2, 4)).reshape(len(pictures), -1)


def test_pixels_do_not_tell_the_family_of_new_concepts(truth: Meaning, rendered: tuple[np.ndarray, Appearance]) -> None:
    pixels = halved(rendered[0], SMOKE.size)
    family = truth.family[truth.image_object]
    train = np.array([split_of(0, int(o)) == "train" for o in truth.image_object])
    for model in probes():
        assert accuracy(model, pixels, family, train) < 2 / SMOKE.families


def test_pixels_do_not_tell_the_basic_concept(truth: Meaning, rendered: tuple[np.ndarray, Appearance]) -> None:
    pixels = halved(rendered[0], SMOKE.size)
    train = np.arange(len(pixels)) % SMOKE.images_per_object < 2 * SMOKE.images_per_object // 3
    for model in probes()[:2]:
        assert accuracy(model, pixels, truth.image_object, train) < 3 / SMOKE.objects


def test_appearance_is_independent_of_meaning(truth: Meaning, rendered: tuple[np.ndarray, Appearance]) -> None:
    numbers = pretrain.appearance_targets(rendered[1])
    for groups in (truth.image_object, truth.family[truth.image_object]):
        p = [f_oneway(*(column[groups == g] for g in np.unique(groups))).pvalue for column in numbers.T]
        assert min(p) > 0.01 / len(p)  # Bonferroni: no property of the appearance depends on the concept


def test_every_property_of_appearance_varies_within_every_concept(
    truth: Meaning, rendered: tuple[np.ndarray, Appearance]
) -> None:
    for name, values in vars(rendered[1]).items():
        spread = np.array([values[truth.image_object == o].std(0).min() for o in range(SMOKE.objects)])
        assert spread.min() > 0.2 * values.std(), name


def test_families_share_traits_and_concepts_differ(truth: Meaning) -> None:
    centres = np.array([truth.traits[truth.family == f].mean(0) for f in range(SMOKE.families)])
    shared = ((centres[:, None] > 0.5) & (centres[None] > 0.5)).sum(-1)
    other = ~np.eye(SMOKE.families, dtype=bool)
    assert (shared[other].reshape(SMOKE.families, -1).max(1) >= 1).all()
    gaps = np.linalg.norm(truth.traits[:, None] - truth.traits[None], axis=-1)
    np.fill_diagonal(gaps, np.inf)
    # A concept lies farther from the next one than its exemplars scatter: as a rule, since concepts are random points.
    assert np.median(gaps.min(1)) > SMOKE.jitter * np.sqrt(len(TRAITS))
    assert gaps.min() > SMOKE.jitter
    within = truth.image_traits - truth.traits[truth.image_object]
    assert within.std() == pytest.approx(SMOKE.jitter, rel=0.2)


def test_similarities_are_higher_within_families(truth: Meaning) -> None:
    same = truth.family[:, None] == truth.family[None]
    other = ~np.eye(SMOKE.objects, dtype=bool)
    assert truth.similarity[same & other].mean() > truth.similarity[~same].mean() + 1
    assert truth.embedding.min() >= 0


def test_choice_probabilities_by_hand() -> None:
    similarity = np.array([[9.0, 1.0, 0.0], [1.0, 9.0, 2.0], [0.0, 2.0, 9.0]], dtype=np.float32)
    found = world.choice_probabilities(similarity, np.array([[0, 1, 2]]))
    assert found[0] == pytest.approx(np.array([0.24472847, 0.09003057, 0.66524096]))


def test_the_ceiling_follows_from_the_similarities(truth: Meaning) -> None:
    every = np.array(list(itertools.combinations(range(SMOKE.objects), 3)))
    ceiling = world.choice_probabilities(truth.similarity, every).max(1).mean()
    assert 0.75 < ceiling < 0.85


def test_responses_follow_the_known_probabilities(truth: Meaning) -> None:
    answers = world.simulate_responses(SMOKE, truth)
    assert answers.shape == (SMOKE.responses, 3)
    assert (np.sort(answers, axis=1)[:, :2] < np.sort(answers, axis=1)[:, 1:]).all(), "three different objects"
    chosen = world.choice_probabilities(truth.similarity, answers)[:, 0]
    # The pair that people chose is one of three; sort all three by probability and count which rank was chosen.
    chances = world.choice_probabilities(truth.similarity, answers)
    rank = (chances > chosen[:, None]).sum(1)
    ordered = -np.sort(-chances, axis=1)
    for low, high in ((0.33, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1.0)):
        rows = (ordered[:, 0] > low) & (ordered[:, 0] <= high)
        assert rows.sum() > 500
        assert chisquare(np.bincount(rank[rows], minlength=3), ordered[rows].sum(0)).pvalue > 1e-3


def test_every_object_is_asked_about_equally_often(truth: Meaning) -> None:
    answers = world.simulate_responses(SMOKE, truth)
    asked = np.bincount(answers.ravel(), minlength=SMOKE.objects)
    assert asked.min() > 0.85 * asked.mean()
    assert asked.max() < 1.15 * asked.mean()


def test_a_plain_disc_covers_its_area() -> None:
    appearance = sample_appearance(8, np.random.default_rng(0))
    size = 96
    none = np.zeros((8, len(TRAITS)), dtype=np.float32)
    disc = render.figure_masks(none, appearance, size)
    area = disc.mean(axis=(1, 2)) * 4
    assert area == pytest.approx(np.pi * (0.72 * appearance.scale) ** 2, rel=0.03)
    assert centre_of_mass(disc) == pytest.approx(appearance.place, abs=0.02)
    for trait in ("elongation", "hole", "gap"):
        traits = none.copy()
        traits[:, TRAITS.index(trait)] = 0.8
        less = render.figure_masks(traits, appearance, size).mean(axis=(1, 2)) * 4
        assert (less < 0.85 * area).all(), trait


def test_figures_stay_inside_the_picture() -> None:
    rng = np.random.default_rng(1)
    appearance = sample_appearance(64, rng)
    traits = pretrain.random_traits(64, rng)
    figure = render.figure_masks(traits, appearance, 48)
    border = np.concatenate([figure[:, 0], figure[:, -1], figure[:, :, 0], figure[:, :, -1]], axis=1)
    assert border.mean() < 0.02
    assert (figure.mean(axis=(1, 2)) > 0.01).all()


def test_flipped_images_keep_the_truth_about_place() -> None:
    rng = np.random.default_rng(2)
    appearance = sample_appearance(16, rng)
    traits = np.zeros((16, len(TRAITS)), dtype=np.float32)
    disc = torch.from_numpy(render.figure_masks(traits, appearance, 48))
    images = disc[:, None].expand(-1, 3, -1, -1)
    targets = Targets(
        appearance=torch.from_numpy(pretrain.appearance_targets(appearance)),
        traits=torch.from_numpy(traits),
        cells=torch.from_numpy(pretrain.cell_targets(traits, appearance, 48)),
    )
    before = targets.appearance[:, pretrain.LIGHT].abs().sum(1)
    for seed in range(8):
        flipped, after = pretrain.flip_and_transpose(images, targets, np.random.default_rng(seed))
        place = after.appearance[:, pretrain.PLACE].numpy()
        assert place == pytest.approx(centre_of_mass(flipped[:, 0].numpy()), abs=0.02)
        assert after.appearance[:, pretrain.LIGHT].abs().sum(1) == pytest.approx(before)
        coarse = torch.nn.functional.avg_pool2d(flipped[:, :1], pretrain.CELL)[:, 0]
        assert np.corrcoef(after.cells[:, 0].flatten(), coarse.flatten())[0, 1] > 0.999


def test_scaled_features_are_the_same_features() -> None:
    net = timm.create_model("test_resnet", num_classes=0).eval()
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = net(x)
    pretrain.scale_features(net, 10, 0.25)
    assert torch.allclose(net(x)[:, :10], before[:, :10] / 4, atol=1e-6)
    assert torch.allclose(net(x)[:, 10:], before[:, 10:], atol=1e-6)


def test_same_name_same_bytes(tiny: Path, tmp_path: Path) -> None:
    world.materialise("tiny", tmp_path / "again")
    assert digests(tiny) == digests(tmp_path / "again")


def test_another_seed_is_another_world() -> None:
    other = replace(WORLDS["tiny"], seed=1)
    first, second = world.meaning(WORLDS["tiny"]), world.meaning(other)
    assert not np.allclose(first.traits, second.traits)
    assert (world.render_images(WORLDS["tiny"], first)[0] != world.render_images(other, second)[0]).mean() > 0.9


def test_members_fit_together(tiny: Path) -> None:
    spec, where = WORLDS["tiny"], world.paths("tiny", tiny)
    assert json.loads((tiny / "world.json").read_text()) == asdict(spec)
    rows = rows_of(where["table"])
    assert [int(row["object"]) for row in rows] == list(range(spec.objects))
    assert sorted(row["label"] for row in rows) == sorted(p.name for p in Path(where["corpus"]).iterdir())
    assert len(list(Path(where["corpus"]).glob("*/*.png"))) == spec.objects * spec.images_per_object
    concepts = rows_of(where["concepts"])
    assert [c["name"] for c in concepts] == [row["label"] for row in rows]
    assert len({c["category"] for c in concepts}) == spec.families
    answers = np.loadtxt(where["triplets"], dtype=np.int64)
    assert answers.shape == (spec.responses, 3)
    assert answers.max() < spec.objects
    with np.load(where["truth"], allow_pickle=False) as stored:
        assert stored["similarity"] == pytest.approx(stored["embedding"] @ stored["embedding"].T)
        assert stored["image_object"].tolist() == np.repeat(np.arange(spec.objects), spec.images_per_object).tolist()


def test_the_base_is_a_timm_checkpoint(tiny: Path) -> None:
    arch, _, file = world.paths("tiny", tiny)["model"].partition("@")
    net = timm.create_model(arch, num_classes=0)
    net.load_state_dict(load_file(file))
    features = net.eval()(torch.zeros(2, 3, 32, 32))
    assert features.shape == (2, net.num_features)
    assert torch.isfinite(features).all()


def test_an_interrupted_world_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr(base, "train_base", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        world.materialise("tiny", tmp_path / "world")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_world_is_left_alone(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "train_base", lambda *_: pytest.fail("made again"))
    world.materialise("tiny", tiny)


def test_training_leaves_torch_as_it_was() -> None:
    torch.manual_seed(5)
    threads, expected = torch.get_num_threads(), torch.rand(3)
    torch.manual_seed(5)
    pretrain.train_base(BaseRecipe(images=16, steps=1, batch_size=4, threads=threads + 1), size=32, seed=0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(3), expected)
