"""Every preset is a whole configuration under its own name, and the published recipe has the published numbers."""

import re
import shlex

import pytest
import timm
import yaml

from alignet_ray.config import Config
from alignet_ray.config.presets import PRESETS, features, imagenet, paper, published, sample, sample_224, smoke
from alignet_ray.models.model_spec import ModelKind, ModelSpec
from alignet_ray.stages import graph


def command(name: str) -> list[str]:
    """The words of the command that the docstring of a preset gives."""
    paragraphs = re.split(r"\n\s*\n", PRESETS[name].__doc__ or "")
    found = [paragraph for paragraph in paragraphs if "alignet-ray run" in paragraph]
    assert len(found) == 1, f"{name} gives {len(found)} commands"
    return shlex.split(found[0])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_called_as_its_run(name: str) -> None:
    assert PRESETS[name]().name == name


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_valid_as_a_file_of_its_own(name: str) -> None:
    made = PRESETS[name]()
    assert Config.model_validate(yaml.safe_load(made.to_yaml())) == made


@pytest.mark.parametrize("name", PRESETS)
def test_the_docstring_gives_the_command(name: str) -> None:
    program, action, preset, *options = command(name)
    assert (program, action, preset) == ("alignet-ray", "run", name)
    given = {option.removeprefix("--"): value for option, value in zip(options[::2], options[1::2], strict=True)}
    assert set(given) <= set(Config().flat())


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_by_that_command_has_images_and_people_or_features(name: str) -> None:
    """What a preset leaves open is asked for by its command: else a run would stop for want of it."""
    given = {option.removeprefix("--") for option in command(name)[3::2]}
    flat = PRESETS[name]().flat()
    filled = given | {field for field, value in flat.items() if value}
    if str(flat["corpus.path"]).startswith("synthetic:"):
        filled |= {"human.triplets", "objects.table"}
    assert "human.triplets" in filled
    if "embed.from" in filled:
        return
    assert "corpus.path" in filled
    # Objects of one's own pictures are found by the names of folders and files.
    if name != "mine":
        assert "objects.table" in filled


@pytest.mark.parametrize("name", PRESETS)
def test_its_networks_have_pretrained_weights(name: str) -> None:
    made = PRESETS[name]()
    for model in (*made.embed.model, made.distill.model):
        spec = ModelSpec.parse(model)
        if spec.kind is ModelKind.TIMM and not model.startswith("synthetic:"):
            assert timm.is_model_pretrained(model), model
        else:
            assert model in ("synthetic:smoke", "pip:efficientnet-lite0")


def test_the_larger_sample_differs_in_resolution_alone() -> None:
    small, large = sample().flat(), sample_224().flat()
    differing = {field: (small[field], large[field]) for field in small if small[field] != large[field]}
    assert differing == {
        "name": ("sample", "sample_224"),
        "embed.size": (128, 224),
        "distill.size": (128, 224),
    }


def test_features_end_with_the_teacher() -> None:
    nodes = graph(features().replace(embed__from_="features.npy", human__triplets="triplets.txt"))
    assert [node.name for node in nodes] == ["soften", "embed@objects", "align", "evaluate"]


def test_the_smoke_run_needs_neither_files_nor_a_network() -> None:
    assert command("smoke") == ["alignet-ray", "run", "smoke"]
    made = smoke()
    assert made.corpus.path == "synthetic:smoke"
    assert made.embed.model == ("synthetic:smoke",)
    assert made.distill.model == "synthetic:smoke"


def test_published_numbers_of_the_released_student() -> None:
    made = paper()
    # Muttenthaler et al., Nature 2025, and the configuration released with it.
    assert (made.cluster.k, made.label.train, made.label.valid) == (500, 10_000_000, 10_000)
    distill = made.distill
    assert (distill.objective, distill.tau, distill.normalize) == ("jsd", 100.0, False)
    assert (distill.batching, distill.batch_size) == ("triplets", 512)
    assert (distill.steps, distill.warmup, distill.lr) == (100_000, 5_000, 3e-5)
    assert (distill.head, distill.embedding_loss_weight) == (1024, 0.0)
    assert (distill.decay_to_init, distill.interpolation) == (1.0, 1.0)
    assert distill.squash
    assert distill.model == imagenet().distill.model == "vit_base_patch16_siglip_224.webli"
    assert made.embed.model == imagenet().embed.model == ("vit_so400m_patch14_siglip_384.webli",)


def test_the_published_chain_sees_as_many_images_as_ours() -> None:
    ours, theirs = sample(), published()
    assert theirs.embed == ours.embed
    assert theirs.cluster == ours.cluster
    assert theirs.label == ours.label
    # Three images a triplet.
    images = theirs.distill.steps * theirs.distill.batch_size * 3
    assert images == pytest.approx(ours.distill.steps * ours.distill.batch_size, rel=0.01)
    for field in ("batching", "objective", "normalize", "head", "embedding_loss_weight", "interpolation"):
        assert getattr(theirs.distill, field) == getattr(paper().distill, field), field
