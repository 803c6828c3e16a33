"""Sets of human judgements in a run: which jobs embed them, what is refused at the start, and what counts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr
from support.judgement_sets import write_images, write_set
from support.transforms import save_transform

from alignet_ray import capacity
from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.evaluate import SetFacts
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.config import Config
from alignet_ray.config.cluster_spec import ClusterSpec
from alignet_ray.config.presets import PRESETS
from alignet_ray.core import similarity
from alignet_ray.core.affine import AffineTransform
from alignet_ray.core.noise_ceiling import rsa_ceilings
from alignet_ray.core.scores import Score
from alignet_ray.errors import UserError
from alignet_ray.evals import judgement_sets
from alignet_ray.evals.spaces import EmbeddingSpace
from alignet_ray.human import set_judgements
from alignet_ray.human.judgement_sets import open_set
from alignet_ray.images.decode import decode
from alignet_ray.images.listing import list_images
from alignet_ray.images.listings import Listings
from alignet_ray.models import backbone
from alignet_ray.models.features import Encoder
from alignet_ray.stages import Work, embed, embed_jobs, evaluate, evaluation_inputs, evaluation_sets, graph
from alignet_ray.store import Artifact, Store

NAMES = [f"{number:02d}.png" for number in range(12)]
WIDTH = 5
LEVELS = {"image0": "image1Path", "image1": "image2Path", "image2": "image3Path", "choice": "selected_image"}
LEVELS |= {"level": "triplet_type"}


class World:
    """Two sets of each kind, judged by the student's own space, and a corpus that holds copies of some of their images.

    Attributes:
        folder: of everything.
        vectors: the student's embedding of every image of a set, the same for all sets.
        paths: of the sets, by name.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store = store
        self.vectors = np.random.default_rng(3).normal(size=(len(NAMES), WIDTH)).astype(np.float32)
        self.paths: dict[str, str] = {}
        for seed, name in enumerate(("levels", "things")):
            self.paths[name] = self.odd_one_out(name, seed)
        for seed, name in enumerate(("nights", "reference"), start=10):
            self.paths[name] = self.choices(name, seed)
        for seed, name in enumerate(("king", "ratings"), start=20):
            self.paths[name] = self.matrices(name, seed)
        write_images(folder / "corpus", [f"class/{number}.png" for number in range(8)], seed=99)

    def drawn(self, seed: int, count: int = 60) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return np.array([rng.choice(len(NAMES), 3, replace=False) for _ in range(count)])

    def cosines(self) -> np.ndarray:
        matrix: np.ndarray = similarity.similarity_matrix(self.vectors).astype(np.float64)
        return matrix

    def odd_one_out(self, name: str, seed: int) -> str:
        """A file as Levels' answers are, written as a table: the odd one by its name."""
        cosines = self.cosines()
        lines = ["participant,image1Path,image2Path,image3Path,selected_image,triplet_type,rt"]
        for row, (i, j, k) in enumerate(self.drawn(seed)):
            # The odd one is the image beside the most similar pair.
            odd = [k, j, i][int(np.argmax([cosines[i, j], cosines[i, k], cosines[j, k]]))]
            level = ["between_class", "class_border", "within_class"][row % 3]
            shown = ",".join(NAMES[image] for image in (i, j, k))
            lines.append(f"p{row % 5},{shown},{NAMES[odd]},{level},{500 + row}")
        tree = {"name": name, "kind": "odd_one_out", "file": "answers.csv", "columns": LEVELS, "citation": "M. 2025"}
        path = write_set(self.folder / name, NAMES, tree, seed)
        (self.folder / name / "answers.csv").write_text("\n".join(lines) + "\n")
        return path

    def choices(self, name: str, seed: int) -> str:
        """A file in the layout of NIGHTS: of 4 people, 3 choose as the student does."""
        cosines = self.cosines()
        lines = ["id,ref_path,left_path,right_path,left_vote,right_vote,split"]
        for row, (i, j, k) in enumerate(self.drawn(seed)):
            votes = "1,3"
            if cosines[i, j] > cosines[i, k]:
                votes = "3,1"
            lines.append(f"{row},images/{NAMES[i]},images/{NAMES[j]},images/{NAMES[k]},{votes},test")
        path = write_set(self.folder / name, NAMES, {"name": name, "kind": "choices", "file": "data.csv"}, seed)
        (self.folder / name / "data.csv").write_text("\n".join(lines) + "\n")
        return path

    def matrices(self, name: str, seed: int) -> str:
        """Three people whose dissimilarities are the student's with noise of their own."""
        noise = np.random.default_rng(seed).normal(0, 0.3, (3, len(NAMES), len(NAMES)))
        people = 1 - self.cosines() + noise + noise.transpose(0, 2, 1)
        tree = {"name": name, "kind": "matrix", "matrix": "distance", "file": "rdm.npy"}
        path = write_set(self.folder / name, NAMES, tree, seed)
        np.save(self.folder / name / "rdm.npy", people)
        return path

    def config(self, *names: str) -> Config:
        paths = tuple(self.paths[name] for name in names or self.paths)
        return Config().replace(corpus__path=str(self.folder / "corpus"), evaluate__sets=paths)

    def embed(self, name: str, folder: Path, vectors: np.ndarray, ids: list[int] | None = None) -> Artifact:
        images = list_images(str(folder))
        kept = ids or images["image_id"].to_pylist()
        artifact = EmbedArtifact(self.store.draft("embed", name))
        artifact.write_images(images.to_batches())
        part = pa.table(
            [pa.array(kept, pa.int64()), schemas.tensors(vectors)], schema=schemas.embeddings(WIDTH, "float32")
        )
        artifact.write_part(0, part, [], [])
        return artifact.draft.finish({})

    def parents(self, cfg: Config, unreadable: int | None = None) -> dict[str, Artifact]:
        """Artifacts of a run: the teacher's map turns its features into the student's; the base sees noise."""
        found = {"soften": self.soften(), "align": self.align()}
        corpus = self.folder / "corpus"
        for role in ("corpus", "objects"):
            count = len(list_images(str(corpus)))
            found[f"embed@{role}"] = self.embed(role, corpus, np.zeros((count, WIDTH), np.float32))
        noise = np.random.default_rng(4).normal(size=self.vectors.shape).astype(np.float32)
        spaces = {"base": noise, "student": self.vectors, "control": -noise, "teacher": self.vectors[:, ::-1].copy()}
        ids = [number for number in range(len(NAMES)) if number != unreadable]
        for path in cfg.evaluate.sets:
            name = Path(path).name
            for role, vectors in spaces.items():
                job = f"set-{name}-{role}"
                found[f"embed@{job}"] = self.embed(job, Path(path) / "images", vectors[ids], ids)
        return found

    def soften(self) -> Artifact:
        """Object 0 is for training, 1 for validation, 2 for the test; image n of the corpus shows object n."""
        artifact = SoftenArtifact(self.store.draft("soften", "s"))
        rows = [
            {"object": number, "name": "", "category": "", "split": split, "image_ids": [number]}
            for number, split in enumerate(("train", "validation", "test"))
        ]
        artifact.write_objects(pa.Table.from_pylist(rows, schema=schemas.OBJECTS))
        return artifact.draft.finish({})

    def align(self) -> Artifact:
        draft = self.store.draft("align", "map")
        backwards = np.eye(WIDTH, dtype=np.float32)[::-1].copy()
        save_transform(draft.local("transform.npz"), AffineTransform(0.0, 1.0, backwards, np.zeros(WIDTH, np.float32)))
        return draft.finish({})

    def copy_to_corpus(self, name: str, image: str, place: str) -> None:
        content = (self.folder / name / "images" / image).read_bytes()
        (self.folder / "corpus" / place).write_bytes(content)


