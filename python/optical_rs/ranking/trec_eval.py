"""trec_eval's names of measures and its output, for the command ``optical-rs trec-eval``."""

import math
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from .. import _core
from ..errors import InputError, closest
from ..files import byte_lines
from .evaluation import check_topics

_CUTS = ("5", "10", "15", "20", "30", "100", "200", "500", "1000")
_FIFTHS = tuple(f"{i / 5:.1f}" for i in range(1, 11))

#: What a measure's parameters are.
NONE, CUTS, SHARES, NUMBERS, GAINS = "none", "cut-offs", "shares", "numbers", "gains"
#: What judgments a measure needs; ``None``: any.
QRELS, GROUPS, PREFERENCES = "qrels", "groups", "preferences"
FORMATS = {"qrels": QRELS, "qrels_jg": GROUPS, "prefs": PREFERENCES, "qrels_prefs": PREFERENCES}


class Family(NamedTuple):
    """A measure with its parameters."""

    parameters: str = NONE
    default: tuple[str, ...] = ()
    judgments: str | None = QRELS


#: trec_eval's measures in its order of printing.
MEASURES: dict[str, Family] = {
    "runid": Family(judgments=None),
    "num_q": Family(judgments=None),
    "num_ret": Family(),
    "num_rel": Family(),
    "num_rel_ret": Family(),
    "map": Family(),
    "gm_map": Family(),
    "Rprec": Family(),
    "bpref": Family(),
    "recip_rank": Family(),
    "iprec_at_recall": Family(SHARES, tuple(f"{i / 10:.1f}" for i in range(11))),
    "P": Family(CUTS, _CUTS),
    "relstring": Family(NUMBERS),
    "recall": Family(CUTS, _CUTS),
    "infAP": Family(),
    "gm_bpref": Family(),
    "Rprec_mult": Family(SHARES, _FIFTHS),
    "utility": Family(NUMBERS),
    "11pt_avg": Family(NUMBERS),
    "binG": Family(),
    "G": Family(GAINS),
    "ndcg": Family(GAINS),
    "ndcg_rel": Family(GAINS),
    "Rndcg": Family(GAINS),
    "ndcg_cut": Family(CUTS, _CUTS),
    "map_cut": Family(CUTS, _CUTS),
    "relative_P": Family(CUTS, _CUTS),
    "success": Family(CUTS, ("1", "5", "10")),
    "set_P": Family(),
    "set_relative_P": Family(),
    "set_recall": Family(),
    "set_map": Family(),
    "set_F": Family(NUMBERS),
    "num_nonrel_judged_ret": Family(),
    **{
        name: Family(judgments=PREFERENCES)
        for name in (
            "prefs_num_prefs_poss", "prefs_num_prefs_ful", "prefs_num_prefs_ful_ret", "prefs_simp",
            "prefs_pair", "prefs_avgjg", "prefs_avgjg_Rnonrel", "prefs_simp_ret", "prefs_pair_ret",
            "prefs_avgjg_ret", "prefs_avgjg_Rnonrel_ret", "prefs_simp_imp", "prefs_pair_imp",
            "prefs_avgjg_imp",
        )
    },
    "map_avgjg": Family(judgments=GROUPS),
    "P_avgjg": Family(CUTS, _CUTS, GROUPS),
    "Rprec_mult_avgjg": Family(SHARES, _FIFTHS, GROUPS),
    "yaap": Family(),
    # Beyond trec_eval's.
    "rbp": Family(SHARES, ("0.9",)),
    "rbp_resid": Family(SHARES, ("0.9",)),
    "err": Family(CUTS, ("10", "20")),
    "judged": Family(CUTS, ("10",)),
    "compat": Family(SHARES, ("0.95",)),
}  # fmt: skip
_TREC = tuple(MEASURES)[: tuple(MEASURES).index("yaap")]
_PREFERENCES = tuple(name for name in _TREC if name.startswith("prefs_"))
#: Names of several measures.
SETS: dict[str, tuple[str, ...]] = {
    "official": _TREC[: _TREC.index("relstring")],
    "all_trec": tuple(name for name in _TREC if MEASURES[name].judgments in (None, QRELS)),
    "set": (
        "runid", "num_q", "num_ret", "num_rel", "num_rel_ret", "utility", "set_P", "set_recall",
        "set_relative_P", "set_map", "set_F",
    ),
    "all_prefs": ("runid", "num_q", *_PREFERENCES),
    "prefs": ("runid", "num_q", *_PREFERENCES[:6]),
    "qrels_jg": ("runid", "num_q", "map_avgjg", "P_avgjg", "Rprec_mult_avgjg"),
}  # fmt: skip
_COUNTS = (
    "num_q", "num_ret", "num_rel", "num_rel_ret", "num_nonrel_judged_ret", "prefs_num_prefs_poss",
    "prefs_num_prefs_ful", "prefs_num_prefs_ful_ret",
)  # fmt: skip
#: What is said of all topics alone.
_SUMMARIES = ("runid", "num_q", "gm_map", "gm_bpref")
#: What the core computes.
_COMPUTED = frozenset(MEASURES) - {"runid", "num_q", "relstring"}
#: What a score becomes that has no mean to be compared with.
_NO_ZSCORE = -1_000_000.0


