"""Random triplets of images from groups (clusters or classes): distinct, exact in number, for any number of workers.

The draw is a stream: chunk c of CHUNK candidates is a pure function of (seed, stream, kind, c), repeats of an earlier
triplet are dropped, and the first n that are left are the result. So neither shards nor workers can change a row.
"""

import math
from collections.abc import Callable
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from alignet_ray.core.triplet_rows import scramble, set_keys

CHUNK = 1 << 16
"""Candidates that are drawn at once."""

EXHAUSTIVE = 300
"""Images up to which all triplets can be listed; a draw of many then takes them in random order, not by trial."""

PATIENCE = 200
"""Chunks of candidates in a row that may bring nothing new before a draw gives up."""


class Groups(NamedTuple):
    """Images by group; groups without images are left out.

    Attributes:
        members: image numbers (0..n-1), group after group.
        start: where each group begins in `members`.
        size: images of each group.
        group: group (0..g-1) of every image number; -1 for images that belong to none.
    """

    members: Int[np.ndarray, " m"]
    start: Int[np.ndarray, " g"]
    size: Int[np.ndarray, " g"]
    group: Int[np.ndarray, " n"]


class Exhausted(ValueError):
    """More distinct triplets were asked for than exist (or than can be found); `found` is how many there are."""

    def __init__(self, kind: str, found: int) -> None:
        super().__init__(f"only {found} distinct {kind} triplets")
        self.kind = kind
        self.found = found


def group_by(labels: Int[np.ndarray, " n"]) -> Groups:
    """Groups of the images 0..n-1 by label; negative labels belong to no group."""
    # Sorted by label, each group is one slice: drawing a member is one look-up.
    members = np.argsort(labels, kind="stable")
    members = members[np.count_nonzero(labels < 0) :]

    # A group begins wherever the label is another one than before.
    in_order = labels[members]
    is_first = np.ones(len(members), dtype=bool)
    np.not_equal(in_order[1:], in_order[:-1], out=is_first[1:])
    start = np.flatnonzero(is_first)
    size = np.diff(start, append=len(members))

    group = np.full(len(labels), -1, dtype=np.int64)
    group[members] = np.repeat(np.arange(len(size)), size)
    return Groups(members, start, size, group)


def border(rng: np.random.Generator, groups: Groups, n: int) -> Int[np.ndarray, "n 3"]:
    """Two distinct images of one group (of those with two) and one of another group; both groups uniform."""
    # Positions are drawn below size - 1 and moved past what is taken: distinct without trying again.
    with_pairs = np.flatnonzero(groups.size >= 2)
    group = with_pairs[_below(rng, len(with_pairs), n)]
    other = _skip(_below(rng, len(groups.size) - 1, n), group)

    first = _below(rng, groups.size[group], n)
    second = _skip(_below(rng, groups.size[group] - 1, n), first)
    third = _below(rng, groups.size[other], n)
    return _members(groups, (group, group, other), (first, second, third))


def within(rng: np.random.Generator, groups: Groups, n: int) -> Int[np.ndarray, "n 3"]:
    """Three distinct images of one group, uniform among the groups that have three."""
    with_triplets = np.flatnonzero(groups.size >= 3)
    group = with_triplets[_below(rng, len(with_triplets), n)]
    return _members(groups, (group, group, group), _three(rng, groups.size[group], n))


def between(rng: np.random.Generator, groups: Groups, n: int) -> Int[np.ndarray, "n 3"]:
    """One image of each of three distinct groups, groups uniform."""
    chosen = _three(rng, len(groups.size), n)
    first = _below(rng, groups.size[chosen[0]], n)
    second = _below(rng, groups.size[chosen[1]], n)
    third = _below(rng, groups.size[chosen[2]], n)
    return _members(groups, chosen, (first, second, third))


def uniform(rng: np.random.Generator, groups: Groups, n: int) -> Int[np.ndarray, "n 3"]:
    """Three distinct images, whatever their groups."""
    positions = np.stack(_three(rng, len(groups.members), n), axis=1)
    return np.asarray(groups.members[positions])


DRAWS: dict[str, Callable[[np.random.Generator, Groups, int], Int[np.ndarray, "n 3"]]] = {
    "border": border,
    "within": within,
    "between": between,
    "uniform": uniform,
}
"""The kinds of triplets and how a candidate of each is drawn."""