@pytest.fixture
def world(tmp_path: Path, store: Store) -> World:
    return World(tmp_path / "world", store)


Scored = dict[tuple[str, str, str, str], Score]


def scored(
    world: World, make_work: Callable[..., Work], cfg: Config, **more: int
) -> tuple[Scored, list[SetFacts], Work]:
    work = make_work(cfg, "evaluate", world.parents(cfg, **more))
    found = evaluation_sets.score(work)
    return {(s.dataset, s.model, s.metric, s.level): s for s in found.scores}, found.facts, work


# Planted judgements


def test_planted_judgements_are_recovered_exactly_in_two_sets_of_each_kind(
    world: World, make_work: Callable[..., Work]
) -> None:
    found, facts, _ = scored(world, make_work, world.config())
    assert [(one.name, one.images, one.seen, one.left_out) for one in facts] == [
        (name, len(NAMES), 0, 0) for name in world.paths
    ]
    for name in ("levels", "things"):
        for level in ("", "between_class", "class_border", "within_class"):
            assert found[name, "student", "odd_one_out", level].value == 1
        assert found[name, "student", "odd_one_out", "class_border"].n == 20
        assert found[name, "student", "odd_one_out_participants", ""].n == 5
        assert found[name, "base", "odd_one_out", ""].value < 0.6
        assert (name, "student", "entropy_time", "") in found
    for name in ("nights", "reference"):
        assert found[name, "student", "two_afc", ""].value == 0.75
        assert found[name, "human", "two_afc", ""].value == 0.75
        assert found[name, "base", "two_afc", ""].value < 0.6


