from collections.abc import Callable

import numpy as np
import pytest

from alignet_ray.core import scores as core_scores
from alignet_ray.core.comparisons import Comparisons
from alignet_ray.core.scores import Score
from alignet_ray.evals import reference_comparisons
from alignet_ray.evals.annotated_objects import AnnotatedObjects, joined
from alignet_ray.evals.spaces import EmbeddingSpace


def questions(annotated: AnnotatedObjects, count: int = 400, seed: int = 0) -> Comparisons:
    """Questions about these objects, with three votes for the object that people's own space finds nearer, and one."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(len(annotated))[:3] for _ in range(count)])
    similarity = annotated.human_similarity()
    a_is_nearer = similarity[rows[:, 0], rows[:, 1]] > similarity[rows[:, 0], rows[:, 2]]
    votes = np.where(a_is_nearer[:, None], [3.0, 1.0], [1.0, 3.0])
    return Comparisons(annotated.objects[rows], votes)


def by_name(found: list[Score]) -> dict[tuple[str, str], Score]:
    return {(score.model, score.metric): score for score in found if score.layer != "others"}


def test_people_as_a_model_reach_the_ceiling_and_a_collapsed_one_scores_nothing(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated(first=10)
    people = make_space([annotated], 1, 0, "teacher", kind="dot")
    base = make_space([annotated], 0, 1)
    collapsed = EmbeddingSpace("student", "pre_logits", base.ids, np.zeros_like(base.embeddings))
    found = by_name(
        reference_comparisons.evaluate([base, people, collapsed], annotated, [], questions(annotated), 2, 200, 0)
    )
    assert found["human", "comparison_votes"].value == pytest.approx(0.75)
    assert found["teacher", "comparison_votes"].value == pytest.approx(0.75)
    assert found["teacher", "comparison_majority"].value == pytest.approx(1)
    assert found["base", "comparison_votes"].value == pytest.approx(0.5, abs=0.05)
    assert found["student", "comparison_votes"].value == 0
    assert ("human", "comparison_majority") not in found


@pytest.mark.parametrize(("more", "less", "ceiling"), [(1.0, 0.0, None), (0.75, 0.25, 0.75), (2.0, 0.0, 1.0)])
def test_one_vote_on_each_question_has_no_ceiling(
    make_annotated: Callable[..., AnnotatedObjects],
    make_space: Callable[..., EmbeddingSpace],
    more: float,
    less: float,
    ceiling: float | None,
) -> None:
    annotated = make_annotated()
    asked = questions(annotated)
    votes = np.where(asked.votes == 3, more, less)
    found = by_name(
        reference_comparisons.evaluate(
            [make_space([annotated], 1, 1)], annotated, [], Comparisons(asked.rows, votes), 1, 100, 0
        )
    )
    best = found.get(("human", "comparison_votes"))
    assert (best and best.value) == (ceiling and pytest.approx(ceiling))


def test_other_people_predict_a_vote_without_knowing_it(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated()
    asked = questions(annotated)
    votes = np.where(asked.votes == 3, 2.0, 1.0)
    found = reference_comparisons.evaluate(
        [make_space([annotated], 1, 1)], annotated, [], Comparisons(asked.rows, votes), 1, 100, 0
    )
    others = {score.layer: score.value for score in found if score.model == "human"}
    # With two against one the best answer gets two thirds; both of the two see a draw, and the third is outvoted.
    assert others == pytest.approx({"": 2 / 3, "others": 1 / 3})


def test_gains_are_paired_with_the_base(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated()
    spaces = [make_space([annotated], 0.3, 1), make_space([annotated], 3, 1, "student")]
    found = by_name(reference_comparisons.evaluate(spaces, annotated, [], questions(annotated), 2, 300, 0))
    gain = found["student", "comparison_majority_gain"]
    difference = found["student", "comparison_majority"].value - found["base", "comparison_majority"].value
    assert gain.value == pytest.approx(difference)
    assert gain.low > 0
    assert found["student", "comparison_majority_gain_p"].value < 0.05
    assert ("base", "comparison_majority_gain") not in found


def test_only_questions_about_these_objects_count(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated(first=5)
    asked = questions(annotated)
    elsewhere = Comparisons(np.tile([0, 5, 6], (50, 1)), np.tile([5.0, 0.0], (50, 1)))
    both = Comparisons(np.concatenate([elsewhere.rows, asked.rows]), np.concatenate([elsewhere.votes, asked.votes]))
    space = make_space([annotated], 1, 1)
    alone = reference_comparisons.evaluate([space], annotated, [], asked, 1, 100, 0)
    assert reference_comparisons.evaluate([space], annotated, [], both, 1, 100, 0) == alone
    assert reference_comparisons.evaluate([space], annotated, [], elsewhere, 1, 100, 0) == []


def test_undecided_questions_are_no_majority(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated()
    asked = questions(annotated, 60)
    votes = asked.votes.copy()
    votes[:25] = 2
    found = by_name(
        reference_comparisons.evaluate(
            [make_space([annotated], 1, 0, kind="dot")], annotated, [], Comparisons(asked.rows, votes), 1, 100, 0
        )
    )
    assert found["base", "comparison_majority"].n == 35
    assert found["base", "comparison_votes"].n == 60
    assert found["human", "comparison_votes"].value == pytest.approx((25 * 0.5 + 35 * 0.75) / 60)


def test_a_new_object_among_known_ones_is_a_score_of_its_own(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    test = make_annotated(objects=8, first=30)
    train = make_annotated(objects=16, first=0)
    everything = joined([test, train])
    asked = questions(everything, 2000)
    space = make_space([train, test], 1, 0, kind="dot")
    found = by_name(reference_comparisons.evaluate([space], test, [train], asked, 1, 100, 0))
    of_test = np.isin(asked.rows, test.objects)
    assert found["base", "comparison_votes"].n == of_test.all(axis=1).sum()
    assert found["base", "comparison_votes_known"].n == of_test[:, 0].sum()
    # People's own space is right about all of them: rows and objects were not mixed up.
    assert found["base", "comparison_votes_known"].value == pytest.approx(0.75)
    assert found["base", "comparison_votes"].value == pytest.approx(0.75)


def test_metrics_have_titles() -> None:
    for metric in (reference_comparisons.VOTES, reference_comparisons.MAJORITY):
        assert {metric, metric + reference_comparisons.KNOWN} <= set(core_scores.METRIC_TITLES)
