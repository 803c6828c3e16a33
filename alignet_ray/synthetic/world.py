"""Generated worlds with a known answer: pictures, people who judge them by meaning, and a base network that saw looks.

A world has families (superordinate concepts) of basic concepts, which are the judged objects; each basic concept is a
point in a space of traits of form, and its pictures (exemplars) lie closely around it. Families share traits. Simulated
people choose the most similar pair of three concepts with the softmax of known similarities, which know nothing of
looks.
"""

import csv
import io
import itertools
import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from alignet_ray.synthetic.pretrain import Base, train_base
from alignet_ray.synthetic.render import TRAITS, Looks, draw, draw_looks

FAMILIES = ("11000", "00110", "10001", "01100", "00011", "10100", "01010", "00101")
"""Families by the traits that they have (in the order of TRAITS), each at least two."""

VERSION = 1
"""Raised by hand when the same numbers give other worlds."""

EPOCH = 1_600_000_000
"""Modification time of every file, so that the same world has the same fingerprint wherever it is made."""

ANSWERS, TABLE, CONCEPTS, TRUTH, WEIGHTS, INFO = (
    "triplets.txt",
    "objects.csv",
    "concepts.csv",
    "truth.npz",
    "base.safetensors",
    "world.json",
)


@dataclass(frozen=True)
class World:
    """All numbers of a generated world; two equal ones are byte for byte the same on disk.

    Attributes:
        families: superordinate concepts (at most len(FAMILIES)).
        basics: basic concepts a family; families x basics are the objects that people judge.
        exemplars: pictures a basic concept.
        size: side of a picture in pixels.
        answers: odd-one-out answers of the simulated people.
        base: training of the base network.
        sharpness: length of one trait in people's similarity space; higher makes them surer of their answers.
        jitter: standard deviation of an exemplar's traits around its concept's.
        seed: of everything random.
    """

    families: int
    basics: int
    exemplars: int
    size: int
    answers: int
    base: Base
    sharpness: float = 2.0
    jitter: float = 0.03
    seed: int = 0

    @property
    def objects(self) -> int:
        """Number of basic concepts."""
        return self.families * self.basics


WORLDS: dict[str, World] = {
    "smoke": World(families=8, basics=12, exemplars=15, size=32, answers=40_000, base=Base()),
    "tiny": World(
        families=4,
        basics=6,
        exemplars=4,
        size=32,
        answers=4_000,
        base=Base(pictures=512, steps=30, batch=32),
    ),
}
"""The worlds by name: `smoke` for a whole run with a result, `tiny` for tests of the plumbing."""


@dataclass(frozen=True)
class Meaning:
    """What there is to know about a world.

    Attributes:
        family: superordinate concept of every object.
        traits: traits of form of every object.
        embedding: people's similarity space, non-negative: dot products of its rows are their similarities.
        exemplar_object: object of every picture.
        exemplar_traits: traits of form of every picture.
    """

    family: Int64[np.ndarray, " m"]
    traits: Float32[np.ndarray, "m 5"]
    embedding: Float32[np.ndarray, "m 10"]
    exemplar_object: Int64[np.ndarray, " n"]
    exemplar_traits: Float32[np.ndarray, "n 5"]

    @property
    def similarity(self) -> Float32[np.ndarray, "m m"]:
        """People's similarities, the logits of their choices."""
        return np.asarray(self.embedding @ self.embedding.T)


