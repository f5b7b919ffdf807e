"""What a search tokenises, solves, reads and scores: no more than it shows, and the same hits."""

import contextlib
import itertools
import json
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs.baselines import BM25
from optical_rs.edge import Encoder, explanation, fields
from optical_rs.edge import search as module
from optical_rs.edge.export import export
from optical_rs.edge.index import index, update_first_stage
from optical_rs.edge.search import Index
from optical_rs.similarity import Mean
from optical_rs.similarity.words import words_of
from optical_rs.transport import solve_batch

pytest.importorskip("onnxruntime")
pytest.importorskip("bm25s")


class Recording:
    """A tokenizer that remembers the texts that it gets."""

    def __init__(self, tokenizer):
        self.tokenizer, self.texts = tokenizer, []

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def encode_batch(self, texts):
        self.texts += texts
        return self.tokenizer.encode_batch(texts)

    def encode_batch_fast(self, texts):
        self.texts += texts
        return self.tokenizer.encode_batch_fast(texts)


@pytest.fixture(scope="module")
def encoder(exported):
    return Encoder(exported[0], precision="float32")


@pytest.fixture
def recorded(encoder, monkeypatch):
    tokenizer = Recording(encoder._tokenizer)
    monkeypatch.setattr(encoder, "_tokenizer", tokenizer)
    return tokenizer.texts


