"""What can be evaluated: files, dicts, tables and arrays; and what is refused, with one line."""

import gzip
import sys
from unittest import mock

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.ranking import evaluate, read_qrels, read_run, write_run
from ranking_cases import MEASURES, as_rows, assume_common, runs, scores, signed


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
            "qrels: expected a file name, a dict of dicts, a table, three arrays or named tuples, got int",
        ),
        (lambda: write_run(tmp_path / "r", {"a b": {}}, "t"), "topic: TREC files"),
        (lambda: write_run(tmp_path / "r", {"a": {"d e": 1.0}}, "t"), "document: TREC files"),
    ):
        with pytest.raises(InputError, match=message):
            call()


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
        ({"q": {"d": 1}}, ("r", b"q Q0 a b 1 0.5 tag\n"), "r:1: expected 6 fields, got 7; does an id have a blank "
         "in it?"),
        ({"q": {"d": 1}}, ("r", b"q Q0 a x 3 y 1 0.5 tag\n"), "r:1: expected 6 fields, got 9; does an id have a blank "
         "in it?"),
        (("f", b"q 0 a 2 1\n"), {"q": {"a": 1.0}}, "f:1: expected 4 fields (topic iteration document relevance), got 5"),
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
