"""Planted judgements are recovered exactly: two sets of each kind, whose answers follow from a known space."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from alignet_ray.core import similarity
from alignet_ray.core.comparisons import Comparisons, no_comparisons
from alignet_ray.core.scores import DATASETS, Score
from alignet_ray.core.triplet_rows import odd_last
from alignet_ray.evals import external, judgement_sets, ood
from alignet_ray.evals.spaces import EmbeddingSpace
from alignet_ray.human.benchmarks import ImageResponses
from alignet_ray.human.set_judgements import Judgements, Matrices

IDS = np.arange(20) * 3
RNG = np.random.default_rng(0)
PEOPLE = EmbeddingSpace("student", "pre_logits", IDS, RNG.normal(size=(20, 6)).astype(np.float32))
OTHER = EmbeddingSpace("base", "pre_logits", IDS, RNG.normal(size=(20, 6)).astype(np.float32))
SPACES = [OTHER, PEOPLE]


def scored(judgements: Judgements, name: str = "mine") -> dict[tuple[str, str, str], Score]:
    found = judgement_sets.evaluate(name, judgements, SPACES, 0)
    assert {score.dataset for score in found} == {name}
    assert {score.split for score in found} == {""}
    return {(score.model, score.metric, score.level): score for score in found}


def answers(count: int, wrong: int, seed: int) -> ImageResponses:
    """Answers by the space of people, of which the last `wrong` are of another opinion."""
    rng = np.random.default_rng(seed)
    triplets = IDS[np.array([rng.choice(20, 3, replace=False) for _ in range(count)])]
    pair = external.triplet_similarities(PEOPLE, triplets).argmax(axis=1)
    triplets = odd_last(triplets, pair)
    # Another opinion: one of the most similar pair is the odd one.
    triplets[count - wrong :] = triplets[count - wrong :][:, [2, 1, 0]]
    levels = ["coarse" if row < count // 2 else "fine" for row in range(count)]
    people = [f"p{row % 4}" for row in range(count)]
    return ImageResponses(triplets, levels, np.full(count, np.nan), people)


@pytest.mark.parametrize(("count", "wrong"), [(40, 0), (60, 9)])
def test_planted_answers(count: int, wrong: int) -> None:
    found = scored(answers(count, wrong, seed=count))
    assert found["student", "odd_one_out", ""].value == (count - wrong) / count
    assert found["student", "odd_one_out", "coarse"].value == 1
    assert found["student", "odd_one_out", "fine"].value == pytest.approx(1 - wrong / (count // 2))
    assert found["student", "odd_one_out_participants", ""].value == pytest.approx((count - wrong) / count)
    assert found["student", "odd_one_out_participants", ""].n == 4
    assert found["base", "odd_one_out", ""].value < 0.6


def test_the_ceiling_is_about_other_peoples_answers() -> None:
    """Two people of one opinion, and one of another who answered twice: that is one person, not a majority of two."""
    triplets = np.array([[0, 3, 6], [0, 3, 6], [3, 6, 0], [3, 6, 0]])
    one = ImageResponses(triplets, [""] * 4, np.full(4, np.nan), ["a", "b", "c", "c"])
    # a and b: one of the others agrees and one does not, a tie; c: nobody agrees.
    assert scored(one)["human", "odd_one_out", ""].value == pytest.approx(1 / 3)
    assert scored(one)["human", "odd_one_out", ""].n == 3
    nobody = one._replace(participants=[""] * 4)
    assert scored(nobody)["human", "odd_one_out", ""].n == 4
    assert scored(nobody)["human", "odd_one_out", ""].value == 0
    assert ("student", "odd_one_out_participants", "") not in scored(nobody)


@pytest.mark.parametrize("votes", [1.0, 0.75])
def test_planted_choices(votes: float) -> None:
    rng = np.random.default_rng(int(100 * votes))
    shown = IDS[np.array([rng.choice(20, 3, replace=False) for _ in range(30)])]
    similarities = external.triplet_similarities(PEOPLE, shown)
    votes_left = np.where(similarities[:, 0] > similarities[:, 1], votes, 1 - votes)
    found = scored(Comparisons(shown, np.stack([votes_left, 1 - votes_left], axis=1)))
    assert found["student", "two_afc", ""].value == pytest.approx(votes)
    assert found["human", "two_afc", ""].value == pytest.approx(votes)
    assert found["base", "two_afc", ""].value < found["student", "two_afc", ""].value


def test_a_planted_matrix() -> None:
    order = np.random.default_rng(1).permutation(20)
    matrix = similarity.similarity_matrix(PEOPLE.embeddings[order]).astype(np.float64)
    found = scored(Matrices(IDS[order], matrix[None]))
    assert found["student", "rsa_spearman", ""].value == pytest.approx(1)
    assert found["student", "rsa_spearman", ""].n == 190
    assert abs(found["base", "rsa_spearman", ""].value) < 0.3
    assert not any(model == "human" for model, _, _ in found), "one person has no ceiling"


def test_planted_matrices_of_several_people_with_gaps() -> None:
    truth = similarity.similarity_matrix(PEOPLE.embeddings).astype(np.float64)
    noise = np.random.default_rng(2).normal(0, 0.2, (5, 20, 20))
    people = truth + noise + noise.transpose(0, 2, 1)
    people[3, 7] = people[3, :, 7] = np.nan
    found = scored(Matrices(IDS, people))
    upper = np.triu_indices(20, 1)
    each = []
    for person in people:
        rated = np.isfinite(person[upper])
        each.append(spearmanr(truth[upper][rated], person[upper][rated])[0])
    student = found["student", "rsa_spearman_participants", ""]
    assert student.value == pytest.approx(np.mean(each), abs=1e-5)
    assert student.n == 5
    ceiling = found["human", "rsa_spearman_participants", ""]
    assert ceiling.low < student.value < ceiling.high + 0.05


def test_a_participant_of_whom_too_little_is_left_does_not_count() -> None:
    truth = similarity.similarity_matrix(PEOPLE.embeddings[:9]).astype(np.float64)
    people = np.stack([truth, truth + 1, truth])
    people[2, :7] = np.nan
    people[2, :, :7] = np.nan
    found = scored(Matrices(IDS[:9], people))
    assert found["student", "rsa_spearman_participants", ""].n == 2
    assert found["student", "rsa_spearman_participants", ""].value == pytest.approx(1)


def test_nothing_left_is_nothing_scored() -> None:
    no_rows = np.empty((0, 3), np.int64)
    for empty in (
        ImageResponses(no_rows, [], np.empty(0), []),
        no_comparisons(),
        Matrices(IDS[:2], np.zeros((1, 2, 2))),
    ):
        assert judgement_sets.evaluate("mine", empty, SPACES, 0) == []


def test_a_sets_name_is_none_of_the_runs_own_data_sets() -> None:
    one_question = Comparisons(IDS[None, :3], np.array([[1.0, 0.0]]))
    own = {score.dataset for score in external.evaluate_choices(SPACES, one_question, 0)}
    one = answers(5, 0, 0)
    own |= {score.dataset for score in external.evaluate_responses(SPACES, one.triplets, one.levels, one.times, 0)}
    assert own | {ood.DATASET} <= set(DATASETS)
