"""The table at the end of a run: `base | teacher | aligned student | unaligned control | ceiling`."""

from collections.abc import Sequence

from alignet_ray.core.scores import CHANCE, Score
from alignet_ray.evals.inputs import NAMES
from alignet_ray.screen import table


def rows(scores: Sequence[Score], others: Sequence[str] = ()) -> list[dict[str, str]]:
    """Agreement with people in percent, with its interval: a row a layer, a column a model.

    Base, teacher, ceiling and `others` have one layer each, and stand in both rows.
    """
    chosen = [s for s in scores if (s.dataset, s.metric, s.level) == ("objects", "odd_one_out", "")]
    found = {(s.model, s.layer): s for s in chosen}
    elsewhere = {"base": "pre_logits", "teacher": "aligned", "human": ""} | dict.fromkeys(others, "pre_logits")
    result = []
    for layer in ("pre_logits", "head"):
        row = {"layer": layer}
        for model, name in (NAMES | {name: name for name in others}).items():
            score = found.get((model, layer)) or found.get((model, elsewhere.get(model, "-")))
            row[name] = f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]" if score else "-"
        result.append(row)
    return result


def lines(cells: list[dict[str, str]], triplets: int, objects: int) -> list[str]:
    """The table as lines of text, under a line that says what it is about."""
    about = (
        f"odd-one-out agreement with people, %, on {triplets:,} triplets of {objects} test objects "
        f"(chance {100 * CHANCE:.1f}; 95 % intervals over objects)"
    )
    return [about, *table(cells).splitlines()]
