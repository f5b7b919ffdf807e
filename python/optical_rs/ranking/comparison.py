"""``compare``: are the differences between runs more than chance, and large enough to matter?"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError, closest, require
from .differences import Comparison, Difference
from .evaluation import DEFAULT_MEASURES, EvaluationResult, evaluate, some
from .significance import CORRECTIONS, TESTS, adjust, bootstrap, equivalence, p_value

#: Topics below which a note says that the comparison has little power.
FEW_TOPICS = 25


def compare(
    qrels: Any,
    runs: Mapping[str, Any],
    measures: Sequence[Any] = DEFAULT_MEASURES,
    *,
    baseline: str | None = None,
    test: str = "t",
    correction: str = "holm",
    margin: float | None = None,
    alpha: float = 0.05,
    resamples: int = 10_000,
    seed: int = 0,
    relevance_level: int = 1,
    complete: bool = False,
) -> Comparison:
    """Compare runs over the same topics, with corrected tests, intervals and effect sizes.

    As for :func:`~optical_rs.ranking.evaluate`, a judged topic that a run lacks is left out, here for all
    runs, or counts as 0 with ``complete``; a note names such topics.

    Parameters
    ----------
    qrels : path, dict, table or arrays
        Judgments, as for :func:`~optical_rs.ranking.evaluate`.
    runs : dict of str to (path, dict, table or arrays)
        The runs, by name; at least two.
    measures : sequence of str or of ir_measures' objects
        As for :func:`~optical_rs.ranking.evaluate`.
    baseline : str, optional
        Compare all others with this run; by default every pair is compared.
    test : {"t", "randomisation", "wilcoxon"}
        ``"t"``, the paired t-test, is the usual choice: it keeps its level well on retrieval measures
        [1]_ [2]_. ``"randomisation"`` flips the signs of the differences ``resamples`` times and assumes
        exchangeability alone: p = (1 + as extreme) / (1 + resamples). ``"wilcoxon"`` tests ranks of
        differences, which is another hypothesis than that of the means.
    correction : {"holm", "bonferroni", "bh", "none"}
        Over all pairs and measures. The first two bound the chance of any false claim, ``"bh"`` the
        share of false claims.
    margin : float, optional
        Also test whether means differ by less than this (two one-sided tests [3]_): an insignificant
        difference alone is no sign of equality.
    alpha : float
        Level of tests and intervals.
    resamples, seed : int
        Of bootstrap and randomisation. The random numbers are counter-based (Philox): the same seed gives
        the same digits whatever else is computed.
    relevance_level, complete
        As for :func:`~optical_rs.ranking.evaluate`.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        Fewer than two runs, an unknown option or baseline, fewer than two topics, or as for
        :func:`~optical_rs.ranking.evaluate`.

    References
    ----------
    .. [1] J. Urbano, H. Lima, A. Hanjalic. Statistical significance testing in information retrieval: an
       empirical analysis of type I, type II and type III errors. SIGIR 2019.
    .. [2] M. Smucker, J. Allan, B. Carterette. A comparison of statistical significance tests for
       information retrieval evaluation. CIKM 2007.
    .. [3] D. Schuirmann. A comparison of the two one-sided tests procedure and the power approach.
       J. Pharmacokinetics and Biopharmaceutics 15, 1987.
    .. [4] N. Fuhr. Some common mistakes in IR evaluation, and how they can be avoided. SIGIR Forum 51(3),
       2017. (Reciprocal rank, uncorrected tests: see the notes of the result.)

    Examples
    --------
    >>> from optical_rs.ranking import compare
    >>> qrels = {f"q{i}": {"d": 1} for i in range(30)}
    >>> good = {f"q{i}": {"d": 2.0, "x": 1.0} for i in range(30)}
    >>> poor = {f"q{i}": {"d": 1.0, "x": 2.0 if i % 3 else 0.5} for i in range(30)}
    >>> row = compare(qrels, {"good": good, "poor": poor}, ["recip_rank"]).rows[0]
    >>> round(row.difference, 3), row.significant, (row.wins, row.losses, row.ties)
    (0.333, True, (20, 0, 10))
    """
    require("scipy", "compare")
    _check(runs, baseline, test, correction, margin, alpha, resamples)
    results, tied, missing = {}, {}, {}
    for name, run in runs.items():
        # Ties between documents are counted along.
        wanted = [*measures, "num_ret", "num_tied"]
        result = evaluate(qrels, run, wanted, relevance_level=relevance_level, complete=complete)
        tied[name] = result.mean["num_tied"] / max(result.mean["num_ret"], 1)
        missing[name] = result.missing
        results[name] = result.select(list(dict.fromkeys(measures)))
    topics = set.intersection(*(set(result.topics) for result in results.values()))
    return compare_results(
        {name: result.restrict(topics) for name, result in results.items()},
        baseline=baseline,
        test=test,
        correction=correction,
        margin=margin,
        alpha=alpha,
        resamples=resamples,
        seed=seed,
        tied=tied,
        notes=_missing_notes(missing, complete),
    )


def _missing_notes(missing: Mapping[str, Sequence[Any]], complete: bool) -> list[str]:
    notes = [
        f"{name} lacks {len(topics)} judged topics ({some(topics)})."
        for name, topics in missing.items()
        if topics
    ]
    how = "they count as 0" if complete else "they are left out for all runs"
    return [*notes, f"of the topics that a run lacks: {how}."] if notes else []


def compare_results(
    results: Mapping[str, EvaluationResult],
    *,
    baseline: str | None = None,
    test: str = "t",
    correction: str = "holm",
    margin: float | None = None,
    alpha: float = 0.05,
    resamples: int = 10_000,
    seed: int = 0,
    tied: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """As :func:`compare`, for results that exist already, such as means over seeds.

    Parameters
    ----------
    results : dict of str to EvaluationResult
        By name, at least two; of the same topics and measures.
    baseline, test, correction, margin, alpha, resamples, seed
        As for :func:`compare`.
    tied : dict of str to float, optional
        The share of tied documents of each run, for the notes.
    notes : sequence of str
        Notes that come before those of the comparison.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        As for :func:`compare`, and for results of other topics or measures than the first one's.
    """
    require("scipy", "compare")
    _check(results, baseline, test, correction, margin, alpha, resamples)
    tied = tied or dict.fromkeys(results, 0.0)
    first = next(iter(results.values()))
    n = len(first.topics)
    if n < 2:
        raise InputError(f"qrels: a comparison needs at least 2 topics, got {n}")
    for name, result in results.items():
        if result.topics != first.topics or result.measures != first.measures:
            raise InputError(f"results: '{name}' has other topics or measures than '{next(iter(results))}'")
    pairs = (
        list(itertools.combinations(results, 2))
        if baseline is None
        else [(name, baseline) for name in results if name != baseline]
    )
    rows = []
    for index, measure in enumerate(first.measures):
        for one, other in pairs:
            x, y = results[one].values[index], results[other].values[index]
            d = x - y
            low, high = bootstrap(d, alpha, resamples, seed)
            spread = float(d.std(ddof=1))
            mean = float(d.mean())
            p_equivalent = None if margin is None else equivalence(d, margin)
            rows.append(
                Difference(
                    measure=str(measure),
                    first=one,
                    second=other,
                    n=n,
                    mean_first=float(x.mean()),
                    mean_second=float(y.mean()),
                    difference=mean,
                    low=low,
                    high=high,
                    effect_size=mean / spread
                    if spread > 0
                    else math.copysign(math.inf, mean)
                    if mean
                    else 0.0,
                    wins=int((d > 0).sum()),
                    losses=int((d < 0).sum()),
                    ties=int((d == 0).sum()),
                    p=p_value(d, test, resamples, seed),
                    p_adjusted=math.nan,
                    p_equivalent=p_equivalent,
                    significant=False,
                    equivalent=p_equivalent is not None and p_equivalent < alpha,
                )
            )
    adjusted = adjust([row.p for row in rows], correction)
    rows = [
        dataclasses.replace(row, p_adjusted=p, significant=p < alpha)
        for row, p in zip(rows, adjusted, strict=True)
    ]
    return Comparison(
        dict(results),
        rows,
        test,
        correction,
        alpha,
        margin,
        [*notes, *_notes(rows, n, test, correction, tied)],
    )


def _check(
    runs: Any,
    baseline: str | None,
    test: str,
    correction: str,
    margin: float | None,
    alpha: float,
    resamples: int,
) -> None:
    if not isinstance(runs, Mapping) or len(runs) < 2:
        raise InputError("runs: expected a dict of at least two runs by name")
    if baseline is not None and baseline not in runs:
        raise InputError(f"baseline: no run '{baseline}'{closest(baseline, runs)}")
    if test not in TESTS:
        raise InputError(f"test: expected one of {', '.join(TESTS)}, got {test!r}")
    if correction not in CORRECTIONS:
        raise InputError(f"correction: expected one of {', '.join(CORRECTIONS)}, got {correction!r}")
    if margin is not None and not (margin > 0 and math.isfinite(margin)):
        raise InputError(f"margin: expected a number > 0, got {margin!r}")
    if not 0 < alpha < 1:
        raise InputError(f"alpha: expected a number between 0 and 1, got {alpha!r}")
    if resamples < 1 or int(resamples) != resamples:
        raise InputError(f"resamples: expected an integer >= 1, got {resamples!r}")


def _notes(
    rows: list[Difference], n: int, test: str, correction: str, tied_scores: Mapping[str, float]
) -> list[str]:
    notes = []
    if n < FEW_TOPICS:
        notes.append(f"only {n} topics: a difference must be large to be found.")
    if correction == "none" and len(rows) > 1:
        notes.append(f"{len(rows)} tests without correction: some will be significant by chance.")
    if any(re.match(r"recip_rank|M?RR\b", row.measure) for row in rows):
        notes.append("reciprocal rank is no interval scale; its means are hard to interpret (Fuhr 2017).")
    tied = [row for row in rows if row.ties > n / 2]
    if tied:
        notes.append(
            f"in {len(tied)} of {len(rows)} comparisons more than half of the topics are tied; the intervals "
            "and tests rest on the others."
        )
    for name, share in tied_scores.items():
        if share > 0:
            notes.append(
                f"{share:.2%} of the documents of {name} tie in score with another; their ids decide the order."
            )
    if test == "wilcoxon":
        notes.append("the Wilcoxon test is about the ranks of differences, not about the means shown.")
    return notes
