"""Options of every command, as classes whose fields tyro reads; a field's docstring is its help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from alignet_ray.artifacts.student_files import RELEASED_TAU, Preparation
from alignet_ray.ask.study_file import StudySettings
from alignet_ray.config import Config, StoreSection
from alignet_ray.config.cluster_spec import ClusterSpec
from alignet_ray.config.presets import PRESETS

# Sections and settings are immutable, so all options may share their defaults.
SETTINGS = Config()
STORE = StoreSection()
CLUSTER = ClusterSpec()
STUDY = StudySettings(images="")
NAMES_OF_PRESETS = ", ".join(PRESETS)

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""An option without a value."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes."""

    debug: Switch = False
    """Show the traceback of an error."""
    given: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """The options that stand on the command line, such as `--store.root`."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """A whole configuration: a preset or a YAML file, changed by --section.field VALUE."""

    preset: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[PRESET]", help=f"Named configuration to start from: {NAMES_OF_PRESETS}."),
    ] = None
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """YAML file to start from, as `alignet-ray show` writes it."""
    quiet: Switch = False
    """Show neither headings nor progress, only how it ended; warnings stay in the run's log."""
    help_all: Switch = False
    """Show every setting, with its value in the preset or file."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = SETTINGS


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(RunOptions):
    """Run the pipeline up to the teacher's embeddings."""

    export: Literal["npy", "safetensors"] | None = None
    """Also write the embeddings as one file in this format."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions(RunOptions):
    """Run the pipeline up to the labelled triplets."""

    export: Literal["npz"] | None = None
    """Also write the triplets in DeepMind's format."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions(RunOptions):
    """Show which steps a run would do and why, without doing them; with --on.*, its time and cost on a cluster."""

    json: Switch = False
    """Print JSON instead of a table."""
    on: ClusterSpec = CLUSTER


@dataclass(frozen=True, kw_only=True)
class ShowOptions(RunOptions):
    """Print a run's configuration, an artifact's record, a registered model, or a preset (with changes) as YAML.

    A run of that name under the root comes before a preset, unless settings are given.
    """

    preset: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="[NAME]",
            help=f"Run, artifact (id, its beginning, or STAGE/ID), models:/NAME@ALIAS, or preset: {NAMES_OF_PRESETS}.",
        ),
    ] = None
    json: Switch = False
    """Print JSON."""


@dataclass(frozen=True)
class RegistryServer:
    """Where the model registry is."""

    uri: str | None = None
    """MLflow server. Default: MLFLOW_TRACKING_URI, or the database under the root."""


@dataclass(frozen=True, kw_only=True)
class StoreOptions(Options):
    """What a command on existing results takes."""

    store: StoreSection = STORE


@dataclass(frozen=True, kw_only=True)
class ListOptions(StoreOptions):
    """List the runs and artifacts under a root, or the registered models."""

    models: Switch = False
    """List registered models with their aliases and scores instead."""
    json: Switch = False
    """Print JSON instead of a table."""
    tracking: RegistryServer = RegistryServer()


@dataclass(frozen=True, kw_only=True)
class RollbackOptions(StoreOptions):
    """Give the alias `champion` back to the previous champion."""

    name: Annotated[str, tyro.conf.Positional]
    """Registered model."""
    to: str | None = None
    """Version that becomes the champion. Default: the previous champion."""
    tracking: RegistryServer = RegistryServer()


