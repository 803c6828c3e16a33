"""The configuration's sections for what comes in and for the machinery; those of the stages stand in `stages.py`.

Every field's docstring is its help text on the command line, its dotted name is its flag, and its default stands there
and nowhere else (numbers that a paper fixes stand in `presets.py`). Sections are frozen and refuse unknown keys.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of all sections: immutable, and strict about names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True, serialize_by_alias=True
    )


class Corpus(Section):
    """The images to learn on."""

    path: str | None = None
    """Folder or URL (s3://, any of fsspec's) of images in class folders; `synthetic:NAME` for a generated world."""


class Objects(Section):
    """The images of the objects that people judged."""

    path: str | None = None
    """Folder of their images; leave it out when they are part of the corpus."""
    table: str | None = None
    """CSV with columns `label` (class folder) or `path` (image), and `object` (row of the human data)."""
    concepts: str | None = None
    """Optional CSV, one row per object in order: `name` or `uniqueID`, and `category` where known. For the report."""


class Human(Section):
    """What people said."""

    triplets: str | None = None
    """Odd-one-out answers: rows (pair, pair, odd) of object numbers."""
    validation: str | None = None
    """Answers held out from the fit, in a file of their own."""
    embedding: str | None = None
    """A published human embedding (.npy, objects x dimensions) that replaces the fit of `soften`."""
    reference: str | None = None
    """An embedding that the answers are only checked against; left out, `embedding` serves."""
    base: Literal[0, 1] | None = None
    """What the answers' object numbers count from; left out, the file's layout and numbers say."""
    columns: tuple[str, ...] = ()
    """Columns that differ from ours, as `ours=theirs`: image1, image2, image3, choice, participant, rt, level."""
    order: str | None = None
    """Text file with one row number a line: the row that each object number of the answers means (older orders)."""


class StoreSection(Section):
    """Where results lie."""

    root: str = "runs"
    """Folder (or s3:// URL) that holds all artifacts."""


class RaySection(Section):
    """How Ray is started. None of these changes a result."""

    address: str | None = None
    """A running cluster's address; left out, RAY_ADDRESS counts, and without it Ray starts on this machine."""
    num_cpus: int | None = None
    """Logical CPUs of a local Ray; left out: the machine's cores, at least 4 (slots, not threads)."""
    object_store_mb: int | None = None
    """Shared memory of a local Ray in MB; left out: Ray decides."""
    gpus: int = Field(0, ge=0)
    """GPUs that a cluster is asked for, and waited for, before a stage that spreads over it."""
    cpus: int = Field(0, ge=0)
    """CPUs, likewise."""
    patience: float = Field(30.0, ge=0)
    """Minutes to wait for them; then the run goes on with what is there, or stops if that is nothing."""
    stall_minutes: float = Field(10.0, ge=0)
    """Minutes without any progress after which the run says so, and what it waits for; 0: never."""


class Tracking(Section):
    """MLflow."""

    uri: str | None = None
    """Tracking server; left out, MLFLOW_TRACKING_URI counts, and without it `sqlite:///<root>/mlflow.db`."""
    experiment: str = "alignet-ray"
    """MLflow experiment."""
