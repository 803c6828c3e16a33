"""A data doctor: is this triplet file, folder or transform sane? One table, a verdict, an exit code."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alignet_ray.artifacts import schemas, transforms
from alignet_ray.core import consistency, labelling
from alignet_ray.core.triplets import set_keys
from alignet_ray.data import deepmind, embeddings
from alignet_ray.errors import UserError
from alignet_ray.human import triplets
from alignet_ray.human.responses import read_responses
from alignet_ray.images import listing
from alignet_ray.screen import table as text_table
from alignet_ray.store import Artifact

GOOD, WARN, BAD, INFO = "ok", "warning", "WRONG", ""
RECOMPUTED = 20_000
"""Triplets whose similarities are computed anew where embeddings are at hand."""


@dataclass
class Findings:
    """Checks that were made: name, value, verdict, and what to do about it."""

    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, check: str, value: object, verdict: str = INFO, note: str = "") -> None:
        """One line of the table."""
        self.rows.append({"check": check, "value": str(value), "verdict": verdict, "note": note})

    def judge(self, check: str, value: object, good: bool, note: str, verdict: str = BAD) -> None:
        """One line with a verdict; the note is shown if it is not good."""
        self.add(check, value, GOOD if good else verdict, "" if good else note)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong (warnings do not count)."""
        return all(row["verdict"] != BAD for row in self.rows)