@dataclass(frozen=True, kw_only=True)
class RemoveOptions(StoreOptions):
    """Delete artifacts, or the name of a run (its artifacts stay until gc)."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAMES")] = ()
    """Runs or artifacts (id, its beginning, or STAGE/ID)."""
    state_dir: str | None = None
    """Local folder of the runs, where the root is remote."""
    yes: Switch = False
    """Do not ask."""


@dataclass(frozen=True, kw_only=True)
class CollectOptions(StoreOptions):
    """Delete every artifact that no run uses, and the cache."""

    state_dir: str | None = None
    """Local folder of the runs, where the root is remote."""
    yes: Switch = False
    """Do not ask."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions(StoreOptions):
    """Show the scores of several runs side by side."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUNS")] = ()
    """Runs, or ids of evaluate artifacts."""
    levels: Switch = False
    """Also show the scores of single levels (kinds of triplets, categories)."""
    page: Path | None = None
    """Write a page (HTML, one file) as well."""
    json: Switch = False
    """Print every score as JSON."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(StoreOptions):
    """Check a triplet file, folder or transform. Exit code 1 if something is wrong."""

    path: Annotated[str, tyro.conf.Positional]
    """Human answers, labelled triplets, or a transform; or an artifact under the root, as STAGE/ID."""
    objects: int | None = None
    """Number of objects in the human data."""
    reference: str | None = None
    """Human embedding that must predict the answers."""
    base: Literal[0, 1] | None = None
    """What the object numbers count from."""
    order: str | None = None
    """File with the row that each object number means, one a line."""
    images: str | None = None
    """Folder of the images that ids or names mean."""
    embeddings: str | None = None
    """Folder of an embed artifact: similarities are computed anew on a sample."""
    transform: str | None = None
    """The transform that was applied to these embeddings."""
    against: str | None = None
    """Another triplet file that must share no triplets with this one."""
    json: Switch = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(StoreOptions):
    """Look at versions, machine, folders and servers, for bug reports. Exit code 1 if something needs a fix."""

    tracking: RegistryServer = RegistryServer()
    json: Switch = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(StoreOptions):
    """Serve a local page that shows which of three pictures is the odd one, for the base and the aligned student."""

    model: Annotated[str, tyro.conf.Positional]
    """A student's folder, or models:/NAME@ALIAS."""
    base: str | None = None
    """The network before alignment. Default: the one that the student started from."""
    images: str | None = None
    """Folder whose pictures are searched for neighbours."""
    most: int = 2000
    """Largest number of these pictures."""
    port: int = 8765
    """Port of the page; 0: any free one."""
    tracking: RegistryServer = RegistryServer()


@dataclass(frozen=True, kw_only=True)
class AskOptions(StoreOptions):
    """Ask people in a browser which of three pictures is the odd one out, or which of two is more like a third.

    `ask IMAGES --name NAME` begins a study, `ask NAME` goes on with it. What a study asks is fixed when it begins.
    """

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES|NAME")] = ""
    """Folder of images, or the name of a study."""
    name: str | None = None
    """Name of the study. Default: that of the folder."""
    state_dir: str | None = None
    """Local folder for the study, where the root is remote."""

    mode: Literal["odd", "reference"] = STUDY.mode
    """What is asked; odd: which of three pictures is the odd one out; reference: which of two is more like a third."""
    objects: Literal["images", "folders"] = STUDY.objects
    """What is compared: every image, or every folder, of which a random image is shown each time."""
    trials: int = STUDY.trials
    """Questions that a person is asked."""
    catch: float = STUDY.catch
    """Share of questions with an obvious answer (the same image twice)."""
    repeats: float = STUDY.repeats
    """Share of questions that a person has answered before."""
    sampler: Literal["random", "active"] = STUDY.sampler
    """How questions are chosen; active: those that tell most by a model of the answers so far (--simulate shows whether
    this saves answers, which it need not)."""
    random_share: float = STUDY.random_share
    """Share of random questions among actively chosen ones, for an unbiased test."""
    break_every: int = STUDY.break_every
    """Questions between two breaks; 0: none."""
    instructions: str | None = None
    """Markdown file with instructions and consent."""
    links_only: Switch = STUDY.links_only
    """Only people with a personal link may take part."""
    hashed: Switch = STUDY.hashed
    """Store names of participants as keyed hashes."""
    code: str = STUDY.code
    """Completion code that the last page shows."""
    redirect: str = STUDY.redirect
    """Address that the last page leads to; {participant} and {code} are filled in."""

    host: str = "127.0.0.1"
    """Address to listen on. Default: this machine alone."""
    port: int = 8766
    """Port of the page; 0: any free one."""
    public_url: str = ""
    """Address under which people reach the page, where a proxy or tunnel stands before it."""

    links: int = 0
    """Print so many personal links, and end."""
    quality: Switch = False
    """Print people with the quality of their answers, and end."""
    export: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write the answers (as a run reads them, and as Parquet) to this folder, and end."""
    archive: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the study without personal data to this .zip file, and end."""
    leave_out: Annotated[str | None, tyro.conf.arg(metavar="PARTICIPANT")] = None
    """Leave somebody's answers out, and end."""
    keep: Annotated[str | None, tyro.conf.arg(metavar="PARTICIPANT")] = None
    """Keep somebody's answers, whatever the rule says, and end."""
    by_rule: Annotated[str | None, tyro.conf.arg(metavar="PARTICIPANT")] = None
    """Let the rule decide about somebody again, and end."""
    withdraw: Annotated[str | None, tyro.conf.arg(metavar="PARTICIPANT")] = None
    """Delete somebody's answers for good, and end."""

    simulate: Annotated[str | None, tyro.conf.arg(metavar="EMBEDDING")] = None
    """Plan a study: simulated people, who think as this embedding (.npy) says, answer random and active questions."""
    people: int = 40
    """Simulated people."""
    lapse: float = 0.05
    """Share of simulated answers that are guesses."""
    sample: int = 0
    """Simulate with so many random objects of the embedding; 0: all."""
    seeds: int = 3
    """Simulated studies of each kind."""


