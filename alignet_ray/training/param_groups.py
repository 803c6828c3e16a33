"""Which weights of a student train, and how fast: by layer groups, as timm groups a network's layers."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import nn

from alignet_ray.models.student import Student


class Group(NamedTuple):
    """Parameters that share a learning rate.

    Attributes:
        scale: their share of the learning rate.
        members: their positions in the list of trained parameters.
    """

    scale: float
    members: list[int]


def layer_numbers(student: Student) -> dict[str, int]:
    """Parameter name of the backbone's network -> number of its layer group, the input's is 0."""
    from timm.models import group_parameters

    net = student.backbone.net
    return dict(group_parameters(net, net.group_matcher(coarse=True), reverse=True))  # type: ignore[operator]


def choose_trainable(student: Student, trainable: Literal["all", "head"] | int) -> None:
    """Freeze all but what trains: the head, and the last layer groups of the backbone."""
    if trainable == "all":
        return
    net = student.backbone.net
    net.requires_grad_(False)
    if trainable == "head":
        return
    layers = layer_numbers(student)
    last = sorted(set(layers.values()))[-int(trainable) :]
    for name, p in net.named_parameters():
        p.requires_grad_(layers[name] in last)


def layer_groups(student: Student, parameters: Sequence[nn.Parameter], decay: float) -> list[Group]:
    """Parameters by learning rate: 1 for the head, `decay` times that of the group behind it for every layer group.

    Layer-wise rate decay of Clark et al., "ELECTRA" (ICLR 2020), and of fine-tuned ViTs since BEiT.
    """
    if decay == 1:
        return [Group(1.0, list(range(len(parameters))))]
    layers = layer_numbers(student)
    ranks = {number: place for place, number in enumerate(sorted(set(layers.values()), reverse=True), start=1)}
    own = {id(p): ranks[layers[name]] for name, p in student.backbone.net.named_parameters()}
    depth = [own.get(id(p), 0) for p in parameters]
    return [Group(decay**d, [i for i, other in enumerate(depth) if other == d]) for d in sorted(set(depth))]
