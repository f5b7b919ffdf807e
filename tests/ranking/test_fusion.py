"""Fusion, by brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.cli.fuse import main
from optical_rs.ranking import fuse, read_run, write_run

runs = st.lists(
    st.dictionaries(
        st.sampled_from("pq"),
        st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0]), min_size=1),
    ),
    min_size=1,
    max_size=3,
)


@given(runs, st.integers(1, 4), st.integers(1, 60), st.data())
def test_reciprocal_ranks_by_brute_force(found, depth, k, data):
    weights = data.draw(st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=len(found), max_size=len(found)))
    fused = fuse(found, weights=weights, k=k, depth=depth)
    assert set(fused) == {query for run in found for query in run}
    for query, documents in fused.items():
        wanted = {}
        for run, weight in zip(found, weights, strict=True):
            hits = run.get(query, {})
            for d, s in hits.items():
                rank = 1 + sum((t, e) > (s, d) for e, t in hits.items())
                if rank <= depth:
                    wanted[d] = wanted.get(d, 0) + weight / (k + rank)
        best = sorted(wanted, key=lambda d: (wanted[d], d), reverse=True)[:depth]
        assert documents == pytest.approx({d: wanted[d] for d in best})


def test_scores_are_scaled_within_a_query():
    found = fuse(
        [{"q": {"a": 30.0, "b": 20.0, "c": 10.0}}, {"q": [("b", 1.0)]}], method="score", weights=[1, 0.5]
    )
    assert found["q"] == {"b": 1.0, "a": 1.0, "c": 0.0}
    assert list(found["q"]) == ["b", "a", "c"]


def test_the_command(tmp_path, capsys):
    for name, scores in (("one", {"a": 2.0, "b": 1.0}), ("two", {"b": 3.0})):
        write_run(tmp_path / name, {"q": scores}, name)
    main([str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(tmp_path / "out")])
    assert list(read_run(tmp_path / "out")["q"]) == ["b", "a"]
    assert "1 queries" in capsys.readouterr().out


def test_bad_input():
    for call, message in (
        (lambda: fuse([]), "runs: expected at least one"),
        (lambda: fuse([{}], method="sum"), "method: expected one of rrf, score"),
        (lambda: fuse([{}], weights=[1, 2]), "weights: expected 1, one for each run, got 2"),
        (lambda: fuse([{}], k=0), "k, depth: expected at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow", "numpy"])
def test_tables_are_fused_and_written_as_dicts_are(tmp_path, kind):
    library = pytest.importorskip(kind)
    run = {"q": {"a": 2.0, "b": 1.0}, "r": {"b": 0.5}}
    rows = [(topic, document, score) for topic, hits in run.items() for document, score in hits.items()]
    columns = dict(zip(("qid", "docno", "score"), map(list, zip(*rows, strict=True)), strict=True))
    if kind == "numpy":
        table = tuple(library.array(column) for column in columns.values())
    else:
        table = library.table(columns) if kind == "pyarrow" else library.DataFrame(columns)
    assert fuse([table, run]) == fuse([run, run])
    write_run(tmp_path / "table", table, "t")
    assert read_run(tmp_path / "table") == run


def test_runs_that_are_none():
    pandas = pytest.importorskip("pandas")
    twice = pandas.DataFrame({"qid": ["q", "q"], "docno": ["d", "d"], "score": [1.0, 2.0]})
    for run, message in (
        (3, "run: expected a file name, a dict of dicts, a table, three arrays or named tuples, got int"),
        ({"q": 1.0}, "run: expected {topic: {document: score}}, got other values than dicts"),
        (twice, "run: topic 'q', document 'd': retrieved twice"),
        (twice.drop(columns="score"), "run: no column for the value"),
    ):
        with pytest.raises(InputError) as caught:
            fuse([run])
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("run", "tag", "message"),
    [
        ({"q": {"a b": 1.0}}, "t", "document: TREC files separate by blanks, got 'a b'"),
        ({"q": {"a": 2.0, " a": 1.0}}, "t", "document: TREC files separate by blanks, got ' a'"),
        ({"q": {"a": 2.0}, "": {"a": 1.0}}, "t", "topic: TREC files separate by blanks, got ''"),
        ({"q": {"a": 2.0}}, "my tag", "tag: TREC files separate by blanks, got 'my tag'"),
        ({"q": {"\ud800": 2.0}}, "t", r"document: no text that has bytes: '\ud800'"),
        ({"q": {"a": float("nan")}}, "t", "topic 'q', document 'a': expected a number as score, got nan"),
        ({"q": {"a": "1_0"}}, "t", "topic 'q', document 'a': expected a number as score, got '1_0'"),
        ({"q": [("a", 2.0), ("a", 1.0)]}, "t", "topic 'q': a document is retrieved twice"),
        ({"q": {1: 2.0, "1": 1.0}}, "t", "topic 'q': a document is retrieved twice"),
        ({1: {"a": 2.0}, "1": {"a": 1.0}}, "t", "topic '1' comes twice"),
    ],
)
def test_a_run_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path, run, tag, message):
    file = tmp_path / "run"
    file.write_text("before")
    with pytest.raises(InputError) as refused:
        write_run(file, run, tag)
    assert message in str(refused.value)
    assert file.read_text() == "before"


def test_a_run_is_not_written_where_it_cannot_be(tmp_path):
    for place, reason in ((tmp_path, "Is a directory"), (tmp_path / "no" / "run", "No such file")):
        with pytest.raises(InputError, match=f"cannot be written .{reason}"):
            write_run(place, {"q": {"a": 1.0}}, "t")


def test_what_is_written_is_read_as_it_was(tmp_path):
    """Scores of numpy, ids that are numbers, and ids with what Python but not TREC's programs takes for blanks."""
    np = pytest.importorskip("numpy")
    run = {
        7: {
            3: np.float32(0.25),
            "a\u00a0b": np.float64(2),
            "\x85": 1,
            "\u2028": 0.125,
            "\udcff": float("inf"),
        }
    }
    write_run(tmp_path / "run", run, "t")
    assert read_run(tmp_path / "run") == {
        "7": {"\udcff": float("inf"), "a\u00a0b": 2.0, "\x85": 1.0, "3": 0.25, "\u2028": 0.125}
    }