@dataclass(frozen=True)
class TeacherRoot:
    """Where the student's teacher and the registry's database are."""

    root: str | None = None
    """Folder that holds all artifacts. Default: the one that the student's folder is in; `runs` for models:/ names."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Write a model as a timm checkpoint, as ONNX, for a model hub, or its teacher's transform for thingsvision."""

    model: Annotated[str, tyro.conf.Positional]
    """A student's folder, models:/NAME@ALIAS, hf://OWNER/NAME, or (thingsvision) an align artifact."""
    to: Literal["timm", "onnx", "hub", "thingsvision"]
    """Format."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Where the files go: a new or empty folder."""
    store: TeacherRoot = TeacherRoot()
    tracking: RegistryServer = RegistryServer()


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """Turn a released AligNet model (a TensorFlow SavedModel) or big_vision's .npz weights into a student's folder."""

    path: Annotated[Path, tyro.conf.Positional]
    """The SavedModel's folder, unpacked, or the .npz file. Neither TensorFlow nor JAX is needed."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Where the student goes: a new or empty folder."""
    model: Annotated[str | None, tyro.conf.arg(metavar="TIMM_NAME")] = None
    """timm's name of the network. Default: the one that has these weights' shapes, if there is just one."""
    prefix: str | None = None
    """What stands before the names of the network's variables, where a file holds several networks."""
    tau: float = RELEASED_TAU
    """Temperature of the triplet head, where there is one. Default: that of AligNet's published recipe."""
    preprocessing: Preparation = "auto"
    """`alignet`: images are squashed to the square, with values from 0 to 1; `timm`: as timm prepares them for its
    network of this name; `auto`: `alignet` with a triplet head, else `timm`."""


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """List the field's data sets, or show one: terms, citation, how it is fetched, and the command that uses it."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None
    """A data set. Default: a table of all."""
    fetch: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Fetch it into FOLDER/NAME, if its terms allow it. An interrupted fetch goes on where it stopped."""
    accept_terms: Switch = False
    """Accept its terms without being asked, for scripts."""
    json: Switch = False
    """Print JSON instead of text."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    """Time this package against plain loops (jobs/bench.py of a checkout)."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAMES")] = ()
    """Benches; jobs/README.md lists them."""
    sizes: str = "small"
    """Size of the inputs."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the figures to this file."""
