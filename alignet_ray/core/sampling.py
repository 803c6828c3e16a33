"""Triplets of images drawn from groups (clusters or classes): distinct, exact in number, the same for any worker count.

The draw is a stream: chunk c of CHUNK candidates is a pure function of (seed, stream, kind, c), repeats of an earlier
triplet are dropped, and the first n that are left are the result. So neither shards nor workers can change a row.
"""

from collections.abc import Callable
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from alignet_ray.core.triplets import scramble, set_keys

CHUNK = 1 << 16
EXHAUSTIVE = 300
"""Up to so many images all triplets can be listed: a draw of most of them takes them in random order, not by trial."""
PATIENCE = 200
"""Chunks of candidates in a row that may bring nothing new before a draw gives up."""


class Groups(NamedTuple):
    """Images by group, groups without images left out.

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
        self.kind, self.found = kind, found


def group_by(labels: Int[np.ndarray, " n"]) -> Groups:
    """Groups of the images 0..n-1 by label; negative labels belong to no group."""
    inside = np.flatnonzero(labels >= 0)
    members = inside[np.argsort(labels[inside], kind="stable")]
    _, start, size = np.unique(labels[members], return_index=True, return_counts=True)
    group = np.full(len(labels), -1, dtype=np.int64)
    group[members] = np.repeat(np.arange(len(size)), size)
    return Groups(members, start.astype(np.int64), size.astype(np.int64), group)


def border(rng: np.random.Generator, groups: Groups, n: int) -> Int[np.ndarray, "n 3"]:
    """Two distinct images of one group (of those with two) and one of another group; both groups uniform."""
    pairs = np.flatnonzero(groups.size >= 2)
    one = pairs[_below(rng, len(pairs), n)]
    other = _skip(_below(rng, len(groups.size) - 1, n), one)
    first = _below(rng, groups.size[one], n)
    second = _skip(_below(rng, groups.size[one] - 1, n), first)
    return _members(groups, (one, one, other), (first, second, _below(rng, groups.size[other], n)))


def within(rng: np.random.Generator, groups: Groups, n: int) -> Int[np.ndarray, "n 3"]:
    """Three distinct images of one group, uniform among the groups that have three."""
    triples = np.flatnonzero(groups.size >= 3)
    one = triples[_below(rng, len(triples), n)]
    return _members(groups, (one, one, one), _three(rng, groups.size[one], n))


def between(rng: np.random.Generator, groups: Groups, n: int) -> Int[np.ndarray, "n 3"]:
    """One image of each of three distinct groups, groups uniform."""
    chosen = _three(rng, len(groups.size), n)
    a, b, c = (_below(rng, groups.size[g], n) for g in chosen)
    return _members(groups, chosen, (a, b, c))


def uniform(rng: np.random.Generator, groups: Groups, n: int) -> Int[np.ndarray, "n 3"]:
    """Three distinct images, whatever their groups."""
    return np.stack([groups.members[i] for i in _three(rng, len(groups.members), n)], axis=1)


DRAWS: dict[str, Callable[[np.random.Generator, Groups, int], Int[np.ndarray, "n 3"]]] = {
    "border": border,
    "within": within,
    "between": between,
    "uniform": uniform,
}


def count(kind: str, groups: Groups) -> int:
    """How many distinct triplets (sets of three images) a kind of draw can give."""
    sizes = [int(s) for s in groups.size]
    total = sum(sizes)
    if kind == "border":
        return sum(comb(s, 2) * (total - s) for s in sizes)
    if kind == "within":
        return sum(comb(s, 3) for s in sizes)
    if kind == "uniform":
        return comb(total, 3)
    squares, cubes = sum(s**2 for s in sizes), sum(s**3 for s in sizes)
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
        Exhausted: if there are not so many.
    """
    exist = count(kind, groups)
    if n > exist:
        raise Exhausted(kind, exist)
    number = list(DRAWS).index(kind)
    size = len(groups.group)
    if len(groups.members) <= EXHAUSTIVE and 4 * n > exist:
        rng = _generator(seed, stream, number, 0)
        pool = _new(_exhaustive(kind, groups, rng), taken, size)
    else:
        pool = _stream(kind, groups, n, (seed, stream, number), taken)
    if len(pool) < n:
        raise Exhausted(kind, len(pool))
    return pool[:n]


def mixture(parts: list[tuple[str, Groups, int]], seed: int, stream: int = 0) -> Int[np.ndarray, "n 3"]:
    """Distinct triplets of several kinds with exact counts, shuffled together; (kind, groups, n) each.

    The kind with the fewest triplets is drawn first, so that a kind which contains it does not use them up.
    """
    drawn = np.empty((0, 3), dtype=np.int64)
    for index, (kind, groups, n) in sorted(enumerate(parts), key=lambda part: count(part[1][0], part[1][1])):
        drawn = np.concatenate([drawn, sample(kind, groups, n, seed, stream * 64 + index, drawn)])
    if sum(n > 0 for _, _, n in parts) < 2:
        return drawn
    return drawn[np.random.default_rng([seed, stream, len(parts)]).permutation(len(drawn))]


