"""Planning a study: simulated people, and how curves are compared."""

import numpy as np
import pytest

from alignet_ray.ask import active
from alignet_ray.ask.simulate import Curve, Plan, SimulatedPeople, compare, curve_rows, require_plan, simulate
from alignet_ray.errors import UserError

LAPSE = 0.05
SHARE = 0.2


def test_people_choose_as_the_embedding_says_and_sometimes_guess() -> None:
    embedding = np.eye(3, dtype=np.float32)[[0, 0, 1]] * 1.5
    triplets = np.tile([[0, 1, 2]], (20_000, 1))
    for lapse, guessed in ((0.0, 0.0), (0.3, 0.3)):
        people = SimulatedPeople(embedding, Plan(200, 100, lapse, SHARE, "odd"), np.random.default_rng(0))
        p = people.probabilities(triplets[:1])[0]
        assert p[0] == pytest.approx(np.exp(2.25) / (np.exp(2.25) + 2), abs=1e-6)
        share = (people.answer(triplets)[:, 2] == 2).mean()
        assert share == pytest.approx((1 - guessed) * p[0] + guessed / 3, abs=0.03)


def test_answers_needed_are_read_between_fits() -> None:
    curve = Curve([100, 200, 300], [0.4, 0.5, 0.45], ceiling=0.6, chance=1 / 3)
    assert curve.needed(0.45) == pytest.approx(150)
    assert curve.needed(0.5) == pytest.approx(200)
    assert curve.needed(0.55) is None
    assert curve.at_share(0.5) == pytest.approx((1 / 3 + 0.6) / 2)


def test_the_comparison_names_ratios_of_every_seed() -> None:
    random = Curve([100, 200, 400], [0.4, 0.45, 0.5], ceiling=0.6, chance=1 / 3)
    chosen = Curve([100, 200, 400], [0.4, 0.5, 0.55], ceiling=0.6, chance=1 / 3)
    rows = {row["of the way to the ceiling"]: row for row in compare([(random, chosen)] * 2)}
    half = rows["50%"]  # an agreement of 46.7 %
    assert half["random"] == round(200 + 200 / 3)
    assert half["active"] == round(100 + 200 / 3)
    assert half["by seed"] == "62%, 62%"
    assert "80%" not in rows  # random never gets there
    table = curve_rows([(random, chosen)])
    assert [row["answers"] for row in table] == [100, 200, 400]
    assert table[1]["active"] == "50.0%"


def test_a_simulated_study_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active, "CANDIDATES", 2000)
    rng = np.random.default_rng(0)
    embedding = np.abs(rng.normal(size=(40, 4))).astype(np.float32)
    plan = Plan(5, 100, LAPSE, SHARE, "odd")
    counts: list[int] = []
    curves = [simulate(embedding, plan, sampler, 0, counts.append) for sampler in ("random", "active")]
    assert len(counts) == sum(len(curve.answers) for curve in curves)
    for curve in curves:
        assert curve.answers[-1] == 500
        assert 0.34 < curve.agreement[-1] < curve.ceiling < 1
        assert curve.agreement[-1] > curve.agreement[0]
    assert curves[0].ceiling == curves[1].ceiling
    again = simulate(embedding, plan, "active", 0)
    assert again == curves[1]


@pytest.mark.parametrize(
    ("plan", "objects", "problem"),
    [
        (Plan(0, 100, LAPSE, SHARE, "odd"), 50, "--people 0"),
        (Plan(5, 100, 1.0, SHARE, "odd"), 50, "--lapse 1.0"),
        (Plan(5, 100, LAPSE, SHARE, "odd"), 5, "5 objects"),
        (Plan(50, 100, LAPSE, SHARE, "odd"), 20, "20 objects have questions for 570 answers"),
    ],
)
def test_plans_that_cannot_be(plan: Plan, objects: int, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        require_plan(plan, objects)


def test_in_a_comparison_people_choose_between_two() -> None:
    embedding = np.eye(3, dtype=np.float32)[[0, 0, 1]] * 1.5
    questions = np.tile([[0, 2, 1]], (20_000, 1))
    for lapse in (0.0, 0.3):
        people = SimulatedPeople(embedding, Plan(200, 100, lapse, SHARE, "reference"), np.random.default_rng(0))
        p = people.probabilities(questions[:1])[0]
        assert p.tolist() == pytest.approx([1 / (1 + np.exp(2.25)), np.exp(2.25) / (1 + np.exp(2.25))], abs=1e-6)
        rows = people.answer(questions)
        assert set(rows[:, 0].tolist()) == {0}  # the reference stays
        assert (rows[:, 1] == 1).mean() == pytest.approx((1 - lapse) * p[1] + lapse / 2, abs=0.03)


def test_a_simulated_study_of_comparisons_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active, "CANDIDATES", 2000)
    rng = np.random.default_rng(0)
    embedding = np.abs(rng.normal(size=(40, 4))).astype(np.float32)
    plan = Plan(6, 100, LAPSE, SHARE, "reference")
    for sampler in ("random", "active"):
        curve = simulate(embedding, plan, sampler, 0)
        assert curve.answers[-1] == 600
        assert curve.chance == 1 / 2
        assert 0.55 < curve.agreement[-1] < curve.ceiling < 1
        assert curve.at_share(0) == 1 / 2
    # Twelve objects have 660 comparisons, and 220 triplets.
    require_plan(Plan(3, 110, LAPSE, SHARE, "reference"), 12)
    with pytest.raises(UserError, match="questions for 110 answers"):
        require_plan(Plan(3, 110, LAPSE, SHARE, "odd"), 12)
