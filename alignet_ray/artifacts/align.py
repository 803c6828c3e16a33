"""The align artifact: the map (or fine-tuned network) of the teacher, and how well it agrees with people."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from alignet_ray.artifacts import transforms
from alignet_ray.artifacts.base import ArtifactView, from_rows, read_json_lines, to_rows, write_json_lines
from alignet_ray.core.affine import AffineTransform
from alignet_ray.store import JsonObject

REPORT = "report.json"
FOLDS = "folds.parquet"
METRICS = "metrics.jsonl"

SPLITS = ("validation", "test")
SPACES = ("base", "features", "aligned")

FOLD_SCHEMA = pa.schema(
    [
        ("fold", pa.int64()),
        ("objects", pa.list_(pa.int64())),
        ("step", pa.int64()),
        ("base", pa.float64()),
        ("accuracy", pa.float64()),
        ("cross_entropy", pa.float64()),
        ("ceiling", pa.float64()),
    ]
)


@dataclass(frozen=True)
class FoldResult:
    """One fold of the training objects: figures on its held-out objects.

    Attributes:
        fold: number of the fold.
        objects: the held-out objects.
        step: optimiser step of the map that was kept.
        base, accuracy: agreement with people before and after the map.
        cross_entropy: of the map, in nats.
        ceiling: agreement of the best prediction.
    """

    fold: int
    objects: list[int]
    step: int
    base: float
    accuracy: float
    cross_entropy: float
    ceiling: float


@dataclass(frozen=True)
class Agreement:
    """Agreement of one embedding space with people, and its cross-entropy in nats, with 95 % intervals."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    cross_entropy: float
    cross_entropy_low: float
    cross_entropy_high: float


@dataclass(frozen=True)
class SplitAgreement:
    """Agreement with people on the objects of one split.

    Attributes:
        spaces: by name: `base`, `aligned`, and `features` for the features of a fine-tuned network.
        ceiling: agreement of the best prediction.
    """

    spaces: dict[str, Agreement]
    ceiling: float


@dataclass(frozen=True)
class InterpolationPoint:
    """A teacher between the pretrained weights (0) and the fine-tuned ones (1), on validation objects.

    Attributes:
        interpolation: how far from the pretrained weights.
        accuracy: agreement of the head with people.
        features: agreement of the features with people.
        kept: share of the ten nearest neighbours kept.
    """

    interpolation: float
    accuracy: float
    features: float
    kept: float


@dataclass(frozen=True)
class AlignReport:
    """What a fit of the teacher brought, and what it cost.

    Attributes:
        map: form of the map: `affine`, `low_rank`, `diagonal`, `orthogonal`, `network`, or `stored` for one that
            was taken over (it has no figures).
        step: optimiser step of the weights that were kept.
        history: figures of every validation.
        splits: agreement on validation and test objects.
        neighbours_kept: share of each image's ten nearest neighbours kept by the map, or by a network's features.
        aligned_neighbours_kept: the same for the outputs of a network teacher's head; None for maps.
        width: width of the features; None for a network.
        settings: how a map was fitted.
        folds: cross-validation of the settings on the training objects.
        search: settings that were tried, with their figures.
        curve: network teachers between the pretrained and the fine-tuned weights.
        temperature, metric: of a network teacher's kernel regression.
    """

    map: str
    step: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    splits: dict[str, SplitAgreement] = field(default_factory=dict)
    neighbours_kept: float = 1.0
    aligned_neighbours_kept: float | None = None
    width: int | None = None
    settings: JsonObject = field(default_factory=dict)
    folds: list[FoldResult] = field(default_factory=list)
    search: list[dict[str, float]] = field(default_factory=list)
    curve: list[InterpolationPoint] = field(default_factory=list)
    temperature: float | None = None
    metric: str | None = None

    def figures(self) -> dict[str, float]:
        """The numbers of the report by flat names, for artifact.json and the tracking server."""
        figures = {"step": float(self.step), "neighbours_kept": self.neighbours_kept}
        if self.aligned_neighbours_kept is not None:
            figures["aligned_neighbours_kept"] = self.aligned_neighbours_kept

        # Flat names: a tracking server draws one chart for each of them.
        for split, agreement in self.splits.items():
            figures[f"{split}_ceiling"] = agreement.ceiling
            for space, values in agreement.spaces.items():
                for name, value in asdict(values).items():
                    figures[f"{split}_{space}_{name}"] = value
        return figures

    def to_json(self) -> JsonObject:
        """The report as JSON: its figures by flat names, and everything else by field."""
        stored: JsonObject = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name not in NESTED and value is not None:
                stored[entry.name] = value

        # Scores are flat on disk, under the same names as on the tracking server.
        stored["folds"] = to_rows(self.folds)
        stored["curve"] = to_rows(self.curve)
        return stored | self.figures()

    @classmethod
    def from_json(cls, stored: JsonObject) -> "AlignReport":
        """Inverse of `to_json`."""
        plain = {entry.name: stored[entry.name] for entry in fields(cls) if entry.name in stored}

        # A map that was taken over has no figures, so a split may be missing.
        plain["splits"] = {}
        for split in SPLITS:
            if f"{split}_ceiling" in stored:
                plain["splits"][split] = _split_agreement(split, stored)

        plain["folds"] = from_rows(FoldResult, stored.get("folds", []))
        plain["curve"] = from_rows(InterpolationPoint, stored.get("curve", []))
        return cls(**plain)


