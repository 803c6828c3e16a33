"""The entries are complete, their commands can be typed, and their files can be converted as they say."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import scipy.io
from pydantic import ValidationError

from alignet_ray.cli import options
from alignet_ray.cli.main import COMMANDS
from alignet_ray.cli.options import RunOptions, VerifyOptions
from alignet_ray.cli.parse import option_names, read
from alignet_ray.data.catalogue import DataFile, DataSet, data_sets, size_text
from alignet_ray.human.comparisons import read_table
from alignet_ray.human.matrices import read_participants

ENTRIES = list(data_sets().values())
NAMED = [entry.name for entry in ENTRIES]


def entry_id(entry: DataSet) -> str:
    return entry.name


def test_the_field_is_there() -> None:
    assert {"things-images", "things-triplets", "thingsplus", "spose", "vice", "levels"} <= set(NAMED)
    assert {"alignet-triplets", "alignet-activations", "nights", "imagenet", "material", "shoes"} <= set(NAMED)
    assert {"arrangement-92", "cichy-118", "king", "peterson"} <= set(NAMED)


@pytest.mark.parametrize("entry", ENTRIES, ids=entry_id)
def test_every_entry_says_under_which_terms_how_it_is_cited_and_where_it_is(entry: DataSet) -> None:
    for text in (entry.title, entry.size, entry.licence, entry.terms, entry.cite, entry.citation):
        assert text.strip() == text
        assert text
    assert re.search(r"\(\d{4}\)|see the page", entry.citation)
    assert "https://" in entry.citation or "see the page" in entry.citation
    for url in (entry.page, *entry.more, *(file.url for file in entry.files)):
        assert urlparse(url).scheme == "https"
        assert urlparse(url).netloc


@pytest.mark.parametrize("entry", ENTRIES, ids=entry_id)
def test_only_open_data_sets_have_files_and_all_others_say_why_not(entry: DataSet) -> None:
    assert entry.can_be_fetched == (entry.access == "open")
    assert bool(entry.files) == entry.can_be_fetched
    if not entry.can_be_fetched:
        assert entry.obstacle[0].islower()
        assert entry.reason or entry.access in ("password", "registration")


@pytest.mark.parametrize("entry", ENTRIES, ids=entry_id)
def test_files_of_repositories_are_pinned_and_have_checksums(entry: DataSet) -> None:
    assert len({file.name for file in entry.files}) == len(entry.files)
    for file in entry.files:
        # A branch would change under its checksum.
        if "githubusercontent" in file.url:
            assert re.search(r"/[0-9a-f]{40}/", file.url)
            assert file.sha256
            assert file.bytes
        elif file.sha256:
            assert file.checksum_from, "whoever states a checksum is named"


@pytest.mark.parametrize("entry", ENTRIES, ids=entry_id)
def test_the_command_of_an_entry_can_be_typed(entry: DataSet) -> None:
    program, command, *args = shlex.split(entry.at().run)
    assert program == "alignet-ray"
    chosen = read(getattr(options, COMMANDS[command].options), command, args)
    assert isinstance(chosen, RunOptions)
    used = set(chosen.given)
    assert f"--{entry.plugs_in_as[0]}" in used
    assert {f"--{option}" for option in entry.plugs_in_as} <= set(option_names(RunOptions))
    assert "{" not in entry.at().run


@pytest.mark.parametrize("entry", ENTRIES, ids=entry_id)
def test_every_option_in_a_note_exists(entry: DataSet) -> None:
    known = {*option_names(RunOptions), *option_names(VerifyOptions)}
    assert set(re.findall(r"--[a-z][\w.-]*[a-z]", " ".join(entry.notes))) <= known


@pytest.mark.parametrize("entry", ENTRIES, ids=entry_id)
def test_commands_name_only_data_sets_and_files_that_there_are(entry: DataSet) -> None:
    placed = entry.at("DATA")
    named = re.findall(r"DATA/([\w-]+)", " ".join((placed.run, *placed.prepare)))
    assert set(named) <= set(NAMED)

    # A path that is said to be fetched is that of a file of the entry.
    for other, file in re.findall(r"DATA/([\w-]+)/([\w.-]+\.(?:csv|npy|tsv|mat|json|zip))", placed.run):
        source = data_sets()[other]
        if source.can_be_fetched and not source.prepare:
            assert file in {fetched.name for fetched in source.files}


def test_a_folder_of_any_name_stays_one_word_of_the_shell() -> None:
    entry = data_sets()["material"]
    for parent in ("/data", "my data", "a'b"):
        placed = entry.at(parent)
        words = shlex.split(placed.run)
        assert f"{parent}/material/choices.csv" in words
        assert f"{parent}/material/repository" in shlex.split(placed.prepare[0])
    assert entry.at("/data").prepare[1].startswith('python -c "import csv')


def converted(entry: DataSet, folder: Path) -> None:
    """Run what an entry says must be done with its files, but for what needs the network."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in entry.at(folder).prepare:
        if not command.startswith("git"):
            subprocess.run(command, shell=True, check=True, env=environment)