class UsageError(InputError):
    """A wrong option; trec_eval exits with 1."""

    status = 1


class MeasureError(InputError):
    """A measure that cannot be computed; trec_eval exits with 4."""

    status = 4


class ZscoreError(InputError):
    """A file of Z scores that cannot be read; trec_eval exits with 255."""

    status = 255


class Line(NamedTuple):
    """A measure that is printed: its family, the name on the line, and that of the core."""

    family: str
    name: str
    core: str


def _number(text: str) -> float:
    """The number that a text begins with, as C reads it; 0 if there is none."""
    found = re.match(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII)
    return float(found.group()) if found else 0.0


def _real(text: str) -> float:
    named = re.fullmatch(r"[+-]?(nan|inf|infinity)", text, re.IGNORECASE)
    return float(text) if named else _number(text)


def _integer(text: str) -> int:
    found = re.match(r"\s*[+-]?\d+", text, re.ASCII)
    return int(found.group()) if found else 0


def _lines(family: str, parameters: str | None) -> list[Line]:
    """What is printed of a measure with these parameters.

    Raises
    ------
    InputError
        Parameters that the measure cannot have.
    """
    kind, default, _ = MEASURES[family]
    core = family.removesuffix("_avgjg") if kind != NONE or family == "map_avgjg" else family
    given = default if parameters is None else tuple(parameters.split(","))
    if kind in (CUTS, SHARES):
        read = _integer if kind == CUTS else _number
        values = sorted(read(text) for text in given)
        if len(set(values)) < len(values):
            raise InputError(f"-m: '{family}': expected different {kind}, got '{parameters}'")
        if (kind == CUTS and values[0] <= 0) or values[0] < 0:
            raise InputError(f"-m: '{family}': expected {kind} above 0, got '{parameters}'")
        # trec_eval has room for eight characters. Measures that it lacks keep all digits.
        shown = [str(v) if kind == CUTS else f"{v:.2f}"[:8] for v in values]
        if family in ("rbp", "rbp_resid", "compat"):
            shown = [f"{v:.2f}" if round(v, 2) == v else str(v) for v in values]
        return [Line(family, f"{family}_{s}", f"{core}_{v}") for s, v in zip(shown, values, strict=True)]
    if parameters is None or kind == NONE:
        return [Line(family, family, core)]
    if kind == GAINS:
        if any(pair.count("=") != 1 for pair in given):
            raise InputError(f"-m: '{family}': expected grade=gain,grade=gain, got '{parameters}'")
        pairs = (pair.split("=") for pair in given)
        gains = ",".join(f"{_integer(grade)}={_number(gain)!r}" for grade, gain in pairs)
        return [Line(family, f"{family}_{parameters}", f"{core}_{gains}")]
    numbers = [_number(text) for text in given]
    if family == "utility" and len(numbers) != 4:
        raise MeasureError(f"-m: 'utility': expected 4 numbers, got '{parameters}'")
    if family == "set_F":
        numbers = numbers[:1]
    return [Line(family, f"{family}_{parameters}", f"{core}_{','.join(map(repr, numbers))}")]


