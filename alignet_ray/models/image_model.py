"""A loaded model for use from Python: pictures in; embeddings, distances, odd ones out and neighbours out."""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from alignet_ray.core.similarity import unit_rows
from alignet_ray.core.triplets import choice_probabilities, pair_similarities
from alignet_ray.errors import UserError, first_line
from alignet_ray.images.ahead import prefetch
from alignet_ray.images.pictures import (
    TENSOR_HELP,
    NamedPicture,
    Picture,
    Pictures,
    is_single,
    list_pictures,
    open_picture,
)
from alignet_ray.models.embedding_network import EmbeddingNetwork, Output

if TYPE_CHECKING:
    import pandas as pd

    from alignet_ray.screen import Progress

Layer = Literal["head", "pre_logits"]
"""Which output of a model describes an image: its triplet head's, or the features before the classifier."""

BATCH = 64
"""Images of a forward pass."""

PROGRESS_FROM = 256
"""From so many pictures on, embedding shows its progress."""


class Neighbour(NamedTuple):
    """An image near to another one: its name (or number, as text) and the cosine similarity of the two."""

    name: str
    similarity: float


@dataclass(frozen=True)
class ImageIndex:
    """Embeddings of a set of pictures with their names.

    Attributes:
        names: a file's path, relative to its folder if one was given; the number of a picture that has no name.
        embeddings: (n, d) float32, one row a name.
        unreadable: (name, reason) of pictures that were left out.
    """

    names: list[str]
    embeddings: Float[np.ndarray, "n d"]
    unreadable: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"ImageIndex({len(self):,} pictures, {self.embeddings.shape[1]} dimensions)"

    def nearest(self, embedding: Float[np.ndarray, " d"], k: int = 5) -> list[Neighbour]:
        """The `k` pictures whose embeddings have the largest cosine with this one, the nearest first.

        Raises:
            UserError: `k` is no whole number from 1 on, or the embedding is not one row of the index's width, or not
                finite.
        """
        _require_count("k", k, "neighbours")
        width = self.embeddings.shape[1]
        if np.shape(embedding) != (width,):
            raise UserError(f"the query has shape {np.shape(embedding)}: give one embedding of {width} numbers")
        # A list or a tensor of numbers is one row as well.
        query = np.asarray(embedding, dtype=np.float32)
        if not np.isfinite(query).all():
            raise UserError("the query has numbers that are not finite: nothing is near to it")

        cosines = unit_rows(self.embeddings) @ unit_rows(query[None])[0]
        # A stable sort keeps equal pictures in the order of the index, so answers repeat.
        order = np.argsort(-cosines, kind="stable")[:k]
        return [Neighbour(self.names[row], float(cosines[row])) for row in order]

    def to_frame(self) -> "pd.DataFrame":
        """A data frame: one row a picture, its name as index and its dimensions as columns."""
        import pandas as pd

        return pd.DataFrame(self.embeddings, index=pd.Index(self.names, name="picture"))

    def save(self, file: str | Path) -> None:
        """Write a .npz file with the arrays `names` and `embeddings`; the suffix is added to a name without it."""
        # As an array of fixed-width text: an array of Python strings would be pickled.
        np.savez(_with_suffix(file), names=np.array(self.names, dtype=np.str_), embeddings=self.embeddings)

    @classmethod
    def read(cls, file: str | Path) -> "ImageIndex":
        """Read what `save` wrote.

        Raises:
            UserError: it is not such a file.
        """
        try:
            with np.load(_with_suffix(file), allow_pickle=False) as arrays:
                names: list[str] = arrays["names"].tolist()
                embeddings = arrays["embeddings"]
        except Exception as error:  # NumPy raises many kinds of errors on damaged archives
            raise UserError(f"{file} is not a saved index: {first_line(error)}") from error

        # Names that belong to other rows would give wrong neighbours.
        if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or len(names) != len(embeddings):
            found = f"{len(names)} names and embeddings of shape {embeddings.shape} and type {embeddings.dtype}"
            raise UserError(f"{file} is not a saved index: it holds {found}")
        return cls(names, embeddings.astype(np.float32), [])


