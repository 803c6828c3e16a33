"""A student as MLflow logs it: one model from code and safetensors, for tensors and image files, and its scores."""

import base64
import io
import math
import os
import shutil
import tempfile
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
        widths: output name -> width.
        requirements: what the model needs to load, as pip requirements.
    """

    code: Path
    folder: Path
    widths: dict[str, int]
    requirements: list[str]


class LoggedModel(NamedTuple):
    """What MLflow made of a student.

    Attributes:
        version: number of the registered version.
        model_id: the logged model of that version.
    """

    version: str
    model_id: str


def log_student(tracker: Tracker, student: LoggedStudent, name: str, card: Path) -> LoggedModel:
    """Log a student to a run, registered as a new version of `name`.

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
            with tempfile.TemporaryDirectory() as folder:
                logged = _log_model(student, name, _package_code(Path(folder)))
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
        is_undefined = math.isnan(score.value)
        if score.model != "student" or score.level or is_undefined:
            continue

        # A score that has no layer gets no slash at the end of its name.
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


def _package_code(folder: Path) -> Path:
    """A copy of this package without the weights that it brings for generated worlds: no student needs them."""
    package = Path(__file__).parent
    ignored = shutil.ignore_patterns("*.safetensors", "__pycache__")
    return Path(shutil.copytree(package, folder / package.name, ignore=ignored))


def _log_model(student: LoggedStudent, name: str, code: Path) -> LoggedModel:
    """Within an MLflow run: as `log_student`, with the code of the package in a folder of its name."""
    import mlflow
    import numpy as np
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    # A schema of inputs would allow either tensors or image files, and a second model would hold the weights once more:
    # the model checks what it is given.
    float32 = np.dtype("float32")
    outputs = Schema([TensorSpec(float32, (-1, width), output) for output, width in student.widths.items()])
    logged = mlflow.pyfunc.log_model(
        name="student",
        python_model=str(student.code),
        artifacts={"student": str(student.folder)},
        pip_requirements=student.requirements,
        # The package's code, so that a server needs no installation of it.
        code_paths=[str(code)],
        signature=ModelSignature(outputs=outputs),
        # As text, which is how image files travel by HTTP.
        input_example=pandas.DataFrame({"image": [base64.b64encode(_grey_png()).decode()]}),
        registered_model_name=name,
    )
    return LoggedModel(str(logged.registered_model_version), str(logged.model_id))


def _grey_png() -> bytes:
    """The file of a grey picture."""
    # MLflow calls a model with its example when it is logged, so the example has to be a picture.
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (32, 32), "grey").save(stream, "PNG")
    return stream.getvalue()
