"""The mean of a text's tokens: one vector of a text, of the tokens' own dimension."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Mean:
    """A first stage of search with one vector per text: the mean direction of its tokens.

    It is compared with the sum of a query's tokens: that is MaxSim of texts whose tokens all are their mean. Token
    embeddings of one text are alike, since each has seen the others.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.similarity import Mean
    >>> Mean().documents([np.array([[3.0, 0.0], [0.0, 4.0]])])[0].astype(float).round(3).tolist()
    [[0.6, 0.8]]
    >>> Mean().queries([np.eye(2)])[0].tolist()
    [[1.0, 1.0]]
    """

    def dimension(self, dim: int) -> int:
        """Numbers of a vector: those of a token."""
        return dim

    def documents(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Each text's vector, (1, dim) float32; (0, dim) for a text without tokens."""
        return [_direction(_sum(text)) for text in texts]

    def queries(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The sum of each query's tokens, (1, dim) float32; (0, dim) for a query without tokens."""
        return [_sum(text).astype(np.float32) for text in texts]


def _sum(text: np.ndarray) -> np.ndarray:
    total: np.ndarray = np.asarray(text).sum(axis=0, dtype=np.float64, keepdims=True)
    return total[: len(text)]


def _direction(total: np.ndarray) -> np.ndarray:
    length = float(np.sqrt((total * total).sum()))
    return np.asarray(total / length if length > 0 else total, dtype=np.float32)
