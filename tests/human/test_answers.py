from pathlib import Path

import numpy as np
import pytest

from alignet_ray.errors import UserError
from alignet_ray.human import answers
from alignet_ray.human.answers import AnswerFiles


def written(folder: Path, **texts: str) -> AnswerFiles:
    paths = {}
    for name, text in texts.items():
        file = folder / f"{name}.csv"
        file.write_text(text)
        paths[name] = str(file)
    return AnswerFiles(**paths)  # type: ignore[arg-type]


def test_both_kinds_of_question_share_one_numbering(tmp_path: Path) -> None:
    files = written(
        tmp_path,
        triplets="image1,image2,image3,choice\ncat,dog,car,3\n",
        comparisons="reference,a,b,votes_a,votes_b\nboat,car,cat,4,1\n",
    )
    names = answers.read_names(files)
    assert names is not None
    assert names.names == ("boat", "car", "cat", "dog")
    given = answers.read(files, names)
    assert given.triplets.tolist() == [[2, 3, 1]]
    assert given.comparisons.rows.tolist() == [[0, 1, 2]]
    assert given.comparisons.votes.tolist() == [[4, 1]]
    assert given.highest() == 3


def test_concepts_number_the_names(tmp_path: Path) -> None:
    files = written(tmp_path, triplets="image1,image2,image3,choice\ncat,dog,car,3\n")
    files = AnswerFiles(files.triplets, concepts=["dog", "car", "cat"], concepts_path="concepts.csv")
    names = answers.read_names(files)
    assert answers.read(files, names).triplets.tolist() == [[2, 0, 1]]
    # Where a file has numbers, they are those of the concepts already.
    numbered = written(tmp_path, triplets="0 1 2\n")
    assert answers.read_names(AnswerFiles(numbered.triplets, concepts=["a", "b", "c"])) is None


def test_single_answers_to_one_question_are_added_up(tmp_path: Path) -> None:
    files = written(tmp_path, comparisons="reference,a,b,choice\n0,1,2,1\n0,2,1,1\n0,1,2,1\n1,0,2,2\n")
    asked = answers.read(files, None).comparisons
    assert asked.rows.tolist() == [[0, 1, 2], [1, 0, 2]]
    assert asked.votes.tolist() == [[2, 1], [0, 1]]


def test_objects_beyond_the_known_ones_are_refused(tmp_path: Path) -> None:
    files = written(tmp_path, comparisons="reference,a,b,choice\n0,1,2,1\n0,9,1,1\n")
    with pytest.raises(UserError, match="line 3 names object 9, but there are 5 objects"):
        answers.read(files, None, count=5)


def test_held_out_answers_may_be_of_either_kind(tmp_path: Path) -> None:
    files = written(tmp_path, triplets="0 1 2\n", validation="reference,a,b,choice\n0,1,2,1\n")
    held_out = answers.read_validation(files, None, 3)
    assert len(held_out.triplets) == 0
    assert held_out.comparisons.votes.tolist() == [[1, 0]]
    files = written(tmp_path, triplets="0 1 2\n", validation="0 2 1\n")
    assert answers.read_validation(files, None, 3).triplets.tolist() == [[0, 2, 1]]


def test_comparisons_given_as_triplets_are_told_apart(tmp_path: Path) -> None:
    files = written(tmp_path, triplets="reference,a,b,votes_a,votes_b\n0,1,2,1,2\n")
    with pytest.raises(UserError, match=r"reference comparisons: give it as --human\.comparisons"):
        answers.read(files, None)


def test_named_responses_are_checked_against_a_reference(tmp_path: Path) -> None:
    # Objects a to f in two clear groups; every response pairs objects of different groups.
    rows = "".join(f"{i},{j},{k},3\n" for i in "abc" for j in "def" for k in "abc" if i != k)
    files = written(tmp_path, triplets="image1,image2,image3,choice\n" + rows)
    groups = np.repeat(np.eye(2, dtype=np.float32) * 3, 3, axis=0)
    names = answers.read_names(files)
    with pytest.raises(UserError, match="the reference embedding predicts"):
        answers.read(files, names, 6, groups)
