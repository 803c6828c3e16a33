from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.stages import Work, soften


@pytest.fixture
def world(tmp_path: Path) -> Config:
    """Thirty objects with an image each, and 4,000 answers drawn from an embedding of four groups."""
    rng = np.random.default_rng(0)
    truth = np.eye(4, dtype=np.float32)[np.arange(30) % 4] * 2
    rows = np.stack([rng.permutation(30)[:3] for _ in range(4000)])
    s = np.stack([(truth[rows[:, a]] * truth[rows[:, b]]).sum(1) for a, b in ((0, 1), (0, 2), (1, 2))], axis=1)
    choice = (s + rng.gumbel(size=s.shape)).argmax(1)
    np.savetxt(
        tmp_path / "answers.txt", np.take_along_axis(rows, np.array([[0, 1, 2], [0, 2, 1], [1, 2, 0]])[choice], 1), "%d"
    )
    np.save(tmp_path / "truth.npy", truth)
    for n in range(30):
        (tmp_path / "images" / f"c{n:02d}").mkdir(parents=True)
        Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / "images" / f"c{n:02d}" / "0.png")
    (tmp_path / "objects.csv").write_text("label,object\n" + "".join(f"c{n:02d},{n}\n" for n in range(30)))
    return Config().replace(
        corpus__path=str(tmp_path / "images"),
        objects__table=str(tmp_path / "objects.csv"),
        human__triplets=str(tmp_path / "answers.txt"),
        soften__steps=300,
        soften__dims=10,
        soften__batch_size=1024,
    )


def test_a_fit_recovers_the_known_choices(world: Config, make_work: Callable[..., Work]) -> None:
    work = make_work(world, "soften")
    soften.run(work)
    soft = work.out.read_parts()
    assert soft.num_rows == 4000
    p = np.stack([soft[c].to_numpy() for c in ("p01", "p02", "p12")], axis=1)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    mu = safetensors.numpy.load(work.out.read_bytes("embedding.safetensors"))["mu"]
    similarity = mu @ mu.T
    same = (np.arange(30)[:, None] % 4 == np.arange(30) % 4) & ~np.eye(30, dtype=bool)
    assert similarity[same].min() > similarity[~same & ~np.eye(30, dtype=bool)].max()
    objects = work.out.read_table("objects.parquet").to_pylist()
    assert [o["object"] for o in objects] == list(range(30))
    assert {o["split"] for o in objects} == {"train", "validation", "test"}
    assert all(len(o["image_ids"]) == 1 for o in objects)


def test_a_fold_decides_which_objects_are_tested(world: Config, make_work: Callable[..., Work], tmp_path: Path) -> None:
    world = world.replace(human__embedding=str(tmp_path / "truth.npy"))
    tested: list[int] = []
    for fold in range(3):
        cfg = world.replace(objects__fold=fold, objects__folds=3)
        assert soften.inputs(cfg, "")["fold"] == {"number": fold, "folds": 3}
        work = make_work(cfg, f"soften-{fold}")
        soften.run(work)
        rows = work.out.read_table("objects.parquet").to_pylist()
        tested += [row["object"] for row in rows if row["split"] == "test"]
    assert sorted(tested) == list(range(30))

    assert "fold" not in soften.inputs(world, "")
    with pytest.raises(UserError, match=r"^objects\.fold 3: 3 folds are counted from 0 to 2$"):
        world.replace(objects__fold=3, objects__folds=3)


def test_a_published_embedding_stands_in_for_the_fit(
    world: Config, make_work: Callable[..., Work], tmp_path: Path
) -> None:
    work = make_work(world.replace(human__embedding=str(tmp_path / "truth.npy")), "soften")
    soften.run(work)
    stored = safetensors.numpy.load(work.out.read_bytes("embedding.safetensors"))
    np.testing.assert_array_equal(stored["mu"], np.load(tmp_path / "truth.npy"))
    assert not stored["sigma"].any()


def test_several_seeds_are_fitted_and_compared(
    world: Config, make_work: Callable[..., Work], ray_session: None
) -> None:
    work = make_work(world.replace(soften__seeds=2, soften__steps=60), "soften")
    soften.run(work)
    assert len(work.facts.fit.seed_cross_entropies) == 2
    assert work.facts.fit.best_seed in (0, 1)
    assert 0 <= work.facts.fit.reproducibility <= 1


