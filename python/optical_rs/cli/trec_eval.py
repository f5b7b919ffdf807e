"""``optical-rs trec-eval``: trec_eval's command, with its options and its output."""

import argparse
import codecs
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import _core
from ..errors import InputError
from ..files import read_bytes
from ..progress import progress_bar
from ..ranking.evaluation import some, source
from ..ranking.trec_eval import FORMATS, UsageError, expand, measure, parse, report, zscores


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({' '.join(self.format_usage().split())})")


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        print(f"optical-rs trec-eval {_core.build_info()['version']}, as trec_eval 9.0.8", file=sys.stderr)
        sys.exit(0)


class _Measure(argparse.Action):
    """Measures in a list; an unknown one ends the command where it stands, so before a ``-h`` behind it."""

    def __call__(self, _: object, options: argparse.Namespace, value: Any, *__: object) -> None:
        parse(value)
        options.measures = [*(options.measures or []), value]


def integer(text: str) -> int:
    """An integer of at most nine ASCII digits; Python would also read ``1_0``."""
    if not re.fullmatch("[+-]?[0-9]{1,9}", text):
        raise ValueError(text)
    return int(text)


def debug_level(text: str) -> tuple[int, str | None]:
    """The parts of ``level.topic``."""
    level, point, topic = text.partition(".")
    return integer(level or "0"), topic if point else None


def build_parser() -> argparse.ArgumentParser:
    """The options of the command; long ones may be abbreviated, as in trec_eval."""
    parser = _Parser(
        prog="optical-rs trec-eval",
        description="trec_eval's measures, as it prints them, with its exit status.",
    )
    add = parser.add_argument
    add("-q", "--query_eval_wanted", action="store_true", dest="per_topic", help="also for each topic")
    add("-n", "--nosummary", action="store_false", dest="summary", help="no summary over topics")
    add(
        "-c", "--complete_rel_info_wanted", action="store_true", dest="complete",
        help="topics without results count as 0",
    )  # fmt: skip
    add(
        "-l", "--level_for_rel", type=integer, default=1, dest="level", metavar="N",
        help="lowest grade that counts as relevant",
    )  # fmt: skip
    add(
        "-M",
        "--Max_retrieved_per_topic",
        type=integer,
        dest="most",
        metavar="N",
        help="documents per topic at most",
    )
    add(
        "-J", "--Judged_docs_only", action="store_true", dest="judged_only",
        help="take documents without a judgment out first",
    )  # fmt: skip
    add(
        "-N", "--Number_docs_in_coll", type=integer, default=0, dest="collection", metavar="N",
        help="documents of the collection, for utility",
    )  # fmt: skip
    add(
        "-R", "--Rel_info_format", default="qrels", dest="format", metavar="FORMAT",
        help=f"of the judgments: {', '.join(FORMATS)}",
    )  # fmt: skip
    add(
        "-T", "--Results_format", default="trec_results", dest="results", metavar="FORMAT",
        help="of the run: trec_results",
    )  # fmt: skip
    add(
        "-Z", "--Zscore", dest="zscores", metavar="FILE",
        help="print standard deviations from the means in this file (topic measure mean deviation)",
    )  # fmt: skip
    add(
        "-m", "--measure", action=_Measure, dest="measures", metavar="MEASURE",
        help="a measure, as map or ndcg_cut.5,10, or several: official (the default), all_trec, set, prefs, "
        "all_prefs, qrels_jg; may be repeated",
    )  # fmt: skip
    add(
        "-D", "--Debug_level", type=debug_level, default=(0, None), dest="debug", metavar="LEVEL[.TOPIC]",
        help="evaluate this topic alone; lines for debugging are not printed at any level",
    )  # fmt: skip
    add("-o", action="store_true", dest="old", help="ignored")
    add("-v", "--version", nargs=0, action=_Version, help="print the version")
    add("--compat", choices=("9", "10"), default="9", help="follow trec_eval 9.0.8 (the default) or 10")
    add("qrels", help="judgments (.gz too)")
    add("runs", nargs="+", metavar="run", help="results (.gz too); - is standard input")
    return parser


def main(arguments: Sequence[str]) -> None:
    """``optical-rs trec-eval [options] qrels run …``."""
    options = build_parser().parse_args(arguments)
    lines = expand(options.measures or [])
    if options.format not in FORMATS:
        raise InputError(f"-R: expected {', '.join(FORMATS)}, got '{options.format}'")
    if options.results != "trec_results":
        raise InputError(f"-T: expected trec_results, got '{options.results}'")
    if options.most is not None and options.most < 0:
        raise UsageError(f"-M: expected a number of documents, got {options.most}")
    level, topic = options.debug
    if level > 0:
        print("note: -D: lines for debugging are not printed at any level", file=sys.stderr)
    judgments = _source("qrels", options.qrels)
    scored = options.zscores is not None
    for path in options.runs:
        whole = _source("run", path)
        run = whole if topic is None else (path, _of_topic(whole, topic))
        with progress_bar(path, "topic") as progress:
            table, found = measure(
                judgments,
                run,
                lines,
                relevance_level=options.level,
                complete=options.complete,
                judged_only=options.judged_only,
                max_documents=options.most,
                collection_size=options.collection,
                format=options.format,
                compat=options.compat,
                rows=options.per_topic or scored,
                progress=progress,
            )
        if scored:
            table = zscores(lines, table, options.zscores, options.complete, len(found.topics))
        runid = _core.run_tag(whole).decode("utf-8", "surrogateescape")
        printed = report(
            lines, table, runid, per_topic=options.per_topic, summary=options.summary, scored=scored
        )
        sys.stdout.flush()
        # Ids are bytes, and come out as they went in.
        sys.stdout.buffer.write("".join(printed).encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
        if found.missing and not options.complete and topic is None:
            n, them = len(found.missing), "it" if len(found.missing) == 1 else "them"
            what = f"lacks {n} judged topic{'s' * (n > 1)} ({some(found.missing)})"
            print(f"note: {path} {what}; -c counts {them} as 0", file=sys.stderr)


def _source(what: str, path: str) -> str | tuple[str, bytes]:
    found = (path, sys.stdin.buffer.read()) if path == "-" else source(what, path)
    if not (found[1] if isinstance(found, tuple) else os.path.getsize(found)):
        raise InputError(f"{path}: an empty file")
    return found


def _of_topic(run: str | tuple[str, bytes], topic: str) -> bytes:
    """A run with the results of one topic. Lines keep their numbers, and wrong ones stay to be refused."""
    content = run[1] if isinstance(run, tuple) else read_bytes(run)
    lines, id = content.removeprefix(codecs.BOM_UTF8).split(b"\n"), os.fsencode(topic)
    return b"\n".join(b"" if len(f := line.split(None, 6)) >= 6 and f[0] != id else line for line in lines)