@pytest.mark.parametrize("name", ["data", "my data"])
def test_the_matrices_of_92_objects_are_read_after_their_conversion(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "arrangement-92"
    folder.mkdir(parents=True)
    people = np.random.default_rng(0).random((3, 5, 5))
    people += people.transpose(0, 2, 1)
    people[:, range(5), range(5)] = 0
    record = np.zeros((1, 3), dtype=[("RDM", "O"), ("name", "O")])
    for person, matrix in enumerate(people):
        record[0, person] = (matrix, "somebody")
    scipy.io.savemat(folder / "92_behavRDMs.mat", {"rdms_behav_92": record})

    converted(data_sets()["arrangement-92"], folder.parent)
    assert np.allclose(read_participants(str(folder / "distances.npy"), "distance"), -people)


@pytest.mark.skipif("ALIGNET_SAMPLE" not in os.environ, reason="ALIGNET_SAMPLE names no folder of real data")
def test_the_published_matrices_of_92_objects_are_those_that_are_known(tmp_path: Path) -> None:
    sample = Path(os.environ["ALIGNET_SAMPLE"]) / "rsa92"
    folder = tmp_path / "arrangement-92"
    folder.mkdir()
    (folder / "92_behavRDMs.mat").write_bytes((sample / "92_behavRDMs.mat").read_bytes())
    converted(data_sets()["arrangement-92"], tmp_path)
    assert np.allclose(np.load(folder / "distances.npy"), np.load(sample / "distances.npy"), atol=1e-6)


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_answers_on_materials_become_choices_with_the_names_in_alphabetical_order(tmp_path: Path) -> None:
    folder = tmp_path / "material"
    images = folder / "repository" / "data" / "havran1_stpeters_256x256_LDR"
    images.mkdir(parents=True)
    # As file names these two would be the other way round.
    for name in ("chrome-steel", "chrome", "brass"):
        (images / f"{name}.png").touch()
    asked = {"answers": [[1, 0, 2], [0, 2, 1]], "agreement": [[3, 1], [0, 4]]}
    (folder / "answers_processed_train.json").write_text(json.dumps(asked))

    converted(data_sets()["material"], tmp_path)
    assert rows_of(folder / "choices.csv")[1:] == [
        ["chrome.png", "brass.png", "chrome-steel.png", "3", "1"],
        ["brass.png", "chrome-steel.png", "chrome.png", "0", "4"],
    ]
    assert len(read_table(str(folder / "choices.csv")).rows) == 2


def test_answers_on_shoes_become_choices(tmp_path: Path) -> None:
    folder = tmp_path / "shoes"
    folder.mkdir()
    with zipfile.ZipFile(folder / "deconflicted_triplets.csv.zip", "w") as archive:
        archive.writestr("deconflicted_triplets.csv", "28,62,7\n50,68,80\n")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        archive.writestr("images/28.jpg", b"a shoe")

    converted(data_sets()["shoes"], tmp_path)
    assert rows_of(folder / "choices.csv")[1:] == [
        ["28.jpg", "62.jpg", "7.jpg", "1", "0"],
        ["50.jpg", "68.jpg", "80.jpg", "1", "0"],
    ]
    assert (folder / "images" / "28.jpg").is_file()
    assert len(read_table(str(folder / "choices.csv")).rows) == 2


def test_an_entry_with_an_unknown_key_or_a_path_as_a_name_is_refused() -> None:
    with pytest.raises(ValidationError):
        DataFile(url="https://example.org/x", name="../x")
    with pytest.raises(ValidationError):
        DataFile(url="https://example.org/x", name="x", sha256="abc")
    with pytest.raises(ValidationError):
        DataSet(**{**ENTRIES[0].model_dump(), "license": "MIT"})


def test_sizes_for_people() -> None:
    assert [size_text(size) for size in (0, 999, 1000, 311_600, 3_797_120, 1_180_000_000)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "311.6 kB",
        "3.8 MB",
        "1.2 GB",
    ]