def parse(name: str) -> tuple[str, str | None]:
    """The measure, or the set of them, that a ``-m`` option names, and its parameters.

    Raises
    ------
    UsageError
        A measure that is not known (the nearest is named), or a point without parameters.

    Examples
    --------
    >>> parse("P.5,10"), parse("map")
    (('P', '5,10'), ('map', None))
    """
    base, point, parameters = name.partition(".")
    if base not in SETS and base not in MEASURES:
        raise UsageError(f"-m: no measure '{base}'{closest(base, [*MEASURES, *SETS])}")
    if point and not parameters:
        raise UsageError(f"-m: '{base}': expected parameters behind the point")
    return base, parameters if point else None


def expand(wanted: Sequence[str]) -> list[Line]:
    """Measures of ``-m`` options (``map``, ``P.5,10``, ``official``, ``all_trec``) in order of printing.

    Raises
    ------
    InputError
        A measure that is not known (the nearest is named), or a parameter that it cannot have.

    Examples
    --------
    >>> [line.name for line in expand(["ndcg_cut.10,5", "map"])]
    ['map', 'ndcg_cut_5', 'ndcg_cut_10']
    """
    parameters: dict[str, str | None] = {}
    for base, given in map(parse, wanted or ["official"]):
        for each in SETS.get(base, (base,)):
            parameters.setdefault(each, None)
        # Of parameters that are given twice, the first count.
        if base in MEASURES and parameters[base] is None:
            parameters[base] = given
    return [
        line for family in MEASURES if family in parameters for line in _lines(family, parameters[family])
    ]


