"""MaxSim over ragged tokens, and exhaustive search with it."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _core
from ..errors import InputError
from .store import TokenStore

#: A first stage of search: queries and a number of candidates to each query's (id, score), best first.
FirstStage = Callable[[Sequence[np.ndarray], int], list[list[tuple[str, float]]]]


def _packed(name: str, texts: Any, lengths: Any = None) -> tuple[Any, np.ndarray]:
    """(values (tokens, dim), with scales if they are bytes; offsets (texts + 1) int64) of any form."""
    if isinstance(texts, TokenStore):
        values = texts.values if texts.scales is None else (texts.values, texts.scales)
        return values, texts.offsets
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
        never takes part. Documents in a store of float16, bfloat16 or int8 are scored as they are
        kept; queries are float32 (against bfloat16 they are rounded, against int8 become bytes, too).
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
    MemoryError
        More scores than there is memory for; :func:`search` keeps the best of them alone.

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
    q_values, q_offsets = _queries(queries, query_lengths)
    d_values, d_offsets = _packed("documents", documents, document_lengths)
    _expect_memory((len(q_offsets) - 1) * (len(d_offsets) - 1))
    return _core.maxsim(q_values, q_offsets, d_values, d_offsets)


def _expect_memory(numbers: int) -> None:
    """Ask for a result's memory where a refusal is a MemoryError: the native core would end the process."""
    np.empty(numbers, dtype=np.float32)


def _queries(queries: Any, lengths: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`_packed`, in single precision."""
    if isinstance(queries, TokenStore) and queries.dtype != "float32":
        queries = [queries[i] for i in range(len(queries))]
    return _packed("queries", queries, lengths)


def search(
    queries: Any,
    documents: Any,
    k: int,
    *,
    document_ids: Sequence[str] | None = None,
    coarse: TokenStore | FirstStage | None = None,
    candidates: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[tuple[str, float]]]:
    """The ``k`` best documents of each query by MaxSim, over all of them unless ``coarse`` is given.

    Parameters
    ----------
    queries, documents
        As in :func:`maxsim`. Deleted texts of a store are passed over.
    k : int
        Documents per query; all of them if there are fewer.
    document_ids : sequence of str, optional
        Names of the documents; those of the store, or their positions, by default.
    coarse : TokenStore or callable, optional
        Of :func:`~optical_rs.similarity.pool`, made of ``documents``, a store; or any engine, such as
        :func:`~optical_rs.engines.fast_plaid`: called with the queries and ``candidates``, it
        returns each query's (id, score). It is searched first, and only the best ``candidates`` are then
        scored exactly: faster, and documents that look worse in it than they are can be missed. See
        docs/edge.md for what was measured.
    candidates : int, optional
        By default the larger of 20 k and 200.
    progress : callable, optional
        Called now and then with the number of documents done and of all documents.

    Returns
    -------
    list of lists of (id, score)
        Best first; ties go to the higher id in byte order, as trec_eval breaks them.

    Raises
    ------
    InputError
        Shapes or dimensions that do not fit, ``k`` below 1, another number of ids than of documents, or a
        coarse store that lacks texts.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.similarity import search
    >>> search([np.eye(2)], [np.array([[0.0, 1.0]]), np.eye(2)], k=1, document_ids=["a", "b"])
    [[('b', 2.0)]]
    """
    if k < 1:
        raise InputError(f"k: expected at least 1, got {k}")
    if isinstance(documents, TokenStore):
        documents = documents.snapshot()
    if coarse is not None:
        return _search_twice(queries, documents, k, coarse, candidates or max(20 * k, 200), progress)
    q_values, q_offsets = _queries(queries)
    d_values, d_offsets = _packed("documents", documents)
    n = len(d_offsets) - 1
    if document_ids is None and isinstance(documents, TokenStore):
        document_ids, places = documents.ids, documents.places
    else:
        document_ids = [str(i) for i in range(n)] if document_ids is None else document_ids
        if len(document_ids) != n:
            raise InputError(f"document_ids: expected {n} ids, got {len(document_ids)}")
        names = [name.encode() for name in document_ids]
        places = np.empty(n, dtype=np.int64)
        places[sorted(range(n), key=names.__getitem__)] = np.arange(n)
        if isinstance(documents, TokenStore):
            places[documents.deleted] = -1
    k = min(k, n)
    _expect_memory(2 * (len(q_offsets) - 1) * k)  # numbers and scores
    offsets, numbers, scores = _core.search(q_values, q_offsets, d_values, d_offsets, places, k, progress)
    hits = [(document_ids[i], score) for i, score in zip(numbers.tolist(), scores.tolist(), strict=True)]
    return [hits[start:end] for start, end in itertools.pairwise(offsets.tolist())]


def _search_twice(
    queries: Any,
    documents: Any,
    k: int,
    coarse: TokenStore | FirstStage,
    candidates: int,
    progress: Callable[[int, int], None] | None,
) -> list[list[tuple[str, float]]]:
    if not isinstance(documents, TokenStore):
        raise InputError(f"coarse: needs a TokenStore as documents, got {type(documents).__name__}")
    k, candidates = (min(number, max(len(documents), 1)) for number in (k, candidates))
    if candidates < k:
        raise InputError(f"candidates: expected at least k = {k}, got {candidates}")
    q_values, q_offsets = _queries(queries)
    found: list[list[tuple[str, float]]] = []
    if isinstance(coarse, TokenStore):
        if coarse.metadata.get("of", documents.fingerprint) != documents.fingerprint:
            raise InputError("coarse: was made of other texts than documents has; pool them again")
        live = len(documents) - int(documents.deleted.sum())
        if live > len(coarse):
            raise InputError(f"coarse: has {len(coarse)} texts, but documents {live}; pool them again")
        first = search(queries, coarse, candidates, progress=progress)
    else:
        texts = [q_values[start:end] for start, end in itertools.pairwise(q_offsets.tolist())]
        first = coarse(texts, candidates)
        if len(first) != len(texts):
            raise InputError(f"coarse: expected hits for {len(texts)} queries, got {len(first)}")
    for (start, end), hits in zip(itertools.pairwise(q_offsets.tolist()), first, strict=True):
        numbers = [documents.index(name) for name, _ in hits if name in documents]
        rows = [slice(documents.offsets[i], documents.offsets[i + 1]) for i in numbers]
        if not rows:
            found.append([])
            continue
        offsets = np.concatenate([[0], np.cumsum([r.stop - r.start for r in rows])]).astype(np.int64)
        values: Any = np.concatenate([documents.values[r] for r in rows])
        if documents.scales is not None:
            values = values, np.concatenate([documents.scales[r] for r in rows])
        query = np.ascontiguousarray(q_values[start:end])
        scores = _core.maxsim(query, np.array([0, end - start]), values, offsets)[0]
        best = np.lexsort((-documents.places[numbers], -scores))[:k]
        found.append([(documents.ids[numbers[i]], float(scores[i])) for i in best])
    return found