def test_held_out_answers_are_scored_and_a_collapse_is_said(world: Config, make_work: Callable[..., Work]) -> None:
    held_out = world.replace(
        human__validation=world.human.triplets, soften__steps=40, soften__spike=1e-3, soften__slab=1e-3
    )
    work = make_work(held_out.replace(soften__kl_anneal=0), "soften")
    soften.run(work)
    assert 0 < work.facts.held_out.validation_accuracy < 1
    assert 0 <= work.facts.held_out.validation_calibration_error < 1


def test_columns_are_named_in_pairs(world: Config, make_work: Callable[..., Work]) -> None:
    with pytest.raises(UserError, match="expected=actual"):
        soften.run(make_work(world.replace(human__columns=("choice",)), "soften"))


def test_what_is_missing_is_named(world: Config, make_work: Callable[..., Work]) -> None:
    # Neither folders (c00, c01, ...) nor files (0.png) are called like the objects, which have numbers.
    with pytest.raises(UserError, match=r"Give --objects\.table.*'1', an object"):
        soften.run(make_work(world.replace(objects__table=None), "soften"))
    with pytest.raises(UserError, match=r"--human\.triplets"):
        soften.sources(world.replace(human__triplets=None), "")
    assert len(soften.sources(world, "")) == 3


@pytest.mark.parametrize(("steps", "warnings"), [(100, 1), (1000, 0)])
def test_a_fit_that_has_not_converged_is_said(
    world: Config, make_work: Callable[..., Work], steps: int, warnings: int
) -> None:
    work = make_work(world.replace(soften__steps=steps), "soften")
    soften.run(work)
    assert sum("may not have converged" in warning for warning in work.warnings) == warnings


@pytest.fixture
def signed(world: Config, tmp_path: Path) -> Config:
    """The same answers by forty people, of whom one guesses and one takes no time, in a table."""
    rows = np.loadtxt(tmp_path / "answers.txt", dtype=int)
    rng = np.random.default_rng(1)
    lines = ["image1,image2,image3,choice,participant,rt"]
    for number, row in enumerate(rows):
        person = number // 100
        # Rows have the odd one last; whoever guesses chooses any.
        choice = 3
        if person == 7:
            choice = int(rng.integers(1, 4))
        rt = 90 if person == 9 else 1500
        lines.append(f"{row[0] + 1},{row[1] + 1},{row[2] + 1},{choice},p{person:02d},{rt}")
    (tmp_path / "signed.csv").write_text("\n".join(lines))
    return world.replace(human__triplets=str(tmp_path / "signed.csv"), human__base=1)


def test_who_answers_at_random_or_too_fast_is_named(signed: Config, make_work: Callable[..., Work]) -> None:
    work = make_work(signed, "soften")
    soften.run(work)
    (warning,) = [text for text in work.warnings if "should perhaps not count" in text]
    assert "p07 (answers as if at random" in warning
    assert "p09 (median response time 90 ms)" in warning
    assert "--human.screen leaves them out" in warning
    assert (work.facts.people, work.facts.screened) == (40, 0)
    people = {person.participant: person for person in SoftenArtifact(work.out).people()}
    assert people["p07"].agreement < min(person.agreement for name, person in people.items() if name != "p07")
    assert "screen" not in soften.inputs(signed, "")["human"]


def test_people_who_are_screened_are_not_fitted(signed: Config, make_work: Callable[..., Work]) -> None:
    cfg = signed.replace(human__screen=True)
    work = make_work(cfg, "soften")
    soften.run(work)
    assert work.facts.screened == 200
    assert work.out.read_parts().num_rows == 3800
    assert not any("should perhaps not count" in text for text in work.warnings)
    # As if they had never been in the file.
    lines = Path(str(signed.human.triplets)).read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if ",p07," not in line and ",p09," not in line]
    fewer = Path(str(signed.human.triplets)).with_name("fewer.csv")
    fewer.write_text("\n".join(kept))
    other = make_work(signed.replace(human__triplets=str(fewer)), "without")
    soften.run(other)
    np.testing.assert_array_equal(SoftenArtifact(work.out).posterior().mu, SoftenArtifact(other.out).posterior().mu)


def test_answers_of_nobody_cannot_be_screened(world: Config) -> None:
    with pytest.raises(UserError, match=r"^--human\.screen leaves people out, but no .*participant=NAME\)$"):
        soften.refuse(world.replace(human__screen=True), "")