def read_zscores(path: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Means and standard deviations by topic and measure, of lines ``topic measure mean deviation``.

    Raises
    ------
    ZscoreError
        A file that cannot be read; with file and line, a line that is none of these.
    """
    found = {}
    try:
        for number, line in enumerate(byte_lines(path), 1):
            parts = [part.decode("utf-8", "surrogateescape") for part in line.split()]
            if len(parts) != 4:
                raise InputError(f"{path}:{number}: expected 4 fields (topic measure mean deviation)")
            found[parts[0], parts[1]] = _real(parts[2]), _real(parts[3])
    except InputError as error:
        raise ZscoreError(str(error)) from None
    return found


class Table(NamedTuple):
    """What is printed: a row of values for each topic that is shown, and those of all."""

    topics: list[str]
    rows: list[list[float]]
    all: list[float]
    strings: list[str]


def measure(
    judgments: Any,
    run: Any,
    lines: Sequence[Line],
    *,
    relevance_level: int = 1,
    complete: bool = False,
    judged_only: bool = False,
    max_documents: int | None = None,
    collection_size: int = 0,
    format: str = "qrels",
    compat: str = "9",
    rows: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Table, _core.Measured]:
    """The values of one run, and what the core found besides.

    Parameters
    ----------
    judgments, run
        As from :func:`~optical_rs.ranking.evaluation.source`.
    lines : sequence of Line
        What is to be printed.
    relevance_level, complete, judged_only, max_documents, collection_size, compat, progress
        As for :func:`~optical_rs.ranking.evaluate`.
    format : str
        Of the judgments, one of ``FORMATS``.
    rows : bool
        Whether topics are to be printed, rather than all of them together alone.

    Raises
    ------
    InputError
        As :func:`~optical_rs.ranking.evaluate`; a measure of other judgments than those given.
    """
    kind = FORMATS[format]
    foreign = [line.family for line in lines if MEASURES[line.family].judgments not in (None, kind)]
    wanted = [line.core for line in lines if line.family in _COMPUTED and line.family not in foreign]
    # With -c, trec_eval's summary of num_rel counts all grades above 0.
    above_0 = complete and "num_rel" in wanted
    lengths = [_number(line.core.partition("_")[2] or "10") for line in lines if line.family == "relstring"]
    found = _core.evaluate(
        judgments,
        run,
        [*wanted, *(["NumRel(rel=1)"] if above_0 else [])],
        relevance_level=relevance_level,
        complete=complete,
        judged_only=judged_only,
        max_documents=max_documents,
        collection_size=collection_size,
        compat=int(compat),
        format=format,
        strings=max(0, int(lengths[0])) if lengths else None,
        progress=progress,
    )
    check_topics(found, (judgments, run))
    if foreign:
        raise MeasureError(f"-m: '{foreign[0]}' cannot be computed from '{format}'")
    n = len(found.topics)
    values = array("d", found.values)
    columns = {name: values[i * n : (i + 1) * n] for i, name in enumerate(wanted)}
    means = dict(zip(wanted, found.means, strict=False))
    if above_0:
        means["num_rel"] = found.means[-1]
    columns["num_q"], means["num_q"] = array("d", [1.0] * n), float(n)
    nothing, strings = array("d", [0.0] * n), found.strings or [""] * n
    # With -c, version 9 averages over topics without results, but does not print them.
    shown = [i for i in range(n) if rows and (found.retrieved[i] or compat == "10")]
    table = Table(
        [found.topics[i] for i in shown],
        [[columns.get(line.core, nothing)[i] for line in lines] for i in shown],
        [means.get(line.core, 0.0) for line in lines],
        [strings[i] for i in shown],
    )
    return table, found


def zscores(lines: Sequence[Line], table: Table, path: str, complete: bool, topics: int) -> Table:
    """The same in standard deviations from the means of reference runs."""
    reference = read_zscores(path)

    def convert(topic: str, line: Line, value: float) -> float:
        mean, deviation = reference.get((topic, line.name), (0.0, None))
        if deviation:
            return (value - mean) / deviation
        return 0.0 if deviation == 0 and value == mean else _NO_ZSCORE

    rows = [
        [convert(topic, line, value) for line, value in zip(lines, row, strict=True)]
        for topic, row in zip(table.topics, table.rows, strict=True)
    ]

    def summary(line: Line, total: float, before: float) -> float:
        if line.family == "num_q" or (line.family == "num_rel" and complete):
            return before
        if line.family in ("gm_map", "gm_bpref"):
            return math.exp((total + (topics - len(rows)) * math.log(1e-5)) / topics)
        return total if line.family in _COUNTS else total / topics

    totals = [sum(column) for column in zip(*rows, strict=True)]
    summaries = [summary(*each) for each in zip(lines, totals, table.all, strict=True)]
    return table._replace(rows=rows, all=summaries)


def report(
    lines: Sequence[Line], table: Table, runid: str, *, per_topic: bool, summary: bool, scored: bool = False
) -> Iterator[str]:
    """The lines that trec_eval prints."""

    def text(line: Line, topic: str, value: float) -> str:
        count = line.family in _COUNTS and not scored
        shown = str(int(value)) if count else f"{value:6.4f}"
        if math.isnan(value) and math.copysign(1, value) < 0:
            shown = "  -nan"
        return f"{'Z' if scored else ''}{line.name:<22}\t{topic}\t{shown}\n"

    if per_topic:
        for topic, row, string in zip(table.topics, table.rows, table.strings, strict=True):
            for line, value in zip(lines, row, strict=True):
                if line.family == "relstring":
                    yield f"{line.name:<22}\t{topic}\t'{string}'\n"
                elif line.family not in _SUMMARIES:
                    yield text(line, topic, value)
    if summary:
        for line, value in zip(lines, table.all, strict=True):
            if line.family == "runid":
                yield f"{'runid':<22}\tall\t{runid}\n"
            elif line.family != "relstring":
                yield text(line, "all", value)