class ImageModel:
    """A model with its preprocessing.

    It unpacks as `network, preprocess` for those who want the parts. Everything else takes pictures as they are: paths,
    PIL images of any mode, arrays, tensors of bytes, lists of these, and folders.

    Tensors of floats count as preprocessed: they go to the network as they are, so they must have its size.

    Attributes:
        network: preprocessed images -> `Output(embedding, triplet_logits)`.
        name: the name it was loaded by.
        device: where it runs.
    """

    def __init__(self, network: EmbeddingNetwork, name: str, device: str) -> None:
        self.network = network.to(device).eval()
        self.name = name
        self.device = device

    def __iter__(self) -> Iterator[Any]:
        """The parts, so that `network, preprocess = model` works."""
        yield self.network
        yield self.preprocess

    def __call__(self, images: Float[Tensor, "b 3 s s"]) -> Output:
        """The network's outputs for preprocessed images."""
        output: Output = self.network(images)
        return output

    def __repr__(self) -> str:
        head = "no head"
        if self.network.head is not None:
            head = f"head of {self.network.head.out_features}"
        backbone = self.network.backbone
        return (
            f"ImageModel({self.name}: {backbone.architecture} at {backbone.size} px, {backbone.width} features, {head})"
        )

    def push_to_hub(self, repository: str, private: bool = True) -> str:
        """Upload the model to the Hugging Face hub, with a model card; the token comes from HF_TOKEN.

        Args:
            repository: OWNER/NAME; made if it is not there.
            private: whether a new repository is for its owner alone.

        Returns:
            The name to load it by, `hf://OWNER/NAME`.

        Raises:
            UserError: the model is a backbone without a head, or the hub refuses it.
        """
        from alignet_ray.models import model_hub

        with tempfile.TemporaryDirectory() as folder:
            model_hub.write_folder(self.name, Path(folder))
            return model_hub.upload(Path(folder), repository, private)

    @property
    def layer(self) -> Layer:
        """The layer that describes an image unless another one is named: the head where there is one."""
        if self.network.head is None:
            return "pre_logits"
        return "head"

    def preprocess(self, picture: Picture) -> Float[Tensor, "3 s s"]:
        """Any picture as the network takes it: resized, cropped, normalised.

        Raises:
            UserError: it cannot be read.
        """
        return self.network.preprocess(open_picture(picture))

    def embed(
        self, pictures: Pictures, layer: Layer | None = None, batch: int = BATCH, progress: bool | None = None
    ) -> Float[np.ndarray, "*n d"]:
        """Embeddings of pictures.

        Args:
            pictures: one picture, several, or a folder, whose images come in the order of their paths.
            layer: `head` (triplet logits) or `pre_logits`. Default: the head where there is one.
            batch: images of a forward pass.
            progress: show a progress line. Default: for many pictures.

        Returns:
            float32 (d,) for one picture, (n, d) for several.

        Raises:
            UserError: a picture cannot be read (the message names it), the model has no such layer, or `batch` is no
                whole number from 1 on.
        """
        embeddings = self.index(pictures, layer, batch, progress).embeddings
        if is_single(pictures):
            only_one: np.ndarray = embeddings[0]
            return only_one
        return embeddings

    def index(
        self,
        pictures: Pictures,
        layer: Layer | None = None,
        batch: int = BATCH,
        progress: bool | None = None,
        skip_unreadable: bool = False,
    ) -> ImageIndex:
        """Embeddings of pictures with their names, to search in with `nearest`.

        Args:
            pictures, layer, batch, progress: as for `embed`.
            skip_unreadable: leave out pictures that cannot be read, and list them in `unreadable`.

        Raises:
            UserError: as `embed`; or no picture is left.
        """
        layer = self._checked_layer(layer)
        _require_count("batch", batch, "images of a forward pass")
        sources = list_pictures(pictures)
        if progress is None:
            progress = len(sources) >= PROGRESS_FROM  # a few pictures are done before a bar could be read
        bar = None
        if progress:
            bar = _progress(len(sources))

        # Decoding takes longer than a small network's pass, so threads read ahead.
        jobs = [partial(self._prepare, source) for source in sources]
        with closing(prefetch(jobs, 2 * batch, os.cpu_count() or 1)) as prepared:
            index = self._embed_prepared(sources, prepared, layer, batch, skip_unreadable, bar)

        if bar:
            bar.screen.line(bar.text(final=True))
        return index

    def _embed_prepared(
        self,
        sources: list[NamedPicture],
        prepared: Iterator[Tensor | UserError],
        layer: Layer,
        batch: int,
        skip_unreadable: bool,
        bar: "Progress | None",
    ) -> ImageIndex:
        """As `index`, of pictures that are prepared one after the other."""
        names: list[str] = []
        rows: list[np.ndarray] = []
        unreadable: list[tuple[str, str]] = []
        waiting: list[Tensor] = []
        for position, (source, image) in enumerate(zip(sources, prepared, strict=True), start=1):
            if isinstance(image, UserError):
                if not skip_unreadable:
                    raise image
                unreadable.append((source.name, str(image)))
            else:
                names.append(source.name)
                waiting.append(image)

            # Unreadable pictures leave no gap in a batch, so that batches are full until the last one.
            is_last = position == len(sources)
            if waiting and (len(waiting) == batch or is_last):
                rows.append(self._forward(waiting, layer))
                waiting = []

            if bar:
                bar.add()

        if not names:
            raise UserError(f"none of {len(sources)} pictures can be read; the first: {unreadable[0][1]}")
        return ImageIndex(names, np.concatenate(rows), unreadable)

    def distance(self, a: Pictures, b: Pictures, layer: Layer | None = None) -> float | Float[np.ndarray, " n"]:
        """Distance of pictures: 1 less the cosine of their embeddings, from 0 (alike) to 2.

        Args:
            a, b: one picture each, or lists of equal length, compared pair by pair; one picture against a list is
                compared with each.
            layer: as for `embed`.

        Returns:
            A number for two pictures, (n,) for lists.
        """
        first, second = self._side_by_side(layer, a, b)
        distances: np.ndarray = 1 - (unit_rows(first) * unit_rows(second)).sum(-1)
        if is_single(a) and is_single(b):
            return float(distances[0])
        return distances

    def odd_one_out(self, a: Pictures, b: Pictures, c: Pictures) -> Float[np.ndarray, "*n 3"]:
        """Probability that a, b or c is the odd one out.

        From the head's dot products divided by its temperature; without a head, from the cosines of the features.

        Args:
            a, b, c: one picture each, or lists of equal length.

        Returns:
            (3,) for three pictures, (n, 3) for lists.
        """
        layer = self.layer
        sides = self._side_by_side(layer, a, b, c)
        # The head was trained on dot products; features were not, and their lengths mean nothing to a choice.
        if layer == "pre_logits":
            sides = [unit_rows(embeddings) for embeddings in sides]
        vectors = torch.from_numpy(np.stack(sides, axis=1))
        similarities = pair_similarities(vectors) / self.network.tau

        # Choosing the pair (0, 1) makes 2 the odd one, and so on: the order of the pairs is reversed.
        probabilities: np.ndarray = choice_probabilities(similarities).flip(-1).numpy()
        if is_single(a) and is_single(b) and is_single(c):
            only_one: np.ndarray = probabilities[0]
            return only_one
        return probabilities

    def nearest(
        self, query: Picture, among: Pictures | ImageIndex, k: int = 5, layer: Layer | None = None
    ) -> list[Neighbour]:
        """The `k` pictures most similar to one picture, by the cosine of their embeddings.

        Args:
            query: one picture.
            among: where to search: a folder, a list, or an index, which saves embedding them again.
            k: how many.
            layer: as for `embed`; an index must have been made from the same one.

        Raises:
            UserError: as `embed`; `k` is no whole number from 1 on; or the query is a list or a folder.
        """
        # Before anything is embedded, which may take long.
        _require_count("k", k, "neighbours")
        if not is_single(query):
            raise UserError("the query is one picture: ask for each picture of a list or a folder by itself")
        if not isinstance(among, ImageIndex):
            among = self.index(among, layer)
        return among.nearest(self.embed(query, layer), k)

    def _side_by_side(self, layer: Layer | None, *sides: Pictures) -> list[Float[np.ndarray, "n d"]]:
        """Embeddings of several arguments as arrays of equal length; a single picture is repeated."""
        embeddings = [np.atleast_2d(self.embed(side, layer)) for side in sides]
        lengths = [len(rows) for rows in embeddings]
        count = max(lengths)

        # A list of one picture is repeated as a single picture is; any other length has no partner for each row.
        if not set(lengths) <= {1, count}:
            listed = ", ".join(map(str, lengths))
            raise UserError(f"lists of {listed} pictures do not match")
        return [np.broadcast_to(rows, (count, rows.shape[1])) for rows in embeddings]

    def _checked_layer(self, layer: Layer | None) -> Layer:
        layer = layer or self.layer
        if layer not in get_args(Layer):
            raise UserError(f"there is no layer {layer!r}: use {' or '.join(map(repr, get_args(Layer)))}")
        if layer == "head" and self.network.head is None:
            raise UserError(f"{self.name} has no triplet head: use layer='pre_logits'")
        return layer

    def _prepare(self, source: NamedPicture) -> Tensor | UserError:
        """A picture as the network takes it, or why it cannot be read."""
        # The reason is returned, not raised: this runs in a thread, and the caller may want to leave the picture out.
        try:
            if isinstance(source.picture, Tensor) and source.picture.is_floating_point():
                return self._require_preprocessed(source.picture)
            return self.network.preprocess(source.open())
        except UserError as error:
            return error

    def _require_preprocessed(self, image: Tensor) -> Float[Tensor, "3 s s"]:
        """A float tensor, which is taken for what `preprocess` returned; raises a UserError if it cannot be that."""
        # Of another size, a network that takes any would give an embedding of the wrong picture without a word.
        size = self.network.backbone.size
        if tuple(image.shape) != (3, size, size):
            raise UserError(
                f"a tensor of floats of shape {tuple(image.shape)}, and floats count as preprocessed, here "
                f"(3, {size}, {size}): {TENSOR_HELP}"
            )
        if not bool(torch.isfinite(image).all()):
            raise UserError(f"a tensor of floats that are not all finite: {TENSOR_HELP}")
        return image.float()

    @torch.no_grad()
    def _forward(self, images: list[Tensor], layer: Layer) -> Float[np.ndarray, "b d"]:
        _use_one_thread_after_fork()
        output = self(torch.stack(images).to(self.device))
        chosen: Tensor | None = output.embedding
        if layer == "head":
            chosen = output.triplet_logits
        assert chosen is not None, "a missing head is refused before"
        vectors: np.ndarray = chosen.float().cpu().numpy()
        return vectors


def _with_suffix(file: str | Path) -> Path:
    """The file's name as NumPy writes it: it adds the suffix where it is missing, and does not when it reads."""
    path = Path(file).expanduser()
    if path.suffix == ".npz":
        return path
    return path.with_name(f"{path.name}.npz")


_is_forked = threading.Event()
os.register_at_fork(after_in_child=_is_forked.set)


def _use_one_thread_after_fork() -> None:
    """Compute with one thread in a process that was forked (as `multiprocessing` does on Linux).

    Torch's threads are not forked with the process, and waiting for them would never end.
    """
    if _is_forked.is_set():
        torch.set_num_threads(1)
        _is_forked.clear()


def _require_count(name: str, number: int, what: str) -> None:
    """Refuse a number of neighbours or images that is none: a slice would take it for something else."""
    is_whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not is_whole or number < 1:
        raise UserError(f"{name}={number!r}: give the number of {what}, a whole number from 1 on")


def _progress(total: int) -> "Progress":
    # Imported late: it needs rich, without which a model loads and embeds a few pictures.
    from alignet_ray.screen import Screen

    return Screen(sys.stderr).progress(total, "pictures")
