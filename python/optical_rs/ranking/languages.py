"""Are languages served alike? Measures over languages, of queries and of documents.

For *queries* in several languages over one collection: :func:`language_gap`. For *documents* in several
languages in one ranking: :func:`rank_distance`, :func:`max_rank`, :func:`peer` and :func:`awrf`.
"""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, closest, require
from ..files import read_qrels, read_run
from .evaluation import EvaluationResult


@dataclasses.dataclass(frozen=True)
class LanguageGap:
    """A measure over languages.

    Attributes
    ----------
    mean : float
        Over languages, each counting the same.
    values : dict of str to float
        Each language's value.
    best : str
        The language with the highest value.
    gaps : dict of str to float
        What each language lacks to the best one.
    closed : float or None
        The share of the gap between low and high languages that was closed: (low after − low before) /
        (high before − low before), each a mean over its languages; None without values from before, or
        where there was no gap.
    """

    mean: float
    values: dict[str, float]
    best: str
    gaps: dict[str, float]
    closed: float | None


def language_gap(
    values: Mapping[str, float],
    before: Mapping[str, float] | None = None,
    *,
    low: Sequence[str] | None = None,
    high: Sequence[str] | None = None,
) -> LanguageGap:
    """How far languages are apart, and how much of the distance a method has closed.

    Parameters
    ----------
    values : dict of str to float
        A measure for each language, such as MAP of queries in it.
    before : dict of str to float, optional
        The same before the method was applied (zero-shot).
    low, high : sequence of str, optional
        The languages that were to be lifted, and those whose level is the aim. By default the best one
        before is high and all others are low.

    Returns
    -------
    LanguageGap

    Raises
    ------
    InputError
        No language, or one that has no value.

    Examples
    --------
    >>> from optical_rs.ranking import language_gap
    >>> gap = language_gap({"ny": 0.77, "fr": 0.94}, {"ny": 0.60, "fr": 0.94})
    >>> gap.best, round(gap.gaps["ny"], 2), round(gap.closed, 2)
    ('fr', 0.17, 0.5)
    """
    if not values:
        raise InputError("values: expected at least one language")
    best = max(values, key=lambda name: values[name])
    gaps = {name: values[best] - value for name, value in values.items()}
    closed = None
    if before is not None:
        aim = high or [max(before, key=lambda name: before[name])]
        lifted = low or [name for name in values if name not in aim]
        start, reached, top = (
            _mean(of, names) for of, names in ((before, lifted), (values, lifted), (before, aim))
        )
        closed = (reached - start) / (top - start) if lifted and top > start else None
    return LanguageGap(_mean(values, list(values)), dict(values), best, gaps, closed)


def _mean(values: Mapping[str, float], names: Sequence[str]) -> float:
    for name in names:
        if name not in values:
            raise InputError(f"languages: no value for '{name}'{closest(name, values)}")
    return float(np.mean([values[name] for name in names])) if names else math.nan


