"""Embeddings of pictures as a scikit-learn transformer, for pipelines, cross-validation and grid searches."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from alignet_ray.models.hub import load
from alignet_ray.models.image_model import ImageModel, Layer


class EmbeddingTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turns pictures into embeddings of a pretrained model; nothing is learned from them.

    >>> pipeline = make_pipeline(EmbeddingTransformer("models:/alignet-student@candidate"), LogisticRegression())
    >>> pipeline.fit(paths, labels)

    Args:
        model: a name as for `alignet_ray.load`, or a loaded model.
        layer: `head` or `pre_logits`. Default: the head where there is one.
        batch: images of a forward pass.
        root: folder that holds the registry of a `models:/` name, as for `load`.

    Attributes:
        model_: the loaded model, once fitted.
    """

    def __init__(
        self, model: "str | Path | ImageModel", layer: Layer | None = None, batch: int = 64, root: str = "runs"
    ) -> None:
        self.model = model
        self.layer = layer
        self.batch = batch
        self.root = root

    def fit(self, pictures: Any, labels: Any = None) -> "EmbeddingTransformer":
        """Load the model.

        Raises:
            UserError: as `load`.
        """
        if isinstance(self.model, ImageModel):
            self.model_ = self.model
        else:
            self.model_ = load(self.model, root=self.root)
        return self

    def transform(self, pictures: Any) -> Float[np.ndarray, "n d"]:
        """Embeddings of pictures, one row each.

        Args:
            pictures: a folder, or paths, PIL images, arrays or tensors in a list, an array or a pandas series.

        Raises:
            UserError: a picture cannot be read (the message names it), or the model has no such layer.
        """
        check_is_fitted(self)
        # scikit-learn cuts data sets into arrays of paths, which would otherwise count as the pixels of one picture.
        if isinstance(pictures, Iterable) and not isinstance(pictures, str):
            pictures = list(pictures)
        # Cross-validation calls this many times: a progress line for each would bury its results.
        return np.atleast_2d(self.model_.embed(pictures, self.layer, self.batch, progress=False))

    def get_feature_names_out(self, names: Any = None) -> np.ndarray:
        """Names of the columns, `embedding0` and on, for `set_output` and data frames."""
        check_is_fitted(self)
        network = self.model_.network
        layer = self.layer or self.model_.layer
        width = network.backbone.width
        if layer == "head" and network.head is not None:
            width = network.head.out_features
        return np.array([f"embedding{column}" for column in range(width)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        """Paths and pictures are no numbers, and `fit` need not be called before cloning copies the settings."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags
