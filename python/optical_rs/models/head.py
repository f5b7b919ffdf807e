"""The closed-form head: a projection of token vectors that is computed, not trained.

Only moments of the tokens are kept while texts are encoded: two sums and a matrix of the encoder's width, whatever
the number of texts.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from torch import Tensor

from ..errors import InputError
from ..progress import progress_bar

#: Texts that are encoded together.
BATCH = 64


class Moments:
    """Sums of vectors x, of their outer products, and of those of x and y: means and covariances in one pass.

    Sums are taken of differences to the first batch's mean, so that a mean far from zero costs no digits.

    Examples
    --------
    >>> import numpy as np
    >>> moments = Moments()
    >>> moments.add(np.array([[1.0, 2.0], [3.0, 2.0]]))
    >>> moments.add(np.array([[5.0, 5.0]]))
    >>> moments.mean, float(moments.covariance[0, 0])
    (array([3., 3.]), 4.0)
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, x: np.ndarray, y: np.ndarray | None = None) -> None:
        """Add rows x (n, d), and rows y (n, e) that belong to them."""
        x = np.asarray(x, dtype=np.float64)
        y = np.zeros((len(x), 0)) if y is None else np.asarray(y, dtype=np.float64)
        if not self.count:
            self._x, self._y = (v.mean(axis=0) if len(v) else np.zeros(v.shape[1]) for v in (x, y))
            self._sum_x, self._sum_y = np.zeros(x.shape[1]), np.zeros(y.shape[1])
            self._xx, self._xy = np.zeros((x.shape[1],) * 2), np.zeros((x.shape[1], y.shape[1]))
        x, y = x - self._x, y - self._y
        self.count += len(x)
        self._sum_x += x.sum(axis=0)
        self._sum_y += y.sum(axis=0)
        self._xx += x.T @ x
        self._xy += x.T @ y

    @property
    def mean(self) -> np.ndarray:
        """Of x."""
        return self._x + self._sum_x / self.count

    @property
    def mean_y(self) -> np.ndarray:
        """Of y."""
        return self._y + self._sum_y / self.count

    @property
    def scatter(self) -> np.ndarray:
        """``Σ (x − mean)(x − mean)ᵀ``."""
        return self._xx - np.outer(self._sum_x, self._sum_x) / self.count

    @property
    def cross(self) -> np.ndarray:
        """``Σ (x − mean)(y − mean)ᵀ``."""
        return self._xy - np.outer(self._sum_x, self._sum_y) / self.count

    @property
    def covariance(self) -> np.ndarray:
        """Of x, unbiased."""
        return self.scatter / (self.count - 1)


def whitening(model: MultiVectorEncoder, dim: int, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Weight (dim, d) and bias (dim,) that centre the tokens of texts, keep ``dim`` principal directions and
    half whiten them."""
    moments = Moments()
    for _, tokens in hidden_tokens(model, texts):
        moments.add(np.concatenate(tokens))
    if moments.count < 4 * dim:
        raise InputError(
            f"fit_on: expected at least {4 * dim} tokens to fit {dim} directions, got {moments.count}; give more text "
            "for the head (head_text), or a smaller dim"
        )
    values, vectors = np.linalg.eigh(moments.covariance)
    values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
    # An eigenvector's sign is arbitrary; fixing it makes the head the same on every machine.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(dim)])
    weight = vectors.T / np.maximum(values, 1e-12)[:, None] ** 0.25
    return weight.astype(np.float32), (-weight @ moments.mean).astype(np.float32)


def regression(
    model: MultiVectorEncoder, match: MultiVectorEncoder, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of the ridge regression from this encoder's mean tokens to another model's."""
    if len(texts) < 64:
        raise InputError(f"fit_on: expected at least 64 texts to match a teacher, got {len(texts)}")
    moments = Moments()
    for places, tokens in hidden_tokens(model, texts):
        found = match.encode_query(
            [texts[i] for i in places], convert_to_numpy=True, show_progress_bar=False, batch_size=BATCH
        )
        moments.add(np.stack([t.mean(axis=0) for t in tokens]), np.stack([t.mean(axis=0) for t in found]))
    gram = moments.scatter
    ridge = 1e-2 * np.trace(gram) / len(gram)
    weight = np.linalg.solve(gram + ridge * np.eye(len(gram)), moments.cross).T
    return weight.astype(np.float32), (moments.mean_y - weight @ moments.mean).astype(np.float32)


def hidden_tokens(
    model: MultiVectorEncoder, texts: Sequence[str]
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Places of a batch of texts, and the token vectors of each before the head; both roles' prompts in turn."""
    transformer: Any = model[0]
    order = np.argsort([len(t) for t in texts], kind="stable")
    transformer.eval()
    with progress_bar("fitting the head", "sentence") as progress:
        for number, start in enumerate(range(0, len(texts), BATCH)):
            batch = order[start : start + BATCH]
            # The head serves queries and documents alike, so it is fitted on both.
            task = ("query", "document")[number % 2]
            features = model.preprocess([texts[i] for i in batch], prompt=model.prompts.get(task), task=task)
            features = {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in features.items()}
            with torch.inference_mode():
                features = transformer(features)
            masks = features["attention_mask"].bool()
            vectors = features["token_embeddings"].float()
            yield batch, [v[mask].cpu().numpy() for v, mask in zip(vectors, masks, strict=True)]
            progress(min(start + BATCH, len(texts)), len(texts))
