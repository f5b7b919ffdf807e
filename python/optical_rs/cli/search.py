"""``optical-rs search``: a store of tokens, searched by text."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, require
from ..progress import progress_bar, say
from .options import Parser, add_json

if TYPE_CHECKING:
    from ..edge.search import Hit, Index

#: Earlier names of options of the commands that search.
OLD = {"--document_model": "--teacher"}
#: How many files may be open, where the system lets a program have more than it gives by itself.
FILES = 65_536


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser("search", "Search a store of tokens by text.", OLD)
    add_model_options(parser)
    parser.add_argument(
        "--index",
        required=True,
        nargs="+",
        metavar="STORE",
        help="a store made by optical-rs index; several are searched as one",
    )
    parser.add_argument("--queries", type=Path, help="a file of lines 'id<TAB>text'; without it, type them")
    parser.add_argument("--k", type=int, help="documents per query (default: 10)")
    parser.add_argument("--output", type=Path, metavar="RUN", help="write a TREC run of --queries here")
    parser.add_argument(
        "--rerank", type=Path, metavar="RUN", help="score only the documents of this TREC run"
    )
    parser.add_argument(
        "--filters",
        metavar="JSON",
        help='only documents with these fields, as \'{"language": "en", "year": {"gte": 1990, "lt": 2000}}\'',
    )
    parser.add_argument(
        "--lexical",
        action="store_true",
        help="rank by words, too: BM25 and MaxSim, fused by reciprocal ranks",
    )
    parser.add_argument("--explain", action="store_true", help="also show which tokens match")
    parser.add_argument(
        "--exact", action="store_true", help="score every document, also where the index has a first stage"
    )
    add_json(parser)
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What every command that searches has."""
    parser.add_argument(
        "--model",
        help="the exported model that encodes queries (default: the one that encoded the documents)",
    )
    parser.add_argument(
        "--teacher", help="the exported model that encoded the documents, to show their tokens"
    )
    parser.add_argument("--precision", choices=("int8", "float32"), help="precision of the model's weights")
    parser.add_argument("--threads", type=int, help="threads of the model (default: one for each core)")


def opened(options: argparse.Namespace) -> Index:
    """The index that options name."""
    require("onnxruntime", "edge")
    # Some forty files of an index are open, and there may be many indexes. Windows has no such limit.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, wanted), most))
    from ..edge.search import Index

    return Index(
        options.index,
        options.model,
        teacher=options.teacher,
        precision=options.precision,
        threads=options.threads,
    )


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs search``."""
    options = build_parser().parse_args(arguments)
    if options.rerank and not (options.queries and options.output):
        raise InputError("--rerank: needs --queries and --output")
    if options.output and not options.queries:
        raise InputError("--output: needs --queries")
    if options.output and (options.json or options.explain):
        raise InputError(
            f"--{'json' if options.json else 'explain'}: cannot be combined with --output, which writes a run"
        )
    if options.json and options.explain:
        raise InputError("--explain: cannot be combined with --json")
    how = {
        "filters": _filters(options.filters),
        "lexical": options.lexical,
        "exact": options.exact,
        "explain": options.explain,
    }
    if options.rerank and (given := [name for name, value in {**how, "k": options.k}.items() if value]):
        raise InputError(
            f"--{given[0]}: cannot be combined with --rerank, which scores the documents of a run"
        )
    if options.output and not (folder := Path(options.output).absolute().parent).is_dir():
        raise InputError(f"--output: no such folder: {folder}")
    options.k = 10 if options.k is None else options.k
    index = opened(options)
    if options.queries:
        _search_file(options, index, how)
        return
    if sys.stdin.isatty():
        say(f"{len(index)} texts; an empty line ends")
    for line in _asked(sys.stdin.isatty()):
        hits = index.search(line, options.k, **how)
        if options.json:
            print(_as_json(line, line, hits), flush=True)
        else:
            _show(hits)


def _filters(given: str | None) -> Any:
    try:
        return None if given is None else json.loads(given)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--filters: expected JSON ({error}), got {given}") from None


def _search_file(options: argparse.Namespace, index: Index, how: dict[str, Any]) -> None:
    from ..edge.rerank import rerank
    from ..files import read_run, read_texts, write_run

    queries = read_texts(options.queries)
    tag = index.encoder.path.name or "optical"
    if options.rerank:
        say(f"scoring the documents of {options.rerank} for {len(queries)} queries")
        reranked = rerank(index, queries, read_run(options.rerank))
        write_run(options.output, reranked, tag)
        print(f"{options.output}: {len(reranked)} queries")
        return
    say(f"searching {len(index)} texts of {' '.join(options.index)} for {len(queries)} queries")
    with progress_bar("searching", "document") as progress:
        found = index.search_batch(list(queries.values()), options.k, progress=progress, **how)
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
            _show(hits)


def _asked(terminal: bool) -> Iterator[str]:
    """The queries of standard input: on a terminal up to an empty line, elsewhere all lines that are not empty."""
    while True:
        try:
            line = input("? " if terminal else "").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise InputError(f"standard input: not valid UTF-8 ({error.reason})") from None
        if line:
            yield line
        elif terminal:
            return


def _as_json(name: str, text: str, hits: Sequence[Hit]) -> str:
    """One line for a query."""
    rows = [
        {
            "rank": rank,
            "document": hit.document,
            "score": hit.score,
            "text": hit.text,
            "fields": hit.fields,
            "similarity": hit.similarity if math.isfinite(hit.similarity) else None,
            "words": hit.words,
        }
        for rank, hit in enumerate(hits, 1)
    ]
    return json.dumps({"query": name, "text": text, "hits": rows}, ensure_ascii=False)


def _show(hits: Sequence[Hit]) -> None:
    for rank, hit in enumerate(hits, 1):
        text = " ".join(hit.text.split())
        print(f"{rank:3}  {hit.score:7.3f}  {hit.document}  {text[:100]}{'…' if len(text) > 100 else ''}")
        if hit.explanation:
            print("\n".join(f"       {line}" for line in hit.explanation.lines()))
