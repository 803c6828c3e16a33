"""Names that users choose are checked where they are parsed, before anything starts."""

import pytest

from alignet_ray.config import Config
from alignet_ray.config.names import check_local_folder, check_set_name
from alignet_ray.errors import UserError


@pytest.mark.parametrize("name", ["run", "exp 1", "v1.2", "gr\u00f6\u00dfe", "a" * 200, "x-", "100%"])
def test_a_runs_name_is_a_files_name(name: str) -> None:
    assert Config().replace(name=name).name == name


@pytest.mark.parametrize(
    "name", ["", "  ", "exp/1", "../../x", ".v2", "..", "a\\b", "a\nb", "a" * 201, "\udcff", "-v", "x ", " x"]
)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="a run's name"):
        Config().replace(name=name)


@pytest.mark.parametrize("name", ["student", "my student", "s-1.2_x"])
def test_names_that_the_registry_takes(name: str) -> None:
    assert Config().replace(register__name=name).register.name == name


@pytest.mark.parametrize("name", ["", " x", "lab/student", "a:b", "a@b", "50%", "a?b", "..", "it's"])
def test_names_that_the_registry_or_its_urls_refuse(name: str) -> None:
    with pytest.raises(UserError, match="the name of a registered model"):
        Config().replace(register__name=name)


@pytest.mark.parametrize("alias", ["latest", "Latest", "v2", "V10", "", "a b", "a/b", "a" * 256])
def test_aliases_that_mlflow_refuses_after_a_training(alias: str) -> None:
    with pytest.raises(UserError, match="alias"):
        Config().replace(register__alias=alias)


def test_mlflow_agrees_about_names_and_aliases() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_model_alias_name, _validate_model_name

    for name in ("lab/student", "a:b", "", ".."):
        with pytest.raises(MlflowException):
            _validate_model_name(name)
    for alias in ("a b", "", "a/b"):
        with pytest.raises(MlflowException):
            _validate_model_alias_name(alias)
    for alias in ("candidate", "version-2", "v", "vx"):
        _validate_model_alias_name(Config().replace(register__alias=alias).register.alias)


@pytest.mark.parametrize("name", ["levels", "rsa92", "Cichy-118_v1.2", "_x", "a" * 60])
def test_names_of_sets(name: str) -> None:
    assert check_set_name(name) == name


@pytest.mark.parametrize("name", ["", " a", "a b", "a/b", "a@b", ".a", "-a", "gr\u00f6\u00dfe", "a" * 61, "a\n"])
def test_names_that_could_not_be_part_of_a_nodes_name(name: str) -> None:
    with pytest.raises(ValueError, match="a set's name has letters"):
        check_set_name(name)


def test_a_folder_that_is_mapped_into_memory_is_on_this_machine() -> None:
    """Refused while options are read, and not when the stage that needs it begins."""
    assert check_local_folder(None) is None
    assert Config(cache_dir="/nvme/cache").cache_dir == "/nvme/cache"
    with pytest.raises(ValueError, match="its files are mapped into memory: give a folder of the machine"):
        Config(cache_dir="s3://bucket/cache")
