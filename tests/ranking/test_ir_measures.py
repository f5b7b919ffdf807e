"""ir_measures' names, objects and rows; this package as one of its providers."""

from typing import NamedTuple

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.ranking import evaluate, fuse

ir_measures = pytest.importorskip("ir_measures")

NAMES = [
    "AP", "AP(rel=2)", "AP@3", "P@5", "P(rel=2)@5", "R@5", "RR", "Rprec", "nDCG", "nDCG@5",
    "nDCG(dcg='exp-log2')@5", "nDCG(gains={1:4,2:9})", "nDCG(judged_only=True)@5", "Bpref", "infAP", "IPrec@0.2",
    "Success@2", "SetP", "SetP(relative=True)", "SetR", "SetF(beta=0.5)", "SetAP", "NumRet", "NumRet(rel=1)", "NumRel",
    "ERR@5",
]  # fmt: skip
MEASURES = [ir_measures.parse_measure(name) for name in NAMES]


@pytest.fixture
def rows():
    """Judgments and a run as ir_measures' rows: a topic that the run lacks, one without judgments, no tied scores."""
    rng = np.random.default_rng(0)
    judged = [
        ir_measures.Qrel(f"q{topic}", f"d{document}", int(rng.integers(0, 3)))
        for topic in range(6)
        for document in rng.permutation(40)[:15]
    ]
    run = [
        ir_measures.ScoredDoc(f"q{topic}", f"d{document}", float(rank))
        for topic in range(1, 7)
        for rank, document in enumerate(rng.permutation(40)[:25])
    ]
    return judged, run


def of_the_others(call, measures, *given):
    """What ir_measures gives for each measure alone: asked together, pytrec_eval's nDCG may take the gains of another
    nDCG, by the order of a set.
    """
    found = [call([measure], *given) for measure in measures]
    if call is ir_measures.calc_aggregate:
        return {measure: value for part in found for measure, value in part.items()}
    return [row for part in found for row in part]


def as_dict(rows):
    found = {}
    for topic, document, value, *_ in rows:
        found.setdefault(topic, {})[document] = value
    return found


def test_rows_are_what_dicts_are(rows):
    judged, run = rows
    want = evaluate(as_dict(judged), as_dict(run), ["map", "nDCG@10"])
    for given in ((judged, run), (iter(judged), tuple(run)), (judged, as_dict(run))):
        got = evaluate(*given, ["map", "nDCG@10"])
        assert got.topics == want.topics
        assert (got.values == want.values).all()
    assert fuse([run, as_dict(run)]) == fuse([as_dict(run)] * 2)
    assert evaluate(judged, run[:3], ["map"]).topics == [run[0].query_id]


def test_rows_that_cannot_be_read():
    class Other(NamedTuple):
        query_id: str
        doc_id: str
        weight: float

    judged = [ir_measures.Qrel("q", "d", 1)]
    for run, message in (
        ([Other("q", "d", 1.0)], "run: no field for the value (one of score); got query_id, doc_id, weight"),
        (
            [ir_measures.ScoredDoc("q", "d", 1.0), Other("q", "e", 1.0)],
            "run: expected rows with the fields of the first (query_id, doc_id, score)",
        ),
        ([ir_measures.ScoredDoc("q", "d", "high")], "run: expected numbers as values, got <U4"),
        (
            [("q", "d", 1.0)],
            "run: expected a file name, a dict of dicts, a table, three arrays or named tuples, got list",
        ),
    ):
        with pytest.raises(InputError) as caught:
            evaluate(judged, run)
        assert str(caught.value) == message


def test_the_provider_gives_the_values_of_the_others(rows):
    from optical_rs.ranking.ir_measures import provider

    assert ir_measures.providers.registry["optical_rs"] is provider
    judged, run = rows
    # gdeval, the others' provider of these two, is a Perl script.
    theirs = [m for m in MEASURES if m.NAME != "ERR" and "exp-log2" not in str(m)]
    wanted = {
        (m.query_id, m.measure): m.value for m in of_the_others(ir_measures.iter_calc, theirs, judged, run)
    }
    for ours in (
        provider.iter_calc(theirs, judged, run),
        provider.evaluator(theirs, as_dict(judged)).iter_calc(as_dict(run)),
    ):
        got = {(m.query_id, m.measure): m.value for m in ours}
        assert got.keys() == wanted.keys()
        for key, value in wanted.items():
            assert got[key] == pytest.approx(value, rel=1e-6), key
    got = provider.calc_aggregate(theirs, judged, run)
    want = of_the_others(ir_measures.calc_aggregate, theirs, judged, run)
    assert got.keys() == want.keys()
    for measure, value in want.items():
        assert got[measure] == pytest.approx(value, rel=1e-6), measure


def test_ties_and_topics_with_few_results():
    from optical_rs.ranking.ir_measures import provider

    rng = np.random.default_rng(1)
    judged = {f"q{t}": {f"d{d}": int(rng.integers(0, 3)) for d in range(12)} for t in range(8)}
    run = {
        topic: {f"d{d}": float(rng.integers(0, 3)) for d in rng.permutation(20)[: 1 + t]}
        for t, topic in enumerate(judged)
    }
    theirs = [m for m in MEASURES if m.NAME != "ERR" and "exp-log2" not in str(m)]
    got = provider.calc_aggregate(theirs, judged, run)
    for measure, value in of_the_others(ir_measures.calc_aggregate, theirs, judged, run).items():
        assert got[measure] == pytest.approx(value, rel=1e-6), measure


def test_what_the_provider_supports():
    from optical_rs.ranking.ir_measures import provider

    assert all(provider.supports(measure) for measure in MEASURES)
    # Graded RBP, a compatibility that is not normalised, and diversity are other measures.
    others = [ir_measures.RBP(p=0.8), ir_measures.Compat(normalize=False), ir_measures.alpha_nDCG @ 5]
    # What others count in another way where scores are tied or results few.
    others += [ir_measures.RR @ 3, ir_measures.Judged @ 5, ir_measures.Compat(p=0.9)]
    assert not any(provider.supports(measure) for measure in others)
    assert provider.supports(ir_measures.RBP(p=0.8, rel=1))
    values = provider.calc_aggregate(MEASURES, {"q": {"d": 1}}, {"q": {"d": 1.0}})
    assert values.keys() == set(MEASURES)


def test_a_run_without_a_judged_topic_counts_as_zero():
    from optical_rs.ranking.ir_measures import provider

    ap = ir_measures.AP
    for run in ({}, {"z": {"d": 1.0}}, []):
        assert provider.calc_aggregate([ap], {"q": {"d": 1}}, run) == {ap: 0.0}
        assert [m.value for m in provider.iter_calc([ap], {"q": {"d": 1}}, run)] == [0.0]


def test_first_in_ir_measures_own_calls(rows, monkeypatch):
    from optical_rs.ranking import ir_measures as module

    default = ir_measures.DefaultPipeline
    monkeypatch.setattr(default, "providers", list(default.providers))
    module.put_first()
    module.put_first()
    assert default.providers.count(module.provider) == 1
    judged, run = rows
    evaluator = ir_measures.evaluator([ir_measures.AP], judged)
    assert type(evaluator) is module.OpticalEvaluator
    # What this package does not have comes from the others, in the same call.
    accuracy = ir_measures.parse_measure("Accuracy")
    found = ir_measures.calc_aggregate([ir_measures.AP, accuracy], judged, run)
    assert found.keys() == {ir_measures.AP, accuracy}
    assert found[ir_measures.AP] == evaluator.calc_aggregate(run)[ir_measures.AP]