@dataclass(frozen=True)
class Aids:
    """What a file can be checked against, all of it optional.

    Attributes:
        objects: number of objects in the human data.
        reference: path of a human embedding.
        base, order: how the file counts (`human.base`, `human.order`).
        images: folder of the images that ids and names mean.
        embeddings: folder of an embed artifact; transform: the map that was applied to it.
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


def verify(path: str, aids: Aids | None = None) -> tuple[str, bool]:
    """The checks of `examine` as text with a verdict, and whether nothing is wrong."""
    kind, findings = examine(path, aids)
    return text(path, kind, findings), findings.ok


def examine(path: str, aids: Aids | None = None) -> tuple[str, Findings]:
    """Examine a file or folder.

    Args:
        path: human answers (.txt, .csv, .tsv, .npy), labelled triplets (an artifact's folder, .parquet, DeepMind's
            .npz), or a transform (.npz, .safetensors, an align artifact's folder).
        aids: what to check against.

    Returns:
        What it is, and the checks that were made.

    Raises:
        UserError: there is no such file, or it is none of these.
    """
    findings = Findings()
    kind = _examine(path, aids or Aids(), findings)
    return kind, findings


def text(path: str, kind: str, findings: Findings) -> str:
    """The checks as a table with a verdict."""
    wrong = sum(row["verdict"] == BAD for row in findings.rows)
    warned = sum(row["verdict"] == WARN for row in findings.rows)
    verdict = "no problems found" + (f", {warned} warnings" if warned else "")
    if wrong:
        verdict = f"{wrong} checks failed"
    return f"{path}: {kind}\n{text_table(findings.rows)}\nverdict: {verdict}"


def _examine(path: str, aids: Aids, found: Findings) -> str:
    """Find out what it is and run its checks; returns what it is."""
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(f"{path} does not exist")
    if place.is_dir():
        return _folder(place, aids, found)
    if place.suffix == ".parquet":
        schema = pq.read_schema(place)
        if set(schemas.TRIPLETS.names) <= set(schema.names):
            _labelled(lambda: iter([pq.read_table(place)]), aids, found)
            return "labelled triplets"
        raise UserError(f"{path}: columns {', '.join(schema.names)} are no table of triplets")
    if place.suffix == ".npz" and deepmind.is_release(place):
        return _release(place, aids, found)
    if place.suffix in (".npz", ".safetensors"):
        _transform(place, found)
        return "transform"
    _answers(path, aids, found)
    return "human answers (pair, pair, odd)"


def _folder(place: Path, aids: Aids, found: Findings) -> str:
    """An artifact: labelled triplets in train/ and valid/, or a transform."""
    if (place / "transform.npz").is_file():
        _transform(place / "transform.npz", found)
        return "transform of an align artifact"
    groups = {name: sorted((place / name).glob("*.parquet")) for name in ("train", "valid", ".")}
    groups = {name: files for name, files in groups.items() if files and _holds_triplets(files[0])}
    if not groups:
        raise UserError(f"{place}: neither labelled triplets (train/*.parquet) nor transform.npz in that folder")
    seen = {}
    for name, files in groups.items():
        found.add(f"[{name}]", f"{len(files)} files")
        seen[name] = _labelled(lambda files=files: (pq.read_table(f) for f in files), aids, found)  # type: ignore[misc]
    if {"train", "valid"} <= set(seen):
        shared = len(np.intersect1d(seen["train"], seen["valid"]))
        found.judge(
            "triplets in train and valid", shared, shared == 0, "validation is no longer held out: draw it anew"
        )
    return "labelled triplets"


def _holds_triplets(file: Path) -> bool:
    return set(schemas.TRIPLETS.names) <= set(pq.read_schema(file).names)


def _answers(path: str, aids: Aids, found: Findings) -> None:
    """Human answers: form, range, base, odd one, duplicates, and agreement with a reference."""
    raw = read_responses(path)
    rows = raw.triplets
    reference = triplets.read_embedding(aids.reference) if aids.reference else None
    objects = len(reference) if reference is not None else aids.objects
    found.judge("rows", f"{len(rows):,}", len(rows) > 0, "there are none")
    if len(rows) == 0:
        return
    low, high = int(rows.min()), int(rows.max())
    found.add("object numbers", f"{low} to {high}", BAD if low < 0 else INFO, "negative numbers" if low < 0 else "")
    repeated = int(consistency.repeats(rows).sum())
    found.judge("rows that repeat an object", f"{repeated:,}", repeated == 0, "remove them")
    if low < 0 or repeated:
        return
    base = aids.base if aids.base is not None else raw.base
    start = base if base is not None else triplets.detect_base(low, high, objects)
    unasked = start == 1 and base is None
    found.judge("counts from", start, not unasked, "read it with --human.base 1, or subtract 1 from every number")
    if base is None and start == 0 and low == 1 and objects is None:
        found.add("lowest number", 1, WARN, "it may count from 1: --objects or --reference would tell")
    inside = objects is None or high - start < objects
    found.judge("inside the objects", inside, inside, f"there are {objects} objects")
    if not inside:
        return
    rows = rows - start
    rows = triplets.read_order(aids.order)[rows] if aids.order else rows
    _duplicates(rows, found)
    _against(rows, aids, found)
    counts = np.bincount(rows.reshape(-1))
    counts = counts[counts > 0]
    found.add("objects judged", f"{len(counts):,}")
    found.add("judgements an object", f"{counts.min():,} to {counts.max():,}, median {int(np.median(counts)):,}")
    _odd_position(rows, found)
    if reference is not None:
        _reference(rows, reference, found)


def _odd_position(rows: np.ndarray, found: Findings) -> None:
    """Whether the last column is the odd one, by the answers themselves."""
    reading = consistency.odd_position(rows)
    shares = ", ".join(
        f"{name} {share:.1%}" for name, share in zip(("last", "middle", "first"), reading.shares, strict=True)
    )
    verdict, note = GOOD, ""
    if reading.best != "last":
        verdict, note = BAD, f"the odd one seems to be {reading.best}; it must be last"
    elif not reading.sure:
        verdict, note = INFO, "too few answers an object to tell"
    found.add("answers predicted by each other, odd one", shares, verdict, note)


def _reference(rows: np.ndarray, reference: np.ndarray, found: Findings) -> None:
    p = triplets.plausibility(rows, reference)
    note = triplets.fitting_readings(rows, reference) if not p.good else ""
    found.judge("predicted by the reference", f"{p.agreement:.1%} ({p.expected:.1%} expected)", p.good, note)


def _duplicates(triplets: np.ndarray, found: Findings) -> None:
    """Repeated sets of three, beyond what chance gives."""
    d = consistency.duplicates(triplets)
    text = f"{d.found:,} ({d.found / max(len(triplets), 1):.2%}; {d.expected:,.0f} by chance)"
    found.judge(
        "repeated triplets", text, not d.suspicious, "more than chance gives: leave copies out, or they count twice"
    )


def _against(rows: np.ndarray, aids: Aids, found: Findings) -> None:
    if aids.against:
        other = triplets.read_triplets(aids.against, aids.objects, aids.base)
        shared = int(np.isin(set_keys(rows), set_keys(other)).sum())
        by_chance = consistency.expected_shared(rows, other)
        good = bool(shared <= by_chance + 5 * np.sqrt(by_chance) + 1e-3 * len(rows))
        found.judge("triplets shared with the other file", f"{shared:,} ({by_chance:,.0f} by chance)", good, "leakage")


def _labelled(tables: Callable[[], Iterator[pa.Table]], aids: Aids, found: Findings) -> np.ndarray:
    """Labelled image triplets; returns the keys of all triplets, for leakage between files."""
    total = bad = ties = disorder = 0
    every: list[np.ndarray] = []
    for part in tables():
        ids = np.stack([part[c].to_numpy() for c in ("i0", "i1", "i2")], axis=1)
        s = np.stack([part[c].to_numpy() for c in ("s01", "s02", "s12")], axis=1)
        total, bad = total + len(s), bad + int((~np.isfinite(s)).any(axis=1).sum())
        disorder += int((s[:, 0] < s[:, 1:].max(axis=1)).sum())
        ties += int((s[:, 0] == s[:, 1:].max(axis=1)).sum())
        every.append(ids)
    ids = np.concatenate(every) if every else np.empty((0, 3), np.int64)
    found.judge("rows", f"{total:,}", total > 0, "there are none")
    found.judge("similarities not finite", f"{bad:,}", bad == 0, "NaN or infinity: label again")
    found.judge(
        "odd image not last", f"{disorder:,}", disorder == 0, "s01 must be the largest: sort images and similarities"
    )
    found.judge("ties", f"{ties:,}", ties <= 0.01 * total, "the teacher cannot tell these pairs apart", WARN)
    repeated = int(consistency.repeats(ids).sum())
    found.judge("rows that repeat an image", f"{repeated:,}", repeated == 0, "remove them")
    if total == 0:
        return np.empty(0, np.uint64)
    counts = np.bincount(np.unique(ids, return_inverse=True)[1].reshape(-1))
    found.add("images used", f"{len(counts):,}, each {counts.min():,} to {counts.max():,} times")
    _duplicates(ids, found)
    _image_ids(ids, aids, found)
    if aids.embeddings:
        _recompute(next(tables()), aids, found)
    return set_keys(ids)


def _image_ids(ids: np.ndarray, aids: Aids, found: Findings) -> None:
    if aids.images:
        listed = listing.list_images(aids.images)
        inside = bool(ids.min() >= 0 and ids.max() < len(listed))
        found.judge("image ids", f"{ids.min()} to {ids.max()}", inside, f"the folder has {len(listed):,} images")
        labels = np.array(listed["label"].to_pylist())
        if inside and len(set(labels.tolist())) > 1:
            share = np.unique(labels[ids.reshape(-1)], return_counts=True)[1] / ids.size
            found.add("share of the most frequent class", f"{share.max():.2%} of {len(share)} classes")


def _recompute(part: pa.Table, aids: Aids, found: Findings) -> None:
    """Similarities of a sample, computed anew from embeddings."""
    place = Path(str(aids.embeddings)).expanduser().resolve()
    part = part.slice(0, RECOMPUTED)
    ids = np.stack([part[c].to_numpy() for c in ("i0", "i1", "i2")], axis=1)
    wanted = np.unique(ids)
    known, x = embeddings.load(Artifact(str(place.parent.parent), place.parent.name, place.name), ids=wanted)
    if len(known) != len(wanted):
        found.judge("images with embeddings", f"{len(known):,} of {len(wanted):,}", False, "another embed artifact?")
        return
    y = transforms.load_transform(aids.transform)(x) if aids.transform else x.astype(np.float32)
    new = labelling.similarities(y, np.searchsorted(known, ids))
    stored = np.stack([part[n].to_numpy() for n in ("s01", "s02", "s12")], axis=1)
    error = float(np.abs(new - stored).mean() / max(float(np.abs(stored).mean()), 1e-12))
    note = "other embeddings or another transform made these labels"
    found.judge("similarities computed anew", f"{error:.2%} apart", error < 0.02, note)


def _release(place: Path, aids: Aids, found: Findings) -> str:
    """DeepMind's .npz: order and ties of its similarities, and its names."""
    total = disorder = ties = strict = bad = 0
    names: list[np.ndarray] = []
    for rows in deepmind.blocks(place):
        s = rows["similarities"].astype(np.float32)
        total, bad = total + len(s), bad + int((~np.isfinite(s)).any(axis=1).sum())
        disorder += int((s[:, 0] < s[:, 1:].max(axis=1)).sum())
        ties += int((s[:, 0] == s[:, 1:].max(axis=1)).sum())
        strict += int((s[:, 2] < s[:, :2].min(axis=1)).sum())
        names.append(np.unique(rows["filenames"]))
    found.judge("rows", f"{total:,}", total > 0, "there are none")
    found.judge("similarities not finite", f"{bad:,}", bad == 0, "NaN or infinity")
    found.judge("odd image not last", f"{disorder:,}", disorder == 0, "the import sorts them", WARN)
    found.judge("ties", f"{ties:,}", ties <= 0.01 * total, "the teacher cannot tell these pairs apart", WARN)
    found.add("s12 smallest of the three", f"{strict / max(total, 1):.1%}")
    used = np.unique(np.concatenate(names)) if names else np.empty(0, str)
    found.add("images named", f"{len(used):,}")
    if aids.images:
        known = {Path(p).name for p in listing.list_images(aids.images)["path"].to_pylist()}
        missing = [n for n in used.tolist() if Path(n).name not in known]
        found.judge(
            "names without an image", f"{len(missing):,}", not missing, f"{missing[0]!r}, say" if missing else ""
        )
    return "AligNet triplets (DeepMind's .npz)"


def _transform(place: Path, found: Findings) -> None:
    """A transform: shape, finite values (the reader refuses others), rank, and where it comes from."""
    stored = transforms.read_transform(place)
    t = stored.transform
    found.add("weights", f"{t.weights.shape[0]} x {t.weights.shape[1]}")
    found.judge(
        "square", t.weights.shape[0] == t.weights.shape[1], t.weights.shape[0] == t.weights.shape[1], "it is not"
    )
    values = np.linalg.svd(t.weights, compute_uv=False)
    rank = int((values > values[0] * 1e-5).sum()) if values[0] > 0 else 0
    found.judge("rank", rank, rank > 0, "the weights are zero: every similarity would be the same")
    found.add("singular values", f"{values[0]:.3g} to {values[-1]:.3g}")
    found.add("mean, std", f"{t.mean:.4g}, {t.std:.4g}")
    source = stored.provenance.get("teacher", {}).get("model") or stored.provenance.get("model")
    found.judge("model", source or "unknown", bool(source), "the file does not say which model it belongs to", WARN)
