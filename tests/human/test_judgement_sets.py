from pathlib import Path

import pytest
import yaml

from alignet_ray.errors import UserError
from alignet_ray.human.judgement_sets import open_set, open_sets

LEVELS = {
    "name": "levels",
    "kind": "odd_one_out",
    "file": "answers.csv",
    "columns": {"image0": "image1Path", "choice": "selected_image"},
    "citation": "Somebody 2025",
}


def described(folder: Path, tree: object, name: str = "set.yaml") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(tree))
    return str(folder / name)


def test_paths_are_relative_to_the_description_wherever_it_lies(tmp_path: Path) -> None:
    file = described(tmp_path / "descriptions", LEVELS | {"images": "../pictures"}, "levels.yml")
    found = open_set(file)
    assert found.name == "levels"
    assert found.images == f"{tmp_path}/descriptions/../pictures"
    assert found.file == f"{tmp_path}/descriptions/answers.csv"
    assert found.description.citation == "Somebody 2025"
    assert found.sources == [found.file]

    described(tmp_path / "folder", LEVELS | {"images": "s3://bucket/images", "file": "/elsewhere/answers.csv"})
    found = open_set(f"{tmp_path}/folder/")
    assert found.images == "s3://bucket/images"
    assert found.file == "/elsewhere/answers.csv"


def test_where_a_set_lies_changes_no_id_and_what_it_says_does(tmp_path: Path) -> None:
    here = open_set(described(tmp_path / "here", LEVELS))
    there = open_set(described(tmp_path / "there", LEVELS | {"images": "pictures", "file": "other.csv"}))
    assert here.value() == there.value()
    other = open_set(described(tmp_path / "other", LEVELS | {"columns": {"image0": "b"}}))
    assert here.value() != other.value()


def test_an_order_may_be_a_file_which_is_a_source_then(tmp_path: Path) -> None:
    tree = {"name": "m", "kind": "matrix", "matrix": "distance", "file": "m.npy", "order": "names.txt"}
    found = open_set(described(tmp_path, tree))
    assert found.sources == [f"{tmp_path}/m.npy", f"{tmp_path}/names.txt"]
    assert open_set(described(tmp_path, tree | {"order": ["b.png", "a.png"]})).order_file is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"citaton": "x"}, r"no such key 'citaton'; did you mean citation\?$"),
        ({"zzzzz": "x"}, r"no such key 'zzzzz': there are name, kind, file, "),
        ({"kind": "odd"}, r"kind: Input should be 'odd_one_out', 'matrix' or 'choices'$"),
        ({"kind": "matrix", "columns": {}}, r"say what the values of the matrix are: `matrix: similarity` or"),
        ({"matrix": "distance"}, r"matrix belongs to the kind matrix, this set is of the kind odd_one_out$"),
        ({"columns": {"imag0": "a"}}, r"columns: no such column 'imag0'; did you mean image0\?$"),
        ({"name": "a/b"}, r"name: a set's name has letters, digits"),
        ({"file": "s3://b/a.csv"}, r"file: s3://b/a\.csv is behind a URL: judgements are local files"),
        ({"columns": "a"}, r"columns: Input should be a valid dictionary$"),
    ],
)
def test_a_wrong_description_is_one_line_with_the_fix(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_set(described(tmp_path, LEVELS | changes))
    assert str(caught.value).startswith(f"{tmp_path}/set.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named_unless_another_is_misspelled(tmp_path: Path) -> None:
    tree = {key: value for key, value in LEVELS.items() if key != "file"}
    with pytest.raises(UserError, match=r"the key file is missing$"):
        open_set(described(tmp_path, tree))
    with pytest.raises(UserError, match=r"no such key 'flie'; did you mean file\?$"):
        open_set(described(tmp_path, tree | {"flie": "answers.csv"}))


def test_what_is_no_description_is_told(tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text("name: [")
    with pytest.raises(UserError, match=r"set\.yaml: not YAML: "):
        open_set(str(tmp_path))
    (tmp_path / "set.yaml").write_text("- a\n")
    with pytest.raises(UserError, match="describes no set: expected the keys name, kind, file"):
        open_set(str(tmp_path))
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file$"):
        open_set(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(UserError, match=r"s3://bucket/set is behind a URL: describe the set in a local YAML file"):
        open_set("s3://bucket/set")
    with pytest.raises(UserError, match=r"nowhere is neither a folder nor a YAML file: check the path$"):
        open_set(str(tmp_path / "nowhere"))


def test_names_that_would_be_mixed_up_are_refused(tmp_path: Path) -> None:
    first = described(tmp_path / "a", LEVELS)
    second = described(tmp_path / "b", LEVELS | {"name": "LEVELS"})
    assert [judgements.name for judgements in open_sets([first])] == ["levels"]
    with pytest.raises(UserError, match=r"are both called 'levels': rename one$"):
        open_sets([first, second])
    with pytest.raises(UserError, match="the run itself calls a data set 'objects'"):
        open_sets([described(tmp_path / "c", LEVELS | {"name": "objects"})])