def test_planted_matrices_have_the_correlations_and_the_ceiling_of_the_people(
    world: World, make_work: Callable[..., Work]
) -> None:
    found, facts, _ = scored(world, make_work, world.config("king", "ratings"))
    upper = np.triu_indices(len(NAMES), 1)
    for name in ("king", "ratings"):
        people = -np.load(world.folder / name / "rdm.npy")
        student = world.cosines()[upper]
        each = [spearmanr(student, person[upper])[0] for person in people]
        low, high = rsa_ceilings(people, "spearman")
        ours = found[name, "student", "rsa_spearman_participants", ""]
        assert ours.value == pytest.approx(np.mean(each), abs=1e-5)
        human = found[name, "human", "rsa_spearman_participants", ""]
        assert (human.low, human.high) == pytest.approx((low, high))
        with_mean = spearmanr(student, people.mean(axis=0)[upper])[0]
        assert found[name, "student", "rsa_spearman", ""].value == pytest.approx(with_mean, abs=1e-5)
    assert [one.people for one in facts] == [3, 3]


def test_the_teacher_is_scored_through_its_map(world: World, make_work: Callable[..., Work]) -> None:
    """Mapped, its features are the student's, whose cosines people follow; its own similarities are dot products."""
    cfg = world.config("nights")
    spaces = evaluation_inputs.set_spaces(cfg, world.parents(cfg), "nights")
    assert [space.name for space in spaces][-1] == ("teacher", "aligned")
    np.testing.assert_allclose(spaces[-1].embeddings, world.vectors, atol=1e-6)
    assert spaces[-1].kind == "dot"


# What does not count


def test_images_that_training_saw_are_left_out_and_counted_exactly(
    world: World, make_work: Callable[..., Work]
) -> None:
    """Copies under other names: of plain corpus images, a training object, a validation object, and a test object."""
    world.copy_to_corpus("levels", NAMES[0], "class/0.png")  # shows a training object
    world.copy_to_corpus("levels", NAMES[1], "class/1.png")  # a validation object, on which settings are chosen
    world.copy_to_corpus("levels", NAMES[2], "class/2.png")  # a test object, which no training saw
    world.copy_to_corpus("levels", NAMES[3], "class/7.png")
    world.copy_to_corpus("levels", NAMES[3], "class/8.png")
    found, facts, work = scored(world, make_work, world.config("levels", "king"))
    seen = {0, 1, 3}
    left = sum(1 for shown in world.drawn(0) if seen & set(shown.tolist()))
    levels, king = facts
    assert (levels.images, levels.seen, levels.left_out) == (12, 3, left)
    assert levels.judgements == 60 - left
    assert found["levels", "student", "odd_one_out", ""].n == 60 - left
    assert found["levels", "student", "odd_one_out", ""].value == 1
    assert (king.seen, king.left_out) == (0, 0)
    assert work.warnings == []


def test_rows_of_a_matrix_are_left_out_with_their_images(world: World, make_work: Callable[..., Work]) -> None:
    for number in (4, 5, 6):
        world.copy_to_corpus("ratings", NAMES[number], f"class/{number}.png")
    found, (facts,), _ = scored(world, make_work, world.config("ratings"))
    assert (facts.seen, facts.judgements, facts.left_out) == (3, 3 * 36, 3 * (66 - 36))
    assert found["ratings", "student", "rsa_spearman", ""].n == 36
    others = [number for number in range(12) if number not in (4, 5, 6)]
    people = -np.load(world.folder / "ratings" / "rdm.npy")[:, others][:, :, others]
    upper = np.triu_indices(9, 1)
    expected = spearmanr(world.cosines()[others][:, others][upper], people.mean(axis=0)[upper])[0]
    assert found["ratings", "student", "rsa_spearman", ""].value == pytest.approx(expected, abs=1e-5)


