"""``search_texts``: a store of tokens, searched by text."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..fingerprint import expect_related
from ..similarity import TokenStore, maxsim, search
from ..similarity.maxsim import FirstStage
from ..transport import solve_batch
from .encoder import Encoder
from .index import document_of


@dataclasses.dataclass(frozen=True)
class Hit:
    """A document that was found.

    Attributes
    ----------
    document : str
        Its id.
    score : float
        Its MaxSim, or that of its best piece.
    text : str
        What it, or its best piece, says.
    number : int
        The text in the store.
    """

    document: str
    score: float
    text: str
    number: int


@dataclasses.dataclass(frozen=True)
class Explanation:
    """How a query and a document were brought together.

    Attributes
    ----------
    query, document : list of str
        Their tokens.
    similarity : (query tokens, document tokens) float32 array
        Cosines.
    matches : (query tokens) int array
        The document token that each query token counts in MaxSim; empty for a document without tokens.
    plan : (query tokens, document tokens) float32 array
        The transport plan between both, with cost 1 − similarity and uniform masses.
    query_words, document_words : (list of str, (tokens,) int array)
        Their words, and the word of each token, or −1 for tokens of a prompt and special ones.
    """

    query: list[str]
    document: list[str]
    similarity: np.ndarray
    matches: np.ndarray
    plan: np.ndarray
    query_words: tuple[list[str], np.ndarray]
    document_words: tuple[list[str], np.ndarray]

    def lines(self) -> list[str]:
        """A line for each query token: its match, their similarity, and the share that is transported."""
        width = max(map(len, self.query), default=0)
        share = self.plan / np.maximum(self.plan.sum(axis=1, keepdims=True), 1e-30)
        return [
            f"{token:>{width}}  {self.similarity[i, j]:5.2f}  {share[i, j]:4.0%}  {self.document[j]}"
            for i, (token, j) in enumerate(zip(self.query, self.matches, strict=False))
        ]


def search_texts(
    encoder: Encoder,
    store: TokenStore,
    queries: Sequence[str],
    k: int = 10,
    progress: Callable[[int, int], None] | None = None,
    *,
    coarse: TokenStore | FirstStage | None = None,
) -> list[list[Hit]]:
    """The ``k`` best documents of each query.

    Parameters
    ----------
    encoder : Encoder
        Of the queries' side.
    store : TokenStore
        As :func:`~optical_rs.edge.index.index` makes it.
    queries : sequence of str
    k : int
    progress : callable, optional
        As for :func:`~optical_rs.similarity.search`.
    coarse : TokenStore or callable, optional
        As for :func:`~optical_rs.similarity.search`.

    Returns
    -------
    list of list of Hit
        For each query its documents, best first. A text without tokens is found by none that has some.

    Raises
    ------
    InputError
        A query that is empty, or a store of a model that has another teacher.
    """
    for i, query in enumerate(queries):
        if not query.strip():
            raise InputError(f"queries: expected text, got nothing at {i}")
    expect_fitting(encoder, store)
    if k < 1:
        raise InputError(f"k: expected at least 1, got {k}")
    if not len(store) or not queries:
        return [[] for _ in queries]
    # Of k documents, all pieces may come before the best piece of the next.
    pieces = min(k * _most_pieces(store), len(store))
    found = search(encoder.encode_query(queries), store, pieces, coarse=coarse, progress=progress)
    return [_documents(store, hits, k) for hits in found]


def expect_fitting(encoder: Encoder, store: TokenStore) -> None:
    """Refuse a store whose tokens mean something else than the model's.

    Raises
    ------
    InputError
    """
    if store.dim != encoder.dim:
        raise InputError(
            f"store: has dimension {store.dim}, but the model has {encoder.dim}; index with its teacher"
        )
    expect_related(encoder.identity, store.metadata, f"store: {store.path}")


def rerank(
    encoder: Encoder, store: TokenStore, queries: Mapping[str, str], run: Mapping[str, Any], depth: int = 1000
) -> dict[str, list[tuple[str, float]]]:
    """The documents of a run, such as that of BM25, in the order of their MaxSim.

    Parameters
    ----------
    encoder, store
        As for :func:`search_texts`.
    queries : dict of str to str
        Id → text.
    run : dict
        ``{query: {document: score}}`` or ``{query: [(document, score)]}``.
    depth : int
        Documents of each query that are scored, the best of the run.

    Returns
    -------
    dict of str to list of (id, score)
        For the queries of the run, best first; ties go to the higher id in byte order.

    Raises
    ------
    InputError
        A query without text, or a document that the store does not have.
    """
    expect_fitting(encoder, store)
    pieces: dict[str, list[int]] = {}
    for i in np.flatnonzero(~store.deleted).tolist():
        pieces.setdefault(document_of(store, i), []).append(i)
    missing = [query for query in run if not queries.get(query, "").strip()]
    if missing:
        raise InputError(f"queries: no text for '{missing[0]}'")
    names = list(run)
    found = {}
    for query, tokens in zip(names, encoder.encode_query([queries[n] for n in names]), strict=True):
        hits = run[query]
        pairs = list(hits.items() if isinstance(hits, Mapping) else hits)
        best = sorted(pairs, key=lambda hit: (hit[1], hit[0].encode()), reverse=True)[:depth]
        scores = []
        for document, _ in best:
            if document not in pieces:
                raise InputError(f"run: document '{document}' of query '{query}' is not in the store")
            scores.append([store[i] for i in pieces[document]])
        flat = [text for texts in scores for text in texts]
        values = iter(maxsim([tokens], flat)[0].tolist() if flat else [])
        rows = [
            (name, max(next(values) for _ in texts)) for (name, _), texts in zip(best, scores, strict=True)
        ]
        found[query] = sorted(rows, key=lambda hit: (hit[1], hit[0].encode()), reverse=True)
    return found


def _most_pieces(store: TokenStore) -> int:
    if store.metadata.get("window") is None:
        return 1
    counts: dict[str, int] = {}
    for i in range(len(store)):
        name = document_of(store, i)
        counts[name] = counts.get(name, 0) + 1
    return max(counts.values(), default=1)


def _documents(store: TokenStore, hits: Sequence[tuple[str, float]], k: int) -> list[Hit]:
    """The best piece of each document, best first."""
    found: dict[str, Hit] = {}
    for name, score in hits:
        if score == -np.inf:  # texts without tokens come last
            break
        number = store.index(name)
        document = document_of(store, number)
        if document not in found:
            found[document] = Hit(document, score, store.contents[number], number)
            if len(found) == k:
                break
    return list(found.values())


def explain(
    encoder: Encoder,
    store: TokenStore,
    query: str,
    hit: Hit,
    *,
    document_encoder: Encoder | None = None,
    reg: float = 0.05,
) -> Explanation:
    """Which tokens of a document answer to which of a query.

    Parameters
    ----------
    encoder, store, query, hit
        As given to and returned by :func:`search_texts`.
    document_encoder : Encoder, optional
        The model that made the store, whose tokenizer cuts the document; the queries' by default. If its
        tokens do not fit those in the store, they are numbered instead.
    reg : float
        Of the transport problem.
    """
    x, y = encoder.encode_query([query])[0], store[hit.number]
    shown = document_encoder or encoder
    tokens, words = shown.tokens(hit.text, "document"), shown.words(hit.text, "document")
    if len(tokens) != len(y):
        tokens = [str(i) for i in range(len(y))]
        words = tokens, np.arange(len(y))
    both = encoder.words(query, "query"), words
    similarity = x @ y.T
    if not similarity.size:  # a text without tokens: there is nothing to match or to transport
        matches = np.zeros(0 if not len(y) else len(x), dtype=int)
        return Explanation(encoder.tokens(query, "query"), tokens, similarity, matches, similarity, *both)
    plan = solve_batch((1 - similarity)[None].astype(np.float32), reg).plan[0]
    matches = similarity.argmax(axis=1)
    return Explanation(encoder.tokens(query, "query"), tokens, similarity, matches, plan, *both)
