"""Checks of files that go into or come out of a run: responses, labelled triplets, DeepMind's releases, transforms.

Every check is one line of a table with a verdict and, where something is wrong, what to do about it.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float32, Int64

from alignet_ray import comparison_checks
from alignet_ray.artifacts import schemas, transforms
from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.artifacts.label import IMAGE_COLUMNS, SIMILARITY_COLUMNS, SUBSETS
from alignet_ray.artifacts.transforms import TRANSFORM
from alignet_ray.core import consistency, labelling
from alignet_ray.core.triplet_rows import set_keys
from alignet_ray.data import deepmind
from alignet_ray.errors import UserError, first_line, path_text, require_named, require_regular
from alignet_ray.findings import INFO, OK, WARNING, WRONG, Findings
from alignet_ray.human import comparisons, triplets
from alignet_ray.human.answer_tables import require_countable
from alignet_ray.human.responses import ResponseTable, read_responses
from alignet_ray.images import listing
from alignet_ray.screen import table as text_table
from alignet_ray.store import Artifact

RECOMPUTED = 20_000
"""Labelled triplets whose similarities are computed again where embeddings are given."""

MAX_TIES = 0.01
"""Share of ties from which on labels are doubtful."""

MAX_DIFFERENCE = 0.02
"""Mean difference between stored and recomputed similarities, relative to their size, that rounding can explain."""


@dataclass(frozen=True)
class References:
    """What a file can be checked against, all of it optional.

    Attributes:
        objects: number of objects in the human data.
        reference: path of a human embedding.
        base, order: how the file numbers its objects (`human.base`, `human.order`).
        images: folder of the images that ids or names stand for.
        embeddings: folder of an embed artifact.
        transform: the map that was applied to these embeddings.
        against: another triplet file that must not share triplets with this one.
    """

    objects: int | None = None
    reference: str | None = None
    base: int | None = None
    order: str | None = None
    images: str | None = None
    embeddings: str | None = None
    transform: str | None = None
    against: str | None = None

    def __post_init__(self) -> None:
        # Python takes anything; what is none of these would fail far from here, or count as another thing.
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is None:
                continue
            if entry.name == "base" and value not in (0, 1):
                raise UserError(f"--base {value}: object numbers count from 0 or from 1")
            if entry.name == "objects" and (not isinstance(value, int) or value < 1):
                raise UserError(f"--objects {value}: give the number of objects, a whole number from 1 on")
            if entry.name not in ("base", "objects"):
                # Frozen, but a `Path` of the caller's is a text from here on.
                object.__setattr__(self, entry.name, path_text(value, f"--{entry.name}"))


COMPARISON_REFERENCES = ("objects", "reference", "base")
RESPONSE_REFERENCES = ("objects", "reference", "base", "order", "against")
LABEL_REFERENCES = ("images", "embeddings", "transform")
RELEASE_REFERENCES = ("images",)
"""The references that say something about each kind of file."""


def verify(path: str, references: References | None = None) -> tuple[str, bool]:
    """The checks of `examine` as text with a verdict, and whether nothing is wrong."""
    kind, findings = examine(path, references)
    return text(path, kind, findings), findings.ok


def examine(path: str, references: References | None = None) -> tuple[str, Findings]:
    """Check a file or folder.

    Args:
        path: human responses or reference comparisons (.txt, .csv, .tsv, .npy), labelled triplets (an artifact's
            folder, .parquet, DeepMind's .npz), or a transform (.npz, .safetensors, an align artifact's folder).
        references: what to check it against.

    Returns:
        The kind of file, and the checks that were made.

    Raises:
        UserError: there is no such file, or it is none of these.
    """
    findings = Findings()
    kind = _check_path(path, references or References(), findings)
    return kind, findings


def text(path: str, kind: str, findings: Findings) -> str:
    """The checks as a table with a verdict."""
    wrong = findings.count(WRONG)
    warnings = findings.count(WARNING)
    # Warnings are counted, but only what is wrong makes a file fail.
    verdict = "no problems found"
    if wrong:
        verdict = f"{wrong} checks failed"
    elif warnings:
        verdict += f", {warnings} warnings"
    return f"{path}: {kind}\n{text_table(findings.rows)}\nverdict: {verdict}"


def _check_path(path: str, references: References, findings: Findings) -> str:
    """Find out what kind of file it is and run its checks; returns the kind."""
    require_named(path, "the file to check")
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(f"{path} does not exist")
    require_regular(place)
    if place.is_dir():
        return _check_folder(place, references, findings)

    # From the most specific to the least: a release and a transform are both .npz, and responses may be any text.
    if place.suffix == ".parquet":
        if not _holds_triplets(place):
            columns = ", ".join(pq.read_schema(place).names)
            raise UserError(f"{path}: columns {columns} are no table of triplets")
        _refuse_unused(references, LABEL_REFERENCES, "labelled triplets")
        _check_labels([place], references, findings)
        return "labelled triplets"

    if place.suffix == ".npz" and deepmind.is_release(place):
        _refuse_unused(references, RELEASE_REFERENCES, "released triplets")
        _check_release(place, references, findings)
        return "AligNet triplets (DeepMind's .npz)"

    if place.suffix in transforms.SUFFIXES:
        _refuse_unused(references, (), "a transform")
        _check_transform(place, findings)
        return "transform"

    if comparisons.holds_comparisons(path):
        _refuse_unused(references, COMPARISON_REFERENCES, "reference comparisons")
        comparison_checks.check(path, findings, references.objects, references.base, references.reference)
        return "reference comparisons (reference, a, b)"

    _refuse_unused(references, RESPONSE_REFERENCES, "human responses")
    _check_responses(path, references, findings)
    return "human responses (pair, pair, odd)"


def _refuse_unused(references: References, used: Sequence[str], kind: str) -> None:
    """Refuse a reference that says nothing about this kind of file: ignored in silence, it would seem to be checked."""
    # By name: the options of the command line are called like the fields.
    for entry in fields(references):
        if getattr(references, entry.name) is not None and entry.name not in used:
            raise UserError(f"--{entry.name} says nothing about {kind}: leave it out")
    if references.transform is not None and references.embeddings is None:
        raise UserError("--transform is applied to embeddings: give --embeddings as well")


def _check_folder(place: Path, references: References, findings: Findings) -> str:
    """An artifact's folder: labelled triplets in train/ and valid/, or a transform."""
    if (place / TRANSFORM).is_file():
        _refuse_unused(references, (), "a transform")
        _check_transform(place / TRANSFORM, findings)
        return "transform of an align artifact"

    _refuse_unused(references, LABEL_REFERENCES, "labelled triplets")
    # "." is a folder of parts that belong to no subset.
    keys = {}
    for name in (*SUBSETS, "."):
        files = sorted((place / name).glob("*.parquet"))
        if files and _holds_triplets(files[0]):
            findings.add(f"[{name}]", f"{len(files)} files")
            keys[name] = _check_labels(files, references, findings)

    if not keys:
        raise UserError(f"{place}: neither labelled triplets (train/*.parquet) nor transform.npz in that folder")

    if set(SUBSETS) <= set(keys):
        shared = len(np.intersect1d(keys["train"], keys["valid"]))
        note = "validation is no longer held out: draw it again"
        findings.check("triplets in train and valid", shared, shared == 0, note)
    return "labelled triplets"


