"""A student in other programs' formats: a timm checkpoint, ONNX, and its teacher's transform for thingsvision."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from alignet_ray.artifacts.transforms import dump_transform, locate, read_transform
from alignet_ray.errors import UserError
from alignet_ray.models import hub
from alignet_ray.models.student import Student, read_model
from alignet_ray.store import Store

TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and PyTorch, against the largest output (or 1, if that is smaller)."""

IN_ONE_FILE = 1_500_000_000  # bytes of weights; protobuf ends at 2 GB, what is larger lies beside the graph


def to_timm(spec: str, folder: Path, root: str | None = None, tracking_uri: str | None = None) -> str:
    """The backbone as timm's own folder: model.safetensors and config.json (preprocessing included).

    Its weights load with `checkpoint_path` too; the triplet head, which timm cannot hold, is left out.
    """
    from timm.models import save_for_hf

    student, _ = hub.load(spec, tracking_uri=tracking_uri)
    body = student.backbone
    config = {"pretrained_cfg": {**body.data, "num_classes": 0}}
    folder.mkdir(parents=True, exist_ok=True)
    save_for_hf(body.net, str(folder), model_config=config, safe_serialization=True)
    return f'timm.create_model("local-dir:{folder}", pretrained=True)'


def to_onnx(spec: str, folder: Path, root: str | None = None, tracking_uri: str | None = None) -> str:
    """model.onnx (`images` -> `embedding` and, with a head, `triplet_logits`; any batch) and preprocessing.json.

    Raises:
        UserError: the extra is not installed, or ONNX Runtime's outputs differ from PyTorch's.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("ONNX needs its extra: pip install 'alignet-ray[onnx]'") from error
    student, _ = hub.load(spec, tracking_uri=tracking_uri)
    size = student.backbone.size
    names = ["embedding", "triplet_logits"] if student.head else ["embedding"]
    folder.mkdir(parents=True, exist_ok=True)
    weights = sum(p.numel() * p.element_size() for p in student.state_dict().values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Outputs(student),
            (torch.zeros(2, 3, size, size),),
            folder / "model.onnx",
            input_names=["images"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
            external_data=weights > IN_ONE_FILE,
        )
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    worst = difference(student, lambda x: session.run(names, {"images": x}))
    if not worst <= TOLERANCE:
        raise UserError(f"{folder / 'model.onnx'} is not equal to the model (difference {worst:.1e}): do not use it")
    about = {**student.backbone.data, "tau": student.tau, "outputs": names}
    (folder / "preprocessing.json").write_text(json.dumps(about, indent=1))
    return f'onnxruntime.InferenceSession("{folder / "model.onnx"}")   (equal to PyTorch within {worst:.0e})'


class _Outputs(nn.Module):
    """A student whose outputs are a plain tuple."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(z for z in self.student(images) if z is not None)


@torch.no_grad()
def difference(student: Student, run: Callable[[np.ndarray], list[np.ndarray]]) -> float:
    """Largest difference between a student's outputs and another program's on three random images.

    Relative to the largest output, or absolute where that is below 1.
    """
    size = student.backbone.size
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = [z.numpy() for z in student(x) if z is not None]
    pairs = zip(expected, run(x.numpy()), strict=True)
    return max(float(np.abs(a - b).max() / max(1.0, np.abs(a).max())) for a, b in pairs)


def to_thingsvision(spec: str, folder: Path, root: str | None = None, tracking_uri: str | None = None) -> str:
    """transform.npz of the teacher, in gLocal's layout (weights, bias, mean, std).

    Args:
        spec: a student (its teacher's transform is looked up), an align artifact's id or folder, or a transform.
        folder: where it goes.
        root: the store that the teacher lies in; None: the one that the student's folder lies in.
        tracking_uri: MLflow server of a `models:/` name.

    Raises:
        UserError: the student's teacher is not known, not here, or a network.
    """
    student = hub.locate(spec, tracking_uri)
    if student is not None:
        align = read_model(student).get("provenance", {}).get("parents", {}).get("align")
        if not align:
            raise UserError(f"{spec} does not say which transform taught it: name the transform's file")
        root = root or str(student.resolve().parent.parent)
        found = Store.open(root).artifact("align", align)
        if not found.finished:
            raise UserError(f"the teacher align/{align} is not under {root}: name its root with --store.root")
        spec = str(found.local())
    stored = read_transform(locate(spec, root or ""))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "transform.npz").write_bytes(dump_transform(".npz", stored.transform, stored.provenance))
    members = stored.provenance.get("teacher", {}).get("members", [])
    model = " + ".join(str(m["model"]) for m in members) or "the teacher"
    return f"on features of {model}: ((x - mean) / std) @ weights + bias, arrays of transform.npz"


FORMATS: dict[str, Callable[..., str]] = {"timm": to_timm, "onnx": to_onnx, "thingsvision": to_thingsvision}
"""What `--to` takes: (model, folder, store root, tracking server) -> how the other program reads it."""
