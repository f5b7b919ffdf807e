"""Measures: bit for bit against trec_eval's own code, through pytrec_eval."""

import warnings

import hypothesis
import numpy as np
import optical_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.ranking import evaluate
from ranking_cases import COUNTS, FAMILIES, MEASURES, assume_common, qrels, runs, signed

pytrec_eval = pytest.importorskip("pytrec_eval")


@given(qrels, runs, st.sampled_from([1, 2]))
def test_equals_trec_eval_to_the_last_bit(qrels, run, level):
    assume_common(qrels, run)
    ours = evaluate(qrels, run, MEASURES, relevance_level=level)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, FAMILIES, relevance_level=level).evaluate(run)
    assert set(ours.topics) == set(theirs)
    for topic, values in theirs.items():
        assert set(values) == set(MEASURES) - {"runid", "num_q"}
        for name in MEASURES:
            mine = ours.per_topic(name)[topic]
            assert mine == pytest.approx(values[name], rel=1e-12, abs=0), (topic, name)
            if name in COUNTS:
                assert mine == values[name], (topic, name)


@given(qrels, runs)
def test_summaries_are_those_of_trec_eval(qrels, run):
    assume_common(qrels, run)
    ours = evaluate(qrels, run, MEASURES)
    for name, mine in ours.mean.items():
        values = list(ours.per_topic(name).values())
        want = pytrec_eval.compute_aggregated_measure(name, values)
        assert mine == pytest.approx(want, rel=1e-12), name


#: Measures to which a negative judgment is as a 0. (bpref, infAP and num_nonrel_judged_ret tell them apart.)
SIMPLE = [name for name in MEASURES if name not in ("bpref", "infAP", "num_nonrel_judged_ret")]


@given(signed, runs)
def test_negative_judgments_are_as_zeros(judged, run):
    assume_common(judged, run)
    # pytrec_eval corrupts its memory on them; trec_eval's rule is that they are not relevant.
    zeros = {t: {d: max(r, 0) for d, r in documents.items()} for t, documents in judged.items()}
    assert (evaluate(judged, run, SIMPLE).values == evaluate(zeros, run, SIMPLE).values).all()


def test_topics_in_byte_order_and_means():
    result = evaluate({"2": {"a": 1}, "10": {"a": 1}}, {"2": {"a": 1.0}, "10": {"b": 1.0}}, ["AP", "P@1"])
    assert result.topics == ["10", "2"]
    assert result.mean == {"AP": 0.5, "P@1": 0.5}


def test_complete_counts_missing_topics():
    judged, run = {"1": {"a": 1}, "2": {"a": 1}}, {"1": {"a": 1.0}}
    assert evaluate(judged, run, ["map"]).mean["map"] == 1
    assert evaluate(judged, run, ["map"], complete=True).mean["map"] == 0.5


def test_interval_covers_the_mean_and_is_seeded():
    judged = {str(i): {"a": 1} for i in range(50)}
    run = {str(i): {"a": 1.0, "b": float(i % 3)} for i in range(50)}
    result = evaluate(judged, run, ["map"])
    low, high = result.interval("map")
    assert low < result.mean["map"] < high
    assert (low, high) == result.interval("map")


def test_no_topics_is_no_crash():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluate({}, {}, ["map"]).mean == {"map": 0.0}


def test_what_negative_judgments_mean_to_measures_of_judged_documents():
    run = {"q": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}}
    judged = {"q": {"a": -1, "b": 0, "c": 1, "d": 1}}
    result = evaluate(judged, run, ["bpref", "num_nonrel_judged_ret", "infAP", "judged_3", "judged_8"]).mean
    # One judged non-relevant document is ahead of both relevant ones; the pooled one counts for infAP alone.
    assert result["bpref"] == 0
    assert result["num_nonrel_judged_ret"] == 1
    first = 1 / 3 + 2 / 3 * (2 / 2) * (1e-5 / (1 + 2e-5))
    second = 1 / 4 + 3 / 4 * (3 / 3) * ((1 + 1e-5) / (2 + 2e-5))
    assert result["infAP"] == pytest.approx((first + second) / 2, rel=1e-12)
    assert result["judged_3"] == 1
    assert result["judged_8"] == 0.5


def test_only_the_best_documents_count():
    judged, run = {"q": {"a": 1, "b": 1}}, {"q": {"a": 1.0, "b": 3.0, "x": 2.0}}
    assert evaluate(judged, run, ["num_ret", "num_rel_ret"], max_documents=2).mean == {
        "num_ret": 2,
        "num_rel_ret": 1,
    }
    with pytest.raises(InputError, match="max_documents: expected an integer >= 0"):
        evaluate(judged, run, max_documents=-1)


