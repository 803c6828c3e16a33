"""A backbone with a triplet head: students, and network teachers. Stored as safetensors and JSON."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from alignet_ray.artifacts.student_files import (
    BACKBONE_FILE,
    HEAD_FILE,
    MODEL_FILE,
    HeadShape,
    KernelHeadShape,
    LinearHeadShape,
    Provenance,
    StudentDescription,
)
from alignet_ray.core.triplets import choice_probabilities, pair_similarities
from alignet_ray.errors import UserError
from alignet_ray.models.backbone import Backbone, Preprocess, load_backbone
from alignet_ray.models.kernel_head import KernelHead
from alignet_ray.models.model_spec import ModelKind, ModelSpec


class Output(NamedTuple):
    """A network's outputs for a batch of images.

    Attributes:
        embedding: (b, d) features before the classifier (`pre_logits`).
        triplet_logits: (b, k) outputs of the triplet head; None without a head.
    """

    embedding: Tensor
    triplet_logits: Tensor | None


class EmbeddingNetwork(nn.Module):
    """A backbone with a triplet head: a linear layer on `pre_logits`, a network teacher's `KernelHead`, or none.

    Attributes:
        backbone: images -> embedding.
        head: embedding -> triplet logits, or None.
        tau: temperature: dot products of triplet logits divided by it are choice logits.
    """

    def __init__(self, backbone: Backbone, head: nn.Linear | KernelHead | None, tau: float = 1.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.tau = tau

    @property
    def preprocess(self) -> Preprocess:
        """PIL image -> normalised float tensor (3, s, s)."""
        return self.backbone.preprocess

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> Output:
        """Embedding and triplet logits of preprocessed images."""
        embedding = self.backbone(images)
        if self.head is None:
            return Output(embedding, None)
        return Output(embedding, self.head(embedding))

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "b 3 s s"], batch: int = 64) -> Float[Tensor, "b d"]:
        """Embeddings of any number of preprocessed images, `batch` at a time."""
        return torch.cat([self.backbone(part) for part in torch.split(images, batch)])

    @torch.no_grad()
    def odd_one_out(
        self, a: Float[Tensor, "b 3 s s"], b: Float[Tensor, "b 3 s s"], c: Float[Tensor, "b 3 s s"]
    ) -> Float[Tensor, "b 3"]:
        """Probability that a, b or c is the odd one out of each triplet of images.

        From the head's dot products divided by `tau`, or the cosine of the embeddings where there is no head.
        """
        vectors = []
        for images in (a, b, c):
            embedding, triplet_logits = self(images)
            # Raw features have no scale that means a probability; their cosines at least are bounded.
            if triplet_logits is None:
                vectors.append(nn.functional.normalize(embedding, dim=-1))
            else:
                vectors.append(triplet_logits)

        similarities = pair_similarities(torch.stack(vectors, dim=1))
        # Choosing the pair (0, 1) makes 2 the odd one, and so on: the order of the pairs is reversed.
        return choice_probabilities(similarities / self.tau).flip(-1)


def make_network(name: str, size: int | None, head: int | None, seed: int, squash: bool = False) -> EmbeddingNetwork:
    """A network before training: pretrained backbone, fresh head (LeCun normal, zero bias), the same for the same seed.

    Args:
        name: of the backbone, see `model_spec`; a student's folder, to start from it, brings its own head and tau if
            that head is `head` wide.
        size: side of the square input in pixels. Default: the model's own.
        head: width of the triplet head. Default: no head.
        seed: seed of the head's weights.
        squash: as for `load_backbone`.

    Raises:
        UserError: as `load_backbone`.
    """
    # Loaded networks are frozen; this one is about to be trained.
    backbone = load_backbone(name, size, seed, squash=squash).requires_grad_(True)
    if not head:
        return EmbeddingNetwork(backbone, None)

    # A student to start from has learned head and temperature together, so they are taken over together.
    spec = ModelSpec.parse(name)
    if spec.kind is ModelKind.STUDENT:
        earlier = load_network(spec.path)
        if isinstance(earlier.head, nn.Linear) and earlier.head.out_features == head:
            return EmbeddingNetwork(backbone, earlier.head.requires_grad_(True), earlier.tau)

    # A generator of its own: the head must not depend on what was drawn from torch's global one before.
    # LeCun's variance, 1 / width, keeps the logits' variance that of the features (Efficient BackProp, 1998).
    layer = nn.Linear(backbone.width, head)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(head, backbone.width, generator=generator) / backbone.width**0.5)
        layer.bias.zero_()
    return EmbeddingNetwork(backbone, layer)


def save_network(folder: Path, network: EmbeddingNetwork, provenance: Provenance) -> None:
    """Write a network's folder: weights that timm loads strictly with `num_classes=0`, the head, and model.json.

    Args:
        folder: an existing local folder.
        network: what to save.
        provenance: where it comes from.
    """
    # Head and backbone are two files, so that timm loads the backbone without knowing of the head.
    _save_weights(network.backbone.net, folder / BACKBONE_FILE)
    if network.head is not None:
        _save_weights(network.head, folder / HEAD_FILE)

    # model.json makes a folder a student's, so it comes after the weights.
    description = describe(network, provenance).to_json()
    (folder / MODEL_FILE).write_text(json.dumps(description, indent=1), encoding="utf-8")


def _save_weights(module: nn.Module, file: Path) -> None:
    from safetensors.torch import save_file

    from alignet_ray.data.files import writing_tensors

    tensors = {}
    for name, value in module.state_dict().items():
        # safetensors writes memory as it lies, and refuses tensors whose rows do not lie one after the other.
        tensors[name] = value.detach().cpu().contiguous()
    with writing_tensors(file):
        save_file(tensors, file)


def describe(network: EmbeddingNetwork, provenance: Provenance) -> StudentDescription:
    """Content of model.json in a network's folder."""
    return StudentDescription(
        **network.backbone.describe(),
        head=_head_shape(network.head),
        tau=network.tau,
        provenance=provenance,
    )


