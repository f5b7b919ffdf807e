"""``optical-rs compare``: are the differences between runs more than chance, and large enough to matter?"""

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from ..progress import say
from ..ranking.evaluation import DEFAULT_MEASURES
from .options import Parser, add_json

TESTS = ("t", "randomisation", "wilcoxon")
CORRECTIONS = ("holm", "bonferroni", "bh", "none")


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser("compare", "Compare TREC runs, with corrected tests, intervals and effect sizes.")
    parser.add_argument("qrels", help="TREC judgments (.gz too)")
    parser.add_argument("runs", nargs="+", metavar="run", help="TREC runs, each a path or name=path")
    parser.add_argument(
        "-m", "--measure", action="append", dest="measures", help="a measure; may be repeated"
    )
    parser.add_argument(
        "-l",
        "--relevance_level",
        type=int,
        default=1,
        help="lowest grade that counts as relevant (default: 1)",
    )
    parser.add_argument("-c", "--complete", action="store_true", help="topics that a run lacks count as 0")
    parser.add_argument("--baseline", metavar="NAME", help="compare all others with this run")
    parser.add_argument(
        "--test",
        choices=TESTS,
        default="t",
        help="paired t-test, sign flips, or ranks of differences (default: t)",
    )
    parser.add_argument(
        "--correction",
        choices=CORRECTIONS,
        default="holm",
        help="for testing several pairs or measures (default: holm)",
    )
    parser.add_argument("--margin", type=float, help="also test for equivalence within this difference")
    parser.add_argument(
        "--alpha", type=float, default=0.05, help="level of tests and intervals (default: 0.05)"
    )
    parser.add_argument(
        "--resamples", type=int, default=10_000, help="samples of bootstrap and sign flips (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of bootstrap and sign flips (default: 0)")
    parser.add_argument(
        "--format",
        choices=("markdown", "latex", "json"),
        default="markdown",
        help="of the table (default: markdown)",
    )
    parser.add_argument("--languages", type=Path, help="a file of topics and their languages, a line each")
    parser.add_argument("--output", type=Path, metavar="DIR", help="also write charts there (extra plot)")
    add_json(parser)
    parser.old["--plot"] = "--output"
    return parser


def main(arguments: Sequence[str]) -> None:
    """``optical-rs compare qrels run run …``."""
    options = build_parser().parse_args(arguments)
    runs = named(options.runs)
    from ..files import rows
    from ..ranking import compare, means_by_language
    from ..ranking.tables import latex, markdown

    result = compare(
        options.qrels,
        runs,
        options.measures or DEFAULT_MEASURES,
        baseline=options.baseline,
        test=options.test,
        correction=options.correction,
        margin=options.margin,
        alpha=options.alpha,
        resamples=options.resamples,
        seed=options.seed,
        relevance_level=options.relevance_level,
        complete=options.complete,
    )
    languages: dict[str, dict[str, dict[str, float]]] = {}
    if options.languages:
        of_topics = {parts[0]: parts[1] for _, parts in rows(options.languages, 2, "topic language")}
        for name, one in result.results.items():
            for measure, means in means_by_language(one, of_topics).items():
                languages.setdefault(measure, {})[name] = means
    if options.json or options.format == "json":
        print(json.dumps({**result.to_dict(), **({"languages": languages} if languages else {})}, indent=1))
    else:
        as_text, table = (
            (result.to_markdown(), markdown) if options.format == "markdown" else (result.to_latex(), latex)
        )
        print("\n\n".join([as_text, *(table(*_by_language(m, of)) for m, of in languages.items())]))
    if options.output:
        from ..plots import write_plots

        written = write_plots(
            options.output,
            result,
            options.qrels,
            runs,
            languages=languages,
            relevance_level=options.relevance_level,
            complete=options.complete,
        )
        say(f"{len(written)} charts: {options.output}")


def named(specs: Sequence[str]) -> dict[str, str]:
    """Runs by name: as ``name=path`` gives it, or the file's name, or what tells files of the same name apart.

    Raises
    ------
    InputError
        Two runs of one name.

    Examples
    --------
    >>> named(["ours=a.txt", "bm25.run.gz"])
    {'ours': 'a.txt', 'bm25': 'bm25.run.gz'}
    >>> list(named(["runs/demo/optical/evaluation/run.trec", "runs/demo/pooled/evaluation/run.trec"]))
    ['optical', 'pooled']
    """
    given = [spec.partition("=") for spec in specs]
    paths = [path if equals else name for name, equals, path in given]
    stems = {path: Path(path).name.removesuffix(".gz").rsplit(".", 1)[0] for path in paths}
    runs: dict[str, str] = {}
    for (name, equals, _), path in zip(given, paths, strict=True):
        if not equals:
            alike = {
                p for (_, e, _), p in zip(given, paths, strict=True) if not e and stems[p] == stems[path]
            }
            name = stems[path] if len(alike) == 1 else _distinguished(path, alike)
        if name in runs:
            raise InputError(f"runs: two runs are called '{name}'; give names as name=path")
        runs[name] = path
    return runs


def _distinguished(path: str, alike: Iterable[str]) -> str:
    """The shortest part of a path's folders that the others do not have, without what all have in the end."""
    parts = {p: Path(os.path.abspath(p)).parts for p in alike}
    while all(len(p) > 1 for p in parts.values()) and len({p[-1] for p in parts.values()}) == 1:
        parts = {name: p[:-1] for name, p in parts.items()}
    longest = max(map(len, parts.values()))
    lengths = range(1, longest + 1)
    length = next((n for n in lengths if len({p[-n:] for p in parts.values()}) == len(parts)), longest)
    return "/".join(parts[path][-length:])


def _by_language(
    measure: str, values: Mapping[str, Mapping[str, float]]
) -> tuple[list[str], list[list[str]]]:
    """A table's head and rows: a measure of each system by language, with the mean and the largest gap."""
    from ..ranking import language_gap

    names = list(next(iter(values.values())))
    body = []
    for system, means in values.items():
        gap = language_gap(means)
        cells = [*(means[name] for name in names), gap.mean, max(gap.gaps.values())]
        body.append([system, *(f"{value:.4f}" for value in cells)])
    return [measure, *names, "mean", "largest gap"], body