ALIASES = {
    "AP": "map", "AP@5": "map_cut_5", "nDCG": "ndcg", "nDCG@3": "ndcg_cut_3", "P@1": "P_1", "R@9": "recall_9",
    "RR": "recip_rank", "RPrec": "Rprec", "Bpref": "bpref", "Success@2": "success_2", "IPrec@0.1":
    "iprec_at_recall_0.10", "SetP": "set_P", "SetR": "set_recall", "SetF": "set_F", "Judged@4": "judged_4",
    "RBP(p=0.8)": "rbp_0.80", "RBPResidual(p=0.8)": "rbp_resid_0.80", "ERR@20": "err_20", "MRR": "recip_rank",
    "Compat(p=0.95)": "compat_0.95", "NumRet": "num_ret", "NumRel": "num_rel", "NumRelRet": "num_rel_ret",
    "infAP": "infAP", "MAP@5": "map_cut_5", "SetF(beta=0.5)": "set_F_0.5", "SetP(relative=True)": "set_relative_P",
    "nDCG(gains={1:4,2:9})": "ndcg_1=4,2=9", "Precision@1": "P_1", "SetAP": "set_map", "NumQ": "num_q",
}  # fmt: skip


@given(signed, runs)
def test_names_of_ir_measures_mean_trec_evals(judged, run):
    assume_common(judged, run)
    names, trec = (
        evaluate(judged, run, list(ALIASES)),
        evaluate(judged, run, list(dict.fromkeys(ALIASES.values()))),
    )
    assert names.measures == list(ALIASES)
    for name, theirs in ALIASES.items():
        assert names.per_topic(name) == trec.per_topic(theirs), name


#: Measures with a relevance level, a cut-off or a discount of their own.
OWN_LEVEL = ["RR@2", "P(rel=2)@3", "AP(rel=2)", "AP(rel=3)@2", "Rprec(rel=2)", "SetF(rel=2,beta=0.5)", "NumRet(rel=2)",
             "P(judged_only=True)@3", "AP(judged_only=True)", "nDCG(judged_only=True)@3", "Success(rel=2)@2"]  # fmt: skip


@given(qrels, runs)
@hypothesis.settings(max_examples=40)
def test_parameters_are_those_of_ir_measures(judged, run):
    ir_measures = pytest.importorskip("ir_measures")
    assume_common(judged, run)
    # Their evaluators have rules of their own for ties, and fail on topics of one side alone.
    topics = judged.keys() & run.keys()
    judged = {t: judged[t] for t in topics}
    run = {t: {d: float(i) for i, d in enumerate(sorted(run[t]))} for t in topics}
    objects = [ir_measures.parse_measure(name) for name in OWN_LEVEL]
    ours = evaluate(judged, run, objects)
    assert ours.measures == objects
    assert list(evaluate(judged, run, OWN_LEVEL).mean.values()) == list(ours.mean.values())
    for metric in ir_measures.iter_calc(objects, judged, run):
        assert ours.per_topic(metric.measure)[metric.query_id] == pytest.approx(metric.value, rel=1e-9), (
            metric
        )


def test_an_exponential_gain_by_hand():
    judged, run = {"q": {"a": 3, "b": 1}}, {"q": {"b": 2.0, "a": 1.0}}
    value = evaluate(judged, run, ["nDCG(dcg='exp-log2')@10"]).mean["nDCG(dcg='exp-log2')@10"]
    assert value == pytest.approx((1 + 7 / np.log2(3)) / (7 + 1 / np.log2(3)))


def test_names_come_out_as_they_went_in():
    ir_measures = pytest.importorskip("ir_measures")
    ndcg = ir_measures.nDCG @ 10
    judged, run = {"q": {"a": 1}}, {"q": {"a": 1.0}}
    result = evaluate(judged, run, ["rbp_0.999", "rbp_0.8", "rbp_0.801", "RBP(p=.8)", ndcg, "map"])
    assert result.measures == ["rbp_0.999", "rbp_0.8", "rbp_0.801", "RBP(p=.8)", ndcg, "map"]
    assert len(result.mean) == 6
    assert result.mean[ndcg] == 1
    assert result.per_topic("nDCG@10") == result.per_topic(ndcg) == {"q": 1}
    assert list(result.to_dict()["mean"]) == [
        "rbp_0.999",
        "rbp_0.8",
        "rbp_0.801",
        "RBP(p=.8)",
        "nDCG@10",
        "map",
    ]
    assert list(result.to_pandas().columns)[1:] == list(result.to_dict()["mean"])
    assert evaluate(judged, run, ["map", "map"]).measures == ["map"]
    with pytest.raises(InputError, match="expected a list of names, got the text 'map'"):
        evaluate(judged, run, "map")


def test_topics_that_a_run_lacks_are_named():
    judged = {str(i): {"a": 1} for i in range(8)}
    run = {"0": {"a": 1.0}, "x": {"a": 1.0}}
    left_out, counted = evaluate(judged, run, ["map"]), evaluate(judged, run, ["map"], complete=True)
    assert left_out.missing == counted.missing == list("1234567")
    assert left_out.notes == ["the run lacks 7 of 8 judged topics (1, 2, 3, 4, 5, …): they are left out."]
    assert counted.notes == ["the run lacks 7 of 8 judged topics (1, 2, 3, 4, 5, …): they count as 0."]
    assert (left_out.mean["map"], counted.mean["map"]) == (1, 1 / 8)
    assert left_out.to_markdown().endswith("\n\nNote: " + left_out.notes[0])
    assert not evaluate({"0": {"a": 1}}, run).notes