def _holds_triplets(file: Path) -> bool:
    # Other columns beside these do no harm.
    with _told(file):
        return set(schemas.TRIPLETS.names) <= set(pq.read_schema(file).names)


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """Turn what Arrow raises on a damaged Parquet file into one line with its name."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} is not a whole Parquet file: {first_line(error)}") from error


# Human responses


@dataclass
class ResponseFile:
    """A file of human responses under examination.

    Attributes:
        responses: the file as it is.
        references: what it is checked against.
        reference: the reference embedding, if there is one.
        rows: rows (pair, pair, odd), first with the file's own object numbers, then with 0-based object ids.
    """

    responses: ResponseTable
    references: References
    reference: Float32[np.ndarray, "m d"] | None
    rows: Int64[np.ndarray, "n 3"]

    @property
    def objects(self) -> int | None:
        """Number of objects, where it is known."""
        if self.reference is not None:
            return len(self.reference)
        return self.references.objects


def _check_responses(path: str, references: References, findings: Findings) -> None:
    """Form, object numbers, duplicates, position of the odd one, and agreement with a reference."""
    responses = read_responses(path)
    if references.objects is None:
        require_countable(responses.triplets, path, responses.lines)
    if responses.unread_times:
        findings.add("response times", "some cannot be read", WARNING, responses.unread_times)

    reference = None
    if references.reference:
        reference = triplets.read_embedding(references.reference)
    file = ResponseFile(responses, references, reference, responses.triplets)

    # Later checks make no sense on rows that an earlier one refused, and may crash on them.
    for require in RESPONSE_REQUIREMENTS:
        if not require(file, findings):
            return
    for check in RESPONSE_CHECKS:
        check(file, findings)


def _require_rows(file: ResponseFile, findings: Findings) -> bool:
    """Whether there are any."""
    findings.check("rows", f"{len(file.rows):,}", len(file.rows) > 0, "there are none")
    return len(file.rows) > 0


def _require_distinct_objects(file: ResponseFile, findings: Findings) -> bool:
    """Whether object numbers are not negative, and distinct in every row."""
    lowest = int(file.rows.min())
    highest = int(file.rows.max())
    if lowest < 0:
        findings.add("object numbers", f"{lowest} to {highest}", WRONG, "negative numbers")
    else:
        findings.add("object numbers", f"{lowest} to {highest}")

    repeats = int(consistency.repeats(file.rows).sum())
    findings.check("rows that repeat an object", f"{repeats:,}", repeats == 0, "remove them")
    return lowest >= 0 and repeats == 0


def _require_object_ids(file: ResponseFile, findings: Findings) -> bool:
    """Turn the file's numbers into 0-based object ids; returns whether all of them are known objects."""
    lowest = int(file.rows.min())
    highest = int(file.rows.max())

    # The option comes before what the file itself says, and both before what its numbers suggest.
    stated = file.references.base
    if stated is None:
        stated = file.responses.base
    base = stated
    if base is None:
        base = triplets.detect_base(lowest, highest, file.objects)

    is_unstated_one = base == 1 and stated is None
    note = "read it with --human.base 1, or subtract 1 from every number"
    findings.check("counts from", base, not is_unstated_one, note)
    if stated is None and base == 0 and lowest == 1 and file.objects is None:
        findings.add("lowest number", 1, WARNING, "it may count from 1: --objects or --reference would tell")

    if lowest < base:
        findings.check("counts from", 0, False, "read it with --base 0, or as --human.base 0")
        return False

    inside = file.objects is None or highest - base < file.objects
    findings.check("inside the objects", inside, inside, f"there are {file.objects} objects")
    if not inside:
        return False

    # From here on ids are those of the human data, whatever the file counts from.
    file.rows = file.rows - base
    if file.references.order:
        file.rows = triplets.read_order(file.references.order)[file.rows]
    return True


