"""What a training process tells a person besides figures is told once."""

from support.training import make_recipe

from alignet_ray.models.embedding_network import make_network
from alignet_ray.training.circumstances import NOTICE, ORDINARY, take_notices
from alignet_ray.training.loop import Training


def test_notices_are_told_once_and_together() -> None:
    training = Training(make_network("random:test_vit", 32, 4, 0), make_recipe(steps=1, lr=1e-3))
    assert take_notices(training) == {}
    training.notices += ["memory is small", "no compiler"]
    assert take_notices(training) == {NOTICE: "memory is small; no compiler"}
    assert take_notices(training) == {}


def test_ordinarily_nobody_leaves_and_nothing_is_smaller() -> None:
    assert not ORDINARY.is_leaving()
    assert ORDINARY.micro_batch is None
