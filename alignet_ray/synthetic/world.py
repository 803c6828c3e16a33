"""Generated worlds with a known answer: images, simulated human responses by meaning, and a base network.

A world has families (superordinate categories) of objects (basic-level concepts). An object is a point in a space of
shape traits, and its images lie closely around that point. Families share traits. Simulated people choose the most
similar pair of three objects with the softmax of known similarities, which do not depend on appearance.
"""

import csv
import io
import itertools
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8
from scipy.special import softmax

from alignet_ray.core.triplet_rows import odd_last
from alignet_ray.core.triplets import gram_similarities
from alignet_ray.synthetic import base
from alignet_ray.synthetic.pretrain import BaseRecipe
from alignet_ray.synthetic.render import TRAITS, Appearance, render, sample_appearance

FAMILIES = ("11000", "00110", "10001", "01100", "00011", "10100", "01010", "00101")
"""Families by the traits that they have (in the order of TRAITS), each at least two."""

VERSION = 2
"""Raised by hand when the same specification gives other files."""

MODIFIED = 1_600_000_000
"""Modification time of every file, so that the same world has the same fingerprint wherever it is made."""

IMAGES = "images"
OBJECTS = "objects.csv"
CONCEPTS = "concepts.csv"
RESPONSES = "triplets.txt"
TRUTH = "truth.npz"
WEIGHTS = "base.safetensors"
INFO = "world.json"


@dataclass(frozen=True)
class World:
    """Specification of a generated world; equal ones are byte for byte the same on disk.

    Attributes:
        families: superordinate categories (at most len(FAMILIES)).
        objects_per_family: basic-level concepts in each.
        images_per_object: images of each.
        size: side of an image in pixels.
        responses: odd-one-out responses of the simulated people.
        base: training of the base network.
        sharpness: length of one trait in people's similarity space; higher makes their choices more certain.
        jitter: standard deviation of an image's traits around its object's.
        seed: of everything random.
    """

    families: int
    objects_per_family: int
    images_per_object: int
    size: int
    responses: int
    base: BaseRecipe
    sharpness: float = 2.0
    jitter: float = 0.03
    seed: int = 0

    @property
    def objects(self) -> int:
        """Number of objects."""
        return self.families * self.objects_per_family

    @property
    def trains_base(self) -> bool:
        """Whether the base network is trained when the world is made; else it comes with the package."""
        return not base.comes_along(self.base, self.size, self.seed)


WORLDS: dict[str, World] = {
    "smoke": World(
        families=8,
        objects_per_family=12,
        images_per_object=15,
        size=32,
        responses=40_000,
        base=BaseRecipe(),
    ),
    "tiny": World(
        families=4,
        objects_per_family=6,
        images_per_object=4,
        size=32,
        responses=4_000,
        base=BaseRecipe(images=512, steps=30, batch_size=32),
    ),
}
"""The worlds by name: `smoke` for a whole run with a result, `tiny` for tests of the machinery."""


@dataclass(frozen=True)
class Meaning:
    """The truth about a world.

    Attributes:
        family: of every object.
        traits: shape traits of every object.
        embedding: people's similarity space, non-negative: dot products of its rows are their similarities.
        image_object: object of every image.
        image_traits: shape traits of every image.
    """

    family: Int64[np.ndarray, " m"]
    traits: Float32[np.ndarray, "m 5"]
    embedding: Float32[np.ndarray, "m 10"]
    image_object: Int64[np.ndarray, " n"]
    image_traits: Float32[np.ndarray, "n 5"]

    @property
    def similarity(self) -> Float32[np.ndarray, "m m"]:
        """People's similarities, the logits of their choices."""
        return np.asarray(self.embedding @ self.embedding.T)


def _ignore_progress(done: int, total: int) -> None:
    """The default of `on_progress`."""


def materialise(name: str, folder: str | Path, on_progress: Callable[[int, int], None] = _ignore_progress) -> None:
    """Make a world: a finished folder or none. The same name gives the same bytes and modification times.

    Args:
        name: one of WORLDS.
        folder: where to; an existing one is left as it is.
        on_progress: called with the finished and the total number of updates, where the base is trained.
    """
    target = Path(folder)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # Made under another name and renamed at the end: nobody ever sees half a world.
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        _write(draft, WORLDS[name], on_progress)
        _set_modification_times(draft)
        draft.rename(target)
    except OSError:
        if not target.exists():  # another process may have made the same world meanwhile
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def paths(name: str, folder: str | Path) -> dict[str, str]:
    """Where the parts of a world lie: corpus, table, triplets, concepts, truth, and model as `ARCH@FILE`."""
    place = Path(folder)
    return {
        "corpus": str(place / IMAGES),
        "table": str(place / OBJECTS),
        "triplets": str(place / RESPONSES),
        "concepts": str(place / CONCEPTS),
        "truth": str(place / TRUTH),
        "model": f"{WORLDS[name].base.arch}@{place / WEIGHTS}",
    }


# Each part of a world draws from a stream of its own, so that changing one leaves the others as they are.