def _check_duplicate_responses(file: ResponseFile, findings: Findings) -> None:
    _check_duplicates(file.rows, findings)


def _check_shared_triplets(file: ResponseFile, findings: Findings) -> None:
    """Whether another file shares more triplets than chance gives."""
    references = file.references
    if not references.against:
        return
    other = triplets.read_triplets(references.against, references.objects, references.base)
    shared = int(np.isin(set_keys(file.rows), set_keys(other)).sum())
    by_chance = consistency.expected_shared(file.rows, other)
    # As for duplicates: five standard deviations and a tenth of a percent of the rows.
    passed = bool(shared <= by_chance + 5 * np.sqrt(by_chance) + 1e-3 * len(file.rows))
    value = f"{shared:,} ({by_chance:,.0f} by chance)"
    findings.check("triplets shared with the other file", value, passed, "leakage")


def _count_responses(file: ResponseFile, findings: Findings) -> None:
    """Objects, and responses about each of them."""
    # Objects without a response are not in the file, and would pull the figures down.
    counts = np.bincount(file.rows.reshape(-1))
    counts = counts[counts > 0]
    spread = f"{counts.min():,} to {counts.max():,}, median {int(np.median(counts)):,}"
    findings.add("objects in responses", f"{len(counts):,}")
    findings.add("responses per object", spread)


def _check_odd_position(file: ResponseFile, findings: Findings) -> None:
    """Whether the last column is the odd one, judging by the responses alone."""
    # Each response is predicted from all the others, once for each place where the odd one may stand.
    found = consistency.odd_position(file.rows)
    shares = []
    for position, share in zip(consistency.ODD_POSITIONS, found.shares, strict=True):
        shares.append(f"{position} {share:.1%}")

    verdict = OK
    note = ""
    if found.best != "last":
        verdict = WRONG
        note = f"the odd one seems to be {found.best}; it must be last"
    elif not found.sure:
        verdict = INFO
        note = "too few responses per object to tell"
    findings.add("responses predicted by each other, odd one", ", ".join(shares), verdict, note)


def _check_reference(file: ResponseFile, findings: Findings) -> None:
    """Whether the reference embedding predicts the responses as well as it should."""
    if file.reference is None:
        return
    # Where the agreement is too low, other readings of the file are tried for the note.
    found = triplets.plausibility(file.rows, file.reference)
    note = ""
    if not found.good:
        note = triplets.fitting_readings(file.rows, file.reference)
    value = f"{found.agreement:.1%} ({found.expected:.1%} expected)"
    findings.check("predicted by the reference", value, found.good, note)


