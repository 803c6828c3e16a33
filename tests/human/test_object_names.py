import pytest

from alignet_ray.errors import UserError
from alignet_ray.human import object_names


def test_names_of_all_files_are_numbered_by_the_alphabet() -> None:
    names = object_names.of_files({"one.csv": ["dog", "cat"], "two.csv": ["bird", "dog"]})
    assert names is not None
    assert names.names == ("bird", "cat", "dog")
    assert names.numbers(["dog", "bird"], "one.csv").tolist() == [2, 0]


def test_numbered_files_have_no_names() -> None:
    assert object_names.of_files({"one.csv": [], "two.csv": []}) is None
    with pytest.raises(UserError, match=r"a\.csv names its objects and b\.csv numbers them"):
        object_names.of_files({"a.csv": ["dog"], "b.csv": []})


def test_an_unknown_name_is_told_with_the_nearest_one() -> None:
    names = object_names.from_concepts(["aardvark", "abacus"], "concepts.csv")
    with pytest.raises(UserError, match=r"not in concepts\.csv \(first: 'abacuss'\); did you mean 'abacus'"):
        names.numbers(["aardvark", "abacuss"], "answers.csv")


def test_names_that_differ_in_case_are_two_objects() -> None:
    names = object_names.of_files({"one.csv": ["DOG", "cat"], "two.csv": ["dog"]})
    assert names is not None
    assert names.names == ("DOG", "cat", "dog")
    with pytest.raises(UserError, match=r"\(first: 'CAT'\); did you mean 'cat'\?"):
        names.numbers(["CAT"], "answers.csv")


def test_one_name_for_two_objects_is_refused() -> None:
    with pytest.raises(UserError, match="two objects are called 'bat'"):
        object_names.from_concepts(["bat", "cat", "bat"], "concepts.csv")


def test_names_are_compared_as_people_see_them() -> None:
    names = object_names.of_files({"a.csv": ["cafe\u0301"], "b.csv": ["caf\u00e9"]})
    assert names is not None
    assert len(names) == 1


def test_numbers_may_be_padded() -> None:
    names = object_names.by_number(12)
    assert names.number_of_any(("07",)) == 7
    assert names.number_of_any(("11", "3")) == 11
    assert names.number_of_any(("12", "shoe")) is None
    # A name is not a number: padding means something there.
    assert object_names.from_concepts(["7"], "c.csv").number_of_any(("07",)) is None