def materialise(name: str, folder: str | Path, tell: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Make a world: a finished folder or none. Same name, same bytes and modification times.

    Args:
        name: one of WORLDS.
        folder: where to; an existing one is left as it is.
        tell: called with the finished and the total number of updates of the base's training.
    """
    target, world = Path(folder), WORLDS[name]
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        _write(draft, world, tell)
        _date(draft)
        draft.rename(target)
    except OSError:
        if not target.exists():  # another process may have made the same world meanwhile
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def paths(name: str, folder: str | Path) -> dict[str, str]:
    """Where the parts of a world lie: corpus, table, triplets, concepts, truth, and model as `ARCH@FILE`."""
    base = Path(folder)
    return {
        "corpus": str(base / "images"),
        "table": str(base / TABLE),
        "triplets": str(base / ANSWERS),
        "concepts": str(base / CONCEPTS),
        "truth": str(base / TRUTH),
        "model": f"{WORLDS[name].base.arch}@{base / WEIGHTS}",
    }


def meaning(world: World) -> Meaning:
    """The concepts of a world, people's similarity space, and the traits of every picture."""
    rng = np.random.default_rng([world.seed, 1])
    family = np.repeat(np.arange(world.families), world.basics)
    has = np.array([[trait == "1" for trait in FAMILIES[f]] for f in family])
    traits = np.where(has, rng.uniform(0.55, 1, has.shape), rng.uniform(0, 0.25, has.shape)).astype(np.float32)
    order = rng.permutation(world.objects)  # an object's number says nothing about its family
    family, traits = family[order], traits[order]
    embedding = np.float32(world.sharpness) * np.concatenate([traits, 1 - traits], axis=1)
    shown = np.repeat(np.arange(world.objects), world.exemplars)
    jitter = rng.normal(0, world.jitter, (len(shown), len(TRAITS)))
    return Meaning(family, traits, embedding, shown, np.clip(traits[shown] + jitter, 0, 1).astype(np.float32))


def pictures(world: World, known: Meaning) -> tuple[UInt8[np.ndarray, "n s s 3"], Looks]:
    """All pictures of a world, object by object, and their looks."""
    rng = np.random.default_rng([world.seed, 2])
    looks = draw_looks(len(known.exemplar_object), rng)
    return draw(known.exemplar_traits, looks, world.size, rng), looks


def choice_probabilities(
    similarity: Float[np.ndarray, "m m"], triplets: Int64[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Probabilities that people choose the pairs 01, 02 and 12 of each triplet: softmax of the similarities."""
    a, b, c = triplets.T
    logits = np.stack([similarity[a, b], similarity[a, c], similarity[b, c]], axis=1).astype(np.float64)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(weights / weights.sum(1, keepdims=True))


def answers(world: World, known: Meaning) -> Int64[np.ndarray, "n 3"]:
    """Answers of the simulated people to random triplets of objects: rows (pair, pair, odd)."""
    rng = np.random.default_rng([world.seed, 3])
    every = np.array(list(itertools.combinations(range(world.objects), 3)), dtype=np.int64)
    asked = every[rng.integers(0, len(every), world.answers)]
    chances = choice_probabilities(known.similarity, asked)
    pair = (rng.random((len(asked), 1)) > chances.cumsum(1)[:, :2]).sum(1)
    seats = np.array([[0, 1, 2], [0, 2, 1], [1, 2, 0]])[pair]
    return np.take_along_axis(asked, seats, axis=1)


def names(world: World, known: Meaning) -> tuple[list[str], list[str]]:
    """Made-up names of all objects, and of their families; an object's name says nothing about its family."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    rng = np.random.default_rng([world.seed, 4])
    words = ["".join(syllables[i] for i in (n // 70 % 70, n % 70)) for n in rng.permutation(4900)]
    kinds = [f"{words[-1 - f]}um" for f in known.family]
    return words[: world.objects], kinds


def shuffle_objects(table: str | Path, out: str | Path, seed: int) -> None:
    """Copy an objects' table with the objects dealt anew: pictures then show other concepts than people judged."""
    with Path(table).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    objects = np.array([row["object"] for row in rows])
    dealt = np.random.default_rng(seed).permutation(objects)
    Path(out).write_text(
        _csv([("label", "object"), *((r["label"], o) for r, o in zip(rows, dealt.tolist(), strict=True))])
    )


def _write(folder: Path, world: World, tell: Callable[[int, int], None]) -> None:
    known = meaning(world)
    drawn, looks = pictures(world, known)
    labels, kinds = names(world, known)
    _write_pictures(folder, drawn, [labels[i] for i in known.exemplar_object])
    (folder / TABLE).write_text(_csv([("label", "object"), *((label, i) for i, label in enumerate(labels))]))
    (folder / CONCEPTS).write_text(_csv([("name", "category"), *zip(labels, kinds, strict=True)]))
    (folder / ANSWERS).write_text("".join(f"{i} {j} {k}\n" for i, j, k in answers(world, known).tolist()))
    truth = vars(known) | {"similarity": known.similarity} | {f"look_{k}": v for k, v in vars(looks).items()}
    np.savez(folder / TRUTH, **truth)
    _write_base(folder / WEIGHTS, world, tell)
    (folder / INFO).write_text(json.dumps(asdict(world), indent=1) + "\n")


def _write_pictures(folder: Path, drawn: UInt8[np.ndarray, "n s s 3"], labels: list[str]) -> None:
    from PIL import Image

    counts: dict[str, int] = {}
    for pixels, label in zip(drawn, labels, strict=True):
        number = counts[label] = counts.get(label, -1) + 1
        place = folder / "images" / label
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:03d}.png", compress_level=1)


def _write_base(file: Path, world: World, tell: Callable[[int, int], None]) -> None:
    from safetensors.torch import save_file

    weights = train_base(world.base, world.size, world.seed, lambda step: tell(step, world.base.steps))
    save_file(weights, file)


def _csv(rows: list[tuple[object, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _date(folder: Path) -> None:
    """Give every file and folder the same modification time, the innermost first."""
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, (EPOCH, EPOCH))
    os.utime(folder, (EPOCH, EPOCH))
