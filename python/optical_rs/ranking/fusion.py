"""``fuse``: one run out of several."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..files import is_number, rank_key

METHODS = ("rrf", "score")


def fuse(
    runs: Sequence[Any],
    *,
    method: str = "rrf",
    weights: Sequence[float] | None = None,
    k: int = 60,
    depth: int = 1000,
) -> dict[str, dict[str, float]]:
    """Combine runs of the same queries.

    Parameters
    ----------
    runs : sequence of path, dict, table or arrays
        As for :func:`~optical_rs.ranking.evaluate`, or ``{query: [(document, score)]}``.
    method : {"rrf", "score"}
        ``"rrf"``, reciprocal rank fusion [1]_: a document's score is Σ weight / (k + rank) over the runs
        that have it. ``"score"``: the weighted sum of scores that are scaled to 0 … 1 for each query and run
        (CombSUM [2]_); what a run does not have counts 0 in it.
    weights : sequence of float, optional
        Of the runs; all 1 by default.
    k : int
        Of ``"rrf"``: how slowly weights fall with the rank.
    depth : int
        Documents of each run that count, and that are returned, per query.

    Returns
    -------
    dict of str to dict of str to float
        Documents by falling score; ties go to the higher id in byte order.

    Raises
    ------
    InputError
        No run, an unknown method, other than one weight for each run, or options or scores that are not numbers; of
        ``"score"`` also infinite ones, which cannot be scaled.

    References
    ----------
    .. [1] G. Cormack, C. Clarke, S. Büttcher. Reciprocal rank fusion outperforms Condorcet and individual
       rank learning methods. SIGIR 2009.
    .. [2] E. Fox, J. Shaw. Combination of multiple searches. TREC-2, 1993.

    Examples
    --------
    >>> from optical_rs.ranking import fuse
    >>> fused = fuse([{"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 9.0, "c": 8.0}}])
    >>> list(fused["q"])
    ['b', 'a', 'c']
    """
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if not runs:
        raise InputError("runs: expected at least one")
    weights = [1.0] * len(runs) if weights is None else list(weights)
    if len(weights) != len(runs):
        raise InputError(f"weights: expected {len(runs)}, one for each run, got {len(weights)}")
    if not is_number(k) or k < 1 or not is_number(depth) or depth < 1 or depth != int(depth):
        raise InputError(f"k, depth: expected at least 1, and an integer depth, got {k!r} and {depth!r}")
    if not all(map(is_number, weights)):
        raise InputError(f"weights: expected finite numbers, got {weights}")
    depth = int(depth)
    from .runs import as_dict  # reads numpy, which a command's help does without

    loaded = [as_dict(run) for run in runs]
    for run in loaded:
        for query, hits in run.items():
            _expect_numbers(query, hits, finite=method == "score")
    fused: dict[str, dict[str, float]] = {}
    for query in dict.fromkeys(query for run in loaded for query in run):
        total: dict[str, float] = {}
        for run, weight in zip(loaded, weights, strict=True):
            first = _sorted(run.get(query, {}))[:depth]
            for rank, (document, score) in enumerate(first, 1):
                share = 1 / (k + rank) if method == "rrf" else _scaled(score, first)
                total[document] = total.get(document, 0.0) + weight * share
        fused[query] = dict(_sorted(total)[:depth])
    return fused


def _expect_numbers(
    query: str, hits: Mapping[str, float] | Sequence[tuple[str, float]], *, finite: bool
) -> None:
    expected = "a finite number" if finite else "a number"
    for document, score in hits.items() if isinstance(hits, Mapping) else hits:
        if not is_number(score, finite=finite):
            raise InputError(
                f"run: topic '{query}', document '{document}': expected {expected} as score, got {score!r}"
            )


def _sorted(hits: Mapping[str, float] | Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    pairs = hits.items() if isinstance(hits, Mapping) else hits
    return sorted(pairs, key=rank_key, reverse=True)


def _scaled(score: float, hits: Sequence[tuple[str, float]]) -> float:
    high, low = hits[0][1], hits[-1][1]
    # By halves: the distance of the two may be too large for a number.
    return (score / 2 - low / 2) / (high / 2 - low / 2) if high > low else 1.0