def test_images_of_objects_in_a_folder_of_their_own_count_as_seen(world: World, make_work: Callable[..., Work]) -> None:
    objects = world.folder / "objects"
    write_images(objects, ["0.png", "1.png", "2.png"], seed=50)
    for number in (0, 2):
        (objects / f"{number}.png").write_bytes((world.folder / "nights" / "images" / NAMES[number]).read_bytes())
    cfg = world.config("nights").replace(objects__path=str(objects))
    parents = world.parents(cfg)
    parents["embed@objects"] = world.embed("apart", objects, np.zeros((3, WIDTH), np.float32))
    facts = evaluation_sets.score(make_work(cfg, "evaluate", parents)).facts
    assert facts[0].seen == 1, "object 2 is a test object"


def test_an_image_that_a_model_could_not_read_is_left_out_for_all(world: World, make_work: Callable[..., Work]) -> None:
    found, (facts,), _ = scored(world, make_work, world.config("things"), unreadable=7)
    left = sum(1 for shown in world.drawn(1) if 7 in shown)
    assert (facts.unreadable, facts.seen, facts.left_out) == (1, 0, left)
    for model in ("base", "student", "control", "teacher"):
        assert found["things", model, "odd_one_out", ""].n == 60 - left


def test_a_corpus_that_is_gone_leaves_out_what_may_be_a_copy(world: World, make_work: Callable[..., Work]) -> None:
    world.copy_to_corpus("king", NAMES[2], "class/5.png")
    cfg = world.config("king")
    parents = world.parents(cfg)
    (world.folder / "corpus/class/5.png").unlink()
    work = make_work(cfg, "evaluate", parents)
    facts = evaluation_sets.score(work).facts
    assert facts[0].seen >= 1
    assert "1 images of the corpus or the objects can no longer be read" in work.warnings[0]


def test_a_set_of_which_training_saw_everything_is_not_scored(world: World, make_work: Callable[..., Work]) -> None:
    cfg = world.config("king").replace(corpus__path=str(world.folder / "king" / "images"))
    parents = world.parents(cfg)
    images = world.folder / "king" / "images"
    parents["embed@corpus"] = world.embed("same", images, np.zeros((12, WIDTH), np.float32))
    found = evaluation_sets.score(make_work(cfg, "evaluate", parents))
    # The test object's image alone is left, and one image has no pair.
    assert (found.facts[0].seen, found.facts[0].judgements) == (11, 0)
    assert found.scores == []


# The graph


def test_every_model_embeds_every_set_by_jobs_of_its_own(world: World) -> None:
    cfg = world.config("levels", "king").replace(evaluate__models=("random:test_vit",), human__triplets="t.txt")
    other = embed_jobs.extra_job("random:test_vit").name
    names = [node.name for node in graph(cfg)]
    roles = ("base", "student", "control", other, "teacher")
    wanted = [f"embed@set-{name}-{role}" for name in ("levels", "king") for role in roles]
    assert [name for name in names if name.startswith("embed@set-")] == wanted
    evaluation = next(node for node in graph(cfg) if node.name == "evaluate")
    assert set(wanted) <= set(evaluation.parents)
    for job in embed_jobs.evaluation_jobs(cfg):
        assert embed_jobs.find_job(cfg, job.name) == job
    assert embed_jobs.image_root(cfg, "set:king") == f"{world.paths['king']}/images"
    assert embed.sources(cfg, "set-king-base")[:2] == [
        f"{world.paths['king']}/images",
        f"{world.paths['king']}/rdm.npy",
    ]


def test_a_fine_tuned_teacher_embeds_sets_by_its_network_and_stored_features_cannot(world: World) -> None:
    cfg = world.config("king").replace(align__map="network")
    job = embed_jobs.find_job(cfg, "set-king-teacher")
    assert (job.parents, job.head, job.is_teacher) == (("align",), "instead", True)
    features = world.config("king").replace(embed__from_="features.npz")
    assert "set-king-teacher" not in {job.name for job in embed_jobs.evaluation_jobs(features)}


def test_a_plan_for_a_cluster_counts_the_jobs_of_sets(world: World) -> None:
    cfg = PRESETS["imagenet"]().replace(human__triplets="t.txt", evaluate__sets=(world.paths["king"],))
    rows = {row.node: row for row in capacity.plan(cfg, ClusterSpec(gpus=2)).rows}
    assert rows["embed@set-king-teacher"].seconds > rows["embed@set-king-base"].seconds > 0