def _head_shape(head: nn.Linear | KernelHead | None) -> HeadShape | None:
    if head is None:
        return None
    if isinstance(head, nn.Linear):
        return LinearHeadShape(head.out_features, head.bias is not None)

    rank = None
    if head.metric is not None:
        rank = head.metric.shape[1]
    dimensions = head.values.shape[1]
    return KernelHeadShape(dimensions, len(head.keys), rank, head.has_own_direction, head.out_features)


def load_network(folder: str | Path) -> EmbeddingNetwork:
    """Load a network's folder, in evaluation mode; executes nothing from it.

    Raises:
        UserError: a missing or damaged file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    description = StudentDescription.read(folder)
    backbone = load_backbone(str(folder))

    # A state dict needs a module of its shape to go into, and model.json holds the shape.
    head = _empty_head(backbone.width, description.head)
    if head is not None:
        # safetensors hold tensors alone, so loading a stranger's folder cannot run code as a pickle could.
        try:
            weights = load_file(folder / HEAD_FILE)
            if isinstance(head, KernelHead):
                weights.setdefault("own_weight", torch.zeros(()))  # heads of before had dimensions alone
            head.load_state_dict(weights)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder / HEAD_FILE} is not this network's head: {str(error).splitlines()[0]}") from error
    return EmbeddingNetwork(backbone, head, description.tau).eval().requires_grad_(False)


def _empty_head(width: int, shape: HeadShape | None) -> nn.Linear | KernelHead | None:
    """A head of this shape on `width` features, to load weights into."""
    if shape is None:
        return None
    if isinstance(shape, KernelHeadShape):
        return KernelHead.empty(width, shape.dimensions, shape.neighbours, shape.rank, shape.own_direction)
    return nn.Linear(width, shape.width, bias=shape.bias)
