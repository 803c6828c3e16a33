from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from alignet_ray.artifacts.schemas import IMAGES
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.errors import UserError
from alignet_ray.human import object_names, objects
from alignet_ray.human.dataset import split_images
from alignet_ray.store import Store


@pytest.fixture
def images() -> pa.Table:
    paths = ["cat/a.png", "cat/b.png", "dog/c.png", "odd/d.png"]
    return pa.table([[0, 1, 2, 3], paths, [p.split("/")[0] for p in paths], [1] * 4, [-1] * 4], schema=IMAGES)


def read(tmp_path: Path, text: str, images: pa.Table) -> dict[int, list[int]]:
    table = tmp_path / "objects.csv"
    table.write_text(text)
    return objects.read_object_images(str(table), images, str(tmp_path)).image_ids


def test_by_class_folder_or_by_image(tmp_path: Path, images: pa.Table) -> None:
    assert read(tmp_path, "label,object\ncat,5\ndog,2\nabsent,7\n", images) == {2: [2], 5: [0, 1]}
    assert read(tmp_path, "Object;Path\n5;cat/b.png\n5;odd/d.png\n", images) == {5: [1, 3]}
    assert read(tmp_path, "\ufefflabel,object\ncat,5\nodd,5\n", images) == {5: [0, 1, 3]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no rows"),
        ("label,object\n", "no rows"),
        ("name,object\ncat,1\n", "expected columns label"),
        ("label,object\ncat,one\n", "line 2: object 'one'"),
        ("label,object\ncat,-1\n", "start at 0"),
        ("label,object\ncat,1_0\n", "line 2: object '1_0' is not a row number"),
        ("label,object\ncat,inf\n", "line 2: object 'inf' is not a row number"),
        ("label,object\nbird,1\n", "no label in it fits"),
    ],
)
def test_bad_tables(tmp_path: Path, images: pa.Table, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read(tmp_path, text, images)


@pytest.mark.parametrize(
    "text",
    [
        "label,object\r cat ,5\rdog,2\r",  # line ends of old Macs, blanks around a name
        "label; object\r\ncat; 5.0\r\n;\r\n\r\ndog; 2\r\n",  # as spreadsheets write whole numbers and empty rows
        "path,object\n./cat/a.png,5\ncat\\b.png,5\n dog/c.png,2\n",
        '"label","object"\n"cat","5"\n"dog","2"\n',
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, images: pa.Table, text: str) -> None:
    assert read(tmp_path, text, images) == {2: [2], 5: [0, 1]}


def test_names_are_equal_in_either_form_of_unicode(tmp_path: Path) -> None:
    decomposed = "cafe\u0301"
    images = pa.table([[0], [f"{decomposed}/1.png"], [decomposed], [1], [-1]], schema=IMAGES)
    assert read(tmp_path, "label,object\ncaf\u00e9,3\n", images) == {3: [0]}
    assert read(tmp_path, "path,object\ncaf\u00e9/1.png,3\n", images) == {3: [0]}


@pytest.fixture
def images_by_case() -> pa.Table:
    """Paths and class folders that differ in case alone."""
    paths = ["A.png", "Dog/A.png", "Dog/a.png", "a.png", "dog/A.png"]
    labels = ["", "Dog", "Dog", "", "dog"]
    return pa.table([list(range(5)), paths, labels, [1] * 5, [-1] * 5], schema=IMAGES)


def test_names_that_differ_in_case_are_never_mixed_up(tmp_path: Path, images_by_case: pa.Table) -> None:
    assert read(tmp_path, "label,object\ndog,0\nDog,1\n", images_by_case) == {0: [4], 1: [1, 2]}
    assert read(tmp_path, "path,object\na.png,0\nDog/a.png,1\nA.png,2\n", images_by_case) == {0: [3], 1: [2], 2: [0]}
    with pytest.raises(UserError, match=r"there is .*did you mean 'Dog'\?"):
        read(tmp_path, "label,object\nDOG,0\n", images_by_case)

    names = object_names.from_concepts(["dog", "a", "A", "Dog"], "concepts.csv")
    found = objects.images_by_name(images_by_case, "images", names)
    assert found.image_ids == {0: [4], 1: [3], 2: [0], 3: [1, 2]}
    assert found.unmatched == ""

    # Nobody is asked to guess: a name in other letters has no images, and the message says which are there.
    names = object_names.from_concepts(["DOG", "a"], "concepts.csv")
    found = objects.images_by_name(images_by_case, "images", names)
    assert found.image_ids.keys() == {1}
    assert found.unmatched.endswith("of their name (first: 'DOG'); did you mean 'Dog'?")
    with pytest.raises(UserError, match=r"did you mean 'Dog'\?"):
        objects.images_by_name(images_by_case, "images", object_names.from_concepts(["DOG"], "concepts.csv"))


def test_rows_that_fit_no_image_are_counted_with_the_first_of_them(tmp_path: Path, images: pa.Table) -> None:
    table = tmp_path / "objects.csv"
    table.write_text('label,object\ncat,1\n\n"Dog",2\nbird,3\n')
    found = objects.read_object_images(str(table), images, str(tmp_path))
    assert found.image_ids == {1: [0, 1]}
    assert found.unmatched == (f"2 of 3 rows of {table} fit no image (first: line 4, 'Dog'); did you mean 'dog'?")
    table.write_text("label,object\ncat,1\n")
    assert objects.read_object_images(str(table), images, str(tmp_path)).unmatched == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("label,object\ncat,1\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        ("label,object\ncat,1\ncaf\u00e9,2\n".encode("cp1252"), r"is not UTF-8 text \(line 3\)"),
        (b"label,object\ncat,1\0\n", "holds zero bytes"),
        (b'label,object\n"cat,1\ndog,2\n', "line 2: .*quotation mark"),
        (b"label,object\npot, pan,1\n", "line 2 has 3 cells, the header has 2"),
        (b"label,object,object\ncat,1,1\n", "the column 'object' stands there 2 times"),
        (b"label,object\ncat,1.5\n", "line 2: object '1.5' is not a row number"),
    ],
)
def test_damaged_tables_are_told_in_one_line(tmp_path: Path, images: pa.Table, content: bytes, says: str) -> None:
    table = tmp_path / "objects.csv"
    table.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        objects.read_object_images(str(table), images, str(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_tables_and_folders_are_errors(tmp_path: Path, images: pa.Table) -> None:
    with pytest.raises(UserError, match=r"--objects\.table"):
        objects.read_object_images(None, images, str(tmp_path))
    with pytest.raises(UserError, match="cannot read"):
        objects.read_object_images(str(tmp_path / "nothing.csv"), images, str(tmp_path))
    with pytest.raises(UserError, match=r"--corpus\.path"):
        objects.images_folder(None, None)
    assert objects.images_folder(None, "corpus") == "corpus"
    assert objects.images_folder("objects", "corpus") == "objects"


def held_out_ids(store: Store, table: pa.Table) -> np.ndarray:
    draft = SoftenArtifact(store.draft("soften", "s"))
    draft.write_objects(table)
    return draft.held_out_image_ids()


def test_the_table_of_objects_and_what_is_held_out(store: Store) -> None:
    ids = {n: [2 * n, 2 * n + 1] for n in range(0, 50, 2)}
    table = objects.objects_table(3, 50, [objects.Concept("cat", "animal")], ids)
    assert table["name"].to_pylist()[:2] == ["cat", ""]
    assert table["category"].to_pylist()[0] == "animal"
    held = held_out_ids(store, table)
    rows = table.to_pylist()
    expected = [i for row in rows if row["split"] != "train" for i in row["image_ids"]]
    np.testing.assert_array_equal(held, sorted(expected))
    assert 0 < len(held) < 50
    with pytest.raises(UserError, match="names object 48"):
        objects.objects_table(3, 48, [], ids)


def test_an_image_of_two_objects_is_held_out_if_one_of_them_is(store: Store) -> None:
    splits = [row["split"] for row in objects.objects_table(0, 50, [], {}).to_pylist()]
    train, test = splits.index("train"), splits.index("test")
    table = objects.objects_table(0, 50, [], {train: [7, 8], test: [8]})
    np.testing.assert_array_equal(held_out_ids(store, table), [8])


def test_images_that_also_show_a_held_out_object_are_not_used_for_training(store: Store) -> None:
    ids = {n: [2 * n, 2 * n + 1] for n in range(40)}
    splits = [row["split"] for row in objects.objects_table(0, 40, [], {}).to_pylist()]
    first, second = [n for n, split in enumerate(splits) if split == "train"][:2]
    test = splits.index("test")
    ids[first] = [ids[first][0], ids[test][0]]
    ids[second] = [ids[test][1]]
    draft = store.draft("soften", "s")
    draft.write_table("objects.parquet", objects.objects_table(0, 40, [], ids))
    found = split_images(draft.finish({}), np.arange(80))
    assert found["train"][first].tolist() == [ids[first][0]]
    assert second not in found["train"], "none of its images is left"
    assert found["test"][test].tolist() == ids[test]


def test_concepts(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("uniqueID\tTop-down Category\ncat\tanimal\nlamp\t\n")
    assert objects.read_concepts(str(tmp_path / "c.tsv")) == [("cat", "animal"), ("lamp", "")]
    (tmp_path / "c.tsv").write_text("x\ty\n1\t2\n")
    with pytest.raises(UserError, match="uniqueID"):
        objects.read_concepts(str(tmp_path / "c.tsv"))
