"""Exports a student in other programs' formats: a timm checkpoint, ONNX, its teacher's transform for thingsvision."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from alignet_ray.artifacts.student_files import StudentDescription
from alignet_ray.artifacts.transforms import TRANSFORM, dump_transform, locate, read_transform
from alignet_ray.errors import UserError
from alignet_ray.models import hub
from alignet_ray.models.embedding_network import EmbeddingNetwork
from alignet_ray.models.model_hub import save_backbone, write_folder
from alignet_ray.store import Store

TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and PyTorch, relative to the largest output (or to 1, if that is larger)."""

MAX_SINGLE_FILE = 1_500_000_000
"""Bytes of weights that go into the ONNX file itself; larger ones lie beside it, since protobuf ends at 2 GB."""


def to_timm(name: str, folder: Path, root: str | None = None, tracking_uri: str | None = None) -> str:
    """The backbone as timm's own folder: model.safetensors and config.json (preprocessing included).

    Its weights load with `checkpoint_path` too; the triplet head, which timm cannot hold, is left out.
    """
    student, _ = hub.load(name, tracking_uri=tracking_uri)
    save_backbone(student.backbone, folder)
    return f'timm.create_model("local-dir:{folder}", pretrained=True)'


def to_onnx(name: str, folder: Path, root: str | None = None, tracking_uri: str | None = None) -> str:
    """model.onnx (`images` -> `embedding` and, with a head, `triplet_logits`; any batch) and preprocessing.json.

    Raises:
        UserError: the extra is not installed, or ONNX Runtime's outputs differ from PyTorch's.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("ONNX needs its extra: pip install 'alignet-ray[onnx]'") from error

    student, _ = hub.load(name, tracking_uri=tracking_uri)

    size = student.backbone.size
    outputs = ["embedding"]
    if student.head:
        outputs.append("triplet_logits")
    folder.mkdir(parents=True, exist_ok=True)
    weight_bytes = 0
    for tensor in student.state_dict().values():
        weight_bytes += tensor.numel() * tensor.element_size()

    # The exporter warns of operators that it rewrites; whether they are right is compared below.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Outputs(student),
            (torch.zeros(2, 3, size, size),),
            folder / "model.onnx",
            input_names=["images"],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
            external_data=weight_bytes > MAX_SINGLE_FILE,
        )

    # An export that silently differs would be worse than none.
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    deviation = difference(student, lambda x: session.run(outputs, {"images": x}))
    if not deviation <= TOLERANCE:
        raise UserError(
            f"{folder / 'model.onnx'} is not equal to the model (difference {deviation:.1e}): do not use it"
        )

    about = {**student.backbone.data_config, "tau": student.tau, "outputs": outputs}
    (folder / "preprocessing.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return f'onnxruntime.InferenceSession("{folder / "model.onnx"}")   (equal to PyTorch within {deviation:.0e})'


class _Outputs(nn.Module):
    """A student whose outputs are a plain tuple."""

    def __init__(self, student: EmbeddingNetwork) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # The exporter takes tensors alone: a missing head's None is no output.
        return tuple(output for output in self.student(images) if output is not None)


@torch.no_grad()
def difference(student: EmbeddingNetwork, run: Callable[[np.ndarray], list[np.ndarray]]) -> float:
    """Largest difference between a student's outputs and another program's on three random images.

    Relative to the largest output, or absolute where that is below 1.
    """
    size = student.backbone.size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = [output.numpy() for output in student(images) if output is not None]

    differences = []
    for ours, theirs in zip(expected, run(images.numpy()), strict=True):
        # Both programs sum in an order of their own, and the error of a sum grows with its size.
        scale = max(1.0, np.abs(ours).max())
        differences.append(float(np.abs(ours - theirs).max() / scale))
    return max(differences)


def to_thingsvision(name: str, folder: Path, root: str | None = None, tracking_uri: str | None = None) -> str:
    """transform.npz of the teacher, in gLocal's layout (weights, bias, mean, std).

    Args:
        name: a student (its teacher's transform is looked up), an align artifact's id or folder, or a transform.
        folder: where it goes.
        root: the store that the teacher lies in; None: the one that the student's folder lies in.
        tracking_uri: MLflow server of a `models:/` name.

    Raises:
        UserError: the student's teacher is not known, not here, or a network.
    """
    source = name
    student = hub.locate(name, tracking_uri)
    if student is not None:
        align_id = StudentDescription.read(student).provenance.get("parents", {}).get("align")
        if not align_id:
            raise UserError(f"{name} does not say which transform taught it: name the transform's file")
        # A student's folder lies at <root>/distill/<id>.
        root = root or str(student.resolve().parent.parent)

        teacher = Store.open(root).artifact("align", align_id)
        if not teacher.finished:
            raise UserError(
                f"the teacher align/{align_id} is not under {root}: name its root with --store.root (in Python: root=)"
            )
        source = str(teacher.local())

    stored = read_transform(locate(source, root or ""))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRANSFORM).write_bytes(dump_transform(".npz", stored.transform, stored.provenance))

    # The transform is of use on the features of these networks alone, so the answer names them.
    members = stored.provenance.get("teacher", {}).get("members", [])
    features = " + ".join(str(member["model"]) for member in members) or "the teacher"
    return f"on features of {features}: ((x - mean) / std) @ weights + bias, arrays of transform.npz"


FORMATS: dict[str, Callable[..., str]] = {
    "timm": to_timm,
    "onnx": to_onnx,
    "thingsvision": to_thingsvision,
    "hub": write_folder,
}
"""What `--to` takes: (model, folder, store root, tracking server) -> how the other program reads it."""
