"""Which weights of a network train, and at which learning rate: by layer groups, as timm groups a network's layers."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import nn

from alignet_ray.models.embedding_network import EmbeddingNetwork


class LayerGroup(NamedTuple):
    """Parameters that share a learning rate.

    Attributes:
        scale: their learning rate relative to the base learning rate.
        members: their positions in the list of trained parameters.
    """

    scale: float
    members: list[int]


def layer_numbers(model: EmbeddingNetwork) -> dict[str, int]:
    """Number of the layer group of each parameter of the backbone's network, by name; the input's group is 0."""
    from timm.models import group_parameters

    network = model.backbone.net
    matcher = network.group_matcher(coarse=True)  # type: ignore[operator]
    return dict(group_parameters(network, matcher, reverse=True))


def choose_trainable(model: EmbeddingNetwork, trainable: Literal["all", "head"] | int) -> None:
    """Freeze all parameters except the head's and, for a number, those of that many last layer groups."""
    if trainable == "all":
        return

    network = model.backbone.net
    network.requires_grad_(False)
    if trainable == "head":
        return

    numbers = layer_numbers(model)
    last_groups = sorted(set(numbers.values()))[-int(trainable) :]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(numbers[name] in last_groups)


def layer_groups(model: EmbeddingNetwork, parameters: Sequence[nn.Parameter], decay: float) -> list[LayerGroup]:
    """Group parameters by learning rate: 1 for the head, times `decay` for each layer group further from it.

    Layer-wise learning-rate decay (Clark et al., "ELECTRA", ICLR 2020; for vision transformers Bao et al., "BEiT",
    ICLR 2022).
    """
    if decay == 1:
        return [LayerGroup(1.0, list(range(len(parameters))))]

    # Depth counts from the output: 0 is the head, 1 the last layer group of the backbone.
    numbers = layer_numbers(model)
    descending = sorted(set(numbers.values()), reverse=True)
    depth_of_number = {number: depth for depth, number in enumerate(descending, start=1)}
    depth_of_parameter = {
        id(parameter): depth_of_number[numbers[name]] for name, parameter in model.backbone.net.named_parameters()
    }

    members: dict[int, list[int]] = {}
    for position, parameter in enumerate(parameters):
        depth = depth_of_parameter.get(id(parameter), 0)
        members.setdefault(depth, []).append(position)
    return [LayerGroup(decay**depth, members[depth]) for depth in sorted(members)]
