import base64
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support.pretended_gpu import pretended_gpu

import alignet_ray
from alignet_ray.errors import UserError
from alignet_ray.images.decode import decode
from alignet_ray.models.embedding_network import make_network, save_network
from alignet_ray.models.hub import load


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A student's folder, and the tracking server where it is registered as models:/s@champion."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    folder, uri = tmp_path / "student", f"sqlite:///{tmp_path}/mlflow.db"
    folder.mkdir()
    save_network(folder, make_network("random:test_efficientnet", 32, 8, seed=1), {})
    code = Path(alignet_ray.__file__).parent
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("e")
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="student",
            python_model=str(code / "models/serving.py"),
            artifacts={"student": str(folder)},
            pip_requirements=["torch"],
            registered_model_name="s",
        )
    mlflow.MlflowClient().set_registered_model_alias("s", "champion", "1")
    yield folder, uri
    mlflow.set_tracking_uri(None)


def test_pyfunc_folder_and_registry_give_equal_numbers(registry: tuple[Path, str]):
    import mlflow

    folder, uri = registry
    x = torch.randn(3, 3, 32, 32)
    expected = load(folder)(x)
    registered = load("models:/s@champion", tracking_uri=uri)(x)
    served = mlflow.pyfunc.load_model("models:/s@champion").predict(x.numpy())
    for name in ("embedding", "triplet_logits"):
        assert torch.equal(getattr(expected, name), getattr(registered, name))
        assert np.array_equal(getattr(expected, name).numpy(), served[name])
    with pytest.raises(UserError, match="not in the registry"):
        load("models:/unknown@champion", tracking_uri=uri)


@pytest.fixture
def context(tmp_path: Path, untyped_caller: None) -> SimpleNamespace:
    """What MLflow hands to a model."""
    save_network(tmp_path, make_network("random:test_efficientnet", 32, 8, seed=1), {})
    return SimpleNamespace(artifacts={"student": str(tmp_path)})


def files(count: int) -> list[bytes]:
    """Image files of random noise."""
    made = []
    for seed in range(count):
        sink = io.BytesIO()
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(sink, "PNG")
        made.append(sink.getvalue())
    return made


def test_image_files_are_decoded_a_batch_at_a_time(context: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignet_ray.models import serving

    monkeypatch.setattr(serving, "BATCH", 2)
    model = serving.Pyfunc()
    model.load_context(context)
    images = files(5)
    found = model.predict(None, pd.DataFrame({"image": images}))
    student, preprocess = load(context.artifacts["student"])
    expected = student(torch.stack([preprocess(decode(data)) for data in images]))
    np.testing.assert_allclose(found["embedding"], expected.embedding.numpy(), atol=1e-5)
    images[3] = b"no image"
    with pytest.raises(ValueError, match=r"^image 3: not an image"):
        model.predict(None, pd.DataFrame({"image": images}))


def test_image_files_come_as_bytes_or_base64_in_any_form_of_request(context: SimpleNamespace) -> None:
    from mlflow.pyfunc.scoring_server import infer_and_parse_data

    from alignet_ray.models import serving

    model = serving.Pyfunc()
    model.load_context(context)
    images = files(2)
    expected = model.predict(None, pd.DataFrame({"image": images}))["embedding"]
    texts = [base64.b64encode(data).decode() for data in images]
    for request in (
        {"dataframe_split": {"columns": ["image"], "data": [[text] for text in texts]}},
        {"dataframe_records": [{"image": text} for text in texts]},
        {"inputs": {"image": texts}},
        {"instances": [{"image": text} for text in texts]},
    ):
        found = model.predict(None, infer_and_parse_data(request))["embedding"]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("request_body", "problem"),
    [
        (pd.DataFrame({"picture": [b"x"]}), r"a table needs a column 'image' of image files; this one has picture"),
        (pd.DataFrame({"image": ["no base64!"]}), r"image 0: neither an image file's bytes nor base64"),
        (pd.DataFrame({"image": [3.5]}), r"image 0: neither an image file's bytes nor base64"),
        (pd.DataFrame({"image": []}), r"no images"),
        (np.zeros((2, 3, 16, 16)), r"shape \(b, 3, 32, 32\); this is \(2, 3, 16, 16\)"),
        (np.zeros((0, 3, 32, 32)), r"no images"),
        (np.array(["words"]), r"send image files .* or preprocessed images"),
        ([[1.0], [2.0, 3.0]], r"send image files .* or preprocessed images"),
    ],
)
def test_what_is_neither_tensors_nor_image_files_is_refused(
    context: SimpleNamespace, request_body: object, problem: str
) -> None:
    from alignet_ray.models import serving

    model = serving.Pyfunc()
    model.load_context(context)
    with pytest.raises(ValueError, match=problem):
        model.predict(None, request_body)


def test_a_request_holds_so_many_images_at_most(context: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignet_ray.models import serving

    model = serving.Pyfunc()
    model.load_context(context)
    monkeypatch.setattr(serving, "MAX_IMAGES", 3)
    with pytest.raises(ValueError, match="4 images in one request: send at most 3"):
        model.predict(None, pd.DataFrame({"image": files(4)}))
    with pytest.raises(ValueError, match="4 images in one request: send at most 3"):
        model.predict(None, np.zeros((4, 3, 32, 32), np.float32))


def test_a_student_is_served_on_the_gpu_where_there_is_one(
    context: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignet_ray.models import serving

    table = pd.DataFrame({"image": files(2)})
    on_cpu = serving.Pyfunc()
    on_cpu.load_context(context)
    expected = on_cpu.predict(None, table)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pretended_gpu():
        model = serving.Pyfunc()
        model.load_context(context)
        assert next(model.student.parameters()).is_cuda
        found = model.predict(None, table)
    np.testing.assert_allclose(found["triplet_logits"], expected["triplet_logits"], atol=1e-5)


def test_a_folder_needs_neither_ray_nor_mlflow(tmp_path: Path):
    save_network(tmp_path, make_network("random:test_efficientnet", 32, 8, seed=1), {})
    code = f"""
import sys
for name in ("ray", "mlflow", "pyarrow", "pydantic", "tyro", "sklearn", "scipy", "rich"):
    sys.modules[name] = None  # an import of it fails
import alignet_ray, torch, PIL.Image
model = alignet_ray.load({str(tmp_path)!r})
network, preprocess = model
print(tuple(network(torch.zeros(2, 3, 32, 32)).triplet_logits.shape))
print(model.embed([PIL.Image.new("L", (40, 40)), preprocess(PIL.Image.new("RGBA", (9, 9)))]).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["(2, 8)", "(2, 8)"], done.stderr
