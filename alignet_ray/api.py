"""The commands as Python functions, for notebooks and scripts; their results show themselves in a notebook."""

import html
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignet_ray import invocation
from alignet_ray.artifacts.distill import DistillArtifact
from alignet_ray.artifacts.evaluate import EvaluateArtifact
from alignet_ray.artifacts.student_files import RELEASED_TAU, Preparation
from alignet_ray.config import Config
from alignet_ray.config.presets import PRESETS
from alignet_ray.errors import UserError, path_text
from alignet_ray.screen import open_screen
from alignet_ray.stages import STAGES, pipeline
from alignet_ray.store import Artifact, Reference, Store

if TYPE_CHECKING:
    import pandas as pd

    from alignet_ray.images.pictures import Pictures
    from alignet_ray.models.image_model import ImageIndex, ImageModel, Layer
    from alignet_ray.models.import_weights import Imported

OPTION = re.compile(r"(?<![\w-])--(?P<name>[a-z]+(?:[.-][a-z]+)*)(?: (?P<value>[A-Z]+\b|\d+))?")
"""An option in a message, and the value behind it."""

REPORT_HEIGHT = 700
"""Height in pixels of a report in a notebook cell."""


@dataclass(frozen=True)
class Report:
    """A run's report, one HTML page, which a notebook shows in its cell.

    Attributes:
        uri: where it is stored.
        page: its content.
    """

    uri: str
    page: str

    def __repr__(self) -> str:
        return f"Report({self.uri})"

    def _repr_html_(self) -> str:
        # A frame of its own: the page's style sheet must not reach the notebook's other cells.
        content = html.escape(self.page, quote=True)
        return f'<iframe srcdoc="{content}" width="100%" height="{REPORT_HEIGHT}" style="border: 0"></iframe>'


@dataclass(frozen=True)
class RunResult(Mapping[str, Artifact]):
    """A finished run: its scores, its report, its student; as a mapping, its artifacts by node name.

    Attributes:
        name: of the run.
        artifacts: node name -> artifact, in the order of the pipeline.
    """

    name: str
    artifacts: dict[str, Artifact]

    def __getitem__(self, node: str) -> Artifact:
        return self.artifacts[node]

    def __iter__(self) -> Iterator[str]:
        return iter(self.artifacts)

    def __len__(self) -> int:
        return len(self.artifacts)

    def __repr__(self) -> str:
        if "evaluate" not in self.artifacts:
            return f"RunResult({self.name!r}: {', '.join(self.artifacts)})"
        return "\n".join([f"RunResult({self.name!r})", *self._evaluation.facts().table])

    @property
    def scores(self) -> "pd.DataFrame":
        """All scores of all models, one row a score: model, layer, dataset, metric, level, value, low, high, n, ...

        Raises:
            UserError: the run was not evaluated.
        """
        frame: pd.DataFrame = self._evaluation.scores().to_pandas()
        return frame

    @property
    def summary(self) -> "pd.DataFrame":
        """Odd-one-out agreement with people, with 95 % intervals: one row for each model and layer.

        Raises:
            UserError: the run was not evaluated.
        """
        # The table that a run ends with: the level "" is all triplets, any other a kind of them.
        scores = self.scores
        is_headline = (scores.dataset == "objects") & (scores.metric == "odd_one_out") & (scores.level == "")
        return scores[is_headline].set_index(["model", "layer"])[["value", "low", "high", "n"]]

    @property
    def report(self) -> Report:
        """The report.

        Raises:
            UserError: the run was not evaluated.
        """
        evaluation = self._evaluation
        return Report(evaluation.report_uri(), evaluation.report())

    @property
    def student(self) -> "ImageModel":
        """The aligned student, loaded for use.

        Raises:
            UserError: the run trained none.
        """
        from alignet_ray.models.hub import load

        if "distill@student" not in self.artifacts:
            raise UserError(f"run {self.name!r} trained no student")
        return load(DistillArtifact(self.artifacts["distill@student"]).folder())

    @property
    def _evaluation(self) -> EvaluateArtifact:
        # A run up to an earlier stage is a result as well.
        if "evaluate" not in self.artifacts:
            raise UserError(f"run {self.name!r} was not evaluated: it has no human data, or stopped before")
        return EvaluateArtifact(self.artifacts["evaluate"])


@dataclass(frozen=True)
class StudyResult:
    """A finished study: its pooled scores and its page.

    Attributes:
        uri: its folder, which also holds its tables in Markdown and LaTeX.
        report: its page.
        scores: one row a score: model, layer, dataset, metric, level, value, low, high, p_value (corrected, of gains),
            runs, n, lowest, highest (of single runs).
    """

    uri: str
    report: Report
    scores: "pd.DataFrame"

    def __repr__(self) -> str:
        return f"StudyResult({self.uri}: {len(self.scores)} scores)"

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


