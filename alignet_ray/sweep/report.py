"""The report of a sweep: which settings were tried, which one won, how certain that is, and what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from alignet_ray.report.elements import figure, grid, page, paragraph, preformatted, section, table
from alignet_ray.screen import clock
from alignet_ray.sweep import plots, selection
from alignet_ray.sweep.efficiency import sample_efficiency
from alignet_ray.sweep.learning_curves import LearningCurve
from alignet_ray.sweep.search_space import Space, format_value, short_name
from alignet_ray.sweep.selection import Finalist, Mode, Trial, ValidationFigures

IN_TABLE = "The table of all trials at the end of the page has the figures."
"""For diagrams, to those who cannot see them."""


@dataclass(frozen=True)
class Outcome:
    """Results of a sweep.

    Attributes:
        title: of the page.
        score_name: what the trials were ranked by.
        mode: whether less or more of it is better.
        space: what was searched.
        trials: all of them, repeats included.
        ranking: the finalists, the winner first.
        seed: of the trials (other seeds are repeats).
        test_lines: the winner's results on test objects; empty if it was not run.
        curves: held-out curves of the finished trainings, where their losses are comparable.
    """

    title: str
    score_name: str
    mode: Mode
    space: Space
    trials: Sequence[Trial]
    ranking: Sequence[Finalist]
    seed: int
    test_lines: Sequence[str]
    curves: Sequence[LearningCurve] = ()

    @property
    def first_seed_trials(self) -> list[Trial]:
        """One trial per setting."""
        return [trial for trial in self.trials if trial.seed == self.seed]

    @property
    def finished(self) -> list[tuple[Trial, ValidationFigures]]:
        """The finished trials, one per setting, with their figures."""
        return [(trial, trial.figures) for trial in self.first_seed_trials if trial.figures is not None]

    def figures_of(self, number: int) -> ValidationFigures | None:
        """Figures of a setting, with the first seed."""
        for trial, figures in self.finished:
            if trial.number == number:
                return figures
        return None


def describe_params(params: Mapping[str, Any]) -> str:
    """`align.identity_penalty 0.00013, align.rank 50`."""
    return ", ".join(f"{field} {format_value(value)}" for field, value in params.items())


def build(outcome: Outcome) -> str:
    """The whole page."""
    return page(
        outcome.title,
        [
            _winner(outcome),
            _certainty(outcome),
            _settings(outcome),
            _pareto_front(outcome),
            sample_efficiency(outcome.curves, outcome.seed),
            _test_results(outcome),
            _all_trials(outcome),
        ],
    )


def _winner(outcome: Outcome) -> str:
    """The winner, its figures, and its gain over the given settings."""
    best = outcome.ranking[0]
    figures = outcome.figures_of(best.number)
    assert figures is not None, "a winner has finished"

    # Repeats are left out of the counts: they train the same settings again.
    trials = outcome.first_seed_trials
    direction = "lower" if outcome.mode == "min" else "higher"
    lead = f"Of {len(trials)} settings, number {best.number} did best: {describe_params(best.params)}."
    text = (
        f"Score on validation objects: {outcome.score_name}, {direction} is better; {format_value(best.mean)} for it. "
        f"It agrees with people in {_agreement(figures)} of the triplets and keeps {figures.neighbours_kept:.0%} of "
        f"the ten nearest neighbours. Trials: {_status_counts(trials)}."
    )
    return paragraph(lead, "lead") + paragraph(text) + _gain(outcome, best, figures)


def _gain(outcome: Outcome, best: Finalist, figures: ValidationFigures) -> str:
    """The winner compared with the given settings, where it is another one."""
    given = outcome.figures_of(0)
    if given is None or best.number == 0:
        return ""

    # Percentage points: a share of a share would be misread.
    gain = 100 * (figures.agreement - given.agreement)
    return paragraph(
        f"The given settings (number 0) reach {format_value(given.score)} and agree in {_agreement(given)}: "
        f"the winner's gain in agreement is {gain:+.1f} points."
    )


def _status_counts(trials: Sequence[Trial]) -> str:
    parts = []
    for status in (selection.FINISHED, selection.STOPPED, selection.FAILED):
        count = sum(trial.status == status for trial in trials)
        if count:
            parts.append(f"{count} {status}")
    return ", ".join(parts)


def _agreement(figures: ValidationFigures) -> str:
    return f"{figures.agreement:.1%} ({figures.agreement_low:.1%} to {figures.agreement_high:.1%})"


def _certainty(outcome: Outcome) -> str:
    """The finalists over seeds, and the probability that each is the best."""
    # A repeat may have failed, so a finalist with one score can stand beside others that have several.
    most_scores = max(len(finalist.scores) for finalist in outcome.ranking)
    if most_scores > 1:
        about = (
            "The finalists were trained again with other seeds on the same objects; the winner has the best mean. The "
            "last column is the probability that a setting is the best, given the spread over seeds: it covers the "
            "randomness of training, not the choice of objects."
        )
        rows = [_finalist_row(finalist) for finalist in outcome.ranking]
    else:
        about = "Each setting was trained once, so the effect of the seed is not known: use --sweep.repeats 2."
        rows = [{"setting": str(best.number), "score": format_value(best.mean)} for best in outcome.ranking]

    # Seeds and objects are separate sources of error, and the repeats tell of the first alone.
    objects = (
        "The intervals of agreement come from resampling the validation objects; differences well inside them may be "
        "reversed with other objects."
    )
    return section("How certain is that?", paragraph(about), table(rows), paragraph(objects, "note"))


def _finalist_row(finalist: Finalist) -> dict[str, str]:
    probability = ""
    if not isnan(finalist.probability_best):
        probability = f"{finalist.probability_best:.0%}"
    return {
        "setting": str(finalist.number),
        "mean score": format_value(finalist.mean),
        "by seed": ", ".join(format_value(score) for score in finalist.scores),
        "is the best": probability,
    }


def _settings(outcome: Outcome) -> str:
    """Score against each setting, and all of them as parallel coordinates."""
    winner = outcome.ranking[0].number

    # One column for each figure, one row for each trial.
    numbers = []
    scores = []
    is_winner = []
    values_of: dict[str, list[Any]] = {field: [] for field in outcome.space}
    for trial, trial_figures in outcome.finished:
        numbers.append(trial.number)
        scores.append(trial_figures.score)
        is_winner.append(trial.number == winner)

        for field, values in values_of.items():
            values.append(trial.params[field])

    cells = []
    for field, domain in outcome.space.items():
        values = values_of[field]
        picture = plots.score_by_setting(values, scores, numbers, winner, field, domain)
        caption = f"{outcome.score_name} against {field}; the winner is ringed, the given setting is a diamond"
        cells.append(figure(picture, caption, f"Dot plot of the score by {field}. {IN_TABLE}"))

    # One column per field above, one row per trial here.
    settings = list(zip(*values_of.values(), strict=True))
    picture = plots.parallel_coordinates(outcome.space, settings, scores, outcome.mode, is_winner)
    caption = "Every finished trial as a line through its settings; dark is better, the winner is thick"
    return section(
        "Score against each setting", grid(cells), figure(picture, caption, f"Parallel coordinates. {IN_TABLE}")
    )


def _pareto_front(outcome: Outcome) -> str:
    """Agreement with people against neighbours kept."""
    trials = []
    points = []
    for trial, figures in outcome.finished:
        trials.append(trial)
        points.append((figures.agreement, figures.neighbours_kept))

    front = selection.pareto_front(points)
    rows = []
    for position in front:
        agreement, kept = points[position]
        rows.append(
            {
                "setting": str(trials[position].number),
                "agrees with people": f"{agreement:.1%}",
                "neighbours kept": f"{kept:.0%}",
                "values": describe_params(trials[position].params),
            }
        )

    # Not only the winner: whoever needs more of the old knowledge may prefer another point of the front.
    text = paragraph(
        "More agreement with people often costs some of what the network knew before. On the line are the settings "
        "that no other one beats in both: agreement with people on validation objects, and the share of each image's "
        "ten nearest neighbours that are still among them."
    )
    picture = plots.pareto_plot(points, [trial.number for trial in trials], front)
    alt = f"Dot plot with the line of the settings in the table below. {IN_TABLE}"
    return section("What it costs", text, figure(picture, "Agreement against neighbours kept", alt), table(rows))


def _test_results(outcome: Outcome) -> str:
    if not outcome.test_lines:
        return ""
    text = paragraph("Test objects played no part in the selection; the winner alone was scored on them.")
    return section("The winner on test objects", text, preformatted("\n".join(outcome.test_lines)))


def _all_trials(outcome: Outcome) -> str:
    """Every trial as a row, best setting first, settings without a score last."""
    ranking = selection.ranked(outcome.trials, outcome.mode, outcome.seed)
    place_of = {trial.number: place for place, trial in enumerate(ranking)}
    last = len(ranking)

    # By setting first, so that repeats with other seeds stand below the setting that they repeat.
    trials = sorted(outcome.trials, key=lambda trial: (place_of.get(trial.number, last), trial.seed))
    rows = [_trial_row(outcome.space, trial) for trial in trials]
    return section("All trials", table(rows))


def _trial_row(space: Space, trial: Trial) -> dict[str, str]:
    row = {"trial": str(trial.number), "seed": str(trial.seed)}
    for field in space:
        row[short_name(field)] = format_value(trial.params[field])

    figures = trial.figures
    end = trial.problem or trial.status
    if figures is None:
        row |= {"score": "", "agreement": "", "kept": ""}
        # Where early stopping ended it tells how much of the budget it took.
        if trial.curve and not trial.problem:
            end = f"{trial.status} at step {trial.curve[-1][0]:.0f}"
    else:
        row |= {
            "score": format_value(figures.score),
            "agreement": f"{figures.agreement:.1%}",
            "kept": f"{figures.neighbours_kept:.0%}",
        }
    return row | {"time": clock(trial.seconds), "end": end}
