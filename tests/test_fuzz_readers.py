"""Damaged files: every reader turns them into one line, whatever library reads them; anything else is a fault of ours.

Each reader gets at least 300 files: its valid ones truncated, with random bytes changed, with parts repeated or left
out, empty, filled with noise, and the valid files of all other readers under its own suffix.
"""

import io
import json
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import scipy.io
import torch
import yaml
from PIL import Image
from support.foreign_weights import GRAPH, object_graph, tiny_weights, write_bundle

from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.schemas import TRIPLETS
from alignet_ray.artifacts.student_files import StudentDescription
from alignet_ray.artifacts.transforms import read_transform
from alignet_ray.checks import verify
from alignet_ray.config import Config
from alignet_ray.data import deepmind, feature_files, stored
from alignet_ray.data.files import read_rows
from alignet_ray.errors import UserError
from alignet_ray.human.benchmarks import read_choices, read_image_responses
from alignet_ray.human.comparisons import read_table
from alignet_ray.human.matrices import read_matrix
from alignet_ray.human.objects import read_concepts
from alignet_ray.human.responses import read_responses
from alignet_ray.human.triplets import read_embedding, read_order
from alignet_ray.images import jpeg
from alignet_ray.images.decode import decode
from alignet_ray.images.listing import list_images, read_bytes
from alignet_ray.models import flax_vit
from alignet_ray.models.backbone import load_backbone
from alignet_ray.models.import_weights import find, open_source
from alignet_ray.models.weights_file import read_weights
from alignet_ray.stages.embed_actor import ActorTask, read_unit
from alignet_ray.store import Store

DAMAGED = 300
"""Damaged files per reader."""

Reader = Callable[[Path], Any]


def arrow(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def npy(values: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, values)
    return sink.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)
    return sink.getvalue()


def mat(**arrays: np.ndarray) -> bytes:
    sink = io.BytesIO()
    scipy.io.savemat(sink, arrays, do_compression=True)
    return sink.getvalue()


def picture(format: str) -> bytes:
    sink = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(sink, format)
    return sink.getvalue()


def tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as file:
        for name, content in (("cat/1.jpg", picture("JPEG")), ("cat/1.cls", b"7"), ("2.png", picture("PNG"))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def images_table() -> pa.Table:
    names = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [picture("PNG")] * 4, "label": [0, 1, -1, 0]})
    return table.replace_schema_metadata({b"huggingface": json.dumps(names).encode()})


def release() -> bytes:
    return npz(
        filenames=np.array([["a.JPEG", "b.JPEG", "c.JPEG"]] * 5, dtype="S"),
        similarities=np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32),
    )


ROWS = np.array([[0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 2, 4]])
SQUARE = np.eye(4) + 0.5
TEXT = "\n".join(" ".join(map(str, row)) for row in ROWS.tolist()).encode()
TABLE = b"image1,image2,image3,choice,RT\n1,2,3,3,812\n2,3,4,1,-\n"
CHOICES = b"ref_path,left_path,right_path,left_vote,right_vote\na.jpg,b.jpg,c.jpg,1,2\n"
VOTES = b"reference,a,b,votes_a,votes_b\ncat,dog,eel,3,1\ndog,eel,cat,0,5\n"
ANSWERED = b"participant,reference,a,b,choice,rt\np1,0,1,2,1,812\np2,3,1,2,b,\n"
LABELS = pa.table({name: [number] * 3 for number, name in enumerate(TRIPLETS.names)}).cast(TRIPLETS)


def read_all_images(path: Path) -> None:
    """List a shard and read its images as a worker does: an image's own fault may be a ValueError or OSError."""
    for name in list_images(str(path))["path"].to_pylist():
        try:
            decode(read_bytes(str(path), name))
        except (ValueError, OSError):
            continue


