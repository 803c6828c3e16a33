"""Checks of a file of reference comparisons: its form, who agrees with whom, and what a human embedding says of it."""

import numpy as np

from alignet_ray.core import comparisons, vice
from alignet_ray.core.comparisons import Comparisons
from alignet_ray.errors import UserError
from alignet_ray.findings import INFO, OK, WARNING, Findings
from alignet_ray.human import answers, triplets
from alignet_ray.human import comparisons as comparison_files
from alignet_ray.human.answers import AnswerFiles

ONE_SIDED = 0.6
"""Share of all votes for one of the two columns from which on their order is doubtful."""

MIN_REPEATED = 20
"""Questions with several votes from which on people's agreement with each other is told."""


def check(
    path: str,
    findings: Findings,
    objects: int | None = None,
    base: int | None = None,
    reference: str | None = None,
) -> None:
    """Add the checks of a file.

    Args:
        path: a table of reference comparisons.
        findings: the table of checks.
        objects: number of objects, where it is known.
        base: the number that the file counts from.
        reference: file of a human embedding of the objects.

    Raises:
        UserError: the file is no such table.
    """
    table = comparison_files.read_table(path)
    if table.unread_times:
        findings.add("response times", "some cannot be read", WARNING, table.unread_times)
    if table.object_names and (reference or objects):
        raise UserError(f"{path} names its objects: --objects and --reference are about numbered ones")

    embedding = None
    if reference:
        embedding = triplets.read_embedding(reference)
        objects = len(embedding)
    files = AnswerFiles(comparisons=path, base=base)
    asked = answers.read(files, answers.read_names(files), objects).comparisons

    _count(asked, len(table.rows), findings)
    _check_sides(table.votes, findings)
    _check_agreement(asked, findings)
    if embedding is not None:
        _check_embedding(asked, embedding, findings)


def _count(asked: Comparisons, rows: int, findings: Findings) -> None:
    """Rows, questions, votes and objects."""
    counts = np.bincount(asked.rows.reshape(-1))
    counts = counts[counts > 0]
    findings.add("rows", f"{rows:,}", OK)
    findings.add("questions", f"{len(asked.rows):,}")
    findings.add("votes", f"{asked.answers:,}, {asked.answers / len(asked.rows):.1f} a question")
    findings.add("objects in comparisons", f"{len(counts):,}")
    findings.add("questions per object", f"{counts.min():,} to {counts.max():,}, median {int(np.median(counts)):,}")


def _check_sides(votes: np.ndarray, findings: Findings) -> None:
    """Whether votes are spread over both columns, as they are where the two objects come in any order."""
    share = float(votes[:, 0].sum() / votes.sum())
    # A file with the winner in the first column is right, and says nothing about where it was shown.
    if share == 1:
        findings.add("votes for a", "100 %", INFO, "the first object is always the chosen one")
        return
    is_spread = 1 - ONE_SIDED <= share <= ONE_SIDED
    note = "people prefer one side, or the columns are sorted: look at the order in which they were shown"
    findings.check("votes for a", f"{share:.1%}", is_spread, note, WARNING)


def _check_agreement(asked: Comparisons, findings: Findings) -> None:
    """How well people's votes on the same question predict each other."""
    repeated = asked.votes[asked.votes.sum(axis=1) >= 2]
    if len(repeated) < MIN_REPEATED:
        findings.add("people who agree with each other", "unknown", INFO, "few questions were asked twice")
        return
    share = float(comparisons.predicted_by_others(repeated).mean())
    is_informative = share > comparisons.CHANCE
    findings.check("votes predicted by the other votes", f"{share:.1%}", is_informative, "no better than chance")


def _check_embedding(asked: Comparisons, embedding: np.ndarray, findings: Findings) -> None:
    """Whether a human embedding predicts the votes as well as its own probabilities promise."""
    probabilities = vice.comparison_probabilities(embedding, np.zeros_like(embedding), asked.rows, 1, 0)
    both = np.stack([probabilities, 1 - probabilities], axis=1).astype(np.float64)
    agreement = float(comparisons.vote_agreement(both, asked.votes).mean())
    expected = float(both.max(axis=1).mean())

    note = "its objects are probably in another order, or they are other objects"
    if agreement < comparisons.CHANCE - (expected - comparisons.CHANCE) / 2:
        note = "the votes seem to be for the other object: exchange the two columns of votes"
    is_near = agreement > (comparisons.CHANCE + expected) / 2
    findings.check("predicted by the reference", f"{agreement:.1%} ({expected:.1%} expected)", is_near, note)
