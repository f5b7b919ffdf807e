"""One way from texts to tokens: batches by tokens, a thread that tokenises, and a precision that is chosen by its speed."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError, encoding
from optical_rs.encoding import batches, encode, fastest, fastest_precision


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 100), st.floats(0, 1))
def test_batches(lengths, tokens, padded):
    found = list(batches(lengths, tokens, padded))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        longest, shortest = (f(lengths[i] for i in batch) for f in (max, min))
        assert len(batch) == 1 or len(batch) * longest <= tokens
        assert shortest >= (1 - padded) * longest


@pytest.mark.parametrize("role", ["query", "document"])
def test_torch_gives_what_sentence_transformers_gives(teacher, pairs, monkeypatch, role):
    pytest.importorskip("torch")
    monkeypatch.setattr(encoding, "PART", 7)
    monkeypatch.setattr(encoding, "TOKENS_ON_CPU", 30)
    texts = ["", *(text for pair in pairs for text in pair), "fire " * 100]
    theirs = teacher.encode_query if role == "query" else teacher.encode_document
    seen = []
    found = encode(teacher, texts, role, progress=lambda *at: seen.append(at))
    assert seen[-1] == (len(texts), len(texts))
    for x, y in zip(found, theirs(texts, convert_to_numpy=True, show_progress_bar=False), strict=True):
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, y, atol=1e-5)
    assert encode(teacher, [], role) == []
    for reduced, exact in zip(encode(teacher, texts, role, precision="bfloat16"), found, strict=True):
        assert reduced.dtype == np.float32
        assert (reduced * exact).sum(axis=1).min() > 0.99


def test_query_expansion_is_left_out_where_it_is_asked_for(teacher, pairs):
    pytest.importorskip("torch")
    from optical_rs.models import student_of

    model = student_of(teacher)
    model[0].query_expansion = {"strategy": "fixed", "length": 20, "token": "[MASK]", "attend": True}
    texts = [foreign for foreign, _ in pairs]
    theirs = model.encode_query(texts, convert_to_numpy=True, show_progress_bar=False)
    plain = teacher.encode_query(texts, convert_to_numpy=True, show_progress_bar=False)
    for text, ours, other in zip(encode(model, texts, "query"), theirs, plain, strict=True):
        np.testing.assert_allclose(text, ours, atol=1e-5)
        assert len(text) == 20 > len(other)
    assert [len(x) for x in encode(model, texts, "query", expansion=False)] == [len(x) for x in plain]


def test_tokenisation_runs_ahead_in_another_thread():
    threads = {}

    class Model:
        tokens_per_batch, padded = 4, 0.0

        def prepare(self, texts, role):
            return texts, [len(text) for text in texts]

        def features(self, prepared, role):
            threads.setdefault("features", set()).add(threading.get_ident())
            if prepared == ["xx"]:
                raise ValueError("bad text")
            return prepared

        def embed(self, features, role):
            threads.setdefault("embed", set()).add(threading.get_ident())
            return [np.full((len(text), 1), ord(text[0])) for text in features]

    found = encode(Model(), ["aaaa", "b", "cccc", "d"], "query")
    assert [(len(x), chr(x[0, 0])) for x in found] == [(4, "a"), (1, "b"), (4, "c"), (1, "d")]
    assert threads["embed"] == {threading.get_ident()}
    assert threads["features"].isdisjoint(threads["embed"])
    # Errors of that thread come out here.
    with pytest.raises(ValueError, match="bad text"):
        encode(Model(), ["aaaa", "xx"], "query")


def test_the_fastest_that_is_close_is_chosen(capsys):
    def way(seconds, value):
        def run(texts):
            time.sleep(seconds)
            return [np.array([value], dtype=np.float32)] * len(texts)

        return run

    # Far apart, for machines with other work.
    ways = {"a": way(0.5, (1, 0)), "b": way(0.01, (3, 0)), "c": way(0, (0.9, 0.43))}
    assert fastest(ways, ["text"]) == "b"
    said = capsys.readouterr().err
    assert said.startswith("encoding in b, the fastest of a ")
    assert "(mean cosine 0.9023)" in said
    assert fastest({"a": ways["a"], "c": ways["c"]}, ["text"]) == "a"
    assert fastest(ways, []) == "a"
    # Texts without tokens, and a model whose tokens are no numbers.
    none, broken = (lambda texts: [np.zeros((0, 2))]), (lambda texts: [np.full((1, 2), np.nan)])
    assert fastest({"a": none, "b": none}, ["text"]) in "ab"
    assert fastest({"a": broken, "b": broken}, ["text"]) == "a"


def test_a_precision_is_chosen(teacher, pairs, capsys):
    pytest.importorskip("torch")
    assert fastest_precision(teacher, [e for _, e in pairs], "document") in encoding.PRECISIONS
    assert "bfloat16" in capsys.readouterr().err


def test_bad_input(teacher, tmp_path):
    pytest.importorskip("torch")
    from optical_rs.token_cache import TokenCache

    for options, message in (
        ({"role": "qery"}, "role: expected 'query' or 'document', got 'qery'"),
        ({"role": "query", "precision": "int4"}, "precision: expected one of float32, bfloat16, got 'int4'"),
    ):
        with pytest.raises(InputError, match=message):
            encode(teacher, ["text"], **options)
    with pytest.raises(InputError, match="precision: expected one of float32, bfloat16, got 'bf16'"):
        TokenCache(teacher, tmp_path, precision="bf16")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="texts: expected a list of strings, got the string 'text'"):
        encode(teacher, "text", "query")


def test_a_stop_leaves_no_thread():
    """An error or Ctrl-C while the model works: what is tokenised ahead ends, and the next call works."""

    class Model:
        tokens_per_batch, padded, stop = 1, 0.0, KeyboardInterrupt

        def prepare(self, texts, role):
            return texts, [1] * len(texts)

        def features(self, prepared, role):
            return prepared

        def embed(self, features, role):
            if self.stop:
                raise self.stop
            return [np.ones((1, 1)) for _ in features]

    model, before = Model(), threading.active_count()
    for stop in (KeyboardInterrupt, ValueError):
        model.stop = stop
        with pytest.raises(stop):
            encode(model, ["a"] * 50, "query")
        assert threading.active_count() == before
    model.stop = None
    assert len(encode(model, ["a"] * 50, "query")) == 50


def test_texts_in_any_sequence_and_without_warnings(teacher, caplog):
    pandas = pytest.importorskip("pandas")
    texts = ["fire " * 100, "rain", "the fire"]
    with caplog.at_level("WARNING"):
        found = encode(teacher, pandas.Series(texts, index=[7, 8, 9]), "document")
    assert not caplog.records
    for one, other in zip(found, encode(teacher, texts, "document"), strict=True):
        np.testing.assert_array_equal(one, other)