def test_one_job_of_a_folder_tells_what_else_lies_there(world: World) -> None:
    cfg = world.config("king").replace(evaluate__ood="other")
    jobs = [*embed_jobs.teacher_jobs(cfg), *embed_jobs.evaluation_jobs(cfg)]
    assert [job.name for job in jobs if job.tells_left_out] == ["corpus", "ood-base", "set-king-base"]


def test_only_judged_images_are_embedded(world: World) -> None:
    cfg = world.config("nights")
    write_images(world.folder / "nights" / "images", [f"unjudged/{number}.png" for number in range(30)], seed=60)
    (judged,) = embed_jobs.list_job_images(cfg, Listings(), "set:nights")
    assert judged["path"].to_pylist() == NAMES


def test_ids_of_runs_without_sets_know_nothing_of_sets(world: World) -> None:
    assert "sets" not in evaluate.inputs(Config(), "")
    assert evaluate.sources(Config(), "") == []
    cfg = world.config("king")
    assert evaluate.inputs(cfg, "")["sets"][0]["name"] == "king"
    assert str(world.folder) not in str(evaluate.inputs(cfg, ""))
    assert evaluate.sources(cfg, "") == [f"{world.paths['king']}/rdm.npy"]


# What is refused before anything starts


def test_sound_sets_pass(world: World) -> None:
    evaluate.refuse(world.config(), "")


def test_bad_sets_are_refused_at_the_start_in_one_line(world: World) -> None:
    np.save(world.folder / "king" / "rdm.npy", np.zeros((3, 11, 11)))
    with pytest.raises(
        UserError, match=r"participant 1 rated all pairs alike|is about 11 images, there are 12"
    ) as caught:
        evaluate.refuse(world.config("king"), "")
    assert "\n" not in str(caught.value)
    (world.folder / "nights" / "images" / NAMES[3]).unlink()
    with pytest.raises(UserError, match=r"images are not there \(first: 'images/03\.png'\)"):
        evaluate.refuse(world.config("nights"), "")
    (world.folder / "levels" / "answers.csv").unlink()
    with pytest.raises(UserError, match=r"cannot read .*answers\.csv: no such file"):
        evaluate.refuse(world.config("levels"), "")


def test_a_run_that_embeds_or_evaluates_nothing_refuses_sets(world: World) -> None:
    features = Config().replace(embed__from_="features.npy", evaluate__sets=(world.paths["king"],))
    with pytest.raises(UserError, match=r"evaluate\.sets .*give --corpus\.path as well"):
        evaluate.refuse(features, "")
    with pytest.raises(UserError, match=r"^evaluate.sets needs human data of the run.s own"):
        graph(world.config("king").replace(align__from_="transform.npz"))


# Real people, real pictures


def test_the_base_network_on_92_images_and_16_people(sample: Path) -> None:
    """What a network that was never aligned reaches on real multi-arrangement data, and what people reach."""
    cfg = PRESETS["sample"]().replace(evaluate__sets=(str(sample / "rsa92"),))
    try:
        backbone.check_model(cfg.distill.model, cfg.distill.size)
    except UserError as error:
        pytest.skip(str(error))
    rsa92 = open_set(cfg.evaluate.sets[0])
    (images,) = embed_jobs.list_job_images(cfg, Listings(), "set:rsa92")
    paths = images["path"].to_pylist()
    files = [partial(decode, (Path(rsa92.images) / path).read_bytes()) for path in paths]
    encoded = Encoder.load([cfg.distill.model], cfg.distill.size).encode(files, batch=32)
    base = EmbeddingSpace("base", "pre_logits", images["image_id"].to_numpy(), encoded.columns["embedding"])

    judgements = set_judgements.read(rsa92, {path: image_id for image_id, path in enumerate(paths)})
    scores = judgement_sets.evaluate("rsa92", judgements, [base], 0)
    found = {(score.model, score.metric): score for score in scores if not score.level}
    assert found["base", "rsa_spearman"].value == pytest.approx(0.310, abs=0.005)
    assert found["base", "rsa_spearman_participants"].value == pytest.approx(0.239, abs=0.005)
    ceiling = found["human", "rsa_spearman_participants"]
    assert ceiling.n == 16
    assert (ceiling.low, ceiling.high) == pytest.approx((0.477, 0.577), abs=0.001)
