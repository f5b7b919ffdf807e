"""A coarse store: fewer tokens per text, for a first look at large collections."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InputError, require
from .store import TokenStore, making


def pool(
    store: TokenStore,
    path: str | os.PathLike[str],
    factor: int = 4,
    *,
    dtype: str = "int8",
    progress: Callable[[int, int], None] | None = None,
) -> TokenStore:
    """Write a store with about one token in ``factor``, each the mean direction of similar ones.

    A text's tokens are grouped by Ward's clustering, as [1]_ does it. Nothing is random: the same store
    gives the same groups. :func:`~optical_rs.similarity.search` takes the result as ``coarse``.

    Parameters
    ----------
    store : TokenStore
    path : path
        A new directory.
    factor : int
        How many tokens become one on average.
    dtype : {"float32", "float16", "bfloat16", "int8"}
        How the groups are kept.
    progress : callable, optional
        Called with the number of texts done and of all texts.

    Returns
    -------
    TokenStore
        With the ids of the texts that are not deleted.

    Raises
    ------
    InputError
        A factor below 2, or a directory that holds a store.

    References
    ----------
    .. [1] B. Clavié, A. Chaffin, G. Adams. Reducing the footprint of multi-vector retrieval with minimal
       performance impact via token pooling. arXiv 2409.14683, 2024.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from optical_rs.similarity import TokenStore, pool, search
    >>> folder = tempfile.mkdtemp()
    >>> store = TokenStore.create(f"{folder}/store", dim=2)
    >>> store.append([np.array([[1, 0], [1, 0], [0, 1], [0, 1.0]]), np.array([[-1, 0.0]])], ids=["a", "b"])
    >>> coarse = pool(store, f"{folder}/coarse", factor=2)
    >>> [len(coarse[i]) for i in range(2)], search([np.eye(2)], store, 1, coarse=coarse)
    ([2, 1], [[('a', 2.0)]])
    """
    if factor < 2:
        raise InputError(f"factor: expected at least 2, got {factor}")
    hierarchy = require("scipy.cluster.hierarchy", "compare")
    store = store.snapshot()
    numbers = np.flatnonzero(~store.deleted).tolist()
    metadata = {**store.metadata, "pool": factor, "of": store.fingerprint}
    with making(path, store.dim, metadata, dtype) as made:
        for first in range(0, len(numbers), 4096):
            part = numbers[first : first + 4096]
            groups = [_grouped(store[i], factor, hierarchy) for i in part]
            made.append(groups, [store.ids[i] for i in part])
            if progress:
                progress(first + len(part), len(numbers))
    return made


def _grouped(tokens: np.ndarray, factor: int, hierarchy: Any) -> np.ndarray:
    wanted = -(-len(tokens) // factor)
    if len(tokens) <= 1 or wanted == len(tokens):
        return tokens
    tree = hierarchy.linkage(tokens.astype(np.float64), method="ward")
    group = hierarchy.fcluster(tree, wanted, criterion="maxclust") - 1
    sums = np.zeros((int(group.max()) + 1, tokens.shape[1]), dtype=np.float64)
    np.add.at(sums, group, tokens)
    sizes = np.linalg.norm(sums, axis=1, keepdims=True)
    return (sums / np.where(sizes > 0, sizes, 1)).astype(np.float32)