@dataclass(frozen=True)
class FileCheck:
    """What `verify` found out about a file.

    Attributes:
        path: the file.
        kind: what it is.
        ok: whether nothing is wrong.
        checks: one row a check: its name, the value, the verdict, a note.
    """

    path: str
    kind: str
    ok: bool
    checks: "pd.DataFrame"

    def __repr__(self) -> str:
        return f"{self.path}: {self.kind}\n{self.checks.to_string(index=False)}"

    def _repr_html_(self) -> str:
        table = self.checks.to_html(index=False)
        return f"<p>{html.escape(self.path)}: {html.escape(self.kind)}</p>{table}"


def run(config: Config | str, quiet: bool = False, until: str | None = None, **changes: Any) -> RunResult:
    """Run the whole pipeline, or the part up to one stage; finished steps are reused.

    Args:
        config: a configuration, or the name of a preset.
        quiet: print nothing.
        until: the last stage, such as `label`. Default: all of them.
        changes: fields to change, as `corpus__path="IMAGES"` or `distill__steps=100`.

    Raises:
        UserError: something that the user can fix; steps finished before it are kept.
    """
    settings = _settings(config, changes)
    names = None
    if until is not None:
        if until not in STAGES:
            raise UserError(f"there is no stage {until!r}: use {', '.join(STAGES)}")
        names = pipeline.targets(settings, until)

    with _without_hints(), _in_python(), open_screen(quiet) as screen:
        return RunResult(settings.name, pipeline.run(settings, screen, names))


def run_sweep(config: Config | str, quiet: bool = False, **changes: Any) -> RunResult:
    """Tune the settings of a stage, then run the best ones (`sweep.full`); finished trials are reused.

    Args:
        config, quiet, changes: as for `run`; the section `sweep` says what is tuned.

    Returns:
        The winner's run, called NAME-sweep.

    Raises:
        UserError: something that the user can fix; finished trials stay.
    """
    from alignet_ray.sweep import runner

    settings = _settings(config, changes)
    called = invocation.called_as("alignet_ray.run_sweep")
    with called, _without_hints(), _in_python(), open_screen(quiet) as screen:
        runner.run(settings, screen)
    return open_run(runner.winner_name(settings), settings.store.root)


def run_study(config: Config | str, quiet: bool = False, **changes: Any) -> StudyResult:
    """Run the same settings on every fold of the objects, and pool their scores; finished runs are reused.

    Args:
        config, quiet, changes: as for `run`; the section `study` says how many folds and seeds.

    Raises:
        UserError: something that the user can fix; finished runs stay.
    """
    import pandas as pd

    from alignet_ray.study import runner

    settings = _settings(config, changes)
    called = invocation.called_as("alignet_ray.run_study")
    with called, _without_hints(), _in_python(), open_screen(quiet) as screen:
        folder = runner.run(settings, screen)
    page = Report(folder.page_uri(), folder.page_file().read_text(encoding="utf-8"))
    return StudyResult(folder.draft.uri, page, pd.DataFrame([vars(score) for score in folder.scores()]))


def plan(config: Config | str, **changes: Any) -> "pd.DataFrame":
    """What `run` would do, node by node, and why; starts nothing.

    Args:
        config, changes: as for `run`.

    Raises:
        UserError: an input is missing.
    """
    import pandas as pd

    settings = _settings(config, changes)
    with _in_python():
        return pd.DataFrame(pipeline.describe_plan(settings)).set_index("node")


def open_run(name: str, root: str | Path = "runs") -> RunResult:
    """The finished run of a name.

    Args:
        name: of the run; by default a preset's runs are called like the preset.
        root: folder or URL that holds all artifacts.

    Raises:
        UserError: there is no such run, or it is unfinished.
    """
    store = Store.existing(root)
    if not isinstance(name, str):
        raise UserError(f"{type(name).__name__} is no name of a run: give it as text, as `list_runs` lists it")
    reference = store.read_ref(name)
    if reference is None:
        known = ", ".join(store.refs()) or "none"
        raise UserError(f"there is no run {name!r} under {store.root}: known runs: {known}")

    # A result without some of its parts would fail later, far from the reason.
    artifacts: dict[str, Artifact] = {}
    for node, id in reference.nodes.items():
        artifact = store.artifact(node.partition("@")[0], id)
        if not artifact.finished:
            raise UserError(f"run {name!r} is unfinished at {node}: run it again to finish it")
        artifacts[node] = artifact
    return RunResult(name, artifacts)


def list_runs(root: str | Path = "runs") -> "pd.DataFrame":
    """The runs under a root: their names, the number of their artifacts, and how many of these are finished.

    Args:
        root: folder or URL that holds all artifacts.

    Raises:
        UserError: there is no such folder.
    """
    import pandas as pd

    # Unfinished runs are listed, too: after a crash they are the ones to go on with.
    store = Store.existing(root)
    rows = []
    for name in store.refs():
        nodes = (store.read_ref(name) or Reference()).nodes
        artifacts = [store.artifact(node.partition("@")[0], id) for node, id in nodes.items()]
        finished = sum(artifact.finished for artifact in artifacts)
        rows.append({"run": name, "artifacts": len(artifacts), "finished": finished})
    return pd.DataFrame(rows, columns=["run", "artifacts", "finished"]).set_index("run")