def count(kind: str, groups: Groups) -> int:
    """How many distinct triplets (sets of three images) a kind of draw can give."""
    sizes = [int(size) for size in groups.size]
    total = sum(sizes)
    if kind == "border":
        return sum(comb(size, 2) * (total - size) for size in sizes)
    if kind == "within":
        return sum(comb(size, 3) for size in sizes)
    if kind == "uniform":
        return comb(total, 3)

    # Products of three distinct sizes, by inclusion and exclusion.
    squares = sum(size**2 for size in sizes)
    cubes = sum(size**3 for size in sizes)
    return (total**3 - 3 * total * squares + 2 * cubes) // 6


def sample(
    kind: str, groups: Groups, n: int, seed: int, stream: int = 0, taken: Int[np.ndarray, "t 3"] | None = None
) -> Int[np.ndarray, "n 3"]:
    """n distinct triplets of one kind, in the order of the stream.

    Args:
        kind: one of DRAWS.
        groups: the images by cluster or class.
        n: how many.
        seed: of the whole run.
        stream: number of the set, so that sets with one seed are drawn independently.
        taken: triplets that may not come again (those of the kinds drawn before).

    Raises:
        Exhausted: there are fewer than n.
    """
    available = count(kind, groups)
    if n > available:
        raise Exhausted(kind, available)

    number = list(DRAWS).index(kind)
    # Drawing more than a quarter of all triplets by trial would mostly meet known ones.
    if len(groups.members) <= EXHAUSTIVE and 4 * n > available:
        rng = _generator(seed, stream, number, 0)
        pool = _new(_exhaustive(kind, groups, rng), taken, len(groups.group))
    else:
        pool = _stream(kind, groups, n, (seed, stream, number), taken)
    if len(pool) < n:
        raise Exhausted(kind, len(pool))
    return pool[:n]


def mixture(parts: list[tuple[str, Groups, int]], seed: int, stream: int = 0) -> Int[np.ndarray, "n 3"]:
    """Distinct triplets of several kinds with exact counts, shuffled together.

    The kind with the fewest triplets is drawn first, so that a kind which contains it does not use them up.

    Args:
        parts: (kind, groups, n) each.
        seed: of the whole run.
        stream: number of the set, as in `sample`.
    """
    available = [count(kind, groups) for kind, groups, _ in parts]
    by_scarcity = sorted(range(len(parts)), key=lambda index: available[index])
    drawn = np.empty((0, 3), dtype=np.int64)
    for index in by_scarcity:
        kind, groups, n = parts[index]
        # A stream for each part: its candidates do not depend on the other parts.
        fresh = sample(kind, groups, n, seed, stream * 64 + index, drawn)
        drawn = np.concatenate([drawn, fresh])

    # A single kind is in random order already.
    if sum(n > 0 for _, _, n in parts) < 2:
        return drawn
    return drawn[np.random.default_rng([seed, stream, len(parts)]).permutation(len(drawn))]


def shares(weights: dict[str, float], n: int) -> dict[str, int]:
    """Exact counts that add up to n, by the largest-remainder method; ties go to the earlier name."""
    total = sum(weights.values())
    # Whole parts first; what is left goes to the largest fractions.
    exact = {name: n * weight / total for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: n - sum(counts.values())]:
        counts[name] += 1
    return counts


