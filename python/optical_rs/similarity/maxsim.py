"""MaxSim over ragged tokens, and exhaustive search with it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from ..errors import InputError
from .store import TokenStore


def _packed(name: str, texts: Any, lengths: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """(values (tokens, dim) float32, offsets (texts + 1) int64) of any accepted form."""
    if isinstance(texts, TokenStore):
        return texts.values, texts.offsets
    if hasattr(texts, "detach"):
        texts = texts.detach().cpu().float().numpy()
    if isinstance(texts, np.ndarray) and texts.dtype != object:
        if texts.ndim != 3:
            raise InputError(f"{name}: expected a padded array (texts, tokens, dim), got shape {texts.shape}")
        sizes = np.full(len(texts), texts.shape[1]) if lengths is None else np.asarray(lengths)
        if sizes.shape != (len(texts),) or (sizes < 0).any() or (sizes > texts.shape[1]).any():
            raise InputError(f"{name}: expected {len(texts)} lengths in 0..{texts.shape[1]}, got {lengths}")
        texts = [t[:n] for t, n in zip(texts, sizes, strict=True)]
    arrays = [
        np.asarray(t.detach().cpu().float() if hasattr(t, "detach") else t, dtype=np.float32) for t in texts
    ]
    if not arrays:
        raise InputError(f"{name}: expected at least one text")
    dims = {t.shape[1:] for t in arrays if t.ndim == 2}
    if any(t.ndim != 2 for t in arrays) or len(dims) != 1:
        shapes = sorted({t.shape for t in arrays})[:4]
        raise InputError(f"{name}: expected arrays (tokens, dim) of one dim, got shapes {shapes}")
    offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
    np.cumsum([len(t) for t in arrays], out=offsets[1:])
    return np.ascontiguousarray(np.concatenate(arrays)), offsets


def maxsim(
    queries: Any, documents: Any, *, query_lengths: Any = None, document_lengths: Any = None
) -> np.ndarray:
    """Late-interaction scores of every query against every document.

    ``score(q, d) = Σ_i max_j <q_i, d_j>`` over the real tokens of both [1]_. Computed in float32,
    exactly over all tokens; the similarity matrix is never stored.

    Parameters
    ----------
    queries, documents : TokenStore, sequence of (tokens, dim) arrays, or (texts, tokens, dim) array
        Token embeddings (numpy or CPU tensors). A padded array may come with lengths; its padding
        never takes part.
    query_lengths, document_lengths : sequence of int, optional
        Real tokens of each text of a padded array.

    Returns
    -------
    (queries, documents) float32 array
        A query without tokens scores 0; a document without tokens scores ``-inf``.

    Raises
    ------
    InputError
        Shapes or dimensions that do not fit.

    References
    ----------
    .. [1] O. Khattab, M. Zaharia. ColBERT: efficient and effective passage search via contextualized
       late interaction over BERT. SIGIR 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.similarity import maxsim
    >>> maxsim([np.eye(2)], [np.eye(2), np.array([[0.6, 0.8]])]).round(3)
    array([[2. , 1.4]], dtype=float32)
    """
    q_values, q_offsets = _packed("queries", queries, query_lengths)
    d_values, d_offsets = _packed("documents", documents, document_lengths)
    return _core.maxsim(q_values, q_offsets, d_values, d_offsets)


def search(
    queries: Any, documents: Any, k: int, *, document_ids: Sequence[str] | None = None, batch_size: int = 64
) -> list[list[tuple[str, float]]]:
    """The ``k`` best documents of each query by exact MaxSim over all of them.

    Parameters
    ----------
    queries, documents
        As in :func:`maxsim`.
    k : int
        Documents per query; all of them if there are fewer.
    document_ids : sequence of str, optional
        Names of the documents; those of the store, or their positions, by default.
    batch_size : int
        Queries scored at a time; bounds memory to ``batch_size`` × documents floats.

    Returns
    -------
    list of lists of (id, score)
        Best first; ties go to the higher id in byte order, as trec_eval breaks them.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.similarity import search
    >>> search([np.eye(2)], [np.array([[0.0, 1.0]]), np.eye(2)], k=1, document_ids=["a", "b"])
    [[('b', 2.0)]]
    """
    if k < 1:
        raise InputError(f"k: expected at least 1, got {k}")
    if batch_size < 1:
        raise InputError(f"batch_size: expected at least 1, got {batch_size}")
    q_values, q_offsets = _packed("queries", queries)
    d_values, d_offsets = _packed("documents", documents)
    if document_ids is None:
        stored = documents.ids if isinstance(documents, TokenStore) else None
        document_ids = stored or [str(i) for i in range(len(d_offsets) - 1)]
    if len(document_ids) != len(d_offsets) - 1:
        raise InputError(f"document_ids: expected {len(d_offsets) - 1} ids, got {len(document_ids)}")
    # Position of each document in byte order of the ids: the tie-breaker.
    order = np.empty(len(document_ids), dtype=np.int64)
    order[sorted(range(len(document_ids)), key=lambda i: document_ids[i].encode())] = np.arange(len(order))
    hits = []
    for first in range(0, len(q_offsets) - 1, batch_size):
        offsets = q_offsets[first : first + batch_size + 1]
        values = np.ascontiguousarray(q_values[offsets[0] : offsets[-1]])
        for scores in _core.maxsim(values, np.ascontiguousarray(offsets - offsets[0]), d_values, d_offsets):
            # The k-th best score is a threshold; all that tie with it take part in the sort.
            kept = np.arange(len(scores))
            if k < len(scores):
                kept = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
            best = kept[np.lexsort((-order[kept], -scores[kept]))][:k]
            hits.append([(document_ids[i], float(scores[i])) for i in best])
    return hits