def decode_quietly(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata
        for decoder in (decode, jpeg.decode):
            try:
                decoder(path.read_bytes())
            except ValueError:
                continue


def read_choices_file(path: Path) -> None:
    read_choices(str(path), {"a.jpg": 0, "b.jpg": 1, "c.jpg": 2})


def read_answers_on_images(path: Path) -> None:
    read_image_responses(str(path), {"a.jpg": 0, "b.jpg": 1, "c.jpg": 2})


def read_stored(path: Path) -> None:
    """Stored embeddings, whose rows a whole CSV beside them names."""
    path.with_suffix(".csv").write_text("path\na.jpg\nb.jpg\nc.jpg\nd.jpg\n", encoding="utf-8")
    stored.read(str(path), "", {f"{name}.jpg": number for number, name in enumerate("abcd")})


def read_stored_rows(path: Path) -> None:
    """Whole embeddings beside a damaged CSV."""
    features = path.with_suffix(".npy")
    features.write_bytes(npy(SQUARE))
    stored.read(str(features), "", {"a.jpg": 0})


def read_features(path: Path) -> None:
    feature_files.read(str(path))


def read_feature_names(path: Path) -> None:
    """A whole array in thingsvision's folder, with damaged names."""
    folder = path.parent / "features"
    folder.mkdir(exist_ok=True)
    (folder / "features.npy").write_bytes(npy(SQUARE))
    (folder / "file_names.txt").write_bytes(path.read_bytes())
    feature_files.read(str(folder))


def list_with_classes(path: Path) -> None:
    """A folder of validation images whose classes a file tells."""
    folder = path.parent / "flat"
    folder.mkdir(exist_ok=True)
    (folder / "ILSVRC2012_val_00000001.png").write_bytes(picture("PNG"))
    (folder / "LOC_val_solution.csv").write_bytes(path.read_bytes())
    list_images(str(folder))


def bundle(suffix: str) -> bytes:
    """One of the two files of a bundle of variables."""
    with tempfile.TemporaryDirectory() as folder:
        record = object_graph({name: f"v/{name}" for name in ("params/cls", "step")})
        write_bundle(Path(folder) / "variables", tiny_weights() | {GRAPH: record, "step": np.array(7)})
        return next(Path(folder).glob(f"*.{suffix}*")).read_bytes()


INDEX, DATA = bundle("index"), bundle("data")


def read_vision_transformer(path: Path) -> None:
    """All that `import` reads of foreign weights."""
    source = open_source(path)
    list(source.namings())
    found = find(source)
    layout = flax_vit.layout_of(found.weights, found.prefix)
    flax_vit.check_variables(found.weights, layout, found.prefix)
    flax_vit.read(found.weights, layout, found.prefix, source.read)


def read_bundle(path: Path, index: bytes, data: bytes) -> None:
    variables = path.parent / "model" / "variables"
    variables.mkdir(parents=True, exist_ok=True)
    (variables / "variables.index").write_bytes(index)
    (variables / "variables.data-00000-of-00001").write_bytes(data)
    read_vision_transformer(path.parent / "model")


def read_damaged_index(path: Path) -> None:
    read_bundle(path, path.read_bytes(), DATA)


def read_damaged_variables(path: Path) -> None:
    read_bundle(path, INDEX, path.read_bytes())


def pickled(content: object) -> bytes:
    sink = io.BytesIO()
    torch.save(content, sink)
    return sink.getvalue()


READERS: dict[str, tuple[Reader, str, list[bytes]]] = {
    "responses as text": (lambda path: read_responses(str(path)), ".csv", [TEXT, TABLE]),
    "responses as array": (lambda path: read_responses(str(path)), ".npy", [npy(ROWS), npy(ROWS.astype(float))]),
    "human embedding as text": (lambda path: read_embedding(str(path)), ".txt", [TEXT]),
    "human embedding as array": (lambda path: read_embedding(str(path)), ".npy", [npy(SQUARE)]),
    "object order": (lambda path: read_order(str(path)), ".txt", [b"2\n0\n1\n"]),
    "matrix of MATLAB": (lambda path: read_matrix(str(path), "similarity"), ".mat", [mat(rdm=SQUARE)]),
    "matrix as array": (lambda path: read_matrix(str(path), "distance"), ".npy", [npy(SQUARE), npy(np.arange(6.0))]),
    "matrix as text": (lambda path: read_matrix(str(path), "distance"), ".csv", [b"1,2,3\n2,1,3\n3,3,1\n"]),
    "reference comparisons": (lambda path: read_table(str(path)), ".csv", [VOTES, ANSWERED]),
    "two-alternative choices": (read_choices_file, ".csv", [CHOICES]),
    "table": (lambda path: read_rows(str(path)), ".csv", [b'label,object\n"cat, dog",1\nbee,2\n']),
    "concepts": (lambda path: read_concepts(str(path)), ".csv", [b"name,category\ncat,animal\n"]),
    "configuration": (Config.from_yaml, ".yaml", [yaml.safe_dump({"distill": {"lr": 1e-4, "steps": 5}}).encode()]),
    "images in Parquet": (read_all_images, ".parquet", [arrow(images_table())]),
    "images in tar": (read_all_images, ".tar", [tar()]),
    "picture": (decode_quietly, ".jpg", [picture(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")]),
    "transform as npz": (
        read_transform,
        ".npz",
        [npz(weights=SQUARE, bias=np.ones(4), mean=np.ones(()), std=np.ones(()))],
    ),
    "transform as safetensors": (
        read_transform,
        ".safetensors",
        [safetensors.numpy.save({"weights": SQUARE, "bias": np.ones(4)}, {"provenance": "{}"})],
    ),
    "weights as safetensors": (read_weights, ".safetensors", [safetensors.numpy.save({"conv.weight": SQUARE})]),
    "weights of torch": (
        read_weights,
        ".pth",
        [pickled({"conv.weight": torch.eye(4)}), pickled({"state_dict": {"module.fc.bias": torch.ones(3)}})],
    ),
    "weights as npz": (read_vision_transformer, ".npz", [npz(**tiny_weights())]),
    "index of TensorFlow's variables": (read_damaged_index, ".index", [INDEX]),
    "TensorFlow's variables": (read_damaged_variables, ".data", [DATA]),
    "answers on images": (
        read_answers_on_images,
        ".csv",
        [b"image0,image1,image2,choice,level\na.jpg,b.jpg,c.jpg,3,border\nb.jpg,c.jpg,a.jpg,1,within\n"],
    ),
    "stored embeddings as array": (read_stored, ".npy", [npy(SQUARE)]),
    "stored embeddings as safetensors": (
        read_stored,
        ".safetensors",
        [safetensors.numpy.save({"embedding": SQUARE})],
    ),
    "rows of stored embeddings": (read_stored_rows, ".csv", [b"path,row\na.jpg,0\nb.jpg,2\nc.jpg,1\nd.jpg,3\n"]),
    "features as npz": (read_features, ".npz", [npz(x=SQUARE, names=np.array(list("abcd"))), npz(x=SQUARE)]),
    "features as Parquet": (
        read_features,
        ".parquet",
        [
            arrow(pa.table({"path": list("abcd"), "x": SQUARE.tolist()})),
            arrow(pa.table({"path": list("abcd"), "x": SQUARE[:, 0], "y": SQUARE[:, 1]})),
        ],
    ),
    "names of features": (read_feature_names, ".txt", [b"a.jpg\nb.jpg\nc.jpg\nd.jpg\n"]),
    "classes of validation images": (
        list_with_classes,
        ".csv",
        [b"ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\n"],
    ),
    "labelled triplets": (lambda path: verify(str(path)), ".parquet", [arrow(LABELS)]),
    "released triplets": (lambda path: verify(str(path)), ".npz", [release()]),
    "released triplets, read": (lambda path: list(deepmind.blocks(path)), ".npz", [release()]),
    "responses, verified": (lambda path: verify(str(path)), ".txt", [TEXT, TABLE]),
    "student's description": (
        lambda path: StudentDescription.read(path.parent),
        ".json",
        [b'{"model": "x", "width": 3}'],
    ),
}
VALID = [content for _, _, contents in READERS.values() for content in contents]


def damaged(valid: list[bytes], seed: int) -> Iterator[bytes]:
    """Files that were valid ones: the others' as they are, then truncated, changed, repeated and made of noise."""
    yield b""
    yield from VALID
    random = np.random.default_rng(seed)
    for number in range(DAMAGED):
        content = bytearray(valid[number % len(valid)])
        kind = number % 5
        position = int(random.integers(0, len(content)))
        if kind == 0:
            del content[position:]
        elif kind == 1:
            for place in random.integers(0, len(content), 1 + number % 8).tolist():
                content[place] = int(random.integers(0, 256))
        elif kind == 2:
            del content[position : position + int(random.integers(1, 40))]
        elif kind == 3:
            content[position:position] = random.bytes(int(random.integers(1, 40)))
        else:
            content[position:] = random.bytes(len(content) - position)
        yield bytes(content)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_line_and_no_traceback(name: str, tmp_path: Path) -> None:
    reader, suffix, valid = READERS[name]
    path = tmp_path / ("model.json" if suffix == ".json" else f"file{suffix}")
    seen = 0
    messages: list[str] = []
    for content in damaged(valid, seed=len(name)):
        path.write_bytes(content)
        seen += 1
        try:
            reader(path)
        except UserError as error:
            messages.append(str(error))
        except Exception as error:
            kept = Path("/tmp") / f"damaged{suffix}"
            kept.write_bytes(content)
            raise AssertionError(f"{name}: {type(error).__name__}: {error} (file kept as {kept})") from error

    assert seen >= DAMAGED
    assert not [message for message in messages if "\n" in message or len(message) > 700]
    # A picture's faults are ValueErrors, for the quarantine; damage in a tar is mostly that of its pictures. A file of
    # classes that names none leaves its images without class, which listing tells.
    if name not in ("picture", "images in tar", "classes of validation images"):
        assert len(messages) > 20, "hardly any damage was refused: the reader checks nothing"


def test_a_reader_in_a_worker_quarantines_damaged_pictures(tmp_path: Path) -> None:
    """Units of damaged pictures, read as a process beside a GPU actor reads them: each is opened, or has its reason."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    valid = [picture(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")]
    contents = list(damaged(valid, seed=1))
    for number, content in enumerate(contents):
        (pictures / f"{number:04}.jpg").write_bytes(content)

    backbone = load_backbone("random:test_vit", 32)
    artifact = EmbedArtifact(Store.open(str(tmp_path / "root")).draft("embed", "e"))
    listed = list_images(str(pictures))
    artifact.write_images(listed.to_batches())
    artifact.write_networks({"members": [backbone.describe()], "head": "none", "widths": {}})
    settings = {"models": (), "registry": "", "size": 32, "head": "none", "layer": "pre_logits", "compute": "float32"}
    settings |= {"fast": False, "dtype": "float16", "batch_size": 8, "threads": 1, "resize_on_device": False}
    task = ActorTask(artifact, str(pictures), compile="off", images_per_actor=1, unit_size=100, **settings)  # type: ignore[arg-type]

    opened = 0
    reasons: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata
        for unit in range(-(-len(contents) // 100)):
            notes = json.loads(read_unit({"unit": np.array([unit])}, task)["opened"][0])
            opened += len(notes["kept"])
            reasons += [reason for _, reason in notes["errors"]]
    assert opened + len(reasons) == len(contents) >= DAMAGED
    assert min(opened, len(reasons)) > 50
    assert not [reason for reason in reasons if "\n" in reason or len(reason) > 700]
