"""``evaluate``: a run against judgments, by trec_eval's measures."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import os
from array import array
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import _core
from ..errors import InputError, require
from ..files import trec_file

if TYPE_CHECKING:
    import numpy as np

DEFAULT_MEASURES = ("map", "ndcg_cut_10", "P_10", "recall_100", "recip_rank")


class NoTopicError(InputError):
    """Judgments and a run have no topic in common; trec_eval exits with 7."""

    status = 7


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Measures of one run.

    Attributes
    ----------
    measures : list
        What was asked for, in that order: names, or ir_measures' objects.
    topics : list of str or of int
        Topic ids in byte order; numbers, in their order, where ids were given as numbers.
    retrieved : list of bool
        Which topics the run has.
    missing : list of str or of int
        Judged topics that the run does not have: left out of ``topics``, or counted as 0.

    Examples
    --------
    >>> from optical_rs.ranking import evaluate
    >>> evaluate({"q": {"d1": 1, "d2": 0}}, {"q": {"d2": 0.9, "d1": 0.8}}, ["map", "P_1"])
    EvaluationResult(1 topic: map 0.5000, P_1 0.0000)
    """

    measures: list[Any]
    topics: list[Any]
    retrieved: list[bool]
    _means: list[float] = dataclasses.field(repr=False)
    _values: bytes = dataclasses.field(repr=False)
    missing: list[Any] = dataclasses.field(default_factory=list)
    _summaries: list[str] = dataclasses.field(default_factory=list, repr=False)

    def __repr__(self) -> str:
        n = len(self.topics)
        means = ", ".join(f"{name} {value}" for name, value in self._means_as_text())
        return f"EvaluationResult({n} topic{'' if n == 1 else 's'}: {means})"

    def _repr_html_(self) -> str:
        from ..display import table

        caption = "; ".join([f"{len(self.topics)} topics", *self.notes])
        return table(["measure", "mean"], self._means_as_text(), caption)

    @classmethod
    def of(cls, measures: Sequence[Any], topics: Sequence[Any], values: Any) -> EvaluationResult:
        """A result with the measures' ``values`` (measures × topics) and their means."""
        import numpy as np

        values = np.ascontiguousarray(values, dtype=np.float64)
        if values.shape != (len(measures), len(topics)):
            raise InputError(f"values: expected shape {(len(measures), len(topics))}, got {values.shape}")
        means = values.mean(axis=1).tolist()
        kinds = ["mean"] * len(measures)
        return cls(
            list(measures), list(topics), [True] * len(topics), means, values.tobytes(), _summaries=kinds
        )

    @functools.cached_property
    def values(self) -> np.ndarray:
        """(measures, topics) float64: each measure for each topic."""
        import numpy as np

        return np.frombuffer(self._values).reshape(len(self.measures), len(self.topics))

    @property
    def mean(self) -> dict[Any, float]:
        """Each measure over all topics: the mean; of counts (``num_ret`` …) the sum; of ``gm_map`` the
        geometric mean."""
        return dict(zip(self.measures, self._means, strict=True))

    @property
    def notes(self) -> list[str]:
        """What to know of the means: which judged topics the run lacks, and how they count."""
        if not self.missing:
            return []
        counted = not all(self.retrieved)
        judged = len(self.topics) + (0 if counted else len(self.missing))
        what = "they count as 0" if counted else "they are left out"
        return [
            f"the run lacks {len(self.missing)} of {judged} judged topics ({some(self.missing)}): {what}."
        ]

    def per_topic(self, measure: Any) -> dict[Any, float]:
        """One measure for each topic."""
        return dict(zip(self.topics, self._row(self._index(measure)), strict=True))

    def _index(self, measure: Any) -> int:
        names = [str(m) for m in self.measures]
        if str(measure) not in names:
            raise InputError(f"measure: {str(measure)!r} was not computed; have {', '.join(names)}")
        return names.index(str(measure))

    def _row(self, index: int) -> array[float]:
        width = 8 * len(self.topics)
        return array("d", self._values[index * width : (index + 1) * width])

    def select(self, measures: Sequence[Any]) -> EvaluationResult:
        """The result for some of the measures."""
        places = [self._index(measure) for measure in measures]
        return dataclasses.replace(
            self,
            measures=list(measures),
            _means=[self._means[i] for i in places],
            _values=b"".join(self._row(i).tobytes() for i in places),
            _summaries=[self._summaries[i] for i in places],
        )

    def restrict(self, topics: Container[Any]) -> EvaluationResult:
        """The result for some of the topics."""
        keep = [i for i, topic in enumerate(self.topics) if topic in topics]
        if len(keep) == len(self.topics):
            return self
        rows = [array("d", map(self._row(m).__getitem__, keep)) for m in range(len(self.measures))]
        return dataclasses.replace(
            self,
            topics=[self.topics[i] for i in keep],
            retrieved=[self.retrieved[i] for i in keep],
            _means=[_summary(kind, row) for kind, row in zip(self._summaries, rows, strict=True)],
            _values=b"".join(row.tobytes() for row in rows),
        )

    def interval(
        self, measure: Any, level: float = 0.95, resamples: int = 10_000, seed: int = 0
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
        names = [str(m) for m in self.measures]
        rows = zip(self.topics, self.values.T.tolist(), strict=True)
        topics = {topic: dict(zip(names, row, strict=True)) for topic, row in rows}
        return {"mean": dict(zip(names, self._means, strict=True)), "topics": topics}

    def _columns(self) -> dict[str, Any]:
        values = zip(self.measures, self.values, strict=True)
        return {"topic": self.topics, **{str(measure): row for measure, row in values}}

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
        """A table of the means, with notes below it."""
        from .tables import markdown

        table = markdown(["measure", "mean"], self._means_as_text())
        return "\n".join([table, *(f"\nNote: {note}" for note in self.notes)])

    def to_latex(self) -> str:
        """The same as a ``table`` with ``booktabs`` rules."""
        from .tables import latex

        caption = " ".join([f"{len(self.topics)} topics.", *self.notes])
        return latex(["measure", "mean"], self._means_as_text(), caption)

    def _means_as_text(self) -> list[list[str]]:
        return [[str(name), f"{value:.4f}"] for name, value in self.mean.items()]


def _summary(kind: str, values: array[float]) -> float:
    total = sum(values)
    if kind == "sum":
        return total
    mean = total / len(values) if values else 0.0
    return math.exp(mean) if kind == "geometric mean" else mean


def some(ids: Sequence[Any], most: int = 5) -> str:
    """The first few ids, for a message.

    >>> some(["q1", "q2", "q3"], most=2)
    'q1, q2, …'
    """
    return ", ".join([*(str(i) for i in ids[:most]), *(["…"] if len(ids) > most else [])])


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
        return trec_file(x)
    if isinstance(x, Mapping):
        if len({str(topic) for topic in x}) < len(x):
            raise InputError(f"{name}: two topics have the same id, one as text and one as a number")
        try:
            return {topic: of if type(of) is dict else dict(of) for topic, of in x.items()}
        except (TypeError, ValueError):
            expected = "{topic: {document: relevance}}" if name == "qrels" else "{topic: {document: score}}"
            raise InputError(f"{name}: expected {expected}, got other values than dicts") from None
    from .tables import arrays, columns, is_table, named_rows, rows

    if (given := named_rows(x)) is not None:
        return rows(name, given)
    if isinstance(x, tuple) and len(x) == 3:
        return arrays(name, x)
    if is_table(x):
        return columns(name, x)
    raise InputError(
        f"{name}: expected a file name, a dict of dicts, a table, three arrays or named tuples, got "
        f"{type(x).__name__}"
    )


def evaluate(
    qrels: Any,
    run: Any,
    measures: Sequence[Any] = DEFAULT_MEASURES,
    *,
    relevance_level: int = 1,
    complete: bool = False,
    judged_only: bool = False,
    max_documents: int | None = None,
    collection_size: int = 0,
    compat: str = "9",
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Evaluate a run as trec_eval 9.0.8 does.

    Scores are compared in single precision; ties go to the higher document id in byte order; the
    ranks written in a run file do not matter.

    Parameters
    ----------
    qrels : path, dict, table, arrays or named tuples
        Judgments: a TREC qrels file (``.gz`` too); a pair of a name and its text (bytes);
        ``{topic: {document: relevance}}``; a pandas, polars or Arrow table with columns named as in
        ir_measures (``query_id``, ``doc_id``, ``relevance``) or PyTerrier (``qid``, ``docno``,
        ``label``); three arrays (topics, documents, relevance); or named tuples with such fields, as
        ir_measures' ``Qrel``.
    run : path, dict, table, arrays or named tuples
        Results in the same forms, with ``score`` for the value, as in ir_measures' ``ScoredDoc``. Of three arrays, documents and scores
        may be (topics, k), where a document -1 is none.
        Ids that are integers in both columns stay numbers: topics come in their order, ties go to the
        larger number, and ``qrels`` must have numbers, too.
    measures : sequence of str or of ir_measures' objects
        trec_eval's names (``map``, ``ndcg_cut_10``, ``P_5``, ``set_F_0.5``, ``ndcg_1=3.5,2=9`` …), or those of
        ir_measures (``AP``, ``nDCG@10``, ``RR@10``, ``P(rel=2)@5``, ``nDCG(dcg='exp-log2')@10``,
        ``RBP(p=0.8)`` …), also as its objects. What is asked for is what the result calls them. Six are
        not in trec_eval 9: ``judged_k`` (``Judged@k``), the share of the first k that is judged; ``rbp_p``
        (``RBP(p=0.8)``), rank-biased precision [1]_ of binary relevance, and ``rbp_resid_p``, the weight of
        all that is not judged; ``err_k`` (``ERR@k``), expected reciprocal rank [2]_ on grades to 4;
        ``compat_p`` (``Compat(p=0.95)``), compatibility with an ideal ranking [3]_; ``num_tied``.
    relevance_level : int
        Judgments of at least this are relevant (``-l``). nDCG uses the grades themselves.
    complete : bool
        Count judged topics without results as 0 (``-c``) instead of leaving them out. Either way the
        result's ``missing`` has them, and its ``notes`` say so.
    judged_only : bool
        Take documents without a judgment out of the rankings first (``-J``). Of a topic of which nothing
        remains, interpolated precision at recall 0 is not a number.
    max_documents : int, optional
        Keep only so many documents of each topic, the best by score (``-M``).
    collection_size : int
        Documents of the collection (``-N``), which ``utility`` can count.
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
        document that is judged or retrieved twice; judgments and a run without a common topic.

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
    {'map': 0.5, 'nDCG@10': 0.6309}
    """
    check_integer("relevance_level", relevance_level)
    check_integer("collection_size", collection_size, least=0)
    if max_documents is not None:
        check_integer("max_documents", max_documents, least=0)
    if compat not in ("9", "10"):
        raise InputError(f"compat: expected '9' or '10', got {compat!r}")
    if isinstance(measures, str):
        raise InputError(f"measures: expected a list of names, got the text {measures!r}")
    wanted = list(dict.fromkeys(measures))
    given = source("qrels", qrels), source("run", run)
    found = _core.evaluate(
        *given,
        [str(measure) for measure in wanted],
        relevance_level=relevance_level,
        complete=complete,
        judged_only=judged_only,
        max_documents=max_documents,
        collection_size=collection_size,
        compat=int(compat),
        progress=progress,
    )
    check_topics(found, given)
    return EvaluationResult(
        wanted, found.topics, found.retrieved, found.means, found.values, found.missing, found.summaries
    )


def check_integer(name: str, value: Any, least: int = -(2**63)) -> None:
    """Refuse what is no integer that the native core can hold.

    Raises
    ------
    InputError
        With the argument's name.
    """
    try:
        fits = least <= operator.index(value) < 2**63
    except TypeError:
        fits = False
    if not fits:
        expected = f"an integer >= {least}" if least == 0 else "an integer"
        raise InputError(f"{name}: expected {expected}, got {value!r}")


def check_topics(found: _core.Measured, given: tuple[Any, Any]) -> None:
    """Refuse judgments and a run that have topics, but none in common.

    Parameters
    ----------
    found
        What the native core found.
    given
        Judgments and run, as from :func:`source`.

    Raises
    ------
    NoTopicError
        With the first topics of both.
    """
    if not any(found.retrieved) and (found.missing or found.unjudged):
        judged, has = (some(ids, most=3) or "none" for ids in (found.missing, found.unjudged))
        qrels, run = (_label(*pair) for pair in zip(("qrels", "run"), given, strict=True))
        raise NoTopicError(f"{run}: no topic in common with {qrels}; it has {has}, judged are {judged}")


def _label(name: str, given: Any) -> str:
    """What messages call judgments or a run: the file's name, if there is one."""
    first = given[0] if isinstance(given, tuple) else given
    return first if isinstance(first, str) else name