RESPONSE_REQUIREMENTS: Sequence[Callable[[ResponseFile, Findings], bool]] = (
    _require_rows,
    _require_distinct_objects,
    _require_object_ids,
)
"""Checks in this order; without one of them the others make no sense."""

RESPONSE_CHECKS: Sequence[Callable[[ResponseFile, Findings], None]] = (
    _check_duplicate_responses,
    _check_shared_triplets,
    _count_responses,
    _check_odd_position,
    _check_reference,
)
"""Checks of well-formed rows with 0-based object ids."""


# Labelled triplets


@dataclass
class SimilarityCounts:
    """Counts over labelled triplets, which are read block by block.

    Attributes:
        rows: all triplets.
        not_finite: triplets with a similarity that is NaN or infinite.
        unsorted: triplets whose first pair is not the most similar one.
        ties: triplets whose largest similarity is shared by two pairs.
        odd_pair_smallest: triplets whose pair (1, 2) is strictly the least similar one.
    """

    rows: int = 0
    not_finite: int = 0
    unsorted: int = 0
    ties: int = 0
    odd_pair_smallest: int = 0

    def add(self, similarities: Float[np.ndarray, "n 3"]) -> None:
        """Count one block."""
        # Columns are the pairs 01, 02, 12; the first must be the most similar, so that the third image is the odd one.
        largest_other = similarities[:, 1:].max(axis=1)
        self.rows += len(similarities)
        self.not_finite += int((~np.isfinite(similarities)).any(axis=1).sum())
        self.unsorted += int((similarities[:, 0] < largest_other).sum())
        self.ties += int((similarities[:, 0] == largest_other).sum())
        self.odd_pair_smallest += int((similarities[:, 2] < similarities[:, :2].min(axis=1)).sum())

    def check(self, findings: Findings, unsorted_note: str, unsorted_failure: str = WRONG) -> None:
        """Add the lines of the table."""
        findings.check("rows", f"{self.rows:,}", self.rows > 0, "there are none")
        findings.check("similarities not finite", f"{self.not_finite:,}", self.not_finite == 0, "NaN or infinity")
        findings.check("odd image not last", f"{self.unsorted:,}", self.unsorted == 0, unsorted_note, unsorted_failure)
        passed = self.ties <= MAX_TIES * self.rows
        findings.check("ties", f"{self.ties:,}", passed, "the teacher cannot tell these pairs apart", WARNING)


def _check_labels(files: Sequence[Path], references: References, findings: Findings) -> Int64[np.ndarray, " n"]:
    """Labelled image triplets; returns the keys of all triplets, to compare files with each other."""
    # Similarities are only counted, file by file; the image ids of all files are compared with each other.
    counts = SimilarityCounts()
    blocks = [np.empty((0, 3), np.int64)]
    for file in files:
        with _told(file):
            table = pq.read_table(file, columns=schemas.TRIPLETS.names).cast(schemas.TRIPLETS)
        counts.add(schemas.column_matrix(table, SIMILARITY_COLUMNS))
        blocks.append(schemas.column_matrix(table, IMAGE_COLUMNS))
    image_ids = np.concatenate(blocks)

    counts.check(findings, "s01 must be the largest: sort images and similarities")
    repeats = int(consistency.repeats(image_ids).sum())
    findings.check("rows that repeat an image", f"{repeats:,}", repeats == 0, "remove them")
    if counts.rows == 0:
        return np.empty(0, np.int64)

    # How evenly images are used says whether the draw was balanced.
    _, uses = np.unique(image_ids, return_counts=True)
    findings.add("images used", f"{len(uses):,}, each {uses.min():,} to {uses.max():,} times")
    _check_duplicates(image_ids, findings)
    if references.images:
        _check_image_ids(image_ids, references.images, findings)
    if references.embeddings:
        _check_similarities(pq.read_table(files[0]), references.embeddings, references.transform, findings)
    return set_keys(image_ids)


def _check_duplicates(rows: Int64[np.ndarray, "n 3"], findings: Findings) -> None:
    """Repeated sets of three, beyond what chance gives."""
    # Few objects and many responses repeat triplets by chance alone, so the bare number says nothing.
    found = consistency.duplicates(rows)
    share = found.found / max(len(rows), 1)
    value = f"{found.found:,} ({share:.2%}; {found.expected:,.0f} by chance)"
    note = "more than chance gives: leave copies out, or they count twice"
    findings.check("repeated triplets", value, not found.suspicious, note)