def means_by_language(result: EvaluationResult, languages: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Means of measures over the topics of each language.

    Parameters
    ----------
    result : EvaluationResult
        Of :func:`~optical_rs.ranking.evaluate`.
    languages : dict of str to str
        Each topic's language.

    Returns
    -------
    dict of str to dict of str to float
        Measure → language → mean, languages in alphabetical order.

    Raises
    ------
    InputError
        A topic without a language.

    Examples
    --------
    >>> from optical_rs.ranking import evaluate, means_by_language
    >>> run = {"1": {"a": 1.0}, "2": {"b": 1.0, "a": 0.5}}
    >>> result = evaluate({"1": {"a": 1}, "2": {"a": 1}}, run, ["map"])
    >>> means_by_language(result, {"1": "sw", "2": "ny"})
    {'map': {'ny': 0.5, 'sw': 1.0}}
    """
    groups: dict[str, list[int]] = {}
    for i, topic in enumerate(result.topics):
        if topic not in languages:
            raise InputError(f"languages: no language for topic '{topic}'")
        groups.setdefault(languages[topic], []).append(i)
    return {
        measure: {name: float(row[at].mean()) for name, at in sorted(groups.items())}
        for measure, row in zip(result.measures, result.values, strict=True)
    }


def rank_distance(qrels: Any, run: Any, *, depth: int = 1000, relevance_level: int = 1) -> dict[str, float]:
    """The rank of the last less that of the first of a query's relevant documents.

    For n parallel documents, which are translations of each other, the least is n − 1: they stand side by side. A document that is not among the first ``depth`` has rank depth + 1.

    Parameters
    ----------
    qrels, run : path or dict
        TREC files or dicts, as for :func:`~optical_rs.ranking.evaluate`.
    depth : int
        Ranks that are looked at.
    relevance_level : int
        Judgments of at least this are relevant.

    Returns
    -------
    dict of str to float
        For each query with at least two relevant documents; those that the run lacks count as not retrieved.

    References
    ----------
    Z. Huang, H. Zeng, H. Zamani, J. Allan. Soft prompt decoding for multilingual dense retrieval. SIGIR
    2023. arXiv 2305.09025.

    Examples
    --------
    >>> from optical_rs.ranking import rank_distance
    >>> rank_distance({"q": {"d.en": 1, "d.sw": 1}}, {"q": {"d.en": 9.0, "x": 8.0, "y": 7.0, "d.sw": 6.0}})
    {'q': 3.0}
    """
    ranks = _relevant_ranks(qrels, run, depth, relevance_level)
    return {query: float(max(r) - min(r)) for query, r in ranks.items() if len(r) > 1}


def max_rank(qrels: Any, run: Any, *, depth: int = 1000, relevance_level: int = 1) -> dict[str, float]:
    """The rank at which a reader has seen every relevant document of a query, whatever its language.

    Arguments and result as for :func:`rank_distance`, for queries with at least one relevant document.

    Examples
    --------
    >>> from optical_rs.ranking import max_rank
    >>> max_rank({"q": {"d.en": 1, "d.sw": 1}}, {"q": {"d.en": 9.0, "x": 8.0}}, depth=100)
    {'q': 101.0}
    """
    ranks = _relevant_ranks(qrels, run, depth, relevance_level)
    return {query: float(max(r)) for query, r in ranks.items()}


def peer(
    qrels: Any,
    run: Any,
    languages: Mapping[str, str],
    *,
    k: int = 20,
    weights: Mapping[int, float] | None = None,
) -> dict[str, float]:
    """PEER@k, the probability of equal expected rank: is a document's rank independent of its language?

    For each relevance grade, the p-value of a Kruskal–Wallis test that the documents of all languages come
    from one distribution of ranks; then the mean over grades by ``weights``. Relevant documents that are not
    among the first k share the last place. A grade with documents of one language only counts as fair, 1.

    Parameters
    ----------
    qrels, run : path or dict
        TREC files or dicts, as for :func:`~optical_rs.ranking.evaluate`.
    languages : dict of str to str
        Each document's language.
    k : int
        Ranks that are looked at.
    weights : dict of int to float, optional
        Of grades, 0 for what is not relevant or not judged; they must sum to 1. By default the positive
        grades of a query count the same and the others nothing.

    Returns
    -------
    dict of str to float
        For each query with results and a relevant document, between 0 and 1; higher is fairer.

    Raises
    ------
    InputError
        A document without a language, or weights that do not sum to 1.

    Notes
    -----
    The package of the paper's authors takes the ranks in the list as they are; here, as in the test of
    Kruskal and Wallis, documents of a grade are ranked among themselves.

    References
    ----------
    E. Yang, T. Jänich, J. Mayfield, D. Lawrie. Language fairness in multilingual information retrieval.
    SIGIR 2024. arXiv 2405.00978.

    Examples
    --------
    >>> from optical_rs.ranking import peer
    >>> languages = {f"d{i}": "en" if i % 2 else "sw" for i in range(20)}
    >>> qrels = {"q": dict.fromkeys(languages, 1)}
    >>> fair = {"q": {f"d{i}": -i for i in range(20)}}
    >>> unfair = {"q": {f"d{i}": -i - 99 * (i % 2) for i in range(20)}}
    >>> round(peer(qrels, fair, languages)["q"], 2), round(peer(qrels, unfair, languages)["q"], 2)
    (0.71, 0.0)
    """
    stats = require("scipy.stats", "compare")
    if weights is not None and not math.isclose(sum(weights.values()), 1):
        raise InputError(f"weights: expected a sum of 1, got {sum(weights.values()):g}")
    found = {}
    for query, judged, ranking in _judged_rankings(qrels, run):
        positive = {grade for grade in judged.values() if grade > 0}
        if not positive:
            continue
        places: dict[int, dict[str, list[int]]] = {}
        for rank, document in enumerate(ranking[:k], 1):
            grade = max(judged.get(document, 0), 0)
            places.setdefault(grade, {}).setdefault(_language(document, languages), []).append(rank)
        for document in judged.keys() - set(ranking[:k]):
            if judged[document] > 0:
                of_grade = places.setdefault(judged[document], {})
                of_grade.setdefault(_language(document, languages), []).append(k + 1)
        shares = weights if weights is not None else dict.fromkeys(positive, 1 / len(positive))
        found[query] = float(
            sum(share * _same_ranks(list(places.get(g, {}).values()), stats) for g, share in shares.items())
        )
    return found


def _same_ranks(groups: list[list[int]], stats: Any) -> float:
    if len(groups) < 2 or len({rank for group in groups for rank in group}) < 2:
        return 1.0
    return float(stats.kruskal(*groups).pvalue)


def awrf(
    qrels: Any,
    run: Any,
    languages: Mapping[str, str],
    *,
    k: int = 20,
    target: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Attention-weighted rank fairness: do languages get the attention that their relevant documents deserve?

    A language's attention is the sum of 1 / log2(max(rank, 2)) over its documents among the first k, as a
    share of the whole; the measure is 1 less the Jensen–Shannon divergence (base 2) between these shares
    and the target.

    Parameters
    ----------
    qrels, run, languages, k
        As for :func:`peer`.
    target : dict of str to float, optional
        Each language's due share; by default its share of the query's relevant documents.

    Returns
    -------
    dict of str to float
        For each query with results and a relevant document, between 0 and 1; higher is fairer.

    Raises
    ------
    InputError
        A document without a language, or a target that does not sum to 1.

    References
    ----------
    P. Sapiezynski, W. Zeng, R. Robertson, A. Mislove, C. Wilson. Quantifying the impact of user attention
    on fair group representation in ranked lists. WWW companion 2019. Discount and divergence as in the
    TREC 2022 Fair Ranking track.

    Examples
    --------
    >>> from optical_rs.ranking import awrf
    >>> languages = {"a": "en", "b": "sw"}
    >>> qrels, run = {"q": {"a": 1, "b": 1}}, {"q": {"a": 1.0, "b": 0.5}}
    >>> awrf(qrels, run, languages), round(awrf(qrels, {"q": {"a": 1.0}}, languages)["q"], 3)
    ({'q': 1.0}, 0.689)
    """
    if target is not None and not math.isclose(sum(target.values()), 1):
        raise InputError(f"target: expected a sum of 1, got {sum(target.values()):g}")
    found = {}
    for query, judged, ranking in _judged_rankings(qrels, run):
        due: dict[str, float] = {}
        for document, grade in judged.items():
            if grade > 0:
                language = _language(document, languages)
                due[language] = due.get(language, 0) + 1
        if not due or not ranking:
            continue
        given: dict[str, float] = {}
        for rank, document in enumerate(ranking[:k], 1):
            language = _language(document, languages)
            given[language] = given.get(language, 0) + 1 / math.log2(max(rank, 2))
        found[query] = 1 - _divergence(given, due if target is None else target)
    return found


def _divergence(x: Mapping[str, float], y: Mapping[str, float]) -> float:
    """Jensen–Shannon divergence, base 2, of weights that need not sum to 1."""
    names = sorted({*x, *y})
    p, q = (np.array([weights.get(name, 0.0) for name in names]) for weights in (x, y))
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2

    def kl(of: np.ndarray) -> float:
        some = of > 0
        return float(np.sum(of[some] * np.log2(of[some] / middle[some])))

    return max(0.0, (kl(p) + kl(q)) / 2)


def _language(document: str, languages: Mapping[str, str]) -> str:
    try:
        return languages[document]
    except KeyError:
        raise InputError(f"languages: no language for document '{document}'") from None


def _loaded(x: Any, read: Any) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = read(x) if isinstance(x, (str, os.PathLike)) else x
    return found


def _ranking(documents: Mapping[str, float]) -> list[str]:
    """Documents by score in single precision, ties by id, both descending: trec_eval's order."""
    return sorted(documents, key=lambda d: (np.float32(documents[d]), d.encode()), reverse=True)


def _judged_rankings(qrels: Any, run: Any) -> Iterator[tuple[str, Mapping[str, Any], list[str]]]:
    qrels, run = _loaded(qrels, read_qrels), _loaded(run, read_run)
    for query in sorted(qrels, key=str.encode):
        if query in run:
            yield query, qrels[query], _ranking(run[query])


def _relevant_ranks(qrels: Any, run: Any, depth: int, relevance_level: int) -> dict[str, list[int]]:
    if depth < 1:
        raise InputError(f"depth: expected an integer >= 1, got {depth}")
    qrels, run = _loaded(qrels, read_qrels), _loaded(run, read_run)
    found = {}
    for query in sorted(qrels, key=str.encode):
        place = {d: r for r, d in enumerate(_ranking(run.get(query, {}))[:depth], 1)}
        relevant = [d for d, grade in qrels[query].items() if grade >= relevance_level]
        if relevant:
            found[query] = [place.get(d, depth + 1) for d in relevant]
    return found
