"""The evaluations' inputs, from artifacts made by hand: which spaces there are, and what the objects are called."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.transforms import save_transform

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.soften import Posterior, SoftenArtifact
from alignet_ray.config import Config
from alignet_ray.core.affine import AffineTransform
from alignet_ray.errors import UserError
from alignet_ray.models.embedding_network import make_network, save_network
from alignet_ray.stages import embed_jobs, evaluation_inputs
from alignet_ray.store import Artifact, Store

PATHS = ("cat/0.png", "cat/1.png", "dog/2.png", "3.png")
LABELS = ("cat", "cat", "dog", "")
NET = "random:test_efficientnet"


def embed(
    store: Store, name: str, value: float, ids: tuple[int, ...] = (0, 1, 2, 3), logits: float | None = None
) -> Artifact:
    """Vectors of one number per artifact plus their image_id, so that it shows where they come from."""
    draft = store.draft("embed", name)
    numbers = np.array(ids, np.float32)[:, None]
    columns = [pa.array(ids, pa.int64()), schemas.tensors(np.repeat(value + numbers, 2, axis=1))]
    if logits is not None:
        columns.append(schemas.tensors(logits + numbers))
    schema = schemas.embeddings(2, "float32", 0 if logits is None else 1)
    EmbedArtifact(draft).write_part(0, pa.Table.from_arrays(columns, schema=schema), [], [])
    images = pa.table([np.arange(4), PATHS, LABELS, np.ones(4, np.int64), [-1] * 4], schema=schemas.IMAGES)
    EmbedArtifact(draft).write_images(images.to_batches())
    return draft.finish({})


def align(store: Store, has_map: bool = True) -> Artifact:
    draft = store.draft("align", f"map-{has_map}")
    if has_map:
        # Standardised by mean 1 and standard deviation 2, then swapped and shifted: (x - 1) / 2 -> (b + 10, a + 20).
        swap = np.array([[0, 1], [1, 0]], np.float32)
        transform = AffineTransform(1.0, 2.0, swap, np.array([10, 20], np.float32))
        save_transform(draft.local("transform.npz"), transform)
    return draft.finish({})


@pytest.fixture
def parents(store: Store) -> dict[str, Artifact]:
    return {
        "embed@objects": embed(store, "objects", 1.0),
        "embed@base": embed(store, "base", 100.0),
        "embed@student": embed(store, "student", 200.0, logits=250.0),
        "embed@control": embed(store, "control", 300.0, logits=350.0),
        "align": align(store),
    }


@pytest.fixture
def cfg(store: Store) -> Config:
    return Config().replace(store__root=store.root, corpus__path="images", objects__table="objects.csv")


def test_every_model_and_layer_is_a_space_the_base_first_and_the_teacher_last(
    cfg: Config, parents: dict[str, Artifact]
) -> None:
    spaces = evaluation_inputs.embedding_spaces(cfg, parents)
    assert [(space.model, space.layer, space.kind) for space in spaces] == [
        ("base", "pre_logits", "cosine"),
        ("student", "pre_logits", "cosine"),
        ("student", "head", "dot"),
        ("control", "pre_logits", "cosine"),
        ("control", "head", "dot"),
        ("teacher", "aligned", "dot"),
    ]
    assert [float(space.embeddings[1, 0]) for space in spaces[:-1]] == [101.0, 201.0, 251.0, 301.0, 351.0]
    assert all(space.ids.tolist() == [0, 1, 2, 3] for space in spaces)


def test_the_teacher_is_the_map_of_its_features(cfg: Config, parents: dict[str, Artifact]) -> None:
    teacher = evaluation_inputs.embedding_spaces(cfg, parents)[-1]
    # Image 3 has the features (4, 4), which are (1.5, 1.5) when standardised.
    assert teacher.embeddings[3].tolist() == [11.5, 21.5]


def test_a_fine_tuned_teacher_has_no_map_to_apply(cfg: Config, store: Store, parents: dict[str, Artifact]) -> None:
    tuned = parents | {"align": align(store, has_map=False)}
    teacher = evaluation_inputs.embedding_spaces(cfg.replace(align__map="network"), tuned)[-1]
    assert teacher.embeddings[3].tolist() == [4.0, 4.0]


def test_a_head_trained_on_unit_vectors_is_scored_by_cosines(cfg: Config, parents: dict[str, Artifact]) -> None:
    spaces = evaluation_inputs.embedding_spaces(cfg.replace(distill__normalize=True), parents)
    assert {space.name: space.kind for space in spaces if space.layer == "head"} == {
        ("student", "head"): "cosine",
        ("control", "head"): "cosine",
    }


def test_without_a_control_it_has_no_spaces(cfg: Config, parents: dict[str, Artifact]) -> None:
    spaces = evaluation_inputs.embedding_spaces(cfg.replace(distill__control=False), parents)
    assert [space.name for space in spaces if space.model == "control"] == []
    del parents["embed@control"]
    assert len(evaluation_inputs.embedding_spaces(cfg, parents)) == len(spaces)


def test_features_without_images_are_compared_with_their_own_map(store: Store, parents: dict[str, Artifact]) -> None:
    cfg = Config().replace(store__root=store.root, embed__from_="features.npy")
    only = {name: parents[name] for name in ("embed@objects", "align")}
    base, teacher = evaluation_inputs.embedding_spaces(cfg, only)
    assert (base.name, teacher.name) == (("base", "pre_logits"), ("teacher", "aligned"))
    assert base.embeddings[3].tolist() == [4.0, 4.0]
    assert teacher.embeddings[3].tolist() == [11.5, 21.5]


def test_further_models_come_after_the_runs_own_under_their_labels(
    cfg: Config, store: Store, parents: dict[str, Artifact], tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    save_network(folder, make_network(NET, 32, 4, seed=0), {})
    other = embed_jobs.extra_job(str(folder)).node
    plain = embed_jobs.extra_job(NET).node
    more = {other: embed(store, "other", 400.0, logits=450.0), plain: embed(store, "plain", 500.0)}
    spaces = evaluation_inputs.embedding_spaces(cfg.replace(evaluate__models=(str(folder), NET)), parents | more)
    assert [(space.name, space.kind) for space in spaces[-4:-1]] == [
        (("other", "pre_logits"), "cosine"),
        (("other", "head"), "dot"),
        ((NET, "pre_logits"), "cosine"),
    ]


def test_stored_embeddings_are_matched_by_path(cfg: Config, parents: dict[str, Artifact], tmp_path: Path) -> None:
    file = tmp_path / "mine.npy"
    np.save(file, np.array([[3.0], [2.0], [1.0], [0.0]], np.float32))
    file.with_suffix(".csv").write_text("path\n" + "\n".join(reversed(PATHS)) + "\n")
    stored = evaluation_inputs.embedding_spaces(cfg.replace(evaluate__models=(str(file),)), parents)[-2]
    assert stored.name == ("mine.npy", "pre_logits")
    assert stored.ids.tolist() == [0, 1, 2, 3]
    assert stored.embeddings.tolist() == [[0.0], [1.0], [2.0], [3.0]]


def test_stored_embeddings_need_rows_of_readable_images_alone(
    cfg: Config, store: Store, parents: dict[str, Artifact], tmp_path: Path
) -> None:
    """An image in quarantine has no embedding by the teacher, so nobody needs one of it."""
    file = tmp_path / "mine.npy"
    np.save(file, np.zeros((3, 1), np.float32))
    file.with_suffix(".csv").write_text("path\n" + "\n".join(PATHS[:3]) + "\n")
    with_mine = cfg.replace(evaluate__models=(str(file),))
    with pytest.raises(UserError, match=r"mine\.npy lacks 1 of the 4 annotated images \(first: '3\.png'\)"):
        evaluation_inputs.embedding_spaces(with_mine, parents)
    without = parents | {"embed@objects": embed(store, "three", 1.0, ids=(0, 1, 2))}
    spaces = evaluation_inputs.embedding_spaces(with_mine, without)
    assert spaces[-2].ids.tolist() == [0, 1, 2]
    assert spaces[-1].ids.tolist() == [0, 1, 2]


def test_stored_models_are_told_from_those_to_embed(cfg: Config) -> None:
    models = ("embed/3f", NET, "folder/mine.npy", "vit_tiny@weights.safetensors", "x.safetensors")
    named = cfg.replace(evaluate__models=models)
    assert evaluation_inputs.stored_models(named) == ["embed/3f", "folder/mine.npy", "x.safetensors"]
    assert evaluation_inputs.stored_models(cfg) == []


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            ("a/mine.npy", "b/mine.npy"),
            r"^evaluate\.models: b/mine\.npy and a/mine\.npy would both be called 'mine\.npy'",
        ),
        ((NET, NET), "would both be called 'random:test_efficientnet': rename one$"),
        (("teacher",), r"^evaluate\.models: teacher and teacher would both be called 'teacher'"),
    ],
)
def test_two_models_of_one_name_are_refused(cfg: Config, models: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluation_inputs.check_names(cfg.replace(evaluate__models=models))


def test_a_folder_that_is_called_like_the_runs_own_student_is_refused(cfg: Config, tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    save_network(tmp_path / "student", make_network(NET, 32, None, seed=0), {})
    with pytest.raises(UserError, match="would both be called 'student'"):
        evaluation_inputs.check_names(cfg.replace(evaluate__models=(str(tmp_path / "student"),)))


def test_models_of_different_names_pass(cfg: Config) -> None:
    evaluation_inputs.check_names(cfg.replace(evaluate__models=(NET, "a/mine.npy", "a/other.npy", "embed/mine.npy")))


def test_other_images_are_in_the_spaces_of_the_embedded_models(
    cfg: Config, store: Store, parents: dict[str, Artifact]
) -> None:
    with_folder = cfg.replace(evaluate__ood="elsewhere", evaluate__models=("embed/3f", NET))
    extra = embed_jobs.extra_job(NET)
    more = {
        "embed@ood-base": embed(store, "ood-base", 1000.0),
        "embed@ood-student": embed(store, "ood-student", 2000.0, logits=2500.0),
        "embed@ood-control": embed(store, "ood-control", 3000.0),
        extra.on_ood().node: embed(store, "ood-extra", 4000.0),
    }
    folder = evaluation_inputs.ood_folder(with_folder, parents | more)
    assert folder is not None
    assert {name: float(space.embeddings[0, 0]) for name, space in folder.spaces.items()} == {
        ("base", "pre_logits"): 1000.0,
        ("student", "pre_logits"): 2000.0,
        ("student", "head"): 2500.0,
        ("control", "pre_logits"): 3000.0,
        (NET, "pre_logits"): 4000.0,
    }
    assert folder.labels == {0: "cat", 1: "cat", 2: "dog", 3: ""}
    assert evaluation_inputs.ood_folder(cfg, parents) is None


def soften(store: Store, rows: list[tuple[str, str, str, list[int]]]) -> SoftenArtifact:
    """Objects as (name, category, split, image_ids), in the order of their numbers."""
    artifact = SoftenArtifact(store.draft("soften", "s"))
    named = [
        {"object": number, "name": name, "category": category, "split": split, "image_ids": image_ids}
        for number, (name, category, split, image_ids) in enumerate(rows)
    ]
    artifact.write_objects(pa.Table.from_pylist(named, schema=schemas.OBJECTS))
    mu = np.arange(len(rows), dtype=np.float32)[:, None] * np.ones(3, np.float32)
    artifact.write_posterior(Posterior(mu, 0.1 * mu))
    return artifact


def test_objects_are_divided_by_split_with_all_that_is_known_of_them(
    store: Store, parents: dict[str, Artifact]
) -> None:
    rows = [
        ("aardvark", "animal", "test", [0, 1]),
        ("bat", "", "train", [2]),
        ("cup", "food", "validation", []),
        ("dog", "animal", "test", [3]),
    ]
    splits = evaluation_inputs.annotated_objects(soften(store, rows), EmbedArtifact(parents["embed@objects"]))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1, 1, 2)
    test = splits.test
    assert test.objects.tolist() == [0, 3]
    assert test.names == ["aardvark", "dog"]
    assert test.categories == ["animal", "animal"]
    assert [image_ids.tolist() for image_ids in test.images] == [[0, 1], [3]]
    assert test.mu[:, 0].tolist() == [0.0, 3.0]
    assert test.sigma[:, 0] == pytest.approx([0.0, 0.3])
    assert [image_ids.tolist() for image_ids in splits.validation.images] == [[]]


@pytest.mark.parametrize(
    ("name", "image_ids", "expected"),
    [
        ("bat1", [0], "bat"),
        ("aircraft_carrier", [0], "aircraft carrier"),
        ("", [0, 1], "cat"),
        ("", [2], "dog"),
        ("", [1, 2], "1"),
        ("", [3], "3"),
        ("", [], "object 1"),
        ("", [99], "object 1"),
    ],
    ids=["numbered", "underscore", "folder", "folder of one", "two folders", "no folder", "no image", "not listed"],
)
def test_an_object_has_a_name_that_people_can_read(
    store: Store, parents: dict[str, Artifact], name: str, image_ids: list[int], expected: str
) -> None:
    rows = [("first", "", "train", [0]), (name, "", "test", image_ids)]
    splits = evaluation_inputs.annotated_objects(soften(store, rows), EmbedArtifact(parents["embed@objects"]))
    assert splits.test.names == [expected]


def test_a_map_whose_package_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_inputs.importlib.util, "find_spec", lambda name: None)
    evaluation_inputs.check_map_method("pca")
    with pytest.raises(UserError, match="pip install umap-learn, or take pca"):
        evaluation_inputs.check_map_method("umap")