@pytest.fixture(scope="module")
def pieces(pieces_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces") / "model"
    export(pieces_model, folder)
    return Encoder(folder)


def test_the_tokenizer_gets_the_beginning_of_a_long_text(encoder, recorded):
    text = "the fire is on the dog " * 20_000
    assert len(encoder.tokens(text, "document")) == encoder.max_tokens
    assert np.array_equal(encoder.encode_document([text])[0], encoder.encode_document([text[:600]])[0])
    assert max(map(len, recorded)) < 20 * encoder.max_tokens


words = st.sampled_from(["the", "fire", "moto", "uli", "x", "…", "東京", "İ", "a" * 60, "b" * 900, "é"])
spaces = st.sampled_from([" ", "  ", "\n", "\t", "\u00a0", "\u3000", "", ".", ", ", " " * 700])


@given(st.lists(st.tuples(words, spaces), min_size=1, max_size=400), st.integers(1, 8))
def test_a_long_text_has_the_tokens_of_all_of_it(pieces, parts, times):
    text = "".join(word + space for word, space in parts) * times
    wanted = pieces._tokenizer.encode_batch([text])[0]
    (found,) = pieces._encodings([text], "document")
    assert (found.ids, found.offsets, found.tokens) == (wanted.ids, wanted.offsets, wanted.tokens)
    (fast,) = pieces._encodings([text], "document", fast=True)
    assert fast.ids == wanted.ids


@given(st.lists(st.tuples(words, spaces), max_size=30), st.data())
def test_words_are_the_runs_in_which_tokens_begin(parts, data):
    text = "".join(word + space for word, space in parts)
    prompt = data.draw(st.integers(0, len(text)))
    ends = sorted({*data.draw(st.lists(st.integers(0, len(text)), max_size=20))})
    spans = [(0, 0), *itertools.pairwise(ends)]
    wanted, of = [], []
    for start, end in spans:
        start = max(start, prompt)
        while start < end and text[start].isspace():
            start += 1
        if start >= end:
            of.append(None)
            continue
        first, last = start, start
        while first > prompt and not text[first - 1].isspace():
            first -= 1
        while last < len(text) and not text[last].isspace():
            last += 1
        run = (first, last) if last - first <= 30 else (start, end)
        of.append(run)
        if run not in wanted:
            wanted.append(run)
    found, numbers = words_of(text, spans, prompt)
    assert found == [text[first:last] for first, last in wanted]
    assert numbers.tolist() == [-1 if run is None else wanted.index(run) for run in of]


def test_snippets_solve_nothing_and_tokenise_once(encoder, documents, tmp_path, monkeypatch, recorded):
    opened = Index(index(encoder, documents, tmp_path / "s").path, encoder)
    solved = []
    monkeypatch.setattr(
        explanation, "solve_batch", lambda *given: solved.append(given) or solve_batch(*given)
    )
    encoded = len(recorded)
    opened.search("the dog", 5)
    encoded = len(recorded) - encoded
    recorded.clear()
    hits = opened.search("the dog", 5, snippets=True)
    assert len(hits) == 5
    assert all(hit.snippet for hit in hits)
    assert (len(recorded), solved) == (encoded + 1 + 5, [])
    recorded.clear()
    hit = opened.search("the dog", 1, explain=True)[0]
    assert len(recorded) == encoded + 1 + 1
    why = hit.explanation
    wanted = solve_batch((1 - why.similarity)[None].astype(np.float32), explanation.REG).plan[0]
    assert np.array_equal(why.plan, wanted)
    assert np.array_equal(opened.explain("the dog", hit.number).plan, wanted)
    assert len(solved) == 2


@pytest.mark.parametrize("window", [None, 4])
def test_fields_are_read_for_hits_alone_and_once_for_filters(
    encoder, documents, tmp_path, monkeypatch, window
):
    rows = [(name, text, {"year": 1990 + i, "tag": []}) for i, (name, text) in enumerate(documents.items())]
    store = index(encoder, rows, tmp_path / "s", window=window)
    store.delete([store.ids[0]] if window is None else [name for name in store.ids if name.startswith("d0#")])
    opened = Index(tmp_path / "s", encoder)
    opened.search("the dog", 1)  # sees what the store says of itself
    read = []
    loads = json.loads
    monkeypatch.setattr(fields.json, "loads", lambda line: read.append(line) or loads(line))
    hits = opened.search("the dog", 3)
    assert [hit.fields for hit in hits] == [
        next(own for name, _, own in rows if name == h.document) for h in hits
    ]
    assert len(read) == 3
    found = [opened.search("the dog", 20, filters={"year": {"lt": 1990 + n}}) for n in (2, 5)]
    assert [sorted(hit.document for hit in hits) for hits in found] == [["d1"], ["d1", "d2", "d3", "d4"]]
    assert opened.fields == ["tag", "year"]
    assert len(read) == 3 + len(rows) + 5


def book(encoder, documents, folder, pieces=200):
    rng = np.random.default_rng(0)
    known = sorted({word for text in documents.values() for word in text.split()})
    said = [" ".join(rng.choice(known, 4)) for _ in range(30)]
    documents = {f"d{i}": text for i, text in enumerate(said)}
    documents["book"] = " ".join("the dog runs fast" for _ in range(pieces))
    documents["other"] = " ".join([*("the dog runs slowly" for _ in range(pieces // 4)), *said])
    return index(encoder, documents, folder, window=4)


def test_a_book_does_not_raise_the_candidates_of_every_search(encoder, documents, tmp_path, monkeypatch):
    store = book(encoder, documents, tmp_path / "s")
    update_first_stage(store, Mean())
    opened = Index(tmp_path / "s", encoder)
    asked = []

    def searched(queries, *given, **options):
        asked.append((len(queries), options["candidates"]))
        return search(queries, *given, **options)

    search = module.search
    monkeypatch.setattr(module, "search", searched)
    hits = opened.search_batch(["mother cooks porridge", "the dog runs fast"], 3, candidates=20)
    assert asked[0] == (2, 20)
    assert [len(own) for own in hits] == [3, 3]
    # Where the pieces of a book come first more are looked at, for that query alone.
    assert {queries for queries, _ in asked[1:]} == {1}
    assert [number for _, number in asked] == [min(max(20, 12 * 2**i), len(store)) for i in range(len(asked))]
    asked.clear()
    opened.search("mother cooks porridge", 3, candidates=20)
    assert asked == [(1, 20)]


@pytest.mark.parametrize("lexical", [False, True])
def test_the_best_documents_are_those_of_all_pieces(encoder, documents, tmp_path, monkeypatch, lexical):
    book(encoder, documents, tmp_path / "s", pieces=60)
    opened = Index(tmp_path / "s", encoder)
    monkeypatch.setattr(module, "_DEPTH", 3)
    for query in ("the dog runs fast", "porridge", "water in the jar", "slowly dog"):
        for k in (1, 2, 5, 31, 40):
            for filters in (None, {}):
                monkeypatch.setattr(module, "_PIECES", 4)
                found = opened.search(query, k, lexical=lexical, filters=filters, snippets=True)
                monkeypatch.setattr(module, "_PIECES", 1000)
                assert found == opened.search(query, k, lexical=lexical, filters=filters, snippets=True)
                assert len({hit.document for hit in found}) == min(k, 32)


def test_words_of_one_query_are_scored_at_a_time(encoder, documents, tmp_path, monkeypatch):
    opened = Index(index(encoder, documents, tmp_path / "s").path, encoder)
    held, scored = [], BM25.scores

    def scores(self, query):
        assert [own for own in held if own() is not None] == [], "scores of another query are still held"
        found = scored(self, query)
        held.append(weakref.ref(found))
        return found

    monkeypatch.setattr(BM25, "scores", scores)
    assert all(opened.search_batch(["the dog", "porridge", "rain"], 2, lexical=True))
    assert len(held) == 3


def test_two_first_lexical_searches_index_words_once(encoder, documents, tmp_path, monkeypatch):
    opened = Index(index(encoder, documents, tmp_path / "s").path, encoder)
    made, both, found = [], threading.Barrier(2), []

    def counted(texts):
        made.append(len(texts))
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # for another that does the same
        return BM25(texts)

    monkeypatch.setattr(module, "BM25", counted)
    threads = [
        threading.Thread(target=lambda: found.append(opened.search("the dog", 3, lexical=True)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [len(documents)]
    assert found[0] == found[1]


def test_documents_of_two_shards_fill_the_ranking_by_words_once(encoder, tmp_path, monkeypatch):
    texts = {"a": "dog dog dog fire", "b": "dog dog fire sun", "c": "dog fire sun rain"}
    for name in ("one", "two"):
        index(encoder, texts, tmp_path / name)
    monkeypatch.setattr(module, "_DEPTH", 3)
    one, both = (
        Index(paths, encoder).search("dog", 3, lexical=True)
        for paths in (tmp_path / "one", [tmp_path / "one", tmp_path / "two"])
    )
    assert [(hit.document, hit.score) for hit in both] == [(hit.document, hit.score) for hit in one]
