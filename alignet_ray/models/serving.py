"""Serves a student as an MLflow pyfunc, from code and safetensors: nothing is pickled.

MLflow runs this file (`python_model=<its path>`, "models from code") with the student's folder as artifact `student`:

    mlflow.pyfunc.log_model(name="student", python_model=serving.__file__, artifacts={"student": folder},
                            code_paths=[folder of the package alignet_ray], pip_requirements=requirements(), ...)

Input: preprocessed images, float32 (b, 3, s, s); or a table whose column `image` holds image files, as bytes or as
base64 text. Output: a dictionary of float32 arrays, `embedding` (b, d) and, with a head, `triplet_logits` (b, k). The
weights are stored once for both inputs, so that the signature has no schema of inputs, and they are checked here.
"""

import base64
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import mlflow
import numpy as np
import torch
from torch import Tensor

from alignet_ray.models.backbone import Preprocess
from alignet_ray.models.embedding_network import load_network

REQUIREMENTS = ("torch", "timm", "safetensors", "numpy", "pillow", "pyarrow", "jaxtyping", "mlflow")
BATCH = 64
"""Images a forward pass; so many are decoded at once."""

MAX_IMAGES = 1_024
"""Images of one request, so that nobody fills the server's memory by a single one."""

WANTED = "send image files (a table with a column 'image', base64 in JSON) or preprocessed images"


def requirements() -> list[str]:
    """pip requirements of the served model, at the versions that are installed here."""
    pins = []
    for name in REQUIREMENTS:
        # A local version such as 2.8.0+cu128 is on no package index.
        public_version = version(name).partition("+")[0]
        pins.append(f"{name}=={public_version}")
    return pins


class Pyfunc(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Preprocessed images, or image files -> embedding and triplet logits."""

    def load_context(self, context: Any) -> None:
        """Load the student from its folder, onto the GPU where there is one."""
        self.device = "cpu"
        if torch.cuda.is_available():
            self.device = "cuda"
        self.student = load_network(context.artifacts["student"]).to(self.device)

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> dict[str, np.ndarray]:
        """Outputs of a batch: of an array, or (MLflow allows one type to be named) of a table with a column `image`.

        Raises:
            ValueError: neither of the two; bytes that are no usable image, with their row; too many images.
        """
        columns: dict[str, list[Tensor]] = {}
        with torch.inference_mode():
            for images in self._batches(model_input):
                for name, values in self.student(images.to(self.device))._asdict().items():
                    if values is not None:
                        columns.setdefault(name, []).append(values.float().cpu())
        return {name: torch.cat(parts).numpy() for name, parts in columns.items()}

    def _batches(self, model_input: Any) -> Iterator[Tensor]:
        """Preprocessed images, as many at a time as one forward pass takes."""
        # Tables of pandas and the dictionaries that MLflow makes of JSON both have keys.
        if hasattr(model_input, "keys"):
            files = _column_of_files(model_input)
            for start in range(0, len(files), BATCH):
                yield _decode_and_preprocess(files[start : start + BATCH], start, self.student.preprocess)
            return
        images = _array(model_input, tuple(self.student.backbone.data_config["input_size"]))
        yield from torch.split(images, BATCH)


def _column_of_files(table: Any) -> list[Any]:
    """The image files of a table."""
    if "image" not in table:
        raise ValueError(f"a table needs a column 'image' of image files; this one has {', '.join(map(str, table))}")
    files = list(table["image"])
    _require_count(len(files))
    return files


def _array(model_input: Any, shape: tuple[int, ...]) -> Tensor:
    """Preprocessed images of a shape as a tensor."""
    try:
        images = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{WANTED}: {error}") from error
    if images.shape[1:] != shape:
        raise ValueError(f"{WANTED} of shape (b, {', '.join(map(str, shape))}); this is {tuple(images.shape)}")
    _require_count(len(images))
    return images


def _require_count(count: int) -> None:
    if not count:
        raise ValueError("no images in this request")
    if count > MAX_IMAGES:
        raise ValueError(f"{count:,} images in one request: send at most {MAX_IMAGES:,}")


def _decode_and_preprocess(files: list[Any], first_row: int, preprocess: Preprocess) -> Tensor:
    # A server of tensors needs no decoder.
    from alignet_ray.images.decode import decode

    images = []
    for row, data in enumerate(files, start=first_row):
        try:
            images.append(preprocess(decode(_file_bytes(data))))
        except ValueError as error:
            raise ValueError(f"image {row}: {error}") from error
    return torch.stack(images)


def _file_bytes(data: Any) -> bytes:
    """The bytes of an image file, which JSON holds as base64."""
    if isinstance(data, bytes):
        return data
    try:
        return base64.b64decode(data, validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"neither an image file's bytes nor base64: {error}") from error


mlflow.models.set_model(Pyfunc())