def _check_image_ids(image_ids: Int64[np.ndarray, "n 3"], folder: str, findings: Findings) -> None:
    """Whether every id is an image of the folder, and how the classes are used."""
    # An id is a rank in the listing, so every number below its length is an image.
    listed = listing.list_images(folder)
    lowest = int(image_ids.min())
    highest = int(image_ids.max())
    inside = lowest >= 0 and highest < len(listed)
    findings.check("image ids", f"{lowest} to {highest}", inside, f"the folder has {len(listed):,} images")

    # One class that is drawn much more than others teaches the student little else.
    labels = np.array(listed["label"].to_pylist())
    if inside and len(set(labels.tolist())) > 1:
        _, uses = np.unique(labels[image_ids.reshape(-1)], return_counts=True)
        value = f"{uses.max() / image_ids.size:.2%} of {len(uses)} classes"
        findings.add("share of the most frequent class", value)


def _check_similarities(table: pa.Table, folder: str, transform: str | None, findings: Findings) -> None:
    """Whether stored similarities are those of these embeddings, on a sample."""
    # A sample is enough: a wrong transform changes every similarity.
    place = Path(folder).expanduser().resolve()
    artifact = EmbedArtifact(Artifact(str(place.parent.parent), place.parent.name, place.name))
    table = table.slice(0, RECOMPUTED)
    image_ids = schemas.column_matrix(table, IMAGE_COLUMNS)
    wanted = np.unique(image_ids)
    embedded = artifact.embeddings(only=wanted)
    if len(embedded.ids) != len(wanted):
        value = f"{len(embedded.ids):,} of {len(wanted):,}"
        findings.check("images with embeddings", value, False, "another embed artifact?")
        return

    # The teacher's features: mapped by the transform if one was applied, else the embeddings as they are.
    features = embedded.vectors.astype(np.float32)
    if transform:
        features = transforms.load_transform(transform)(embedded.vectors)
    recomputed = labelling.similarities(features, np.searchsorted(embedded.ids, image_ids))

    # Relative to their size, which depends on the teacher's width and scale.
    stored = schemas.column_matrix(table, SIMILARITY_COLUMNS)
    size = max(float(np.abs(stored).mean()), 1e-12)
    difference = float(np.abs(recomputed - stored).mean()) / size
    note = "other embeddings or another transform made these labels"
    findings.check("similarities recomputed", f"{difference:.2%} apart", difference < MAX_DIFFERENCE, note)


def _check_release(place: Path, references: References, findings: Findings) -> None:
    """DeepMind's .npz: order and ties of its similarities, and its file names."""
    # Block by block: a release has millions of rows, and their names take more memory than their numbers.
    counts = SimilarityCounts()
    names: set[str] = set()
    for rows in deepmind.blocks(place):
        counts.add(rows["similarities"].astype(np.float32))
        names.update(np.unique(rows["filenames"]).tolist())

    counts.check(findings, "the import sorts them", WARNING)
    findings.add("s12 smallest of the three", f"{counts.odd_pair_smallest / max(counts.rows, 1):.1%}")
    findings.add("images named", f"{len(names):,}")
    if references.images:
        _check_file_names(names, references.images, findings)


def _check_file_names(names: set[str], folder: str, findings: Findings) -> None:
    """Whether every name is that of an image in the folder, by base name."""
    # Releases name files below folders of their own.
    paths = listing.list_images(folder)["path"].to_pylist()
    known = {Path(path).name for path in paths}
    missing = sorted(name for name in names if Path(name).name not in known)
    note = ""
    if missing:
        note = f"for example {missing[0]!r}"
    findings.check("names without an image", f"{len(missing):,}", not missing, note)


# Transforms


def _check_transform(place: Path, findings: Findings) -> None:
    """Shape, rank, and where it comes from; the reader already refuses values that are not finite."""
    stored = transforms.read_transform(place)
    transform = stored.transform
    rows, columns = transform.weights.shape
    findings.add("weights", f"{rows} x {columns}")
    findings.check("square", rows == columns, rows == columns, "it is not")

    # Relative to the largest singular value: below that, float32 holds only rounding errors.
    singular = np.linalg.svd(transform.weights, compute_uv=False)
    rank = int((singular > singular[0] * 1e-5).sum())
    findings.check("rank", rank, rank > 0, "the weights are zero: every similarity would be the same")
    findings.add("singular values", f"{singular[0]:.3g} to {singular[-1]:.3g}")
    findings.add("mean, std", f"{transform.mean:.4g}, {transform.std:.4g}")

    # Transforms of other projects name no model, which is no fault of the file.
    model = stored.provenance.get("model") or transforms.names_of_networks(stored.provenance.get("teacher", {}))
    note = "the file does not say which model it belongs to"
    findings.check("model", model or "unknown", bool(model), note, WARNING)
