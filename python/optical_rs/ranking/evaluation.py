"""``evaluate``: a run against judgments, by trec_eval's measures."""

from __future__ import annotations

import dataclasses
import functools
import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import _core
from ..errors import InputError, require
from ..files import read_bytes

if TYPE_CHECKING:
    import numpy as np

DEFAULT_MEASURES = ("map", "ndcg_cut_10", "P_10", "recall_100", "recip_rank")


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Measures of one run.

    Attributes
    ----------
    measures : list of str
        trec_eval's names, in the order asked for.
    topics : list of str or of int
        Topic ids in byte order; numbers, in their order, where ids were given as numbers.
    retrieved : list of bool
        Which topics the run has.

    Examples
    --------
    >>> from optical_rs.ranking import evaluate
    >>> evaluate({"q": {"d1": 1, "d2": 0}}, {"q": {"d2": 0.9, "d1": 0.8}}, ["map", "P_1"])
    EvaluationResult(1 topic: map 0.5000, P_1 0.0000)
    """

    measures: list[str]
    topics: list[Any]
    retrieved: list[bool]
    _means: list[float] = dataclasses.field(repr=False)
    _values: bytes = dataclasses.field(repr=False)

    def __repr__(self) -> str:
        n = len(self.topics)
        means = ", ".join(f"{name} {value}" for name, value in self._means_as_text())
        return f"EvaluationResult({n} topic{'' if n == 1 else 's'}: {means})"

    def _repr_html_(self) -> str:
        from ..display import table

        return table(["measure", "mean"], self._means_as_text(), f"{len(self.topics)} topics")

    @classmethod
    def of(cls, measures: Sequence[str], topics: Sequence[Any], values: Any) -> EvaluationResult:
        """A result with the measures' ``values`` (measures × topics) and their means."""
        import numpy as np

        values = np.ascontiguousarray(values, dtype=np.float64)
        if values.shape != (len(measures), len(topics)):
            raise InputError(f"values: expected shape {(len(measures), len(topics))}, got {values.shape}")
        means = values.mean(axis=1).tolist()
        return cls(list(measures), list(topics), [True] * len(topics), means, values.tobytes())

    @functools.cached_property
    def values(self) -> np.ndarray:
        """(measures, topics) float64: each measure for each topic."""
        import numpy as np

        return np.frombuffer(self._values).reshape(len(self.measures), len(self.topics))

    @property
    def mean(self) -> dict[str, float]:
        """Each measure over all topics: the mean; of counts (``num_ret`` …) the sum; of ``gm_map`` the
        geometric mean."""
        return dict(zip(self.measures, self._means, strict=True))

    def per_topic(self, measure: str) -> dict[Any, float]:
        """One measure for each topic."""
        if measure not in self.measures:
            raise InputError(f"measure: {measure!r} was not computed; have {', '.join(self.measures)}")
        return dict(zip(self.topics, self._row(self.measures.index(measure)), strict=True))

    def _row(self, index: int) -> array[float]:
        width = 8 * len(self.topics)
        return array("d", self._values[index * width : (index + 1) * width])

    def select(self, measures: Sequence[str]) -> EvaluationResult:
        """The result for some of the measures."""
        places = [self.measures.index(name) for name in measures]
        return EvaluationResult(
            list(measures),
            self.topics,
            self.retrieved,
            [self._means[i] for i in places],
            b"".join(self._row(i).tobytes() for i in places),
        )

    def interval(
        self, measure: str, level: float = 0.95, resamples: int = 10_000, seed: int = 0
    ) -> tuple[float, float]:
        """Bootstrap interval of a measure's mean over topics (percentile method).

        Returns
        -------
        (float, float)
            Lower and upper bound; the same for the same seed.
        """
        import numpy as np

        values = np.array(list(self.per_topic(measure).values()))
        if not len(values):
            raise InputError("topics: an interval needs at least one topic")
        draw, means = np.random.default_rng(seed), np.empty(resamples)
        size = max(1, (1 << 22) // len(values))
        for first in range(0, resamples, size):
            picks = draw.integers(len(values), size=(min(size, resamples - first), len(values)))
            means[first : first + len(picks)] = values[picks].mean(axis=1)
        tail = 50 * (1 - level)
        low, high = np.percentile(means, [tail, 100 - tail])
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        """Means and values per topic, ready for JSON."""
        rows = zip(self.topics, self.values.T.tolist(), strict=True)
        topics = {topic: dict(zip(self.measures, row, strict=True)) for topic, row in rows}
        return {"mean": self.mean, "topics": topics}

    def _columns(self) -> dict[str, Any]:
        return {"topic": self.topics, **dict(zip(self.measures, self.values, strict=True))}

    def to_pandas(self) -> Any:
        """A pandas data frame: a row for each topic, a column for each measure."""
        return require("pandas").DataFrame(self._columns())

    def to_polars(self) -> Any:
        """A polars data frame: a row for each topic, a column for each measure."""
        return require("polars").DataFrame(self._columns())

    def to_arrow(self) -> Any:
        """An Arrow table: a row for each topic, a column for each measure."""
        return require("pyarrow").table(self._columns())

    def to_markdown(self) -> str:
        """A table of the means."""
        from .tables import markdown

        return markdown(["measure", "mean"], self._means_as_text())

    def to_latex(self) -> str:
        """The same as a ``table`` with ``booktabs`` rules."""
        from .tables import latex

        return latex(["measure", "mean"], self._means_as_text(), f"{len(self.topics)} topics.")

    def _means_as_text(self) -> list[list[str]]:
        return [[name, f"{value:.4f}"] for name, value in self.mean.items()]


def source(name: str, x: Any) -> Any:
    """Judgments (``name="qrels"``) or a run (``"run"``) as the native core takes it.

    Raises
    ------
    InputError
        A file that is missing or broken, or something that is none of what :func:`evaluate` accepts.
    """
    if isinstance(x, tuple) and len(x) == 2 and isinstance(x[1], bytes):
        return str(x[0]), x[1]
    if isinstance(x, (str, os.PathLike)):
        path = os.fspath(x)
        return path if os.path.isfile(path) and not path.endswith(".gz") else (path, read_bytes(x))
    if isinstance(x, Mapping):
        return {str(topic): dict(documents) for topic, documents in x.items()}
    from .tables import arrays, columns, is_table

    if isinstance(x, tuple) and len(x) == 3:
        return arrays(name, x)
    if is_table(x):
        return columns(name, x)
    raise InputError(
        f"{name}: expected a file name, a dict of dicts, a table or three arrays, got {type(x).__name__}"
    )


def evaluate(
    qrels: Any,
    run: Any,
    measures: Sequence[str] = DEFAULT_MEASURES,
    *,
    relevance_level: int = 1,
    complete: bool = False,
    max_documents: int | None = None,
    compat: str = "9",
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Evaluate a run as trec_eval 9.0.8 does.

    Scores are compared in single precision; ties go to the higher document id in byte order; the
    ranks written in a run file do not matter.

    Parameters
    ----------
    qrels : path, dict, table or arrays
        Judgments: a TREC qrels file (``.gz`` too); a pair of a name and its text (bytes);
        ``{topic: {document: relevance}}``; a pandas, polars or Arrow table with columns named as in
        ir_measures (``query_id``, ``doc_id``, ``relevance``) or PyTerrier (``qid``, ``docno``,
        ``label``); or three arrays (topics, documents, relevance).
    run : path, dict, table or arrays
        Results in the same forms, with ``score`` for the value. Of three arrays, documents and scores
        may be (topics, k), where a document -1 is none.
        Ids that are integers in both columns stay numbers: topics come in their order, ties go to the
        larger number, and ``qrels`` must have numbers, too.
    measures : sequence of str
        trec_eval's names: ``map``, ``map_cut_k``, ``gm_map``, ``ndcg``, ``ndcg_cut_k``, ``P_k``,
        ``recall_k``, ``success_k``, ``relative_P_k``, ``recip_rank``, ``Rprec``, ``Rprec_mult_x``,
        ``bpref``, ``infAP``, ``iprec_at_recall_x``, ``11pt_avg``, ``set_P``, ``set_recall``,
        ``set_relative_P``, ``set_map``, ``set_F``, ``utility``, ``num_ret``, ``num_rel``,
        ``num_rel_ret``, ``num_nonrel_judged_ret``; those of ir_measures for them (``AP``, ``nDCG@k``,
        ``P@k``, ``R@k``, ``RR``, ``Success@k``, ``RPrec``, ``Bpref``, ``IPrec@x``, ``SetP`` …); and four
        that trec_eval 9 lacks: ``judged_k`` (``Judged@k``), the share of the first k that is judged;
        ``rbp_p`` (``RBP(p=0.8)``), rank-biased precision [1]_, and ``rbp_resid_p``, the weight of all
        that is not judged; ``err_k`` (``ERR@k``), expected reciprocal rank [2]_ on grades to 4;
        ``compat_p`` (``Compat(p=0.95)``), compatibility with an ideal ranking [3]_.
    relevance_level : int
        Judgments of at least this are relevant (``-l``). nDCG uses the grades themselves.
    complete : bool
        Count judged topics without results as 0 (``-c``) instead of leaving them out.
    max_documents : int, optional
        Keep only so many documents of each topic, the best by score (``-M``).
    compat : {"9", "10"}
        Whose rules hold where versions of trec_eval differ. ``"10"`` compares scores in double precision
        and takes lines that begin with ``#`` as comments.
    progress : callable, optional
        Called now and then with the number of topics done and of all topics.

    Returns
    -------
    EvaluationResult

    Raises
    ------
    InputError
        An unknown measure (with the nearest valid name); a bad line (with file and line); NaN scores; a
        document that is judged or retrieved twice.

    References
    ----------
    .. [1] A. Moffat, J. Zobel. Rank-biased precision for measurement of retrieval effectiveness. TOIS
       27(1), 2008.
    .. [2] O. Chapelle, D. Metzler, Y. Zhang, P. Grinspan. Expected reciprocal rank for graded relevance.
       CIKM 2009.
    .. [3] C. Clarke, A. Vtyurina, M. Smucker. Assessing top-k preferences. TOIS 39(3), 2021.

    Examples
    --------
    >>> from optical_rs.ranking import evaluate
    >>> result = evaluate({"q": {"d1": 1, "d2": 0}}, {"q": {"d2": 0.9, "d1": 0.8}}, ["map", "nDCG@10"])
    >>> {name: round(value, 4) for name, value in result.mean.items()}
    {'map': 0.5, 'ndcg_cut_10': 0.6309}
    """
    if max_documents is not None and max_documents < 1:
        raise InputError(f"max_documents: expected an integer >= 1, got {max_documents}")
    if compat not in ("9", "10"):
        raise InputError(f"compat: expected '9' or '10', got {compat!r}")
    given = source("qrels", qrels), source("run", run)
    try:
        names, topics, retrieved, means, values = _core.evaluate(
            *given, list(measures), (relevance_level, complete, max_documents, int(compat)), progress
        )
    except TypeError as error:
        raise InputError(
            f"qrels, run: expected {{topic: {{document: integer}}}} and {{topic: {{document: score}}}} ({error})"
        ) from None
    ids = [t.decode("utf-8", "replace") if isinstance(t, bytes) else t for t in topics]
    return EvaluationResult(names, ids, retrieved, means, values)
