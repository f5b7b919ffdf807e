"""trec_eval's names of measures and its output, for the command ``optical-rs trec-eval``."""

from collections.abc import Iterator, Sequence

from ..errors import InputError, closest
from .evaluation import EvaluationResult

_CUTS = ("5", "10", "15", "20", "30", "100", "200", "500", "1000")
_TENTHS = tuple(f"{i / 10:.2f}" for i in range(11))

#: trec_eval's measures in its order of printing, with the parameters that they have by default.
MEASURES: dict[str, tuple[str, ...]] = {
    "num_q": (),
    "num_ret": (),
    "num_rel": (),
    "num_rel_ret": (),
    "map": (),
    "gm_map": (),
    "Rprec": (),
    "bpref": (),
    "recip_rank": (),
    "iprec_at_recall": _TENTHS,
    "P": _CUTS,
    "recall": _CUTS,
    "infAP": (),
    "Rprec_mult": tuple(f"{i / 5:.2f}" for i in range(1, 11)),
    "utility": (),
    "11pt_avg": (),
    "ndcg": (),
    "ndcg_cut": _CUTS,
    "map_cut": _CUTS,
    "relative_P": _CUTS,
    "success": ("1", "5", "10"),
    "set_P": (),
    "set_relative_P": (),
    "set_recall": (),
    "set_map": (),
    "set_F": (),
    "num_nonrel_judged_ret": (),
}
#: Measures beyond those of ``all_trec``.
MORE: dict[str, tuple[str, ...]] = {
    "rbp": ("0.90",),
    "rbp_resid": ("0.90",),
    "err": ("10", "20"),
    "judged": ("10",),
    "compat": ("0.95",),
}
OFFICIAL = (
    "num_q", "num_ret", "num_rel", "num_rel_ret", "map", "gm_map", "Rprec", "bpref", "recip_rank",
    "iprec_at_recall", "P",
)  # fmt: skip
_COUNTS = {"num_q", "num_ret", "num_rel", "num_rel_ret", "num_nonrel_judged_ret"}


class UsageError(InputError):
    """A wrong option; trec_eval exits with 1."""

    status = 1


class NoTopicError(InputError):
    """No topic has both results and judgments; trec_eval exits with 7."""

    status = 7


def expand(wanted: Sequence[str]) -> list[str]:
    """Names of ``-m`` options (``map``, ``P.5,10``, ``official``, ``all_trec``) in order of printing.

    Raises
    ------
    InputError
        A measure that is not known (the nearest is named), or a parameter that it cannot have.

    Examples
    --------
    >>> expand(["ndcg_cut.10,5", "map"])
    ['map', 'ndcg_cut_5', 'ndcg_cut_10']
    """
    known = {**MEASURES, **MORE}
    chosen: dict[str, set[str]] = {}
    for name in wanted or ["official"]:
        base, dot, parameters = name.partition(".")
        sets = {"official": OFFICIAL, "all_trec": tuple(MEASURES)}.get(name)
        if sets is None and base not in known:
            raise UsageError(f"-m: no measure '{name}'{closest(base, known)}")
        for each in sets or (base,):
            values = parameters.split(",") if dot else known[each]
            if dot and not known[each]:
                raise UsageError(f"-m: '{each}' has no parameter, got '{name}'")
            chosen.setdefault(each, set()).update(_canonical(each, value) for value in values)
    names = []
    for base in known:
        if base in chosen:
            values = sorted(chosen[base], key=float)
            names += [f"{base}_{value}" for value in values] if known[base] else [base]
    return names


def _canonical(measure: str, value: str) -> str:
    try:
        default = {**MEASURES, **MORE}[measure][0]
        return f"{float(value):.2f}" if "." in default else str(int(value))
    except ValueError:
        raise UsageError(f"-m: '{measure}' expected a number as parameter, got '{value}'") from None


def _line(name: str, topic: str, value: float) -> str:
    return f"{name:<22}\t{topic}\t{value:.0f}" if name in _COUNTS else f"{name:<22}\t{topic}\t{value:6.4f}"


def report(
    result: EvaluationResult,
    names: Sequence[str],
    runid: str,
    *,
    per_topic: bool,
    summary: bool,
    compat: str = "9",
) -> Iterator[str]:
    """The lines that trec_eval prints."""
    if per_topic:
        rows = {name: result.per_topic(name) for name in names if name != "num_q"}
        for topic, retrieved in zip(result.topics, result.retrieved, strict=True):
            # With -c, version 9 averages over topics without results, but does not print them.
            if retrieved or compat == "10":
                yield from (_line(name, topic, values[topic]) for name, values in rows.items())
    if summary:
        yield f"{'runid':<22}\tall\t{runid}"
        for name in names:
            yield _line(name, "all", len(result.topics) if name == "num_q" else result.mean[name])