@pytest.mark.parametrize(
    ("score", "method", "message"),
    [
        (float("nan"), "rrf", "topic 'q', document 'b': expected a number as score, got nan"),
        ("high", "rrf", "topic 'q', document 'b': expected a number as score, got 'high'"),
        (float("inf"), "score", "topic 'q', document 'b': expected a finite number as score, got inf"),
    ],
)
def test_scores_that_cannot_be_fused(score, method, message):
    with pytest.raises(InputError) as refused:
        fuse([{"q": {"a": 1.0, "b": score}}], method=method)
    assert message in str(refused.value)
    for weight in (float("nan"), "a", None, 10**400):
        with pytest.raises(InputError, match="weights: expected finite numbers"):
            fuse([{"q": {"a": 1.0}}], weights=[weight])
    for options in ({"k": float("nan")}, {"k": "60"}, {"depth": 2.5}, {"depth": 0}):
        with pytest.raises(InputError, match="k, depth: expected at least 1"):
            fuse([{"q": {"a": 1.0}}], **options)


def test_scores_as_far_apart_as_numbers_can_be():
    fused = fuse([{1: {1: 1.7e308, 2: -1.7e308, 3: 0.0}}], method="score")
    assert fused == {"1": {"1": 1.0, "3": 0.5, "2": 0.0}}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"q": 5}, "run: topic 'q': expected documents with scores, got 5"),
        ({"q": [("d",)]}, "run: topic 'q': expected documents with scores"),
        ({"q": {b"a": 1.0}}, "document: expected text or a number, got b'a'"),
        ({None: {"a": 1.0}}, "topic: expected text or a number, got None"),
        ({"\ufeffq": {"a": 1.0}}, "topic: expected no byte order mark"),
    ],
)
def test_what_is_no_run_is_not_written(run, message, tmp_path):
    (tmp_path / "run").write_text("before")
    with pytest.raises(InputError) as refused:
        write_run(tmp_path / "run", run, "t")
    assert message in str(refused.value)
    assert (tmp_path / "run").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_packed_run(tmp_path):
    write_run(tmp_path / "run.gz", {"q": {"d": 1.0}}, "t")
    assert read_run(tmp_path / "run.gz") == {"q": {"d": 1.0}}
