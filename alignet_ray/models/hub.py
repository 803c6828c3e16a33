"""`model, preprocess = load(...)`: a student's folder, a registered model, or any backbone. It executes nothing."""

from pathlib import Path

from alignet_ray.errors import UserError
from alignet_ray.models.backbone import Preprocess, load_backbone
from alignet_ray.models.student import MODEL, Student, load_student


def load(spec: str | Path, device: str = "cpu", tracking_uri: str | None = None) -> tuple[Student, Preprocess]:
    """Load a model for use, frozen and in evaluation mode.

    Args:
        spec: a folder that `distill` wrote; `models:/NAME@ALIAS` or `models:/NAME/VERSION` in MLflow's registry; or a
            backbone as in `models.backbone` (it has no triplet head).
        device: where it runs.
        tracking_uri: MLflow server of a `models:/` name; None: MLFLOW_TRACKING_URI, or MLflow's own default.

    Returns:
        model: preprocessed images (b, 3, s, s) -> Output(embedding (b, d), triplet_logits (b, k) or None); also
            `model.embed(images)` and `model.odd_one_out(a, b, c)`.
        preprocess: PIL image -> float tensor (3, s, s).

    Raises:
        UserError: there is no such model, or it cannot be read.
    """
    name = str(spec)
    if name.startswith("models:/"):
        student = load_student(fetch(name, tracking_uri))
    elif (Path(name).expanduser() / MODEL).is_file():
        student = load_student(Path(name).expanduser())
    else:
        student = Student(load_backbone(name), None).eval()
    return student.to(device), student.preprocess


def fetch(uri: str, tracking_uri: str | None = None) -> Path:
    """The student's folder of a registered model, downloaded where the registry is remote.

    Raises:
        UserError: MLflow is not installed, does not know the model, or it holds no student.
    """
    try:
        import mlflow
    except ImportError as error:
        raise UserError(f"{uri} needs mlflow: pip install mlflow, or give the student's folder") from error
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=tracking_uri))
    except mlflow.exceptions.MlflowException as error:
        asked = tracking_uri or mlflow.get_tracking_uri()
        raise UserError(f"{uri} is not in the registry at {asked}: {str(error).splitlines()[0]}") from error
    found = sorted(folder.rglob(MODEL))
    if not found:
        raise UserError(f"{uri} is not a student of alignet_ray: it holds no {MODEL}")
    return found[0].parent
