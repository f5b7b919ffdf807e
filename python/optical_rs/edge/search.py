"""``optical-rs search``: a store of tokens, searched by text."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.collection import read_texts
from ..errors import InputError
from ..fingerprint import expect_related
from ..progress import progress_bar
from ..ranking import read_run, write_run
from ..similarity import TokenStore, maxsim, search
from ..similarity.maxsim import FirstStage
from ..transport import solve_batch
from .encoder import Encoder
from .index import coarse_of, document_of


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
    """

    query: list[str]
    document: list[str]
    similarity: np.ndarray
    matches: np.ndarray
    plan: np.ndarray

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
    tokens = (document_encoder or encoder).tokens(hit.text, "document")
    if len(tokens) != len(y):
        tokens = [str(i) for i in range(len(y))]
    similarity = x @ y.T
    if not similarity.size:  # a text without tokens: there is nothing to match or to transport
        matches = np.zeros(0 if not len(y) else len(x), dtype=int)
        return Explanation(encoder.tokens(query, "query"), tokens, similarity, matches, similarity)
    plan = solve_batch((1 - similarity)[None].astype(np.float32), reg).plan[0]
    matches = similarity.argmax(axis=1)
    return Explanation(encoder.tokens(query, "query"), tokens, similarity, matches, plan)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What every command that searches has."""
    parser.add_argument("--model", required=True, help="an exported model, of the queries' side")
    parser.add_argument("--document_model", help="the exported model of the documents, to show their tokens")
    parser.add_argument("--precision", choices=("int8", "float32"), help="of the model's weights")
    parser.add_argument("--threads", type=int, help="of the model; default: one for each core")
    parser.add_argument("--exact", action="store_true", help="do not look at a coarse store first")


def opened(options: argparse.Namespace) -> tuple[Encoder, Encoder | None, TokenStore, TokenStore | None]:
    """What options name: the model of queries, that of documents if given, ``index``, and its coarse store."""
    encoder = Encoder(options.model, precision=options.precision, threads=options.threads)
    other = Encoder(options.document_model) if options.document_model else None
    coarse = coarse_of(options.index)
    use = coarse.exists() and not options.exact
    store = TokenStore(options.index)
    if other:
        expect_related(other.identity, store.metadata, f"document_model: {options.document_model}")
    return encoder, other, store, TokenStore(coarse) if use else None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``optical-rs search``."""
    parser = argparse.ArgumentParser(prog="optical-rs search", description=__doc__)
    add_model_options(parser)
    parser.add_argument("--index", required=True, help="a store made by optical-rs index")
    parser.add_argument("--queries", type=Path, help="a file of lines 'id<TAB>text'; without it, type them")
    parser.add_argument("--k", type=int, default=10, help="documents per query")
    parser.add_argument("--output", type=Path, help="write a TREC run here")
    parser.add_argument(
        "--rerank", type=Path, metavar="RUN", help="score the documents of this TREC run alone"
    )
    parser.add_argument("--explain", action="store_true", help="also show which tokens match")
    options = parser.parse_args(arguments)
    encoder, other, store, coarse = opened(options)
    if options.rerank and not (options.queries and options.output):
        raise InputError("--rerank: needs --queries and --output")
    if options.queries:
        queries = read_texts(options.queries)
        tag = Path(options.model).name or "optical"
        if options.rerank:
            reranked = rerank(encoder, store, queries, read_run(options.rerank))
            write_run(options.output, reranked, tag)
            print(f"{options.output}: {len(reranked)} queries")
            return
        with progress_bar("searching", "document") as progress:
            found = search_texts(encoder, store, list(queries.values()), options.k, progress, coarse=coarse)
        run = dict(zip(queries, found, strict=True))
        if options.output:
            write_run(
                options.output, {q: [(h.document, h.score) for h in hits] for q, hits in run.items()}, tag
            )
            print(f"{options.output}: {len(run)} queries")
            return
        for name, hits in run.items():
            print(f"\n{name}: {queries[name]}")
            _show(encoder, store, queries[name], hits, options.explain, other)
        return
    if sys.stdin.isatty():
        print(f"{len(store)} texts; an empty line ends")
    for line in iter(lambda: _ask(sys.stdin.isatty()), ""):
        hits = search_texts(encoder, store, [line], options.k, coarse=coarse)[0]
        _show(encoder, store, line, hits, options.explain, other)


def _ask(prompt: bool) -> str:
    try:
        return input("? " if prompt else "").strip()
    except EOFError:
        return ""


def _show(
    encoder: Encoder, store: TokenStore, query: str, hits: list[Hit], why: bool, other: Encoder | None
) -> None:
    for rank, hit in enumerate(hits, 1):
        text = " ".join(hit.text.split())
        print(f"{rank:3}  {hit.score:7.3f}  {hit.document}  {text[:100]}{'…' if len(text) > 100 else ''}")
        if why:
            lines = explain(encoder, store, query, hit, document_encoder=other).lines()
            print("\n".join(f"       {line}" for line in lines))


if __name__ == "__main__":
    from ..cli import run_command

    run_command(main)
