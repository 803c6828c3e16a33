"""A student as an MLflow pyfunc, as code and safetensors: nothing is pickled.

MLflow runs this file (`python_model=<its path>`, "models from code") with the student's folder as artifact `student`:

    mlflow.pyfunc.log_model(name="student", python_model=serving.__file__, artifacts={"student": folder},
                            code_paths=[folder of the package alignet_ray], pip_requirements=requirements(), ...)

Input: float32 (b, 3, s, s), preprocessed. Output: a dictionary of float32 arrays, `embedding` (b, d) and, with a head,
`triplet_logits` (b, k).
"""

from importlib.metadata import version
from typing import Any

import mlflow
import numpy as np
import torch

from alignet_ray.models.student import load_student

NEEDS = ("torch", "timm", "safetensors", "numpy", "pillow", "jaxtyping", "mlflow")


def requirements() -> list[str]:
    """What the served model needs beside its own code, at the versions that are installed here."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in NEEDS]


class Pyfunc(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Preprocessed images -> embedding and triplet logits."""

    def load_context(self, context: Any) -> None:
        """Load the student from its folder."""
        self.student = load_student(context.artifacts["student"])

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> dict[str, np.ndarray]:
        """Outputs of a batch (b, 3, s, s)."""
        x = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.float32))
        with torch.inference_mode():
            output = self.student(x)
        return {name: z.float().numpy() for name, z in output._asdict().items() if z is not None}


mlflow.models.set_model(Pyfunc())
