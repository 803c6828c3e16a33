"""Loads a model by its name: a student's folder, a registered student, or any backbone. No stored code is executed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignet_ray.artifacts.student_files import MODEL_FILE
from alignet_ray.errors import UserError, first_line, path_text
from alignet_ray.models.model_spec import REGISTRY, ModelKind, ModelSpec

if TYPE_CHECKING:
    from alignet_ray.models.image_model import ImageModel


def load(
    name: str | Path, device: str | None = None, tracking_uri: str | None = None, root: str | Path = "runs"
) -> "ImageModel":
    """Load a model for use, frozen and in evaluation mode.

    Args:
        name: a folder that `distill` wrote; `models:/NAME@ALIAS` or `models:/NAME/VERSION` in MLflow's registry;
            `hf://OWNER/NAME` on the Hugging Face hub; or a backbone as in `model_spec` (it has no triplet head).
        device: where it runs. Default: the GPU if there is one.
        tracking_uri: MLflow server of a `models:/` name; None: MLFLOW_TRACKING_URI, and without it the
            database under `root`.
        root: folder that holds all artifacts of the run that registered the model.

    Returns:
        The model, see `ImageModel`. It unpacks into two parts, `network, preprocess = load(...)`: the network takes
        preprocessed images (b, 3, s, s) and returns Output(embedding (b, d), triplet_logits (b, k) or None);
        `preprocess` turns any picture into a float tensor (3, s, s).

    Raises:
        UserError: there is no such model, it cannot be read, or the device cannot be used.
    """
    from alignet_ray.models.backbone import default_device, load_backbone
    from alignet_ray.models.embedding_network import EmbeddingNetwork, load_network
    from alignet_ray.models.image_model import ImageModel

    if not isinstance(name, str | Path):
        raise UserError(
            f"{type(name).__name__} is no name of a model: give a student's folder, models:/NAME@ALIAS, "
            "hf://OWNER/NAME, or the name of a network"
        )

    # Before the weights are read, which may take long.
    if device is not None:
        _require_device(device)

    # The address of the registry is looked up for these names alone: any other loads without MLflow.
    if str(name).startswith(REGISTRY):
        from alignet_ray.tracking import registry_uri

        tracking_uri = registry_uri(path_text(root, "the root"), tracking_uri)

    folder = locate(name, tracking_uri)
    if folder:
        student = load_network(folder)
    else:
        student = EmbeddingNetwork(load_backbone(str(name)), None).eval()

    return ImageModel(student, str(name), device or default_device())


def _require_device(device: str) -> None:
    """Refuse a device that PyTorch does not know, or that this machine does not have."""
    import torch

    # Only a tensor that goes there and back tells: "cuda:7" is a name without fault on a machine with one GPU.
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise UserError(f"device={device!r} cannot be used ({first_line(error)}): take 'cpu', or None") from error


def locate(name: str | Path, tracking_uri: str | None = None) -> Path | None:
    """The student's folder that a name means, fetched if need be; None where it means a backbone.

    Raises:
        UserError: as `fetch` and `model_hub.download`.
    """
    spec = ModelSpec.parse(str(name))
    if spec.kind is ModelKind.REGISTERED:
        return fetch(spec.name, tracking_uri)
    if spec.kind is ModelKind.HUB:
        from alignet_ray.models.model_hub import download

        return download(spec.name)
    if spec.kind is ModelKind.STUDENT:
        return spec.path
    return None


def identity(uri: str, tracking_uri: str | None = None) -> str:
    """Name, version and creation time of the version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` means now.

    Raises:
        UserError: MLflow is not installed, or does not know the model.
    """
    # An alias moves, and a deleted model's name can be given to another: the time of creation tells versions apart.
    version = _version(_mlflow(uri), uri, tracking_uri)
    return f"{REGISTRY}{version.name}/{version.version} of {version.creation_timestamp}"


def _version(mlflow: Any, uri: str, tracking_uri: str | None) -> Any:
    """The registry's entry of a version."""
    name, alias, number = ModelSpec.parse(uri).registered
    client = mlflow.MlflowClient(tracking_uri=tracking_uri)
    try:
        if alias:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, number)
    except mlflow.exceptions.MlflowException as error:
        raise UserError(_not_found(uri, tracking_uri or mlflow.get_tracking_uri(), error)) from error


def fetch(uri: str, tracking_uri: str | None = None) -> Path:
    """The student's folder of a registered model, downloaded where the registry is remote.

    Raises:
        UserError: MLflow is not installed, does not know the model, its files are gone, or it holds no student.
    """
    mlflow = _mlflow(uri)
    # Imported late, here and below: it needs pyarrow, without which a student's folder loads.
    from alignet_ray.tracking import beside_database

    version = _version(mlflow, uri, tracking_uri)
    server = tracking_uri or mlflow.get_tracking_uri()

    # Beside the database first: it names the folder where the root lay when the student was registered.
    location = _location(mlflow, version, tracking_uri)
    folder = beside_database(server, location)
    if folder is None:
        try:
            with _tracking_server(mlflow, tracking_uri):
                folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
        except (mlflow.exceptions.MlflowException, OSError) as error:
            raise UserError(_not_there(uri, location, version, error)) from error

    # The student lies among MLflow's own files, at a place that depends on how it was logged.
    descriptions = sorted(folder.rglob(MODEL_FILE))
    if not descriptions:
        raise UserError(f"{uri} is not a student of alignet_ray: it holds no {MODEL_FILE}")
    return descriptions[0].parent


def _mlflow(uri: str) -> Any:
    # A student's folder loads where MLflow is not installed, so it is imported where it is needed.
    try:
        import mlflow
    except ImportError as error:
        raise UserError(f"{uri} needs mlflow: pip install mlflow, or give the student's folder") from error
    return mlflow


def _location(mlflow: Any, version: Any, tracking_uri: str | None) -> str:
    """Where a version's files lay when it was registered."""
    # The source of a version is the logged model that it was made from, which has a place of its own.
    source = str(version.source)
    if not source.startswith(REGISTRY):
        return source
    try:
        client = mlflow.MlflowClient(tracking_uri=tracking_uri)
        return str(client.get_logged_model(source.removeprefix(REGISTRY)).artifact_location)
    except mlflow.exceptions.MlflowException:  # an older server knows no logged models, and finds the files itself
        return source


@contextlib.contextmanager
def _tracking_server(mlflow: Any, tracking_uri: str | None) -> Iterator[None]:
    """Make a server MLflow's default: a version's source is an address that MLflow resolves at the default server."""
    # set_tracking_uri writes this variable, which the processes started later inherit.
    before = os.environ.get("MLFLOW_TRACKING_URI")
    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
    try:
        yield
    finally:
        if tracking_uri:
            mlflow.set_tracking_uri(before or "")


def _not_there(uri: str, location: str, version: Any, error: Exception) -> str:
    """What to say of a version whose files cannot be had, and what loads in its place."""
    from alignet_ray.tracking import NODE, hide

    id = version.tags.get(f"{NODE}distill.student", "ID")
    return (
        f"{uri} is in the registry, but its files cannot be had from {hide(location)} ({first_line(error)}): if the "
        f"root was moved, its folder loads: ROOT/distill/{id}"
    )


def _not_found(uri: str, server: str, error: Exception) -> str:
    return f"{uri} is not in the registry at {server}: {str(error).splitlines()[0]}"