def shares(weights: dict[str, float], n: int) -> dict[str, int]:
    """Exact counts that add up to n, by the largest remainder; ties go to the earlier name."""
    total = sum(weights.values())
    exact = {name: n * weight / total for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: n - sum(counts.values())]:
        counts[name] += 1
    return counts


def held_out(ids: Int[np.ndarray, " n"], share: float, seed: int) -> np.ndarray:
    """Which images are set aside for validation: round(share * n) of them, those of lowest hash(seed, image_id)."""
    start = scramble(np.array([seed % (1 << 63)], dtype=np.uint64))
    order = np.argsort(scramble(ids.astype(np.uint64) ^ start), kind="stable")
    chosen = np.zeros(len(ids), dtype=bool)
    chosen[order[: round(share * len(ids))]] = True
    return chosen


def _stream(
    kind: str, groups: Groups, n: int, entropy: tuple[int, int, int], taken: Int[np.ndarray, "t 3"] | None
) -> Int[np.ndarray, "m 3"]:
    """At least n distinct triplets from the stream, or as many as PATIENCE fruitless chunks allow."""
    pool = np.empty((0, 3), dtype=np.int64)
    chunk, fruitless = 0, 0
    while len(pool) < n and fruitless < PATIENCE:
        more = max(1, -(-(n - len(pool)) // CHUNK))
        fresh = [DRAWS[kind](_generator(*entropy, c), groups, CHUNK) for c in range(chunk, chunk + more)]
        chunk += more
        before = len(pool)
        pool = _new(np.concatenate([pool, *fresh]), taken, len(groups.group))
        fruitless = fruitless + 1 if len(pool) == before else 0
    return pool


def _new(triplets: Int[np.ndarray, "n 3"], taken: Int[np.ndarray, "t 3"] | None, size: int) -> Int[np.ndarray, "m 3"]:
    """The first occurrence of every set of three images that is not among those taken, in order."""
    own = set_keys(triplets, size)
    keep = np.ones(len(own), dtype=bool)
    if taken is not None and len(taken):
        keep &= ~np.isin(own, set_keys(taken, size))
    ordered = np.sort(own)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(again):
        where = np.flatnonzero(np.isin(own, again))
        _, first = np.unique(own[where], return_index=True)
        keep[np.delete(where, first)] = False
    return np.asarray(triplets[keep])


def _exhaustive(kind: str, groups: Groups, rng: np.random.Generator) -> Int[np.ndarray, "m 3"]:
    """All triplets of a kind in the order in which repeated draws would first bring them.

    Drawing without repetition in proportion to weights is the order of exponential waiting times with these rates
    (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
    """
    every = groups.members[np.array(list(combinations(range(len(groups.members)), 3)))]
    g = groups.group[every]
    first, last = g[:, 0] == g[:, 1], g[:, 1] == g[:, 2]
    size = groups.size[g].astype(np.float64)
    if kind == "within":
        weight = np.where(first & last, 1 / (size[:, 0] * (size[:, 0] - 1) * (size[:, 0] - 2) + 1e-300), 0.0)
    elif kind == "between":
        weight = np.where(~first & ~last, 1 / size.prod(axis=1), 0.0)
    elif kind == "border":
        pair, single = np.where(first, size[:, 0], size[:, 2]), np.where(first, size[:, 2], size[:, 0])
        weight = np.where(first ^ last, 1 / (pair * (pair - 1) * single + 1e-300), 0.0)
    else:
        weight = np.ones(len(every))
    possible = weight > 0
    waiting = rng.exponential(size=int(possible.sum())) / weight[possible]
    return np.asarray(every[possible][np.argsort(waiting, kind="stable")])


def _generator(*entropy: int) -> np.random.Generator:
    """A generator of its own for every chunk of every stream."""
    seed, *spawn = entropy
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=tuple(spawn))))


def _below(rng: np.random.Generator, size: int | Int[np.ndarray, " n"], n: int) -> Int[np.ndarray, " n"]:
    """n uniform integers in 0..size-1 (size may differ by row); a double's 53 bits leave no measurable bias."""
    return np.asarray(rng.random(n) * size, dtype=np.int64)


def _skip(drawn: Int[np.ndarray, " n"], *others: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Move numbers past the ones already used, which must be given in ascending order."""
    for used in others:
        drawn = drawn + (drawn >= used)
    return drawn


def _three(
    rng: np.random.Generator, size: int | Int[np.ndarray, " n"], n: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Three distinct uniform integers in 0..size-1, every ordered triple equally likely."""
    a = _below(rng, size, n)
    b = _skip(_below(rng, size - 1, n), a)
    c = _skip(_below(rng, size - 2, n), np.minimum(a, b), np.maximum(a, b))
    return a, b, c


def _members(
    groups: Groups, chosen: tuple[Int[np.ndarray, " n"], ...], ranks: tuple[Int[np.ndarray, " n"], ...]
) -> Int[np.ndarray, "n 3"]:
    """Image numbers by group and rank in the group."""
    columns = [groups.members[groups.start[g] + r] for g, r in zip(chosen, ranks, strict=True)]
    return np.stack(columns, axis=1)
