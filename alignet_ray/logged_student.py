"""A student as MLflow logs it: two models from code and safetensors (for tensors, for image files), and its scores."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from alignet_ray import tracking
from alignet_ray.core.scores import Score
from alignet_ray.errors import UserError
from alignet_ray.tracking import Tracker


@dataclass(frozen=True)
class LoggedStudent:
    """A student as MLflow logs it: code and safetensors, nothing pickled.

    Attributes:
        code: Python file of the pyfunc model.
        folder: the student's folder.
        size: side of the square input in pixels.
        widths: output name -> width.
        requirements: what the model needs to load, as pip requirements.
    """

    code: Path
    folder: Path
    size: int
    widths: dict[str, int]
    requirements: list[str]


class LoggedModels(NamedTuple):
    """What MLflow made of a student.

    Attributes:
        version: number of the registered version, which takes tensors.
        model_id: the logged model of that version.
        images: URI of the model that takes image files.
    """

    version: str
    model_id: str
    images: str


def log_student(tracker: Tracker, student: LoggedStudent, name: str, card: Path) -> LoggedModels:
    """Log a student to a run twice: for tensors, registered as a new version of `name`, and for image files.

    Args:
        tracker: the run that it belongs to.
        student: what is logged.
        name: registered model.
        card: the model card, kept with the run.

    Raises:
        UserError: the server did not answer, so that there is no run.
    """
    if tracker.is_pending:
        raise UserError(
            f"the student cannot be registered, as no MLflow answers at {tracking.hide(tracker.uri)}: start it and run "
            "again; the student is kept"
        )
    import mlflow

    # log_model knows only the global tracking URI; set_tracking_uri also overwrites the variable.
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(tracker.uri)
    try:
        with tracking.patient_uploads(), mlflow.start_run(run_id=tracker.server_id):
            logged = _log_models(student, name)
            mlflow.log_artifact(str(card))
    finally:
        mlflow.set_tracking_uri(environment or "")
    return logged


def log_scores(tracker: Tracker, model_id: str, scores: Sequence[Score], digest: str) -> None:
    """Log a student's scores on its logged model, so that MLflow's list of models compares them.

    Args:
        tracker: the run that the model belongs to.
        model_id: the logged model.
        scores: rows of the scores table; those of other models, and of subsets of the items, are left out.
        digest: id of the evaluation that they come from.
    """
    from mlflow.entities import Metric

    now = tracking.milliseconds()
    metrics = []
    for score in scores:
        if score.model != "student" or score.level or score.value != score.value:
            continue
        name = "/".join(filter(None, (score.dataset, score.metric, score.layer)))
        metrics.append(
            Metric(
                name,
                score.value,
                now,
                step=0,
                model_id=model_id,
                dataset_name=score.dataset,
                dataset_digest=digest,
                run_id=tracker.server_id,
            )
        )
    tracking.log_metrics(tracker.uri, tracker.server_id, metrics)


def _log_models(student: LoggedStudent, name: str) -> LoggedModels:
    """Within an MLflow run: as `log_student`."""
    import mlflow
    import numpy as np
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    # Signatures let MLflow check requests before they reach the model; -1 is the size of the batch.
    size = student.size
    float32 = np.dtype("float32")
    outputs = Schema([TensorSpec(float32, (-1, width), output) for output, width in student.widths.items()])

    # Both models carry the package's code, so that a server needs no installation of it.
    shared = {
        "python_model": str(student.code),
        "artifacts": {"student": str(student.folder)},
        "pip_requirements": student.requirements,
        "code_paths": [str(Path(__file__).parent)],
    }
    for_tensors = mlflow.pyfunc.log_model(
        name="student",
        signature=ModelSignature(Schema([TensorSpec(float32, (-1, 3, size, size))]), outputs),
        input_example=np.zeros((2, 3, size, size), np.float32),
        registered_model_name=name,
        **shared,
    )
    for_images = mlflow.pyfunc.log_model(
        name="student-images",
        signature=ModelSignature(Schema([ColSpec("binary", "image")]), outputs),
        model_config={"takes": "images"},
        input_example=pandas.DataFrame({"image": [_grey_png(size)]}),
        **shared,
    )
    version = str(for_tensors.registered_model_version)
    return LoggedModels(version, str(for_tensors.model_id), str(for_images.model_uri))


def _grey_png(size: int) -> bytes:
    """The file of a grey picture."""
    # MLflow calls a model with its example when it is logged, so the example has to be a picture.
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (size, size), "grey").save(stream, "PNG")
    return stream.getvalue()