def held_out(ids: Int[np.ndarray, " n"], share: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Which images are set aside for validation: `held_out_count` of them, those of lowest hash(seed, image_id)."""
    # By hash and not by a draw: two images keep their order when others are added or left out.
    start = scramble(np.array([seed % (1 << 63)], dtype=np.uint64))
    order = np.argsort(scramble(ids.astype(np.uint64) ^ start), kind="stable")
    chosen = np.zeros(len(ids), dtype=bool)
    chosen[order[: held_out_count(len(ids), share)]] = True
    return chosen


def held_out_count(images: int, share: float) -> int:
    """How many images `held_out` sets aside."""
    return round(share * images)


def _stream(
    kind: str, groups: Groups, n: int, entropy: tuple[int, int, int], taken: Int[np.ndarray, "t 3"] | None
) -> Int[np.ndarray, "m 3"]:
    """At least n distinct triplets from the stream, or as many as PATIENCE fruitless chunks allow."""
    draw = DRAWS[kind]
    pool = np.empty((0, 3), dtype=np.int64)
    chunk = 0
    fruitless = 0
    while len(pool) < n and fruitless < PATIENCE:
        missing = n - len(pool)
        # More than are missing, for those that come twice: to look for repeats again takes longer than to draw these.
        chunks = math.ceil(missing / CHUNK) + 1
        before = len(pool)
        candidates = np.empty((before + chunks * CHUNK, 3), dtype=np.int64)
        candidates[:before] = pool
        # Each chunk goes to its place at once, so that ten million triplets are in memory once and not twice.
        for place in range(before, len(candidates), CHUNK):
            candidates[place : place + CHUNK] = draw(_generator(*entropy, chunk), groups, CHUNK)
            chunk += 1

        pool = _new(candidates, taken, len(groups.group))
        fruitless = fruitless + 1 if len(pool) == before else 0
    return pool


def _new(triplets: Int[np.ndarray, "n 3"], taken: Int[np.ndarray, "t 3"] | None, size: int) -> Int[np.ndarray, "m 3"]:
    """The first occurrence of every set of three images that is not in `taken`, in order."""
    # The same three images in another order are the same triplet, so sets are compared, by one integer each.
    keys = set_keys(triplets, size)
    keep = np.ones(len(keys), dtype=bool)
    if taken is not None and len(taken):
        keep &= ~np.isin(keys, set_keys(taken, size))

    # Only the few keys that occur more than once need the slower search for their first row.
    ordered = np.sort(keys)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(repeated):
        rows = np.flatnonzero(np.isin(keys, repeated))
        _, first = np.unique(keys[rows], return_index=True)
        keep[np.delete(rows, first)] = False
    if keep.all():
        return triplets
    return np.asarray(triplets[keep])


def _exhaustive(kind: str, groups: Groups, rng: np.random.Generator) -> Int[np.ndarray, "m 3"]:
    """All triplets of a kind in the order in which repeated draws would first bring them.

    Drawing without repetition in proportion to weights is the order of exponential waiting times with these rates
    (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
    """
    candidates = groups.members[np.array(list(combinations(range(len(groups.members)), 3)))]
    weight = _draw_weights(kind, groups, candidates)
    possible = weight > 0
    waiting = rng.exponential(size=int(possible.sum())) / weight[possible]
    return np.asarray(candidates[possible][np.argsort(waiting, kind="stable")])


def _draw_weights(kind: str, groups: Groups, triplets: Int[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Probability of each triplet in one draw of a kind, up to a factor; 0 for triplets of another kind."""
    group = groups.group[triplets]
    size = groups.size[group].astype(np.float64)
    # `members` lists group after group, so equal groups are neighbours in a row.
    first = group[:, 0] == group[:, 1]
    last = group[:, 1] == group[:, 2]

    # One over the number of equally likely outcomes: groups are uniform, so triplets of large groups are rarer.
    if kind == "within":
        ordered = size[:, 0] * (size[:, 0] - 1) * (size[:, 0] - 2)
        return np.where(first & last, 1 / (ordered + 1e-300), 0.0)
    if kind == "between":
        return np.where(~first & ~last, 1 / size.prod(axis=1), 0.0)
    if kind == "border":
        pair = np.where(first, size[:, 0], size[:, 2])
        single = np.where(first, size[:, 2], size[:, 0])
        return np.where(first ^ last, 1 / (pair * (pair - 1) * single + 1e-300), 0.0)
    return np.ones(len(triplets))


def _generator(*entropy: int) -> np.random.Generator:
    """A generator of its own for every chunk of every stream."""
    seed, *spawn = entropy
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=tuple(spawn))))


def _below(rng: np.random.Generator, size: int | Int[np.ndarray, " n"], n: int) -> Int[np.ndarray, " n"]:
    """n uniform integers in 0..size-1 (size may differ by row); a double's 53 bits leave no measurable bias."""
    return np.asarray(rng.random(n) * size, dtype=np.int64)


def _skip(drawn: Int[np.ndarray, " n"], *used: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Move numbers past the ones already used, which must be given in ascending order."""
    for numbers in used:
        drawn = drawn + (drawn >= numbers)
    return drawn


def _three(
    rng: np.random.Generator, size: int | Int[np.ndarray, " n"], n: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Three distinct uniform integers in 0..size-1, every ordered triple equally likely."""
    first = _below(rng, size, n)
    second = _skip(_below(rng, size - 1, n), first)
    third = _skip(_below(rng, size - 2, n), np.minimum(first, second), np.maximum(first, second))
    return first, second, third


def _members(
    groups: Groups, chosen: tuple[Int[np.ndarray, " n"], ...], ranks: tuple[Int[np.ndarray, " n"], ...]
) -> Int[np.ndarray, "n 3"]:
    """Image numbers by group and rank in the group."""
    columns = [groups.members[groups.start[group] + rank] for group, rank in zip(chosen, ranks, strict=True)]
    return np.stack(columns, axis=1)
