"""Measures: bit for bit against trec_eval's own code, through pytrec_eval."""

import gzip
import sys
import warnings
from unittest import mock

import hypothesis
import numpy as np
import optical_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.ranking import evaluate, read_qrels, read_run, write_run

pytrec_eval = pytest.importorskip("pytrec_eval")

#: pytrec_eval's families, with parameters, and the measures that they bring.
FAMILIES = {
    "map", "gm_map", "ndcg", "recip_rank", "Rprec", "bpref", "infAP", "11pt_avg", "utility", "num_ret",
    "num_rel", "num_rel_ret", "num_nonrel_judged_ret", "set_P", "set_recall", "set_relative_P", "set_map",
    "set_F", "iprec_at_recall", "Rprec_mult", "ndcg_cut.5,10", "P.5,10", "recall.5,100", "map_cut.1,5",
    "success.1,5", "relative_P.3,100",
}  # fmt: skip
MEASURES = [
    *(family for family in sorted(FAMILIES) if "." not in family and family not in ("iprec_at_recall", "Rprec_mult")),
    *(f"iprec_at_recall_{i / 10:.2f}" for i in range(11)),
    *(f"Rprec_mult_{i / 5:.2f}" for i in range(1, 11)),
    "ndcg_cut_5", "ndcg_cut_10", "P_5", "P_10", "recall_5", "recall_100", "map_cut_1", "map_cut_5",
    "success_1", "success_5", "relative_P_3", "relative_P_100",
]  # fmt: skip
COUNTS = {"num_ret", "num_rel", "num_rel_ret", "num_nonrel_judged_ret", "utility", "success_1", "success_5"}

ids = st.sampled_from(["d1", "d2", "d3", "d4", "d10", "D1", "é", "x-1", "x_1", "zz"])
topics = st.sampled_from(["1", "2", "10", "q", "Q"])
# Few distinct scores make ties; neighbours that only a double tells apart must tie as well.
scores = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-12, -3.5, 1e-40, 1e30, 0.1, 0.2]) | st.floats(-1e6, 1e6)
qrels = st.dictionaries(topics, st.dictionaries(ids, st.integers(0, 4), min_size=1), min_size=1)
signed = st.dictionaries(topics, st.dictionaries(ids, st.integers(-2, 4), min_size=1), min_size=1)
runs = st.dictionaries(topics, st.dictionaries(ids, scores, min_size=1), min_size=1)


def assume_common(qrels, run):
    """Without a common topic there is nothing to evaluate."""
    hypothesis.assume(qrels.keys() & run.keys())


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


def test_files_dicts_and_gzip_are_the_same(tmp_path):
    judged = {"1": {"a": 2, "b": 0}, "2": {"é": 1}}
    run = {"1": {"b": 0.1, "a": 1 / 3}, "2": {"é": -1.5, "x": 7.0}}
    (tmp_path / "qrels").write_text("1 0 a 2\r\n1\t0\tb 0\n\n2 0 é 1\n", encoding="utf-8")
    write_run(tmp_path / "run", run, "tag")
    (tmp_path / "run.gz").write_bytes(gzip.compress((tmp_path / "run").read_bytes()))
    assert read_qrels(tmp_path / "qrels") == judged
    assert read_run(tmp_path / "run.gz") == run
    want = evaluate(judged, run)
    for name in ("run", "run.gz"):
        got = evaluate(tmp_path / "qrels", tmp_path / name)
        assert (got.values == want.values).all()


