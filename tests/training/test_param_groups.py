import pytest

from alignet_ray.models.embedding_network import make_network
from alignet_ray.training.param_groups import layer_groups


def test_every_trained_parameter_is_in_one_group_and_the_head_learns_fastest():
    student = make_network("random:test_vit", 32, 8, seed=0)
    parameters = list(student.parameters())
    groups = layer_groups(student, parameters, 0.5)
    assert sorted(i for group in groups for i in group.members) == list(range(len(parameters)))
    assert [group.scale for group in groups] == pytest.approx([0.5**depth for depth in range(len(groups))])
    head = {id(parameter) for parameter in student.head.parameters()}
    assert {id(parameters[i]) for i in groups[0].members} == head
    assert [group.scale for group in layer_groups(student, parameters, 1.0)] == [1.0]
