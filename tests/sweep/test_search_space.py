"""Search spaces are data: what is read, what is refused, and that point n is the same however many are wanted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignet_ray.errors import UserError
from alignet_ray.sweep.search_space import Domain, grid_size, parse, sample_points


def test_every_form_is_read() -> None:
    space = parse(
        [
            "align.identity_penalty=loguniform(1e-5, 1e-2)",
            "align.rank = choice(20,50,100)",
            "distill.decay-to-init=uniform(0,2)",
            "distill.batching=grid(in_batch,'triplets')",
            "distill.normalize=choice(true,False)",
            "distill.grad_clip=choice(none,1.5)",
            "distill.steps=lograndint(10,1000)",
        ]
    )
    assert space["align.identity_penalty"] == Domain("loguniform", (1e-5, 1e-2))
    assert space["align.rank"] == Domain("choice", (20, 50, 100))
    assert space["distill.decay_to_init"].values == (0.0, 2.0)
    assert space["distill.batching"].values == ("in_batch", "triplets")
    assert space["distill.normalize"].values == (True, False)
    assert space["distill.grad_clip"].values == (None, 1.5)
    assert grid_size(space) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("align.identity_penalty", "is not FIELD=KIND"),
        ("align.identity_penalty=__import__('os').system('true')", "is not FIELD=KIND"),
        ("align.identity_penalty=eval(1,2)", "there are uniform"),
        ("align.identity_penalty=uniform(2,1)", "the lower one first"),
        ("align.identity_penalty=uniform(1,nan)", "two numbers"),
        ("align.identity_penalty=uniform(true,2)", "two numbers"),
        ("align.identity_penalty=loguniform(0,1)", "above 0"),
        ("align.rank=randint(1.5,3)", "whole numbers"),
        ("align.rank=choice(1,1)", "different values"),
        ("align.rank=choice()", "different values"),
        ("align.rank=randint(1,99999999999999999999999)", r"up to 2\^53"),
        ("align.rank=choice(1,2) align.lr=choice(1,2)", "two fields in one text"),
        ("align.rank=choice(1,2);align.lr=choice(1,2)", "two fields in one text"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        parse([text])
    assert "\n" not in str(error.value)


def test_a_field_has_one_domain() -> None:
    with pytest.raises(UserError, match="twice"):
        parse(["align.decay-x=choice(1,2)", "align.decay_x=choice(1,2)"])


@given(
    kind=st.sampled_from(["uniform", "loguniform", "randint", "lograndint"]),
    low=st.integers(1, 50),
    width=st.integers(1, 1000),
    seed=st.integers(0, 2**32 - 1),
)
def test_draws_stay_inside(kind: str, low: int, width: int, seed: int) -> None:
    domain = parse([f"a.b={kind}({low},{low + width})"])["a.b"]
    value = domain.draw(np.random.default_rng(seed))
    assert domain.holds(value)
    assert isinstance(value, int) == kind.endswith("randint")


def test_a_logarithmic_range_gives_each_decade_its_share() -> None:
    rng, domain = np.random.default_rng(0), Domain("loguniform", (1e-4, 1.0))
    decades = np.floor(np.log10([domain.draw(rng) for _ in range(4000)]))
    assert np.all(np.abs(np.unique(decades, return_counts=True)[1] / 4000 - 0.25) < 0.03)


def test_whole_numbers_reach_both_bounds() -> None:
    for kind in ("randint", "lograndint"):
        rng = np.random.default_rng(0)
        assert {Domain(kind, (1, 4)).draw(rng) for _ in range(200)} == {1, 2, 3, 4}


def test_more_points_continue_fewer() -> None:
    space = parse(["a.x=loguniform(1e-3,1)", "a.y=choice(1,2,3)"])
    first = {"a.x": 5.0, "a.y": 2}
    few, many = sample_points(space, 4, 7, first), sample_points(space, 9, 7, first)
    assert many[:4] == few
    assert many[0] == first
    assert len({str(p) for p in many}) == 9
    assert sample_points(space, 4, 8, first)[1:] != few[1:]


def test_a_grid_is_gone_through_once() -> None:
    space = parse(["a.x=grid(1,2,3)", "a.y=grid(p,q)"])
    found = sample_points(space, 50, 0, {"a.x": 1, "a.y": "p"})
    assert len(found) == 6
    assert {(p["a.x"], p["a.y"]) for p in found} == {(x, y) for x in (1, 2, 3) for y in "pq"}