def test_interval_covers_the_mean_and_is_seeded():
    judged = {str(i): {"a": 1} for i in range(50)}
    run = {str(i): {"a": 1.0, "b": float(i % 3)} for i in range(50)}
    result = evaluate(judged, run, ["map"])
    low, high = result.interval("map")
    assert low < result.mean["map"] < high
    assert (low, high) == result.interval("map")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1 Q0 d 1 0.5 x\n1 Q0 e 2\n", r"run:2: expected 6 fields"),
        (b"1 Q0 d 1 high x\n", r"run:1: score: expected a number, got 'high'"),
        (b"1 Q0 d 1 nan x\n", r"run:1: score"),
        (b"1 Q0 d 1 1 x\n1 Q0 d 2 2 x\n", r"run:2: topic '1', document 'd': retrieved twice"),
        (b"\xff\xfe\x00", r"run:1: expected 6 fields"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message):
    (tmp_path / "run").write_bytes(text)
    with pytest.raises(InputError, match=message) as caught:
        evaluate({"1": {"d": 1}}, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_other_bad_input(tmp_path):
    (tmp_path / "run.gz").write_bytes(b"\x1f\x8b\x08 broken")
    for call, message in (
        (
            lambda: evaluate({}, {}, ["ndgc_cut_10"]),
            "unknown measure 'ndgc_cut_10'; did you mean 'ndcg_cut_10'",
        ),
        (lambda: evaluate("nowhere", {}), "nowhere: no such file"),
        (lambda: evaluate({}, tmp_path / "run.gz"), "broken gzip"),
        (lambda: evaluate({}, tmp_path), "is a directory"),
        (
            lambda: evaluate({"1": {"d": 1}}, {"1": {"d": float("nan")}}),
            "topic '1', document 'd': the score is not a number",
        ),
        (lambda: evaluate({"1": {"d": "x"}}, {}), "qrels: topic '1', document 'd': expected an integer"),
        (
            lambda: evaluate(3, {}),
            "qrels: expected a file name, a dict of dicts, a table or three arrays, got int",
        ),
        (lambda: write_run(tmp_path / "r", {"a b": {}}, "t"), "topic: TREC files"),
        (lambda: write_run(tmp_path / "r", {"a": {"d e": 1.0}}, "t"), "document: TREC files"),
    ):
        with pytest.raises(InputError, match=message):
            call()


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


@pytest.mark.parametrize(
    ("qrels", "run", "message"),
    [
        ({"q": {"d": 0.5}}, {"q": {"d": 1}}, "qrels: topic 'q', document 'd': expected an integer as relevance, "
         "got 0.5 (float); are qrels and run swapped?"),
        ({"q": {"d": "1"}}, {"q": {"d": 1}}, "qrels: topic 'q', document 'd': expected an integer as relevance, "
         "got 1 (str)"),
        ({"q": {"d": 1}}, {"q": {"d": "high"}}, "run: topic 'q', document 'd': expected a number as score, "
         "got high (str)"),
        ({"q": {"d": 1}}, {"q": {7: 1.0}}, "run: topic 'q': expected text as id of a document, got 7 (int)"),
        ({1: {"d": 1}, "1": {"e": 1}}, {}, "qrels: two topics have the same id, one as text and one as a number"),
        ({"q": {"\ud800": 1}}, {"q": {"d": 1.0}}, "ids: no text that has bytes: '\\ud800'"),
        ({"q": {"d": 1}}, {"q": 1.0}, "run: expected {topic: {document: score}}, got other values than dicts"),
        ({"q": {"d": 1}}, {"z": {"d": 1.0}}, "run: no topic in common with qrels; it has z, judged are q"),
        ({"q": {"d": 1}}, {}, "run: no topic in common with qrels; it has none, judged are q"),
        (("f", b"q Q0 d 1 0.5 t\n"), ("r", b"q 0 d 1\n"), "f:1: expected 4 fields (topic iteration document "
         "relevance), got 6; are judgments and run swapped?"),
        (("f", b"q 0 d 1.0\n"), {"q": {"d": 1.0}}, "f:1: relevance: expected an integer, got '1.0'"),
        ({"q": {"d": 1}}, ("r", b"q 0 d 1\n"), "r:1: expected 6 fields (topic Q0 document rank score tag), got 4; "
         "are judgments and run swapped?"),
        ({"q": {"d": 1}}, ("r", b"q Q0 a b 1 0.5 tag\n"), "r:1: expected 6 fields, got 7 with a number as tag; does "
         "an id have a blank in it?"),
    ],
)  # fmt: skip
def test_what_users_mix_up_gets_one_line(qrels, run, message):
    with pytest.raises(InputError) as caught:
        evaluate(qrels, run)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relevance_level": 1.5}, "relevance_level: expected an integer, got 1.5"),
        ({"relevance_level": 2**70}, "relevance_level: expected an integer, got 1180591620717411303424"),
        ({"max_documents": -1}, "max_documents: expected an integer >= 0, got -1"),
        ({"collection_size": -3}, "collection_size: expected an integer >= 0, got -3"),
    ],
)
def test_options_that_are_no_integers(options, message):
    with pytest.raises(InputError) as caught:
        evaluate({"q": {"d": 1}}, {"q": {"d": 1.0}}, **options)
    assert str(caught.value) == message


