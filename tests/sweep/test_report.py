"""The report of a sweep: one self-contained file that names the winner, its gain and its certainty."""

import re

from support.page_check import faults

from alignet_ray.sweep import report
from alignet_ray.sweep.search_space import parse
from alignet_ray.sweep.selection import FAILED, FINISHED, STOPPED, Trial, ValidationFigures, compare_finalists


def outcome(repeats: int) -> report.Outcome:
    space = parse(
        [
            "align.identity_penalty=loguniform(1e-5,1e-2)",
            "align.rank=choice(20,50)",
            "align.map=choice(affine,low_rank)",
        ]
    )
    trials = []
    for n in range(6):
        params = {
            "align.identity_penalty": 10.0 ** -(n % 4 + 2),
            "align.rank": (20, 50, 30)[n % 3],
            "align.map": "affine",
        }
        for seed in range(1 + repeats):
            figures = ValidationFigures(
                score=1.0 + (n - 3) ** 2 / 10 + seed / 1000,
                agreement=0.5 - n / 100,
                agreement_low=0.4,
                agreement_high=0.6,
                cross_entropy=1.0,
                neighbours_kept=n / 10,
            )
            trials.append(Trial(n, params, seed, FINISHED, figures, 75.0, [(20.0, 1.2)]))
    trials.append(Trial(6, params, 0, STOPPED, None, 3.0, [(20.0, 1.9)]))
    trials.append(Trial(7, params, 0, FAILED, None, 3.0, [], "the <disk> is full"))
    ranking = compare_finalists(trials, "min", 0)
    return report.Outcome("sweep <of> align", "cross-entropy", "min", space, trials, ranking, 0, ["aligned 46.0%"])


def test_the_page_is_one_file_and_names_the_winner() -> None:
    html = report.build(outcome(2))
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", html)
    assert "<script" not in html
    assert html.count("<img") == 3 + 1 + 1, "a plot per setting, parallel coordinates, the Pareto front"
    assert "number 3 did best" in html
    assert "6 finished, 1 stopped, 1 failed" in html
    assert "sweep &lt;of&gt; align" in html
    assert "the &lt;disk&gt; is full" in html
    assert "stopped at step 20" in html
    assert "is the best" in html
    assert "aligned 46.0%" in html
    assert faults(html) == []


def test_without_repeats_the_effect_of_the_seed_is_unknown() -> None:
    html = report.build(outcome(0))
    assert "the effect of the seed is not known" in html
    assert "is the best" not in html


def test_one_trial_is_enough_for_a_page() -> None:
    whole = outcome(0)
    one = [whole.trials[0]]
    html = report.build(report.Outcome("t", "s", "max", whole.space, one, compare_finalists(one, "max", 0), 0, []))
    assert "On test objects" not in html
    assert "number 0 did best" in html
