"""The page of a sweep: what was tried, what it brought and cost, which setting was chosen and how sure one can be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from alignet_ray.report.elements import figure, grid, page, paragraph, preformatted, section, table
from alignet_ray.screen import clock
from alignet_ray.sweep import plots, selection
from alignet_ray.sweep.efficiency import courses
from alignet_ray.sweep.learning_curves import Course
from alignet_ray.sweep.search_space import Space
from alignet_ray.sweep.selection import Contender, Trial


@dataclass(frozen=True)
class Outcome:
    """What a sweep came to.

    Attributes:
        score: name of the score; mode: whether less of it is better (min) or more (max).
        ranking: the finalists, the winner first.
        seed: of the trials proper; others are repeats.
        test: the winner on test objects, in lines; empty if it was not run.
        courses: held-out curves of the finished trainings, where their losses are of one kind.
    """

    title: str
    score: str
    mode: str
    space: Space
    trials: Sequence[Trial]
    ranking: Sequence[Contender]
    seed: int
    test: Sequence[str]
    courses: Sequence[Course] = ()


def words(params: Mapping[str, Any]) -> str:
    """`align.identity_penalty 0.00013, align.rank 50`."""
    return ", ".join(f"{name} {plots.short(value)}" for name, value in params.items())


def build(outcome: Outcome) -> str:
    """The whole page."""
    own = [t for t in outcome.trials if t.seed == outcome.seed]
    return page(
        outcome.title,
        [
            _winner(outcome, own),
            _sureness(outcome),
            _slices(outcome, own),
            _pareto(own),
            courses(outcome.courses, outcome.seed),
            _test(outcome),
            _trials(outcome),
        ],
    )


def _winner(outcome: Outcome, own: Sequence[Trial]) -> str:
    best = outcome.ranking[0]
    counts = {s: sum(t.status == s for t in own) for s in (selection.FINISHED, selection.STOPPED, selection.FAILED)}
    trial = next(t for t in own if t.number == best.number)
    lead = f"Of {len(own)} settings, number {best.number} did best: {words(best.params)}."
    kind = "lower" if outcome.mode == "min" else "higher"
    ran = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    text = (
        f"Score on validation objects: {outcome.score}, {kind} is better; {plots.short(best.mean)} for it. "
        f"It agrees with people in {_percent(trial.figures, 'agreement')} of the triplets and keeps "
        f"{trial.figures['kept']:.0%} of the ten nearest neighbours. Trials: {ran}."
    )
    given = next((t for t in own if t.number == 0 and t.figures), None)
    against = ""
    if given and given.number != best.number:
        gain = trial.figures["agreement"] - given.figures["agreement"]
        against = (
            f"The given settings (number 0) reach {plots.short(given.figures['score'])} and agree in "
            f"{_percent(given.figures, 'agreement')}: the winner's gain in agreement is {100 * gain:+.1f} points."
        )
    return paragraph(lead, "lead") + paragraph(text) + (paragraph(against) if against else "")


def _percent(figures: Mapping[str, float], name: str) -> str:
    return f"{figures[name]:.1%} ({figures[name + '_low']:.1%} to {figures[name + '_high']:.1%})"


def _sureness(outcome: Outcome) -> str:
    several = any(len(c.scores) > 1 for c in outcome.ranking)
    rows = [
        {
            "setting": str(c.number),
            "mean score": plots.short(c.mean),
            "by seed": ", ".join(map(plots.short, c.scores)),
            "is the best": "" if isnan(c.chance) else f"{c.chance:.0%}",
        }
        for c in outcome.ranking
    ]
    if not several:
        rows = [{"setting": row["setting"], "score": row["mean score"]} for row in rows]
    about = (
        "The finalists were trained again with other seeds on the same objects; the winner has the best mean. The last "
        "column is the share of draws from the seeds' spread in which a setting comes out first: the luck of training, "
        "not the choice of objects."
        if several
        else "Each setting was trained once, so how much is luck is not known: --sweep.repeats 2 would tell."
    )
    objects = (
        "The intervals of agreement come from resampling the validation objects; differences well inside them may turn "
        "around with other objects."
    )
    return section("How sure is that?", paragraph(about), table(rows), paragraph(objects, "note"))


def _slices(outcome: Outcome, own: Sequence[Trial]) -> str:
    done = [t for t in own if t.status == selection.FINISHED]
    best = outcome.ranking[0].number
    scores = [t.figures["score"] for t in done]
    cells = [
        figure(
            plots.slice_of([t.params[name] for t in done], scores, [t.number for t in done], best, name, domain),
            f"{outcome.score} against {name}; the winner is ringed, the given setting is a diamond",
        )
        for name, domain in outcome.space.items()
    ]
    axes = [*outcome.space]
    lines = [[t.params[name] for name in axes] for t in done]
    parallel = plots.parallel(axes, lines, outcome.space, scores, outcome.mode, [t.number == best for t in done])
    caption = "Every finished trial as a line through its settings; dark is better, the winner is thick"
    return section("Score against each setting", grid(cells), figure(parallel, caption))


def _pareto(own: Sequence[Trial]) -> str:
    done = [t for t in own if t.status == selection.FINISHED]
    points = [(t.figures["agreement"], t.figures["kept"]) for t in done]
    front = selection.pareto(points)
    rows = [
        {
            "setting": str(done[i].number),
            "agrees with people": f"{points[i][0]:.1%}",
            "neighbours kept": f"{points[i][1]:.0%}",
            "values": words(done[i].params),
        }
        for i in front
    ]
    text = paragraph(
        "Nearer to people often costs what the network knew before. On the line stand the settings that no other one "
        "beats in both: agreement with people on validation objects, and the share of each image's ten nearest "
        "neighbours that are still among them."
    )
    picture = plots.front(points, [t.number for t in done], front)
    return section("What it costs", text, figure(picture, "Agreement against neighbours kept"), table(rows))


def _test(outcome: Outcome) -> str:
    if not outcome.test:
        return ""
    text = paragraph("Test objects played no part in the choice; the winner alone was scored on them.")
    return section("The winner on test objects", text, preformatted("\n".join(outcome.test)))


def _trials(outcome: Outcome) -> str:
    order = {t.number: place for place, t in enumerate(selection.ranked(outcome.trials, outcome.mode, outcome.seed))}
    rows = [_row(outcome, t) for t in sorted(outcome.trials, key=lambda t: (order.get(t.number, 999), t.seed))]
    return section("All trials", table(rows, minor=("seed", "time")))


def _row(outcome: Outcome, trial: Trial) -> dict[str, str]:
    found = trial.figures
    last = f"{trial.status} at step {trial.curve[-1][0]:.0f}" if trial.curve else trial.status
    return {
        "trial": str(trial.number),
        "seed": str(trial.seed),
        **{name.partition(".")[2]: plots.short(trial.params[name]) for name in outcome.space},
        "score": plots.short(found["score"]) if found else "",
        "agreement": f"{found['agreement']:.1%}" if found else "",
        "kept": f"{found['kept']:.0%}" if found else "",
        "time": clock(trial.seconds),
        "end": trial.problem or (trial.status if found else last),
    }