def test_a_topic_without_documents_is_missing_as_it_is_in_a_file(tmp_path):
    judged, run = {"q": {"a": 1}, "r": {"a": 1}}, {"q": {}, "r": {"a": 1.0}}
    write_run(tmp_path / "run", run, "t")
    for complete, mean in ((False, 1.0), (True, 0.5)):
        ours = evaluate(judged, run, ["map", "iprec_at_recall_0.00"], complete=complete)
        assert ours.missing == ["q"]
        assert ours.mean == {"map": mean, "iprec_at_recall_0.00": mean}
        assert ours == evaluate(judged, tmp_path / "run", ours.measures, complete=complete)


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


#: Lines of a run, of which both readers take the same.
NUMBERS = [
    "nan",
    "1_0",
    "inf",
    "-inf",
    "1e5",
    "1E-300",
    "+7",
    ".5",
    "5.",
    "0x1p3",
    "1,5",
    "",
    "1e999",
    "\u0661",
    "١٢",
]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["1", "2", "\u00a0", "é", "a\u00a0b", "\udcff", "\x1c", "x\x85"]),
            st.sampled_from(["d", "e", "\u2003f", "\ufeff"]),
            st.sampled_from(NUMBERS) | st.floats().map(repr),
            st.sampled_from([" ", "\t", "\x0b", "\x0c", "\u00a0", "\u2028", "  "]),
            st.sampled_from(["\n", "\r\n", "\n\n"]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_readers_of_runs_agree(tmp_path_factory, lines):
    text = "".join(b.join([t, "Q0", d, "1", s, "tag"]) + end for t, d, s, b, end in lines)
    file = tmp_path_factory.mktemp("runs") / "run"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    found, refused = [], []
    for read in (lambda: read_run(file), lambda: evaluate({"q": {"d": 1}, "1": {"d": 1}}, file, ["num_ret"])):
        try:
            found.append(read())
        except InputError as error:
            if "no topic in common" not in str(error):
                refused.append(str(error))
    if refused:
        assert len(set(refused)) == 1
        assert len(refused) == 2
        return
    run = found[0]
    judged = {topic: {"d": 1} for topic in run}
    assert (
        evaluate(judged, file, ["map", "num_ret"]).to_dict()
        == evaluate(judged, run, ["map", "num_ret"]).to_dict()
    )


def test_readers_keep_the_order_and_the_bytes_of_a_file(tmp_path):
    (tmp_path / "run").write_bytes(b"2 Q0 \xff 1 1 t\n1 Q0 a 1 2 t\n2 Q0 b 2 3 t\n")
    (tmp_path / "qrels").write_bytes(b"2 0 \xff 1\n1 0 a 0\n")
    run, judged = read_run(tmp_path / "run"), read_qrels(tmp_path / "qrels")
    assert [(t, list(docs)) for t, docs in run.items()] == [("2", ["\udcff", "b"]), ("1", ["a"])]
    assert list(judged) == ["2", "1"]
    assert evaluate(judged, run).to_dict() == evaluate(tmp_path / "qrels", tmp_path / "run").to_dict()
    write_run(tmp_path / "again", run, "t")
    assert read_run(tmp_path / "again") == run
    for read, line in ((read_run, b"1 Q0 a 1 1_0 t\n"), (read_qrels, b"1 0 a 1_0\n")):
        (tmp_path / "bad").write_bytes(line)
        with pytest.raises(InputError, match=r"bad:1: .*got '1_0'"):
            read(tmp_path / "bad")


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


def as_rows(topics):
    return [(t, d, v) for t, docs in topics.items() for d, v in docs.items()]


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow", "numpy"])
@given(judged=signed, run=runs)
@hypothesis.settings(max_examples=15)
def test_tables_are_as_dicts(kind, judged, run):
    library = pytest.importorskip(kind)
    assume_common(judged, run)
    want = evaluate(judged, run, MEASURES)

    def table(topics, value, names):
        columns = dict(zip((*names, value), map(list, zip(*as_rows(topics), strict=True)), strict=True))
        if kind == "numpy":
            return tuple(np.array(c) for c in columns.values())
        return library.table(columns) if kind == "pyarrow" else library.DataFrame(columns)

    for names, label in ((("query_id", "doc_id"), "relevance"), (("qid", "docno"), "label")):
        got = evaluate(table(judged, label, names), table(run, "score", names), MEASURES)
        assert got.topics == want.topics
        assert (got.values == want.values).all()
    # A table goes with a dict as well.
    assert (evaluate(judged, table(run, "score", ("qid", "docno")), MEASURES).values == want.values).all()


@given(judged=signed, run=runs)
def test_tables_without_arrow(judged, run):
    assume_common(judged, run)
    want = evaluate(judged, run, MEASURES)
    with mock.patch.dict(sys.modules, {"pyarrow": None}):
        arrays = [tuple(np.array(c, object) for c in zip(*as_rows(x), strict=True)) for x in (judged, run)]
        arrays = [(t, d, v.astype(int if i == 0 else float)) for i, (t, d, v) in enumerate(arrays)]
        assert (evaluate(*arrays, MEASURES).values == want.values).all()


numbers = st.integers(0, 12)


@given(
    st.dictionaries(numbers, st.dictionaries(numbers, st.integers(0, 3), min_size=1), min_size=1),
    st.dictionaries(numbers, st.dictionaries(numbers, scores, min_size=1), min_size=1),
    st.randoms(),
)
def test_numbers_as_ids(judged, run, shuffle):
    """Like text of equal width, which has the numbers' order; rows may come in any order."""
    assume_common(judged, run)

    def text(topics):
        return {f"{t:02}": {f"{d:02}": v for d, v in docs.items()} for t, docs in topics.items()}

    def arrays(topics):
        rows = as_rows(topics)
        shuffle.shuffle(rows)
        return tuple(np.array(c) for c in zip(*rows, strict=True))

    got, want = evaluate(arrays(judged), arrays(run), MEASURES), evaluate(text(judged), text(run), MEASURES)
    assert [f"{t:02}" for t in got.topics] == want.topics
    assert (got.values == want.values).all()


def test_results_of_a_search_as_arrays():
    judged = (np.array([3, 4]), np.array([7, 8]), np.array([1, 1]))
    run = (np.array([3, 4]), np.array([[7, 9], [8, -1]]), np.array([[0.5, 0.9], [0.1, 0.0]]))
    assert evaluate(judged, run, ["map", "num_ret"]).mean == {"map": 0.75, "num_ret": 3}


def test_arrays_at_odd_addresses_are_copied():
    from optical_rs.ranking.tables import arrays

    def odd(values, dtype):
        data = np.array(values, dtype).tobytes()
        return np.frombuffer(b"x" + data, dtype, offset=1)

    given = odd([1, 1], np.int64), odd([7, 8], np.int64), odd([0.5, 0.25], np.float64)
    assert not any(array.flags.aligned for array in given)
    taken = arrays("run", given)
    assert all(array.flags.aligned and array.flags.c_contiguous for array in taken)
    assert evaluate(tuple(np.array(x) for x in ([1], [8], [1])), given, ["map"]).mean["map"] == 0.5


def test_bad_tables():
    pandas = pytest.importorskip("pandas")
    qrels = {"1": {"a": 1}}
    run = pandas.DataFrame({"qid": ["1"], "docno": ["a"], "score": [0.5]})
    for call, message in (
        (lambda: evaluate(qrels, run.rename(columns={"docno": "where"})), "run: no column for the document"),
        (lambda: evaluate(run.assign(label=["x"]), run), "qrels: expected integers as values"),
        (
            lambda: evaluate(run.assign(label=[1.5]), run),
            "expected integers as values, got float64; are qrels and run",
        ),
        (lambda: evaluate(qrels, run.assign(score=[np.nan])), "row 0: topic '1', document 'a': the score"),
        (
            lambda: evaluate(qrels, pandas.concat([run, run])),
            "row 1: topic '1', document 'a': retrieved twice",
        ),
        (lambda: evaluate(qrels, run.assign(qid=[None])), "run: topics: expected an id in every row"),
        (lambda: evaluate(qrels, (np.array([1]), np.array([2]), np.array([0.5]))), "one has numbers for ids"),
        (lambda: evaluate(qrels, (np.array([1]), np.array([2, 3]), np.array([0.5]))), "run: expected topics"),
    ):
        with pytest.raises(InputError, match=message):
            call()


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


@given(runs)
def test_order_in_the_file_does_not_matter(run):
    """Topics that come back after others, in any order of lines, are what they are when sorted."""
    lines = [f"{t} Q0 {d} 0 {s!r} tag\n" for t, d, s in as_rows(run)]
    judged = {t: dict.fromkeys(docs, 1) for t, docs in run.items()}
    want = evaluate(judged, run, MEASURES)
    for seed in range(3):
        np.random.default_rng(seed).shuffle(lines)
        got = evaluate(judged, ("run", "".join(lines).encode()), MEASURES)
        assert (got.values == want.values).all()


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
