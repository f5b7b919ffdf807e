"""``optical-rs search``: a store of tokens, searched by text."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, require
from ..progress import progress_bar, say
from .options import Parser, add_json

if TYPE_CHECKING:
    from ..edge import Encoder
    from ..edge.search import Hit
    from ..similarity import TokenStore

#: Earlier names of options of the commands that search.
OLD = {"--document_model": "--teacher"}


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser("search", "Search a store of tokens by text.", OLD)
    add_model_options(parser)
    parser.add_argument("--index", required=True, metavar="STORE", help="a store made by optical-rs index")
    parser.add_argument("--queries", type=Path, help="a file of lines 'id<TAB>text'; without it, type them")
    parser.add_argument("--k", type=int, default=10, help="documents per query")
    parser.add_argument("--output", type=Path, metavar="RUN", help="write a TREC run here")
    parser.add_argument(
        "--rerank", type=Path, metavar="RUN", help="score only the documents of this TREC run"
    )
    parser.add_argument("--explain", action="store_true", help="also show which tokens match")
    add_json(parser)
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What every command that searches has."""
    parser.add_argument("--model", required=True, help="the exported model that encodes queries")
    parser.add_argument(
        "--teacher", help="the exported model that encoded the documents, to show their tokens"
    )
    parser.add_argument("--precision", choices=("int8", "float32"), help="precision of the model's weights")
    parser.add_argument("--threads", type=int, help="threads of the model (default: one for each core)")
    parser.add_argument(
        "--exact",
        action="store_true",
        help="score every document exactly, also where there is a coarse store",
    )


def opened(options: argparse.Namespace) -> tuple[Encoder, Encoder | None, TokenStore, TokenStore | None]:
    """What options name: the model of queries, that of documents if given, ``index``, and its coarse store."""
    require("onnxruntime", "edge")
    from ..edge import Encoder
    from ..edge.index import coarse_of
    from ..fingerprint import expect_related
    from ..similarity import TokenStore

    encoder = Encoder(options.model, precision=options.precision, threads=options.threads)
    other = Encoder(options.teacher) if options.teacher else None
    coarse = coarse_of(options.index)
    use = coarse.exists() and not options.exact
    store = TokenStore(options.index)
    if other:
        expect_related(other.identity, store.metadata, f"teacher: {options.teacher}")
    return encoder, other, store, TokenStore(coarse) if use else None


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs search``."""
    options = build_parser().parse_args(arguments)
    if options.rerank and not (options.queries and options.output):
        raise InputError("--rerank: needs --queries and --output")
    encoder, other, store, coarse = opened(options)
    from ..edge.search import search_texts

    if options.queries:
        _search_file(options, encoder, other, store, coarse)
        return
    if sys.stdin.isatty():
        say(f"{len(store)} texts; an empty line ends")
    for line in iter(lambda: _ask(sys.stdin.isatty()), ""):
        hits = search_texts(encoder, store, [line], options.k, coarse=coarse)[0]
        if options.json:
            print(_as_json(line, line, hits), flush=True)
        else:
            _show(encoder, store, line, hits, options.explain, other)


def _search_file(
    options: argparse.Namespace,
    encoder: Encoder,
    other: Encoder | None,
    store: TokenStore,
    coarse: TokenStore | None,
) -> None:
    from ..edge.search import rerank, search_texts
    from ..files import read_run, read_texts, write_run

    queries = read_texts(options.queries)
    tag = Path(options.model).name or "optical"
    if options.rerank:
        say(f"scoring the documents of {options.rerank} for {len(queries)} queries")
        reranked = rerank(encoder, store, queries, read_run(options.rerank))
        write_run(options.output, reranked, tag)
        print(f"{options.output}: {len(reranked)} queries")
        return
    say(f"searching {len(store)} texts of {options.index} for {len(queries)} queries")
    with progress_bar("searching", "document") as progress:
        found = search_texts(encoder, store, list(queries.values()), options.k, progress, coarse=coarse)
    run = dict(zip(queries, found, strict=True))
    if options.output:
        write_run(options.output, {q: [(h.document, h.score) for h in hits] for q, hits in run.items()}, tag)
        print(f"{options.output}: {len(run)} queries")
        return
    for name, hits in run.items():
        if options.json:
            print(_as_json(name, queries[name], hits))
        else:
            print(f"\n{name}: {queries[name]}")
            _show(encoder, store, queries[name], hits, options.explain, other)


def _ask(prompt: bool) -> str:
    try:
        return input("? " if prompt else "").strip()
    except EOFError:
        return ""


def _as_json(name: str, text: str, hits: Sequence[Hit]) -> str:
    """One line for a query."""
    rows = [
        {"rank": rank, "document": hit.document, "score": hit.score, "text": hit.text}
        for rank, hit in enumerate(hits, 1)
    ]
    return json.dumps({"query": name, "text": text, "hits": rows}, ensure_ascii=False)


def _show(
    encoder: Encoder, store: TokenStore, query: str, hits: list[Hit], why: bool, other: Encoder | None
) -> None:
    from ..edge.search import explain

    for rank, hit in enumerate(hits, 1):
        text = " ".join(hit.text.split())
        print(f"{rank:3}  {hit.score:7.3f}  {hit.document}  {text[:100]}{'…' if len(text) > 100 else ''}")
        if why:
            lines = explain(encoder, store, query, hit, document_encoder=other).lines()
            print("\n".join(f"       {line}" for line in lines))
