from collections.abc import Callable

import numpy as np
import pytest

from alignet_ray.evals import odd_one_out
from alignet_ray.evals.annotated_objects import AnnotatedObjects, TripletTrials
from alignet_ray.evals.spaces import EmbeddingSpace


def test_people_as_a_model_reach_the_ceiling_and_noise_stays_at_chance(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated()
    trials = TripletTrials.of(annotated, 10_000, 1, 0)
    people = make_space([annotated], 1, 0, "teacher", kind="dot")
    noise = make_space([annotated], 0, 1)
    collapsed = EmbeddingSpace("student", "pre_logits", noise.ids, np.zeros_like(noise.embeddings))
    found = odd_one_out.respond_all([people, noise, collapsed], annotated.draw_images(3, 0), trials)
    mean = found.agreement.mean(axis=0)
    assert mean[0] == pytest.approx(mean[3], abs=1e-6)
    assert mean[1] == pytest.approx(1 / 3, abs=0.03)
    assert mean[2] == 0
    assert found.ties.tolist() == [0, 0, 1, 0]


def test_answers_average_over_draws_of_images(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated(objects=6, images=2)
    trials, space = TripletTrials.of(annotated, 1000, 1, 0), make_space([annotated], 0.5, 1)
    picks = annotated.draw_images(7, 0)
    assert picks.shape == (7, 6)
    each = [odd_one_out.respond(space, pick[None], trials)[0] for pick in picks]
    assert odd_one_out.respond(space, picks, trials)[0] == pytest.approx(np.mean(each, axis=0))


def test_levels_split_trials_as_they_say(make_annotated: Callable[..., AnnotatedObjects]) -> None:
    annotated = make_annotated(objects=16)
    trials = TripletTrials.of(annotated, 10_000, 1, 0)
    found = odd_one_out.levels(trials, annotated.categories)
    kinds = [len({annotated.categories[o] for o in t}) for t in trials.triplets]
    for name, count in (("between", 3), ("border", 2)):
        assert found[f"categories:{name}"].tolist() == [k == count for k in kinds]
    thirds = np.stack([found[f"margin:{name}"] for name in ("low", "middle", "high")])
    assert (thirds.sum(axis=0) == 1).all()
    two = [sum(annotated.categories[o] == "food" for o in t) >= 2 for t in trials.triplets]
    assert found["category:food"].tolist() == two


def test_gains_are_paired_and_corrected(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated()
    trials = TripletTrials.of(annotated, 10_000, 1, 0)
    spaces = [make_space([annotated], m, 1, name) for name, m in (("base", 0.0), ("student", 4.0), ("control", 0.01))]
    responses = odd_one_out.respond_all(spaces, annotated.draw_images(2, 0), trials)
    found = odd_one_out.evaluate(responses, trials, annotated, 200, 0)
    gains = {(s.model, s.level): s for s in found if s.metric == "odd_one_out_gain"}
    p = {(s.model, s.level): s.value for s in found if s.metric == "odd_one_out_gain_p"}
    assert set(gains) == {("student", "over:base"), ("student", "over:control"), ("control", "over:base")}
    value = {s.model: s.value for s in found if s.metric == "odd_one_out" and not s.level}
    assert gains["student", "over:base"].value == pytest.approx(value["student"] - value["base"])
    assert gains["student", "over:base"].low > 0
    assert p["student", "over:base"] == pytest.approx(3 * 2 / 201)  # the smallest possible one, times three tests
    assert p["control", "over:base"] > 0.05


def test_normalised_scores_are_one_at_the_ceiling(make_annotated: Callable[..., AnnotatedObjects]) -> None:
    annotated = make_annotated(objects=8)
    trials = TripletTrials.of(annotated, 1000, 1, 0)
    responses = odd_one_out.respond_all([], annotated.draw_images(1, 0), trials)
    human = odd_one_out.evaluate(responses, trials, annotated, 50, 0)
    row = next(s for s in human if s.metric == "odd_one_out_normalised")
    assert (row.value, row.low, row.high) == pytest.approx((1, 1, 1))


def test_raw_answers_count_only_among_judged_objects(
    make_annotated: Callable[..., AnnotatedObjects],
    make_space: Callable[..., EmbeddingSpace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(odd_one_out, "MIN_RESPONSES", 3)
    annotated = make_annotated(first=100)
    rows = np.array([[100, 104, 101], [102, 106, 3], [105, 101, 100], [103, 100, 107]])
    space = make_space([annotated], 1, 0.01)
    found = odd_one_out.evaluate_raw([space], annotated.draw_images(1, 0), annotated, rows, 50, 0)
    assert [(s.model, s.n) for s in found] == [("base", 3)], "the human model was fitted to these responses"
    assert found[0].value == pytest.approx(2 / 3)  # the last row pairs a vehicle with an animal: nobody would
    assert odd_one_out.evaluate_raw([space], annotated.draw_images(1, 0), annotated, rows[1:2], 50, 0) == []


def test_noise_ceilings_only_where_triplets_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(odd_one_out, "MIN_RESPONSES", 2)
    once = np.array([[0, 1, 2], [3, 4, 5]])
    assert odd_one_out.noise_ceilings(once, 0) == []
    found = {s.metric: s for s in odd_one_out.noise_ceilings(np.concatenate([once, once, [[1, 2, 0]]]), 0)}
    assert found["odd_one_out_raw_ceiling_modal"].value == pytest.approx(4 / 5)
    assert found["odd_one_out_raw_ceiling"].value == pytest.approx((2 * 0.5 + 2) / 5)
    assert {(s.model, s.n, s.split) for s in found.values()} == {("human", 5, "")}
    monkeypatch.setattr(odd_one_out, "MIN_RESPONSES", 3)
    assert odd_one_out.noise_ceilings(np.concatenate([once, once]), 0) == [], "too few triplets"
