"""Token pooling: fewer tokens per text, each the mean direction of similar ones."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError, require


@dataclasses.dataclass(frozen=True)
class Pooling:
    """A first stage of search with about one token in ``factor``.

    A text's tokens are grouped by Ward's clustering, as [1]_ does it. Nothing is random: the same tokens give the
    same groups.

    Parameters
    ----------
    factor : int
        How many tokens become one on average.

    Raises
    ------
    InputError
        A factor below 2.

    References
    ----------
    .. [1] B. Clavié, A. Chaffin, G. Adams. Reducing the footprint of multi-vector retrieval with minimal
       performance impact via token pooling. arXiv 2409.14683, 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.similarity import Pooling
    >>> Pooling(2).documents([np.array([[1, 0], [1, 0], [0, 1], [0, 1.0]])])[0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    factor: int = 4

    def __post_init__(self) -> None:
        if type(self.factor) is not int or self.factor < 2:
            raise InputError(f"factor: expected at least 2, got {self.factor!r}")

    def dimension(self, dim: int) -> int:
        """Numbers of a token, for texts of dimension ``dim``."""
        return dim

    def documents(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Each text's groups, (groups, dim) float32."""
        hierarchy = require("scipy.cluster.hierarchy", "compare")
        return [self._grouped(text, hierarchy) for text in texts]

    def queries(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Queries are compared with groups as they are."""
        return list(texts)

    def _grouped(self, tokens: np.ndarray, hierarchy: Any) -> np.ndarray:
        wanted = -(-len(tokens) // self.factor)
        if len(tokens) <= 1 or wanted == len(tokens):
            return tokens
        tree = hierarchy.linkage(tokens.astype(np.float64), method="ward")
        group = hierarchy.fcluster(tree, wanted, criterion="maxclust") - 1
        sums = np.zeros((int(group.max()) + 1, tokens.shape[1]), dtype=np.float64)
        np.add.at(sums, group, tokens)
        sizes = np.linalg.norm(sums, axis=1, keepdims=True)
        return (sums / np.where(sizes > 0, sizes, 1)).astype(np.float32)
