"""MaxSim over ragged tokens, and exhaustive search with it."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .. import _core
from ..errors import InputError, whole
from .coarse import Stage
from .store import TokenStore

#: A first stage of search: queries and a number of candidates to each query's (id, score), best first.
FirstStage = Callable[[Sequence[np.ndarray], int], list[list[tuple[str, float]]]]

#: A query's documents and their scores, best first.
Hits = list[tuple[str, float]]


class Documents:
    """Documents made ready to be searched any number of times.

    What depends on their number alone (checking, cutting them into tasks, sorting their ids) is done once.
    :func:`search` and :func:`maxsim` make one of what they are given; a store's is kept for as long as the store
    is unchanged.

    Parameters
    ----------
    texts : TokenStore, sequence of (tokens, dim) arrays, or (texts, tokens, dim) array
        Arrays of single precision are scored where they lie, without a copy: they must not change meanwhile.
    ids : sequence of str, optional
        Names of the documents; those of the store, or their positions, by default.
    lengths : sequence of int, optional
        Real tokens of each text of a padded array.

    Raises
    ------
    InputError
        Shapes or dimensions that do not fit, or another number of ids than of texts.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.similarity import Documents, search
    >>> documents = Documents([np.eye(2), np.array([[0.6, 0.8]])], ids=["a", "b"])
    >>> search([np.eye(2)], documents, k=1)
    [[('a', 2.0)]]
    """

    def __init__(self, texts: Any, ids: Sequence[str] | None = None, *, lengths: Any = None):
        self.texts = _texts("documents", texts, lengths)
        self._store = texts if isinstance(texts, TokenStore) else None
        if ids is not None and len(ids) != len(self.texts):
            raise InputError(f"document_ids: expected {len(self.texts)} ids, got {len(ids)}")
        self._ids = ids
        self._numbers: dict[str, int] | None = None
        self._places: Any = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def ids(self) -> Sequence[str]:
        """The id of each document."""
        if self._ids is None:
            self._ids = self._store.ids if self._store is not None else [str(i) for i in range(len(self))]
        return self._ids

    @property
    def places(self) -> Any:
        """The ids' places in byte order, by which ties are broken."""
        if self._places is None:
            if self._store is not None and self._ids is None:
                places = self._store.places
            else:
                names = [name.encode() for name in self.ids]
                places = np.empty(len(self), dtype=np.int64)
                places[sorted(range(len(self)), key=names.__getitem__)] = np.arange(len(self))
                if self._store is not None:
                    places[self._store.deleted] = -1
            self._places = _core.Places(np.require(places, np.int64, ("C", "A")))
        return self._places

    def numbers(self, ids: Iterable[str]) -> list[int]:
        """The documents with these ids; others are passed over."""
        if self._store is not None and self._ids is None:
            return [self._store.index(name) for name in ids if name in self._store]
        if self._numbers is None:
            self._numbers = {name: i for i, name in enumerate(self.ids)}
        return [self._numbers[name] for name in ids if name in self._numbers]

    def search(self, queries: Any, k: int, numbers: list[int] | None, progress: Any) -> list[Hits]:
        """The best of these documents, of those with some numbers if given."""
        k = min(k, len(self) if numbers is None else len(numbers))
        # Of each hit its document's number and its score.
        _expect_memory(len(queries) * k, 8 + 4)
        offsets, found, scores = _core.search(queries, self.texts, self.places, k, numbers, progress)
        _expect_fitting(scores)
        ids = self.ids
        hits = [(ids[i], score) for i, score in zip(found.tolist(), scores.tolist(), strict=True)]
        return [hits[start:end] for start, end in itertools.pairwise(offsets.tolist())]


def _documents(given: Any, ids: Sequence[str] | None = None, lengths: Any = None) -> Documents:
    if isinstance(given, Documents):
        if ids is not None:
            raise InputError("document_ids: expected None with Documents, which have their ids")
        return given
    if not isinstance(given, TokenStore) or ids is not None:
        return Documents(given, ids, lengths=lengths)
    # Kept with what the store held at this moment: a store that has changed has another view.
    view = given.view
    if view.prepared is None:
        view.prepared = Documents(given.snapshot())
    prepared: Documents = view.prepared
    return prepared


def _texts(name: str, given: Any, lengths: Any = None) -> Any:
    """Texts of any form, for the native core."""
    if isinstance(given, TokenStore):
        values = given.values if given.scales is None else (given.values, given.scales)
        return _core.Texts(name, values, given.offsets)
    if hasattr(given, "detach"):
        given = given.detach().cpu().float().numpy()
    if isinstance(given, np.ndarray) and given.dtype != object:
        if given.ndim != 3:
            raise InputError(f"{name}: expected a padded array (texts, tokens, dim), got shape {given.shape}")
        sizes = np.full(len(given), given.shape[1]) if lengths is None else np.asarray(lengths)
        if sizes.shape != (len(given),) or (sizes < 0).any() or (sizes > given.shape[1]).any():
            raise InputError(f"{name}: expected {len(given)} lengths in 0..{given.shape[1]}, got {lengths}")
        given = [text[:size] for text, size in zip(given, sizes, strict=True)]
    # As they are, if they are ready; the native core names what does not fit.
    arrays = [
        text if type(text) is np.ndarray and text.dtype is _F32 and text.flags.carray else _single(text)
        for text in given
    ]
    if not arrays:
        raise InputError(f"{name}: expected at least one text")
    return _core.Texts(name, arrays, None)