def compare(*names: str, root: str | Path = "runs") -> "pd.DataFrame":
    """Odd-one-out agreement with people of several runs side by side, a column each, with 95 % intervals as text.

    Args:
        names: of finished runs; `open_run(name).scores` has all scores of one.
        root: folder or URL that holds all artifacts.

    Raises:
        UserError: no names, or as `open_run`.
    """
    import pandas as pd

    if not names:
        raise UserError("name the runs to compare: `list_runs` lists them")
    # pandas puts the columns together by model and layer, which runs need not share.
    columns = {}
    for name in names:
        summary = open_run(name, root).summary
        texts = []
        for row in summary.itertuples():
            interval = f"[{row.low:.1%}, {row.high:.1%}]"
            texts.append(f"{row.value:.1%} {interval}")
        columns[name] = pd.Series(texts, index=summary.index)
    return pd.DataFrame(columns)


def verify(path: str | Path, **references: Any) -> FileCheck:
    """Check a file of human responses or of labelled triplets, or a transform, as `alignet-ray verify` does.

    Args:
        path: the file, or an artifact's folder.
        references: what to check it against: `objects`, `reference`, `base`, `order`, `images`, `embeddings`,
            `transform`, `against` (the options of the command).

    Raises:
        UserError: there is no such file, or it is none of these; or no reference has that name.
    """
    import pandas as pd

    from alignet_ray.checks import References, examine

    # Python's own error would name a class that nobody has heard of.
    known = [entry.name for entry in fields(References)]
    for name in references:
        if name not in known:
            raise UserError(f"there is no reference {name!r}: use {', '.join(known)}")

    file = path_text(path, "the file to check")
    with _in_python():
        kind, findings = examine(file, References(**references))
    return FileCheck(file, kind, findings.ok, pd.DataFrame(findings.rows))


def embed(
    pictures: "Pictures",
    model: "ImageModel | str | Path",
    layer: "Layer | None" = None,
    batch: int = 64,
    progress: bool | None = None,
    skip_unreadable: bool = False,
) -> "ImageIndex":
    """Embeddings of a folder or a list of pictures, with their names.

    Args:
        pictures, layer, batch, progress, skip_unreadable: as for `ImageModel.index`.
        model: a loaded model, or a name as for `load`.

    Raises:
        UserError: as `load` and `ImageModel.index`.
    """
    from alignet_ray.models.hub import load
    from alignet_ray.models.image_model import ImageModel

    # A loaded model saves the loading where several folders follow each other.
    if not isinstance(model, ImageModel):
        model = load(model)
    return model.index(pictures, layer, batch, progress, skip_unreadable)


def import_student(
    path: str | Path,
    out: str | Path,
    model: str | None = None,
    prefix: str | None = None,
    tau: float = RELEASED_TAU,
    preprocessing: Preparation = "auto",
) -> "Imported":
    """Turn a released AligNet model or big_vision's weights into a student's folder, as `alignet-ray import` does.

    Args:
        path: the folder of a TensorFlow SavedModel, or an .npz file; neither TensorFlow nor JAX is needed.
        out: the new folder, which `load` reads.
        model, prefix, tau, preprocessing: as for `models.import_weights.import_student`.

    Raises:
        UserError: as `models.import_weights.import_student`.
    """
    from alignet_ray.models import import_weights

    with _in_python():
        return import_weights.import_student(path, out, model, prefix, tau, preprocessing)


@contextmanager
def _without_hints() -> Iterator[None]:
    """Ray advises every notebook to install widgets, which nothing here uses."""
    logger = logging.getLogger("ray.widgets.util")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _in_python() -> Iterator[None]:
    """Messages name settings as options of the command line; within it they get the names of keyword arguments."""
    try:
        yield
    except UserError as error:
        # The same error with another text, so that its traceback and its cause stay.
        error.args = (OPTION.sub(_keyword, str(error)),)
        raise


def _keyword(option: re.Match[str]) -> str:
    """An option as Python writes it: `--store.root DIR` is `store__root=DIR`; what is no option stays."""
    section, dot, field = option["name"].replace("-", "_").rpartition(".")
    value = option["value"] or ""
    # Switches are turned off by a name of their own.
    if field.startswith("no_") and f"{section}{dot}{field}" not in Config().flat():
        field = field.removeprefix("no_")
        value = "False"

    name = f"{section}{dot}{field}"
    if name in Config().flat():
        return f"{name.replace('.', '__')}={value}"
    # Options without a section are those of `verify`, whose arguments are called like them.
    if not section:
        return f"{name}={value}"
    return option[0]


def _settings(config: Config | str, changes: Mapping[str, Any]) -> Config:
    if not isinstance(config, str | Config):
        raise UserError(
            f"{type(config).__name__} is no configuration: give the name of a preset ({', '.join(PRESETS)}) or a Config"
        )
    # A Config is validated already; changes are validated by `replace`.
    if isinstance(config, str):
        if config not in PRESETS:
            raise UserError(f"there is no preset {config!r}: use {', '.join(PRESETS)}, or a Config")
        config = PRESETS[config]()
    return config.replace(**changes)
