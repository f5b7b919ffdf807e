"""``evaluate``: a run against judgments, by trec_eval's measures."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import _core
from ..errors import InputError
from .trec import read_bytes

DEFAULT_MEASURES = ("map", "ndcg_cut_10", "P_10", "recall_100", "recip_rank")


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Measures of one run.

    Attributes
    ----------
    measures : list of str
        trec_eval's names, in the order asked for.
    topics : list of str
        Topic ids in byte order.
    values : (measures, topics) float64 array
        Each measure for each topic.
    """

    measures: list[str]
    topics: list[str]
    values: np.ndarray
    _means: np.ndarray = dataclasses.field(repr=False)

    @property
    def mean(self) -> dict[str, float]:
        """Each measure over all topics: the mean; of counts (``num_ret`` …) the sum; of ``gm_map`` the
        geometric mean."""
        return dict(zip(self.measures, self._means.tolist(), strict=True))

    def per_topic(self, measure: str) -> dict[str, float]:
        """One measure for each topic."""
        if measure not in self.measures:
            raise InputError(f"measure: {measure!r} was not computed; have {', '.join(self.measures)}")
        return dict(zip(self.topics, self.values[self.measures.index(measure)].tolist(), strict=True))

    def interval(self, measure: str, level: float = 0.95, resamples: int = 10_000, seed: int = 0):
        """Bootstrap interval of a measure's mean over topics (percentile method).

        Returns
        -------
        (float, float)
            Lower and upper bound; the same for the same seed.
        """
        values = np.array(list(self.per_topic(measure).values()))
        if not len(values):
            raise InputError("topics: an interval needs at least one topic")
        picks = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
        tail = 50 * (1 - level)
        low, high = np.percentile(values[picks].mean(axis=1), [tail, 100 - tail])
        return float(low), float(high)


def _source(name: str, x: Any) -> Any:
    if isinstance(x, tuple) and len(x) == 2 and isinstance(x[1], bytes):
        return str(x[0]), x[1]
    if isinstance(x, (str, os.PathLike)):
        return str(x), read_bytes(x)
    if not isinstance(x, Mapping):
        raise InputError(f"{name}: expected a file name or a dict of dicts, got {type(x).__name__}")
    return {str(topic): dict(documents) for topic, documents in x.items()}


def evaluate(
    qrels: Any,
    run: Any,
    measures: Sequence[str] = DEFAULT_MEASURES,
    *,
    relevance_level: int = 1,
    complete: bool = False,
    max_documents: int | None = None,
) -> EvaluationResult:
    """Evaluate a run as trec_eval 9.0.8 does.

    Scores are compared in single precision; ties go to the higher document id in byte order; the
    ranks written in a run file do not matter.

    Parameters
    ----------
    qrels : path or dict
        Judgments: a TREC qrels file (``.gz`` too), a pair of a name and its text (bytes), or
        ``{topic: {document: relevance}}``.
    run : path or dict
        Results: a TREC run file (``.gz`` too), a pair of a name and its text (bytes), or
        ``{topic: {document: score}}``.
    measures : sequence of str
        trec_eval's names: ``map``, ``map_cut_k``, ``gm_map``, ``ndcg``, ``ndcg_cut_k``, ``P_k``,
        ``recall_k``, ``success_k``, ``relative_P_k``, ``recip_rank``, ``Rprec``, ``Rprec_mult_x``,
        ``bpref``, ``infAP``, ``iprec_at_recall_x``, ``11pt_avg``, ``set_P``, ``set_recall``,
        ``set_relative_P``, ``set_map``, ``set_F``, ``utility``, ``num_ret``, ``num_rel``,
        ``num_rel_ret``, ``num_nonrel_judged_ret``; those of ir_measures for them (``AP``, ``nDCG@k``,
        ``P@k``, ``R@k``, ``RR``, ``Success@k``, ``RPrec``, ``Bpref``, ``IPrec@x``, ``SetP`` …); and
        ``judged_k``, the share of the first k that is judged.
    relevance_level : int
        Judgments of at least this are relevant (``-l``). nDCG uses the grades themselves.
    complete : bool
        Count judged topics without results as 0 (``-c``) instead of leaving them out.
    max_documents : int, optional
        Keep only so many documents of each topic, the best by score (``-M``).

    Returns
    -------
    EvaluationResult

    Raises
    ------
    InputError
        An unknown measure (with the nearest valid name); a bad line (with file and line); NaN scores.

    Examples
    --------
    >>> from optical_rs.ranking import evaluate
    >>> result = evaluate({"q": {"d1": 1, "d2": 0}}, {"q": {"d2": 0.9, "d1": 0.8}}, ["map", "nDCG@10"])
    >>> {name: round(value, 4) for name, value in result.mean.items()}
    {'map': 0.5, 'ndcg_cut_10': 0.6309}
    """
    if max_documents is not None and max_documents < 1:
        raise InputError(f"max_documents: expected an integer >= 1, got {max_documents}")
    try:
        names, topics, values, means = _core.evaluate(
            _source("qrels", qrels),
            _source("run", run),
            list(measures),
            relevance_level,
            complete,
            max_documents,
        )
    except TypeError as error:
        raise InputError(
            f"qrels, run: expected {{topic: {{document: integer}}}} and {{topic: {{document: score}}}} ({error})"
        ) from None
    return EvaluationResult(names, [t.decode("utf-8", "replace") for t in topics], values, means)
