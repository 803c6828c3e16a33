from pathlib import Path

import numpy as np
import pytest

from alignet_ray.errors import UserError
from alignet_ray.human import triplets
from alignet_ray.human.responses import read_responses

ROWS = np.array([[0, 3, 2], [4, 1, 0], [2, 4, 3]])


def text(path: Path, rows: np.ndarray = ROWS, fmt: str = "%d", **options: str) -> str:
    np.savetxt(path, rows, fmt, **options)  # type: ignore[arg-type]
    return str(path)


def test_the_plain_layouts(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS.astype(np.int32))
    files = [
        text(tmp_path / "a.txt"),
        text(tmp_path / "b.txt", delimiter="\t"),
        text(tmp_path / "c.csv", delimiter=","),
        text(tmp_path / "d.txt", fmt="%5d"),
        text(tmp_path / "e.txt", fmt="%.18e"),
        str(tmp_path / "a.npy"),
    ]
    for file in files:
        np.testing.assert_array_equal(triplets.read_triplets(file), ROWS, err_msg=file)


def test_things_csv_with_response_times(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "image1\timage2\timage3\tchoice\tRT\tsubject_id\n5\t1\t2\t1\t900\tanna\n3\t4\t5\t2\t1200.5\tben\n1\t3\t2\t3\t\t\n"
    )
    answers = read_responses(str(tmp_path / "t.csv"))
    assert answers.base == 1
    np.testing.assert_array_equal(answers.triplets, [[1, 2, 5], [3, 5, 4], [1, 3, 2]])
    assert answers.table["participant"].to_pylist() == ["anna", "ben", ""]
    np.testing.assert_array_equal(answers.table["rt"].to_numpy(), [900, 1200.5, np.nan])
    np.testing.assert_array_equal(triplets.read_triplets(str(tmp_path / "t.csv"), 5), [[0, 1, 4], [2, 4, 3], [0, 2, 1]])