_F32 = np.dtype(np.float32)


def _single(text: Any) -> np.ndarray:
    """A text in single precision, contiguous and aligned."""
    return np.require(text.detach().cpu().float() if hasattr(text, "detach") else text, _F32, ("C", "A"))


def _queries(given: Any, lengths: Any = None) -> Any:
    """As :func:`_texts`, in single precision."""
    if isinstance(given, TokenStore) and given.dtype != "float32":
        given = [given[i] for i in range(len(given))]
    return _texts("queries", given, lengths)


def maxsim(
    queries: Any, documents: Any, *, query_lengths: Any = None, document_lengths: Any = None
) -> np.ndarray:
    """Late-interaction scores of every query against every document.

    ``score(q, d) = Σ_i max_j <q_i, d_j>`` over the real tokens of both [1]_. Computed in float32,
    exactly over all tokens; the similarity matrix is never stored, and arrays of float32 are read where they lie.

    Parameters
    ----------
    queries, documents : TokenStore, sequence of (tokens, dim) arrays, or (texts, tokens, dim) array
        Token embeddings (numpy or CPU tensors). A padded array may come with lengths; its padding
        never takes part. Documents in a store of float16, bfloat16 or int8 are scored as they are
        kept; queries are float32 (against bfloat16 they are rounded, against int8 become bytes, too).
        ``documents`` may also be :class:`Documents`.
    query_lengths, document_lengths : sequence of int, optional
        Real tokens of each text of a padded array.

    Returns
    -------
    (queries, documents) float32 array
        A query without tokens scores 0; a document without tokens scores ``-inf``.

    Raises
    ------
    InputError
        Shapes or dimensions that do not fit, NaN or infinity (the text is named), or scores beyond single precision.
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
    asked, found = _queries(queries, query_lengths), _documents(documents, lengths=document_lengths)
    _expect_memory(len(asked) * len(found), 4)
    scores = _core.maxsim(asked, found.texts)
    _expect_fitting(scores)
    return scores


def _expect_fitting(scores: np.ndarray) -> None:
    """Refuse what cannot be ranked: products of finite numbers may be beyond single precision."""
    if scores.size and not scores.max() < np.inf:  # NaN is the largest
        raise InputError(
            f"queries: expected tokens whose scores fit single precision, got a score of {scores.max()}"
        )


def _expect_memory(count: int, size: int) -> None:
    """Ask for a result's memory where a refusal is a MemoryError: the native core would end the process."""
    np.empty(count * size, dtype=np.uint8)


def search(
    queries: Any,
    documents: Any,
    k: int,
    *,
    document_ids: Sequence[str] | None = None,
    allow: Iterable[str] | np.ndarray | None = None,
    coarse: TokenStore | FirstStage | None = None,
    candidates: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Hits]:
    """The ``k`` best documents of each query by MaxSim, over all of them unless ``coarse`` is given.

    Parameters
    ----------
    queries
        As in :func:`maxsim`.
    documents
        As in :func:`maxsim`, :class:`Documents`, or a sequence of stores (or :class:`Documents`), which are
        searched as one; of documents with the same id the best counts. Deleted texts of a store are passed over.
    k : int
        Documents per query; all of them if there are fewer.
    document_ids : sequence of str, optional
        Names of the documents; those of the store, or their positions, by default.
    allow : iterable of str, or (documents) bool array, optional
        Search only documents with these ids, or those where the array is true; the time is theirs, not that of all
        documents.
    coarse : TokenStore or callable, optional
        Of :func:`~optical_rs.similarity.make_coarse`, made of ``documents``, a store; or any engine, by
        :func:`~optical_rs.engines.first_stage`: called with the queries and ``candidates``, it
        returns each query's (id, score). It is searched first, and only the best ``candidates`` are then
        scored exactly: faster, and documents that look worse in it than they are can be missed. See
        docs/how-to/edge.md for what was measured.
    candidates : int, optional
        Of ``coarse``; by default the larger of 20 k and 200.
    progress : callable, optional
        Called now and then with the number of documents done and of all documents.

    Returns
    -------
    list of lists of (id, score)
        Best first; ties go to the higher id in byte order, as trec_eval breaks them.

    Raises
    ------
    InputError
        Shapes or dimensions that do not fit, NaN or infinity, scores beyond single precision, ``k`` below 1, another
        number of ids than of documents, an allowed id that no document has, a coarse store that was made of other
        texts, ``document_ids`` with ``coarse``, or ``candidates`` without it.
    MemoryError
        More hits than there is memory for.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.similarity import search
    >>> documents = [np.array([[0.0, 1.0]]), np.eye(2)]
    >>> search([np.eye(2)], documents, k=1, document_ids=["a", "b"])
    [[('b', 2.0)]]
    >>> search([np.eye(2)], documents, k=1, document_ids=["a", "b"], allow=["a"])
    [[('a', 1.0)]]
    """
    k = whole("k", k)
    if isinstance(documents, TokenStore):
        documents = documents.snapshot()
    if coarse is None and candidates is not None:
        raise InputError(f"candidates: are of coarse, got {candidates} without it")
    if coarse is not None:
        if document_ids is not None:
            raise InputError(
                "document_ids: expected None with coarse, which knows documents by the ids of the store"
            )
        wanted = max(20 * k, 200) if candidates is None else whole("candidates", candidates)
        return _search_twice(queries, documents, k, coarse, wanted, allow, progress)
    several = isinstance(documents, list | tuple) and len(documents) > 0
    if several and all(isinstance(part, TokenStore | Documents) for part in documents):
        if document_ids is not None:
            raise InputError("document_ids: expected None with several stores, which have their ids")
        parts = [_documents(part) for part in documents]
    else:
        parts = [_documents(documents, document_ids)]
    texts = _queries(queries)
    numbers = _allowed(parts, allow)
    found = [part.search(texts, k, own, progress) for part, own in zip(parts, numbers, strict=True)]
    if len(found) == 1:
        return found[0]
    return [_merged(hits, k) for hits in zip(*found, strict=True)]


