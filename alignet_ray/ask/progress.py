"""How a study stands: answers by the hour, people with the quality of their answers, and notes for the researcher."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict

from alignet_ray.artifacts.base import to_rows
from alignet_ray.ask import quality
from alignet_ray.ask.quality import Review
from alignet_ray.ask.study_file import Answer, StudyFile
from alignet_ray.core.participants import FAST_MS
from alignet_ray.screen import TableRow
from alignet_ray.store import JsonObject

HOUR = 3600

RULE = (
    f"The rule leaves out who fails more than {quality.MAX_CATCH_FAILURES:.0%} of the obvious questions, is faster "
    f"than {FAST_MS} ms in the middle, always chooses the same side, or answers repeated questions otherwise "
    "than before more often than chance allows. Your decision overrules it, and can be taken back; nothing is deleted."
)


def overview(study: StudyFile, notes: Iterable[str] = ()) -> JsonObject:
    """What the researcher's page shows, as JSON.

    Args:
        study: the file of the study.
        notes: what the researcher should know.
    """
    answers = study.answers()
    people = study.people()
    reviews = quality.review(people, answers)
    return {
        "answers": len(answers),
        "counted": len(quality.counted(people, answers)),
        "trials": study.settings.trials,
        "objects": len(study.objects()),
        "images": len(study.images()),
        "hours": by_hour(answers),
        "people": [_person(entry) for entry in reviews],
        "rule": RULE,
        "notes": list(notes),
        "left_out": to_rows(study.left_out()),
    }


def _person(entry: Review) -> JsonObject:
    facts = {
        "person": entry.person.person,
        "name": entry.person.name,
        "decision": entry.person.decision,
        "counts": entry.counts,
        "reasons": entry.reasons,
        "side_label": entry.quality.side_label,
    }
    return facts | asdict(entry.quality)


def by_hour(answers: Iterable[Answer]) -> list[tuple[int, int]]:
    """Start of every hour from the first to the last with answers, in seconds since 1970, and its number of answers."""
    counts = Counter(int(answer.at // HOUR) for answer in answers)
    if not counts:
        return []
    first = min(counts)
    last = max(counts)
    # After a clock has jumped by years, nobody wants a bar for each hour between.
    if last - first > 24 * 366:
        return [(hour * HOUR, count) for hour, count in sorted(counts.items())]
    return [(hour * HOUR, counts[hour]) for hour in range(first, last + 1)]


def table(reviews: Iterable[Review]) -> list[TableRow]:
    """People and the quality of their answers, for the terminal."""
    rows: list[TableRow] = []
    for entry in reviews:
        found = entry.quality

        # Who has given no answer has no median time either: the cell stays empty.
        time = None
        if found.median_rt is not None:
            time = round(found.median_rt)

        counts = "no"
        if entry.counts:
            counts = "yes"

        rows.append(
            {
                "participant": entry.person.name,
                "answers": found.answers,
                "median ms": time,
                "same side": f"{found.side_share:.0%}",
                "repeats alike": f"{found.consistent}/{found.repeats}",
                "obvious failed": f"{found.catch_failed}/{found.catch}",
                "counts": counts,
                "why not": "; ".join(entry.reasons),
                "decision": entry.person.decision or "the rule",
            }
        )
    return rows
