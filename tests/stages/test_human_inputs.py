"""Which images show an object: by a table of numbers or names, or by what folders and files are called."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.images.listing import list_images
from alignet_ray.stages import Work, human_inputs, soften

NAMES = [f"thing{number:02d}" for number in range(24)]


def write_images(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, number, number)).save(folder / name / "a.png")


def shown(cfg: Config) -> dict[int, list[int]]:
    folder = str(cfg.corpus.path)
    return human_inputs.object_images(cfg, list_images(folder), folder).image_ids


@pytest.fixture
def named(tmp_path: Path) -> Config:
    """Objects in three groups, compared by name: the object of the reference's group wins four of five votes."""
    write_images(tmp_path / "images", NAMES)
    rng = np.random.default_rng(0)
    lines = ["reference,a,b,votes_a,votes_b"]
    for _ in range(1500):
        reference, a, b = rng.permutation(24)[:3]
        same_a, same_b = reference % 3 == a % 3, reference % 3 == b % 3
        votes = {True: "4,1", False: "1,4"}[bool(same_a)]
        if same_a != same_b:
            lines.append(f"{NAMES[reference]},{NAMES[a]},{NAMES[b]},{votes}")
    (tmp_path / "asked.csv").write_text("\n".join(lines) + "\n")
    return Config().replace(
        corpus__path=str(tmp_path / "images"),
        human__comparisons=str(tmp_path / "asked.csv"),
        soften__steps=300,
        soften__dims=6,
        soften__batch_size=512,
    )


def test_objects_without_a_table_are_found_by_the_names_of_folders(named: Config) -> None:
    assert shown(named) == {number: [number] for number in range(24)}


def test_soften_learns_from_comparisons_alone(named: Config, make_work: Callable[..., Work]) -> None:
    work = make_work(named, "soften")
    soften.run(work)
    artifact = SoftenArtifact(work.out)
    assert artifact.objects()["name"].to_pylist() == NAMES
    assert len(artifact.responses()) == 0

    # The probabilities of its own questions, and of triplets that nobody was asked about.
    asked = artifact.comparisons()
    stored = work.out.read_table("comparisons.parquet")
    chosen = stored["probability_a"].to_numpy() > 0.5
    assert (chosen == (asked.votes[:, 0] > asked.votes[:, 1])).mean() > 0.98
    assert work.facts.votes == asked.answers
    mu = artifact.posterior().mu
    similarity = np.maximum(mu, 0) @ np.maximum(mu, 0).T
    same = np.arange(24)[:, None] % 3 == np.arange(24) % 3
    assert similarity[same].mean() > similarity[~same].mean() + 0.5


def test_the_question_enters_the_id_only_where_it_was_asked(named: Config) -> None:
    assert soften.inputs(named, "")["human"]["comparisons"] is True
    assert (
        "comparisons" not in soften.inputs(named.replace(human__comparisons=None, human__triplets="t.txt"), "")["human"]
    )


def test_a_table_may_call_objects_by_name(named: Config, tmp_path: Path) -> None:
    table = tmp_path / "objects.csv"
    table.write_text("label,object\nthing03,thing01\nthing04,thing01\n")
    cfg = named.replace(objects__table=str(table))
    assert shown(cfg) == {1: [3, 4]}
    assert set(human_inputs.sources(cfg)) == {str(table), str(tmp_path / "asked.csv")}
    table.write_text("label,object\nthing03,thing1\n")
    with pytest.raises(UserError, match=r"line 2: 1 of its 1 objects .*did you mean 'thing"):
        shown(named.replace(objects__table=str(table)))


def test_numbered_folders_are_objects_only_where_all_are_there(tmp_path: Path) -> None:
    write_images(tmp_path / "images", [f"{number:02d}" for number in range(6)])
    (tmp_path / "answers.txt").write_text("0 1 2\n3 4 5\n")
    cfg = Config().replace(corpus__path=str(tmp_path / "images"), human__triplets=str(tmp_path / "answers.txt"))
    assert shown(cfg) == {number: [number] for number in range(6)}
    (tmp_path / "answers.txt").write_text("0 1 2\n3 4 6\n")
    with pytest.raises(UserError, match=r"which images show the annotated objects.*'6', an object"):
        shown(cfg)


def test_concepts_lead_from_numbers_to_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["cat", "dog", "eel"])
    (tmp_path / "answers.txt").write_text("0 1 2\n")
    (tmp_path / "concepts.csv").write_text("name\ndog\neel\ncat\n")
    cfg = Config().replace(
        corpus__path=str(tmp_path / "images"),
        human__triplets=str(tmp_path / "answers.txt"),
        objects__concepts=str(tmp_path / "concepts.csv"),
    )
    assert shown(cfg) == {0: [1], 1: [2], 2: [0]}


def test_files_in_one_folder_are_objects_by_their_names(tmp_path: Path) -> None:
    for name in ("cat", "dog", "eel", "other"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "answers.csv").write_text("image1,image2,image3,choice\ncat,dog,eel,3\ncat,dog,emu,3\n")
    cfg = Config().replace(corpus__path=str(tmp_path), human__triplets=str(tmp_path / "answers.csv"))
    found = human_inputs.object_images(cfg, list_images(str(tmp_path)), str(tmp_path))
    assert found.image_ids == {0: [0], 1: [1], 2: [2]}
    assert found.unmatched == "1 of 4 objects have no folder or file of their name (first: 'emu')"


def test_without_any_answers_nothing_says_which_images(tmp_path: Path) -> None:
    write_images(tmp_path / "images", NAMES[:3])
    with pytest.raises(UserError, match=r"Give --objects\.table"):
        shown(Config().replace(corpus__path=str(tmp_path / "images")))
    assert human_inputs.has_answers(Config()) is False