NESTED = ("splits", "folds", "curve")
"""Fields of a report that are dataclasses of their own."""


def split_agreement(figures: Mapping[str, Mapping[str, float]], ceiling: float) -> SplitAgreement:
    """Figures of several spaces, each by the names of `Agreement`, as `SplitAgreement`."""
    spaces = {space: Agreement(**values) for space, values in figures.items()}
    return SplitAgreement(spaces, ceiling)


def _split_agreement(split: str, stored: Mapping[str, Any]) -> SplitAgreement:
    spaces = {}
    for space in SPACES:
        # Maps have no space `features`: theirs are those of the base.
        prefix = f"{split}_{space}_"
        if f"{prefix}accuracy" not in stored:
            continue

        values = {}
        for entry in fields(Agreement):
            values[entry.name] = stored[prefix + entry.name]
        spaces[space] = Agreement(**values)
    return SplitAgreement(spaces, stored[f"{split}_ceiling"])


@dataclass(frozen=True)
class AlignArtifact(ArtifactView):
    """A map from the teacher's embedding space to one whose dot products are logits of human choices.

    A fine-tuned network is kept as a student's folder instead of the map; its embeddings are the teacher's already.
    """

    def has_transform(self) -> bool:
        """Whether there is a map to apply; a network teacher has none."""
        return self.files.has(transforms.TRANSFORM)

    def transform_path(self) -> Path:
        """Local path of the map in gLocal's layout (.npz)."""
        return self.files.local(transforms.TRANSFORM)

    def transform(self) -> AffineTransform:
        """The map."""
        return transforms.load_transform(self.transform_path())

    def write_transform(self, transform: AffineTransform, provenance: JsonObject) -> None:
        """Write the map in both formats, with what it was fitted on."""
        # gLocal and thingsvision read the first; programs in other languages read the second.
        for name in (transforms.TRANSFORM, transforms.TRANSFORM_TENSORS):
            self.draft.write_bytes(name, transforms.dump_transform(Path(name).suffix, transform, provenance))

    def network_folder(self) -> Path:
        """Local folder of a fine-tuned network, in the layout of a student."""
        return self.files.local()

    def has_report(self) -> bool:
        """Whether the map was fitted here; a stored map that was taken over comes without a report."""
        return self.files.has(REPORT)

    def report(self) -> AlignReport:
        """What the fit brought and cost."""
        return AlignReport.from_json(self.files.read_json(REPORT))

    def write_report(self, report: AlignReport) -> None:
        """Write the report, and its folds as a table."""
        self.draft.write_json(REPORT, report.to_json())
        # Folds are in report.json too; as a table, a notebook reads them in one line.
        folds = pa.Table.from_pylist(to_rows(report.folds), schema=FOLD_SCHEMA)
        self.draft.write_table(FOLDS, folds)

    def metrics(self) -> list[dict[str, float]]:
        """Figures of every validation of a network teacher, while it is trained and after."""
        return read_json_lines(self.files, METRICS)

    def write_metrics(self, rows: Sequence[dict[str, float]]) -> None:
        """Write the figures of every validation so far."""
        write_json_lines(self.draft, METRICS, list(rows))

    def remove_metrics(self) -> None:
        """Forget the figures of an interrupted fit."""
        self.draft.remove(METRICS)