def test_the_noise_ceiling_file(tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text("5 1 2 1 77\n3 4 5 2 0\n")
    np.testing.assert_array_equal(triplets.read_triplets(str(tmp_path / "n.csv"), 5), [[0, 1, 4], [2, 4, 3]])


def test_levels_with_names_and_other_headers(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(
        "a,b,c,odd,kind,who\ncat.jpg,dog.jpg,car.jpg,3,coarse,7\ndog.jpg,ant.jpg,cat.jpg,1,fine,7\n"
    )
    columns = {"image0": "a", "image1": "b", "image2": "c", "choice": "odd", "level": "kind", "participant": "who"}
    answers = read_responses(str(tmp_path / "l.csv"), columns)
    assert answers.object_names == ("ant.jpg", "car.jpg", "cat.jpg", "dog.jpg")
    np.testing.assert_array_equal(answers.triplets, [[2, 3, 1], [0, 2, 3]])
    assert answers.table["level"].to_pylist() == ["coarse", "fine"]
    with pytest.raises(UserError, match="no column 'nothing'"):
        read_responses(str(tmp_path / "l.csv"), {"choice": "nothing"})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not a triplet file"),
        ("0 1\n2 3\n", "three columns"),
        ("0 1 2\n0 1\n", "not a triplet file"),
        ("0 1 2\n0 1 1.5\n", "line 2 holds a number that is not whole"),
        ("0 1 2\n0 1 nan\n", "line 2 holds a number that is not whole"),
        ("0 1 2\n0 one 2\n", "not a triplet file"),
        ("0 1 2\n-1 1 2\n", "line 2 names object -1"),
        ("0 1 2\n3 1 3\n", "1 rows repeat an object .first: line 2"),
        ("0 1 2\n3 1 9\n", "line 2 names object 9, but there are 5"),
        ("image1,image2,image3,choice\n1,2,3,4\n", "choice 4 is not a position"),
        ("first,second\n1,2\n", "no columns image1"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "bad.txt").write_text(content)
    with pytest.raises(UserError, match=says) as error:
        triplets.read_triplets(str(tmp_path / "bad.txt"), 5)
    assert "\n" not in str(error.value)


def test_bad_arrays(tmp_path: Path) -> None:
    path = str(tmp_path / "bad.npy")
    for array, says in (
        (np.zeros((4, 2), int), "three columns"),
        (np.array([["a", "b", "c"]]), "whole numbers"),
        (np.array([[0, 1, 2], [0, 1, np.inf]]), "line 2"),
        (np.array([[{}, 1, 2]], dtype=object), "plain .npy"),
    ):
        np.save(path, array)
        with pytest.raises(UserError, match=says):
            triplets.read_triplets(path)
    with pytest.raises(UserError, match="cannot read"):
        triplets.read_triplets(str(tmp_path / "nothing.txt"))


def test_the_base_is_detected_or_given(tmp_path: Path) -> None:
    path = text(tmp_path / "one.txt", ROWS + 1)
    np.testing.assert_array_equal(triplets.read_triplets(path, 5), ROWS)
    np.testing.assert_array_equal(triplets.read_triplets(path, 9, base=1), ROWS)
    np.testing.assert_array_equal(triplets.read_triplets(path, 9), ROWS + 1)
    with pytest.raises(UserError, match=r"line 1 names object 0, so the file counts from 0: use --human\.base 0"):
        triplets.read_triplets(text(tmp_path / "zero.txt"), 5, base=1)


def world() -> tuple[np.ndarray, np.ndarray]:
    """An embedding of 50 objects, and the choices that it would make."""
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(size=(50, 5))).astype(np.float32) * 2
    rows = np.stack([rng.permutation(49)[:3] for _ in range(2000)])
    s = np.stack([(x[rows[:, a]] * x[rows[:, b]]).sum(1) for a, b in ((0, 1), (0, 2), (1, 2))], axis=1)
    choice = (s + rng.gumbel(size=s.shape)).argmax(axis=1)
    return x, np.take_along_axis(rows, np.array([[0, 1, 2], [0, 2, 1], [1, 2, 0]])[choice], axis=1)


def test_a_reference_refuses_wrong_readings_and_says_what_fits(tmp_path: Path) -> None:
    x, rows = world()
    np.testing.assert_array_equal(triplets.read_triplets(text(tmp_path / "a.txt", rows), reference=x), rows)
    order = np.random.default_rng(1).permutation(50)
    wrong = {
        "--human.base 1": rows + 1,
        "odd one first": rows[:, [2, 0, 1]],
        "odd one in the middle": rows[:, [0, 2, 1]],
        "--human.order": order[rows],
        "not always in the same column": np.where(np.arange(len(rows))[:, None] % 2, rows, rows[:, [0, 2, 1]]),
    }
    first_or_middle = np.where(np.arange(len(rows))[:, None] % 2, rows[:, [2, 0, 1]], rows[:, [0, 2, 1]])
    for says, other in [*wrong.items(), ("not always in the same column", first_or_middle)]:
        with pytest.raises(UserError, match=says):
            triplets.read_triplets(text(tmp_path / "a.txt", other), reference=x)
    read = triplets.read_triplets(text(tmp_path / "a.txt", order[rows]), reference=x, order=np.argsort(order))
    np.testing.assert_array_equal(read, rows)


def test_embeddings_and_orders(tmp_path: Path) -> None:
    good = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", good)
    np.testing.assert_array_equal(triplets.read_embedding(str(tmp_path / "x.npy")), good)
    np.savetxt(tmp_path / "x.txt", good)
    np.testing.assert_allclose(triplets.read_embedding(str(tmp_path / "x.txt")), good, rtol=1e-6)
    for array, says in (
        (0 * good, "zero everywhere"),
        (good[0], "shape"),
        (np.where(good > 1, np.nan, np.nan), "not finite"),
    ):
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(UserError, match=says):
            triplets.read_embedding(str(tmp_path / "x.npy"))
    np.testing.assert_array_equal(triplets.read_order(text(tmp_path / "o.txt", np.array([2, 0, 1]))), [2, 0, 1])
    with pytest.raises(UserError, match="every row number once"):
        triplets.read_order(text(tmp_path / "o.txt", np.array([2, 2, 1])))


def test_the_sample_is_read_and_checked(sample: Path) -> None:
    reference = triplets.read_embedding(str(sample / "things" / "vice_embedding_42d.npy"))
    rows = triplets.read_triplets(str(sample / "things" / "simulated_imaged.txt"), reference=reference)
    assert rows.shape == (100_000, 3)
    found = triplets.plausibility(rows, reference)
    assert found.agreement == pytest.approx(found.expected, abs=0.01)


def test_an_order_that_counts_from_one_or_is_empty_is_refused(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(UserError, match="counts from 1 to 3"):
        triplets.read_order(text(tmp_path / "o.txt", np.array([2, 3, 1])))
    (tmp_path / "empty.txt").write_text("# order\n\n")
    with pytest.raises(UserError, match="it is empty"):
        triplets.read_order(str(tmp_path / "empty.txt"))
    assert not recwarn.list


@pytest.mark.parametrize("number", [4_000_000_000, 10_000_000])
def test_numbers_that_are_no_count_are_refused_before_an_array_is_sized_by_them(tmp_path: Path, number: int) -> None:
    (tmp_path / "f.txt").write_text(f"1 2 3\n4 {number} 6\n")
    with pytest.raises(UserError, match=f"line 2 names object {number}, and the objects are counted"):
        triplets.read_triplets(str(tmp_path / "f.txt"))
    (tmp_path / "f.txt").write_text("1 2 3\n4 9999999 6\n")
    assert triplets.read_triplets(str(tmp_path / "f.txt")).max() == 9_999_999

    (tmp_path / "order.txt").write_text(f"0\n2\n{number}\n")
    with pytest.raises(UserError, match=f"names row {number}"):
        triplets.read_order(str(tmp_path / "order.txt"))