def _allowed(parts: list[Documents], allow: Iterable[str] | np.ndarray | None) -> list[list[int] | None]:
    """The allowed documents of each part, ascending; None for all."""
    if allow is None:
        return [None] * len(parts)
    if isinstance(allow, str):
        raise InputError(f"allow: expected ids, got the string {allow!r}")
    if isinstance(allow, np.ndarray) and allow.dtype == bool:
        if len(parts) != 1 or allow.shape != (len(parts[0]),):
            expected = f"shape ({len(parts[0])},)" if len(parts) == 1 else "ids with several stores"
            raise InputError(f"allow: expected {expected}, got shape {allow.shape}")
        return [np.flatnonzero(allow).tolist()]
    names = list(dict.fromkeys(allow))
    numbers = [part.numbers(names) for part in parts]
    if sum(map(len, numbers)) < len(names):
        known = {part.ids[i] for part, own in zip(parts, numbers, strict=True) for i in own}
        raise InputError(f"allow: no document has the id {next(n for n in names if n not in known)!r}")
    return [sorted(own) for own in numbers]


def _merged(parts: Sequence[Hits], k: int) -> Hits:
    """The best of several lists of hits."""
    best: dict[str, float] = {}
    for name, score in itertools.chain.from_iterable(parts):
        best[name] = max(score, best.get(name, score))
    return sorted(best.items(), key=lambda hit: (hit[1], hit[0].encode()), reverse=True)[:k]


def _search_twice(
    queries: Any,
    documents: Any,
    k: int,
    coarse: TokenStore | FirstStage,
    candidates: int,
    allow: Iterable[str] | np.ndarray | None,
    progress: Callable[[int, int], None] | None,
) -> list[Hits]:
    if not isinstance(documents, TokenStore):
        raise InputError(f"coarse: needs a TokenStore as documents, got {type(documents).__name__}")
    k, candidates = (min(number, max(len(documents), 1)) for number in (k, candidates))
    if candidates < k:
        raise InputError(f"candidates: expected at least k = {k}, got {candidates}")
    given = [queries[i] for i in range(len(queries))] if isinstance(queries, TokenStore) else list(queries)
    given = [_single(text) for text in given]
    if not given:
        raise InputError("queries: expected at least one text")
    fine = _documents(documents)
    for i, text in enumerate(given):
        # Named here, before a first stage sums it up.
        if len(bad := np.argwhere(~np.isfinite(text))):
            value = text[tuple(bad[0])]
            raise InputError(f"queries: text {i} has {value} in token {bad[0][0]}; expected finite numbers")
    if not isinstance(coarse, TokenStore) and not callable(coarse):
        raise InputError(f"coarse: expected a TokenStore or a callable, got {coarse!r}")
    if isinstance(coarse, TokenStore):
        allowed = _allowed([fine], allow)[0]
        numbers = None if allowed is None else np.array(allowed, dtype=np.int64)
        chosen = Stage.of(coarse, documents).candidates(given, candidates, numbers, progress)
    else:
        if allow is not None:
            raise InputError("allow: expected None where an engine finds the candidates")
        first = coarse(given, candidates)
        if len(first) != len(given):
            raise InputError(f"coarse: expected hits for {len(given)} queries, got {len(first)}")
        chosen = [fine.numbers(dict.fromkeys(name for name, _ in hits)) for hits in first]
    return [
        fine.search(_queries([query]), k, own, None)[0] if own else []
        for query, own in zip(given, chosen, strict=True)
    ]
