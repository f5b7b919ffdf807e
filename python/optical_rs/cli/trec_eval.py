"""``optical-rs trec-eval``: trec_eval's command, with its options and its output."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import _core
from ..progress import progress_bar
from ..ranking.evaluation import evaluate, source
from ..ranking.trec_eval import NoTopicError, UsageError, expand, report


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.format_usage().strip()})")


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = _Parser(
        prog="optical-rs trec-eval",
        description="trec_eval's measures, as it prints them, with its exit status.",
        allow_abbrev=False,
    )
    parser.add_argument("-q", action="store_true", dest="per_topic", help="also for each topic")
    parser.add_argument("-n", action="store_false", dest="summary", help="no summary over topics")
    parser.add_argument("-c", action="store_true", dest="complete", help="topics without results count as 0")
    parser.add_argument(
        "-l", type=int, default=1, dest="level", metavar="N", help="relevant from this grade on"
    )
    parser.add_argument("-M", type=int, dest="most", metavar="N", help="documents per topic at most")
    parser.add_argument(
        "-m", action="append", dest="measures", metavar="MEASURE",
        help="a measure, as map or ndcg_cut.5,10; official (the default) or all_trec; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--compat", choices=("9", "10"), default="9", help="follow trec_eval 9.0.8 (the default) or 10"
    )
    parser.add_argument("qrels", help="judgments (.gz too)")
    parser.add_argument("runs", nargs="+", metavar="run", help="results (.gz too); - is standard input")
    return parser


def main(arguments: Sequence[str]) -> None:
    """``optical-rs trec-eval [options] qrels run …``."""
    options = build_parser().parse_args(arguments)
    names = expand(options.measures or [])
    judgments = _source("qrels", options.qrels)
    for path in options.runs:
        run = _source("run", path)
        with progress_bar(path, "topic") as progress:
            result = evaluate(
                judgments,
                run,
                [name for name in names if name != "num_q"],
                relevance_level=options.level,
                complete=options.complete,
                max_documents=options.most,
                compat=options.compat,
                progress=progress,
            )
        if not any(result.retrieved):
            raise NoTopicError(f"{path}: no topic of it is judged in {options.qrels}")
        runid = _core.run_tag(run).decode("utf-8", "replace")
        lines = report(
            result,
            names,
            runid,
            per_topic=options.per_topic,
            summary=options.summary,
            compat=options.compat,
        )
        sys.stdout.write("".join(f"{line}\n" for line in lines))


def _source(what: str, path: str) -> str | tuple[str, bytes]:
    return (path, sys.stdin.buffer.read()) if path == "-" else source(what, path)
