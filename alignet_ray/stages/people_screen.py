"""Who answers as if at random, for `soften`: people are named, and `human.screen` leaves them out of the fit."""

import numpy as np
from jaxtyping import Bool

from alignet_ray.artifacts.soften import Posterior
from alignet_ray.core import participants, vice
from alignet_ray.core.participants import PersonFit
from alignet_ray.human.answers import Answers
from alignet_ray.human.responses import ResponseTable
from alignet_ray.stages import Work

LISTED = 5
"""People that a warning names, at most."""


def review(work: Work, given: Answers, table: ResponseTable | None, posterior: Posterior) -> list[PersonFit]:
    """Every person's answers against the model; a warning names those whose answers should not count.

    Args:
        work: of `soften`.
        given: the answers, the responses in the order of `table`.
        table: the file's responses; None without any.
        posterior: the model of all people.
    """
    if table is None or not table.participants:
        return []

    # Only odd-one-out answers come with who gave them, so no comparisons are predicted.
    soften = work.cfg.soften
    none = np.empty((0, 3), np.int64)
    found = vice.predict(*posterior, given.triplets, none, soften.num_samples, work.cfg.seed)
    people = participants.fits(table.participants, found.is_hit, table.table["rt"].to_numpy())

    odd = [person for person in people if person.reason]
    low, middle, high = 100 * np.quantile([person.agreement for person in people], [0, 0.5, 1])
    work.screen.line(
        f"   {len(people):,} people, of whose answers the model predicts {middle:.1f} % ({low:.1f} to {high:.1f}); "
        f"{len(odd):,} answer as if at random or too fast"
    )
    if odd and not work.cfg.human.screen:
        listed = ", ".join(f"{person.participant} ({person.reason})" for person in odd[:LISTED])
        more = ""
        if len(odd) > LISTED:
            more = f", and {len(odd) - LISTED:,} more"
        work.warn(f"people whose answers should perhaps not count: {listed}{more}; --human.screen leaves them out")
    return people


def kept(table: ResponseTable, people: list[PersonFit]) -> Bool[np.ndarray, " n"]:
    """Responses of people whose answers count; those of nobody in particular do."""
    out = {person.participant for person in people if person.reason}
    return np.array([name not in out for name in table.participants])