def ranked_grades(judged, run):
    """Judgments in rank order, None where unjudged, by sorting all."""
    order = sorted(run, key=lambda d: (np.float32(run[d]), d.encode()), reverse=True)
    return [judged.get(d) for d in order]


@given(signed, runs, st.sampled_from([1, 2]))
def test_weighted_ranks_by_brute_force(judged, run, level):
    assume_common(judged, run)
    result = evaluate(judged, run, ["rbp_0.8", "rbp_resid_0.8", "err_3"], relevance_level=level)
    for i, topic in enumerate(result.topics):
        grades = ranked_grades(judged[topic], run[topic])
        weights = [0.2 * 0.8**r for r in range(len(grades))]
        rbp = sum(w for w, g in zip(weights, grades, strict=True) if g is not None and g >= level)
        unjudged = sum(w for w, g in zip(weights, grades, strict=True) if g is None or g < 0)
        err, reached = 0.0, 1.0
        for rank, grade in enumerate(grades[:3], 1):
            ends = (2 ** max(grade or 0, 0) - 1) / 16
            err, reached = err + reached * ends / rank, reached * (1 - ends)
        wanted = [rbp, unjudged + 0.8 ** len(grades), err]
        assert result.values[:, i] == pytest.approx(wanted, rel=1e-12, abs=1e-15)


@given(qrels, runs)
def test_compatibility_is_that_of_ir_measures(judged, run):
    assume_common(judged, run)
    ir_measures = pytest.importorskip("ir_measures")
    measure = ir_measures.parse_measure("Compat(p=0.95)")
    # Theirs takes what was not retrieved as retrieved with a score of 0, and has its own rule for ties.
    run = {t: {d: 1 + i for i, d in enumerate(sorted(docs))} for t, docs in run.items()}
    theirs = {m.query_id: m.value for m in ir_measures.iter_calc([measure], judged, run)}
    ours = evaluate(judged, run, ["compat_0.95"]).per_topic("compat_0.95")
    for topic, value in ours.items():
        assert value == pytest.approx(theirs[topic], rel=1e-9, abs=1e-12)


def test_versions_differ_in_precision_and_comments(tmp_path):
    judged, run = {"1": {"a": 1}}, {"1": {"a": 1.0 + 1e-12, "b": 1.0}}
    assert evaluate(judged, run, ["map"]).mean["map"] == 0.5, "9: a tie, which b wins"
    assert evaluate(judged, run, ["map"], compat="10").mean["map"] == 1
    (tmp_path / "qrels").write_text("# topic iteration document relevance\n1 0 a 1\n")
    assert evaluate(tmp_path / "qrels", run, ["map"], compat="10").topics == ["1"]
    with pytest.raises(InputError, match=r"qrels:1: expected 4 fields .*, got 5"):
        evaluate(tmp_path / "qrels", run, ["map"])
    with pytest.raises(InputError, match="compat: expected '9' or '10', got '8'"):
        evaluate(judged, run, compat="8")


def test_results_as_tables():
    result = evaluate({"1": {"a": 1}, "2": {"b": 1}}, {"1": {"a": 1.0}, "2": {"x": 1.0}}, ["map", "P_1"])
    for frame in (result.to_pandas(), result.to_polars(), result.to_arrow()):
        assert list(frame["map"]) == [1, 0] or frame["map"].to_pylist() == [1, 0]
    assert result.to_dict() == {
        "mean": {"map": 0.5, "P_1": 0.5},
        "topics": {"1": {"map": 1, "P_1": 1}, "2": {"map": 0, "P_1": 0}},
    }
    assert result.to_markdown().splitlines()[2] == "| map | 0.5000 |"
    assert r"P\_1 & 0.5000" in result.to_latex()


def test_progress_is_told_and_can_stop():
    run = {str(i): {"a": 1.0} for i in range(50)}
    seen = []
    evaluate({"1": {"a": 1}}, run, ["map"], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (50, 50)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate({"1": {"a": 1}}, run, ["map"], progress=stop)


def test_threads_change_no_digit():
    generator = np.random.default_rng(0)
    n, k = 300, 50
    topics = np.repeat(np.arange(n), k)
    documents = np.concatenate([generator.permutation(200)[:k] for _ in range(n)])
    run = (topics, documents, generator.integers(0, 9, n * k).astype(float))
    judged = (topics, documents, generator.integers(-1, 3, n * k))
    try:
        found = []
        for threads in (1, 2, 5):
            optical_rs.set_num_threads(threads)
            found.append(evaluate(judged, run, MEASURES))
    finally:
        optical_rs.set_num_threads(0)
    assert all((f.values == found[0].values).all() and f.mean == found[0].mean for f in found)
