"""One run where everything around it is as people's machines are: see FIELD.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.image_files import labels_of, write_tar

from alignet_ray.images.listing import list_images, read_bytes


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name has characters of URLs, with pictures, and a script that is called like a library."""
    folder = tmp_path_factory.mktemp("field") / "My%20Data? #1's"
    for number in range(20):
        file = folder / "pictures" / "gr\u00f6\u00dfe" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    (folder / "timm.py").write_text("raise RuntimeError('my own experiment with timm')")
    (folder / "utf8.yaml").write_bytes("name: gr\u00f6\u00dfe\n".encode())
    return folder


def alignet(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """The command as cron or Slurm calls it: C locale, and a long path for temporary files."""
    temporary = folder.parent / "slurm_jobdir_of_the_group" / "1355700" / "tmp.t0016"
    temporary.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "RAY_"))}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TMPDIR": str(temporary)}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    command = [sys.executable, "-m", "alignet_ray", *args]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=300, encoding="utf-8")


def test_a_stage_runs_whatever_the_folder_locale_and_scripts_around_it_are_called(workplace: Path) -> None:
    options = ["--embed.model", "random:test_vit", "--embed.size", "64", "--corpus.path", "pictures"]
    done = alignet(workplace, "embed", "--config", "utf8.yaml", *options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    # Once in the command's own process, and once in Ray's.
    other = ("--embed.size", "80", "--ray.force", "--store.root", str(workplace.parent / "other"))
    done = alignet(workplace, "embed", *options, *other)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    runs = workplace / "runs"
    assert (runs / "mlflow.db").is_file()
    assert (runs / "refs" / "gr\u00f6\u00dfe.json").is_file()
    assert (runs / "logs" / "gr\u00f6\u00dfe.log").is_file()
    assert "Logging error" not in (runs / "logs" / "gr\u00f6\u00dfe.log").read_text(encoding="utf-8")
    assert {path.name for path in workplace.iterdir()} == {"pictures", "timm.py", "utf8.yaml", "runs"}

    listed = alignet(workplace, "ls", "--json")
    assert [run["run"] for run in json.loads(listed.stdout)["runs"]] == ["gr\u00f6\u00dfe"]


def test_a_configuration_is_utf8_in_any_locale(workplace: Path) -> None:
    done = alignet(workplace, "show", "--config", "utf8.yaml")
    assert done.returncode == 0, done.stderr
    assert "name: gr\u00f6\u00dfe" in done.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("run", "--name", "../../x"), "a run's name"),
        (("run", "--register.alias", "latest"), "the alias 'latest' is MLflow's own"),
        (("run", "--register.name", "lab/student"), "the name of a registered model"),
        (("rm", "../elsewhere/abc"), "an artifact is STAGE/ID"),
        (("export", "random:test_vit", "/proc/x/y", "--to", "timm"), "cannot use /proc/x"),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_nothing(workplace: Path, args: tuple[str, ...], says: str) -> None:
    before = sorted(workplace.iterdir())
    done = alignet(workplace, *args)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert sorted(workplace.iterdir()) == before


@pytest.mark.parametrize(
    "args",
    [
        ("run", "--corpus.path", "nowhere"),
        ("run", "--human.triplets", "nowhere.csv", "--objects.table", "nowhere.csv", "--corpus.path", "pictures"),
        ("embed", "--embed.model", "random:test_vit", "--corpus.path", "nowhere"),
        ("distill", "--corpus.path", "nowhere", "--store.root", "new/below/runs"),
    ],
)
def test_a_wrong_path_creates_no_root(workplace: Path, args: tuple[str, ...]) -> None:
    before = sorted(workplace.rglob("*"))
    root = () if "--store.root" in args else ("--store.root", "fresh/runs")
    done = alignet(workplace, *args, *root)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sorted(workplace.rglob("*")) == before


def test_a_root_that_was_there_stays_after_a_wrong_path(workplace: Path) -> None:
    (workplace / "kept").mkdir()
    done = alignet(workplace, "run", "--corpus.path", "nowhere", "--store.root", "kept")
    assert done.returncode == 2, done.stdout + done.stderr
    assert (workplace / "kept").is_dir()


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".npy", ".npz", ".parquet", ".safetensors", ".yaml", ".pth"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(workplace: Path, suffix: str) -> None:
    pipe = workplace / f"pipe{suffix}"
    os.mkfifo(pipe)
    commands = {
        ".yaml": ("show", "--config", pipe.name),
        ".pth": ("export", f"test_vit@{pipe.name}", "out", "--to", "timm"),
    }
    try:
        done = alignet(workplace, *commands.get(suffix, ("verify", pipe.name)))
    finally:
        pipe.unlink()
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"{pipe.name} is a pipe or a device" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_names_that_differ_in_case_are_images_and_classes_of_their_own_however_they_are_stored(tmp_path: Path) -> None:
    contents = {path: path.encode() for path in ("A.jpg", "Dog/A.jpg", "Dog/a.jpg", "a.JPG", "a.jpg", "dog/a.jpg")}
    for path, content in contents.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(content)
    write_tar(tmp_path / "tar" / "all.tar", contents | {"Dog/a.cls": b"upper", "dog/a.cls": b"lower"})
    for source, prefix in ((tmp_path / "folder", ""), (tmp_path / "tar", "all.tar/")):
        listed = list_images(str(source))["path"].to_pylist()
        assert listed == [prefix + path for path in contents]
        assert [read_bytes(str(source), path) for path in listed] == list(contents.values())
    assert set(labels_of(str(tmp_path / "folder")).values()) == {"Dog", "dog", ""}
    found = labels_of(str(tmp_path / "tar"))
    assert found["all.tar/Dog/a.jpg"] == "upper"
    assert found["all.tar/dog/a.jpg"] == "lower"

    (tmp_path / "parquet").mkdir()
    for file, classes in (("A", ["Dog", "dog"]), ("a", ["dog", "Dog"])):
        table = pa.table({"image": [b"1", b"2"], "label": classes})
        pq.write_table(table, tmp_path / "parquet" / f"{file}.parquet")
    assert list(labels_of(str(tmp_path / "parquet")).values()) == ["Dog", "dog", "dog", "Dog"]
