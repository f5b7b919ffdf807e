"""The measures of this package under the names of ir_measures, for programs that use ir_measures.

Importing this module registers a provider, ``ir_measures.providers.registry["optical_rs"]``. It is used by name, or first for
every call of ir_measures after :func:`put_first`.

Examples
--------
>>> import ir_measures  # doctest: +SKIP
>>> from optical_rs.ranking.ir_measures import provider, put_first  # doctest: +SKIP
>>> provider.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)  # doctest: +SKIP
>>> put_first()  # doctest: +SKIP
>>> ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)  # doctest: +SKIP
"""

from collections.abc import Iterable, Iterator
from typing import Any

import ir_measures
from ir_measures import Metric, SumAgg, measures, providers
from ir_measures.providers.base import NOT_PROVIDED, Choices
from ir_measures.providers.base import Any as Anything

from .evaluation import EvaluationResult, NoTopicError, evaluate

_AS_TREC_EVAL = {"rel": Anything(), "judged_only": Anything()}


class OpticalEvaluator(providers.Evaluator):
    """Measures of runs against judgments that are read once."""

    def __init__(self, wanted: Iterable[Any], qrels: Any):
        self.qrels = ir_measures.util.QrelsConverter(qrels).as_dict_of_dict()
        super().__init__(list(wanted), set(self.qrels))

    def _result(self, run: Any) -> EvaluationResult | None:
        """The result of a run; None where it has no judged topic, which ir_measures counts as 0."""
        try:
            return evaluate(self.qrels, run, self.measures)
        except NoTopicError:
            return None

    def _iter_calc(self, run: Any) -> Iterator[Metric]:
        if result := self._result(run):
            for measure in self.measures:
                for topic, value in result.per_topic(measure).items():
                    yield Metric(query_id=topic, measure=measure, value=value)

    def calc_aggregate(self, run: Any) -> dict[Any, float]:
        """Each measure over all judged topics, without an object for each topic on the way."""
        result, found = self._result(run), {}
        for measure in self.measures:
            total = sum(result.per_topic(measure).values()) if result else 0.0
            summed = isinstance(measure.aggregator(), SumAgg)
            found[measure] = total if summed else total / max(len(self.qrel_qids), 1)
        return found


class OpticalProvider(providers.Provider):
    """optical_rs, a multithreaded implementation of trec_eval's measures.

    Supported are the measures whose values are those of ir_measures' other providers, also for tied scores and for
    topics with few results.
    """

    NAME = "optical_rs"
    SUPPORTED_MEASURES = [  # noqa: RUF012 - as ir_measures declares it
        measures._AP(cutoff=Anything(), **_AS_TREC_EVAL),
        measures._P(cutoff=Anything(required=True), **_AS_TREC_EVAL),
        measures._R(cutoff=Anything(required=True), **_AS_TREC_EVAL),
        # With a cut-off, others order tied documents in another way than trec_eval; so they do for Compat.
        measures._RR(cutoff=Choices(NOT_PROVIDED), **_AS_TREC_EVAL),
        measures._Rprec(**_AS_TREC_EVAL),
        measures._nDCG(cutoff=Anything(), dcg=Choices("log2"), gains=Anything(), judged_only=Anything()),
        measures._nDCG(
            cutoff=Anything(),
            dcg=Choices("exp-log2"),
            gains=Choices(NOT_PROVIDED),
            judged_only=Anything(),
        ),
        measures._Bpref(rel=Anything()),
        measures._infAP(rel=Anything()),
        measures._IPrec(recall=Anything(required=True), **_AS_TREC_EVAL),
        measures._Success(cutoff=Anything(required=True), **_AS_TREC_EVAL),
        measures._SetP(relative=Anything(), **_AS_TREC_EVAL),
        measures._SetR(rel=Anything()),
        measures._SetF(beta=Anything(), **_AS_TREC_EVAL),
        measures._SetAP(**_AS_TREC_EVAL),
        measures._NumRet(rel=Anything()),
        measures._NumRel(rel=Anything()),
        measures._NumQ(),
        # Without a level, ir_measures takes RBP as graded, which is another measure.
        measures._RBP(cutoff=Anything(), p=Anything(), rel=Anything(required=True)),
        measures._ERR(cutoff=Anything(required=True)),
    ]

    def _evaluator(self, measures: Iterable[Any], qrels: Any) -> OpticalEvaluator:
        return OpticalEvaluator(measures, qrels)


provider = providers.register(OpticalProvider())


def put_first() -> None:
    """Let ir_measures ask this provider first; measures that it does not have go to the others, as before.

    ir_measures finds providers by a list of its own, not by entry points, so a program says once that it wants this one.
    """
    default = ir_measures.DefaultPipeline.providers
    if provider not in default:
        default.insert(0, provider)