def meaning(world: World) -> Meaning:
    """The objects of a world, people's similarity space, and the traits of every image."""
    rng = np.random.default_rng([world.seed, 1])
    family = np.repeat(np.arange(world.families), world.objects_per_family)
    family_traits = np.array([list(name) for name in FAMILIES]) == "1"
    has_trait = family_traits[family]
    present = rng.uniform(0.55, 1, has_trait.shape)
    absent = rng.uniform(0, 0.25, has_trait.shape)
    traits = np.where(has_trait, present, absent).astype(np.float32)

    # An object's number must not tell its family.
    order = rng.permutation(world.objects)
    family = family[order]
    traits = traits[order]
    # Present and absent traits both make objects similar; traits t and 1 - t keep the space non-negative.
    embedding = np.float32(world.sharpness) * np.concatenate([traits, 1 - traits], axis=1)

    image_object = np.repeat(np.arange(world.objects), world.images_per_object)
    jitter = rng.normal(0, world.jitter, (len(image_object), len(TRAITS)))
    image_traits = np.clip(traits[image_object] + jitter, 0, 1).astype(np.float32)
    return Meaning(family, traits, embedding, image_object, image_traits)


def render_images(world: World, truth: Meaning) -> tuple[UInt8[np.ndarray, "n s s 3"], Appearance]:
    """All images of a world, object by object, and their appearances."""
    rng = np.random.default_rng([world.seed, 2])
    appearance = sample_appearance(len(truth.image_object), rng)
    return render(truth.image_traits, appearance, world.size, rng), appearance


def choice_probabilities(
    similarity: Float[np.ndarray, "m m"], triplets: Int64[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Probabilities that people choose the pairs 01, 02 and 12 of each triplet: softmax of the similarities."""
    logits = gram_similarities(similarity, triplets).astype(np.float64)
    return np.asarray(softmax(logits, axis=1))


def simulate_responses(world: World, truth: Meaning) -> Int64[np.ndarray, "n 3"]:
    """Responses of the simulated people to random triplets of objects: rows (pair, pair, odd)."""
    rng = np.random.default_rng([world.seed, 3])
    all_triplets = np.array(list(itertools.combinations(range(world.objects), 3)), dtype=np.int64)
    triplets = all_triplets[rng.integers(0, len(all_triplets), world.responses)]
    probabilities = choice_probabilities(truth.similarity, triplets)
    # Inverse transform sampling: the pair in whose share of [0, 1) a uniform number falls.
    thresholds = probabilities.cumsum(1)[:, :2]
    chosen_pair = (rng.random((len(triplets), 1)) > thresholds).sum(1)
    return odd_last(triplets, chosen_pair)


def names(world: World, truth: Meaning) -> tuple[list[str], list[str]]:
    """Made-up names of all objects, and of their families; an object's name does not tell its family."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    count = len(syllables)
    rng = np.random.default_rng([world.seed, 4])
    # Each number stands for one pair of syllables, so that no word comes twice.
    words = []
    for number in rng.permutation(count**2):
        first, second = divmod(int(number), count)
        words.append(syllables[first] + syllables[second])
    family_names = [f"{words[-1 - family]}um" for family in truth.family]
    return words[: world.objects], family_names


def is_materialised(folder: Path) -> bool:
    """Whether this folder holds a finished world: the file that is written last is there."""
    return (folder / INFO).exists()


def _write(folder: Path, world: World, on_progress: Callable[[int, int], None]) -> None:
    truth = meaning(world)
    images, appearance = render_images(world, truth)
    object_names, family_names = names(world, truth)

    _write_images(folder / IMAGES, images, [object_names[number] for number in truth.image_object])
    _write_csv(folder / OBJECTS, ("label", "object"), zip(object_names, itertools.count(), strict=False))
    _write_csv(folder / CONCEPTS, ("name", "category"), zip(object_names, family_names, strict=True))

    responses = simulate_responses(world, truth)
    (folder / RESPONSES).write_text("".join(f"{i} {j} {k}\n" for i, j, k in responses.tolist()), encoding="utf-8")

    arrays = vars(truth) | {"similarity": truth.similarity}
    arrays |= {f"appearance_{name}": values for name, values in vars(appearance).items()}
    np.savez(folder / TRUTH, **arrays)

    # The description comes last: `is_materialised` takes it as the sign of a complete world.
    base.write(folder / WEIGHTS, world.base, world.size, world.seed, lambda step: on_progress(step, world.base.steps))
    (folder / INFO).write_text(json.dumps(asdict(world), indent=1) + "\n", encoding="utf-8")


def _write_images(folder: Path, images: UInt8[np.ndarray, "n s s 3"], labels: Sequence[str]) -> None:
    """One folder per label, its images numbered."""
    from PIL import Image

    counts: dict[str, int] = {}
    for pixels, label in zip(images, labels, strict=True):
        number = counts.get(label, 0)
        counts[label] = number + 1
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / label / f"{number:03d}.png", compress_level=1)


def _write_csv(file: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    file.write_text(text.getvalue(), encoding="utf-8")


def _set_modification_times(folder: Path) -> None:
    """Give every file and folder the same modification time, the innermost first."""
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, (MODIFIED, MODIFIED))
    os.utime(folder, (MODIFIED, MODIFIED))
