"""Pooled tokens, and search that looks at them first."""

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.similarity import Mean, TokenStore, make_coarse, maxsim, pool, search


@pytest.fixture
def store(tmp_path):
    generator = np.random.default_rng(0)
    topics = generator.normal(size=(40, 32))
    texts = []
    for _ in range(200):
        own = topics[generator.integers(0, 40, generator.integers(1, 25))] + 0.1 * generator.normal(
            size=(1, 32)
        )
        texts.append((own / np.linalg.norm(own, axis=1, keepdims=True)).astype(np.float32))
    texts[7] = np.zeros((0, 32), np.float32)
    made = TokenStore.create(tmp_path / "store", 32)
    made.append(texts, [f"d{i}" for i in range(200)])
    made.delete(["d3"])
    return made


def test_groups_are_means_of_similar_tokens(store, tmp_path):
    coarse = pool(store, tmp_path / "coarse", 4, dtype="float32")
    assert len(coarse) == len(store)
    for i in range(len(store)):
        assert 0 < len(coarse[i]) <= -(-len(store[i]) // 4) or i in (3, 7)
        if len(coarse[i]):
            np.testing.assert_allclose(np.linalg.norm(coarse[i], axis=1), 1, atol=1e-5)
    again = pool(store, tmp_path / "again", 4, dtype="float32")
    assert (again.values == coarse.values).all()
    two = np.array([[1, 0], [0.8, 0.6], [0, -1], [0, -1]], np.float32)
    small = TokenStore.create(tmp_path / "small", 2)
    small.append([two], ["x"])
    got = sorted(pool(small, tmp_path / "small2", 2, dtype="float32")[0].tolist())
    mean = (two[0] + two[1]) / np.linalg.norm(two[0] + two[1])
    np.testing.assert_allclose(got, sorted([[0, -1], mean.tolist()]), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_all_candidates_are_the_exact_search(store, tmp_path, dtype):
    documents = store.convert(tmp_path / "converted", dtype)
    coarse = pool(documents, tmp_path / "coarse", 3)
    queries = [store[i] for i in (0, 50, 120)] + [np.zeros((0, 32), np.float32)]
    want = search(queries, documents, 10)
    got = search(queries, documents, 10, coarse=coarse, candidates=199)
    assert [[n for n, _ in hits] for hits in got] == [[n for n, _ in hits] for hits in want]
    assert [s for hits in got for _, s in hits] == pytest.approx(
        [s for hits in want for _, s in hits], abs=1e-5
    )


def test_few_candidates_find_most(store, tmp_path):
    coarse = pool(store, tmp_path / "coarse", 2)
    queries = [store[i] for i in range(10, 60)]
    exact = search(queries, store, 5)
    found = search(queries, store, 5, coarse=coarse, candidates=40)
    shared = [len({n for n, _ in a} & {n for n, _ in b}) for a, b in zip(exact, found, strict=True)]
    assert np.mean(shared) / 5 > 0.9
    # Scores are exact even where a document was missed.
    scores = maxsim(queries[:1], store)[0]
    assert all(score == pytest.approx(scores[store.index(name)], abs=1e-5) for name, score in found[0])


def test_what_was_deleted_since_is_not_found(store, tmp_path):
    coarse = pool(store, tmp_path / "coarse", 2)
    assert "d10" in [n for n, _ in search([store[10]], store, 50, coarse=coarse)[0]]
    store.delete(["d10"])
    assert "d10" not in [n for n, _ in search([store[10]], store, 50, coarse=coarse)[0]]


def test_texts_that_a_coarse_store_lacks_are_scored_exactly(store, tmp_path):
    coarse = pool(store, tmp_path / "coarse", 2)
    before = coarse.values.copy()
    store.append([store[0], store[1]], ["new", "newer"])
    store.delete([f"d{i}" for i in range(10, 15)])
    for query, best in ((store[0], {"d0", "new"}), (store[1], {"d1", "newer"})):
        assert {n for n, _ in search([query], store, 2, coarse=coarse, candidates=2)[0]} == best
    # What is missing is made, and nothing again.
    grown = pool(store, tmp_path / "coarse", 2)
    assert (grown.values[: len(before)] == before).all()
    assert len(grown) == len(store)
    fresh = pool(store, tmp_path / "fresh", 2)
    kept = [i for i in range(len(store)) if not store.deleted[i]]
    assert all(np.array_equal(grown[i], fresh[i]) for i in kept)
    assert search([store[0]], store, 5, coarse=grown) == search([store[0]], store, 5, coarse=fresh)
    assert len(pool(store, tmp_path / "coarse", 2).values) == len(grown.values)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_coarse_store_of_other_texts_is_refused(store, tmp_path, dtype):
    store = store.convert(tmp_path / "store2", dtype)
    coarse = pool(store, tmp_path / "coarse", 2)
    # As many texts with the same ids and lengths, of which one says something else.
    other = TokenStore.create(tmp_path / "other", 32, dtype=dtype)
    texts = [store[i] for i in range(len(store))]
    texts[5] = 2 * texts[5]
    other.append(texts, store.ids)
    for strange in (other, TokenStore.create(tmp_path / "empty", 32)):
        with pytest.raises(InputError, match=r"coarse: .* was made of other texts .* make it again"):
            search([texts[0]], strange, 5, coarse=coarse)
        with pytest.raises(InputError, match=r"was made of other texts"):
            pool(strange, tmp_path / "coarse", 2)
    store.delete(["d10"])
    store.compact()
    with pytest.raises(InputError, match="or before it was compacted"):
        search([texts[0]], store, 5, coarse=coarse)


def test_an_interrupted_call_is_continued(store, tmp_path, monkeypatch):
    monkeypatch.setattr("optical_rs.similarity.coarse._PART", 50)
    whole = pool(store, tmp_path / "whole", 3)

    def stop(done, total):
        assert total == 200
        if done == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool(store, tmp_path / "coarse", 3, progress=stop)
    assert len(TokenStore(tmp_path / "coarse")) == 100
    coarse = pool(store, tmp_path / "coarse", 3)
    assert all((one == two).all() for one, two in zip(coarse, whole, strict=True))


def test_some_documents_alone_are_candidates(store, tmp_path):
    coarse = pool(store, tmp_path / "coarse", 2)
    allowed = np.zeros(200, dtype=bool)
    allowed[20:40] = True
    want = search([store[50]], store, 5, allow=[f"d{i}" for i in range(20, 40)])
    for options in ({}, {"coarse": coarse}, {"coarse": coarse, "candidates": 20}):
        assert search([store[50]], store, 5, allow=allowed, **options) == want
    for wrong in (allowed[1:], np.ones((200, 2), bool)):
        with pytest.raises(InputError, match=r"allow: expected shape \(200,\), got"):
            search([store[50]], store, 5, allow=wrong)
    with pytest.raises(InputError, match="allow: expected ids with several stores"):
        search([store[50]], [store, store], 5, allow=allowed)


def test_any_number_of_results_may_be_asked_for(store, tmp_path):
    everything = search([store[0]], store, 200)
    coarse = pool(store, tmp_path / "coarse", 2)
    assert search([store[0]], store, 2**63) == everything
    assert search([store[0]], [store[i] for i in (0, 1)], 2**70)[0][0][0] == "0"
    assert {name for name, _ in search([store[0]], store, 2**63, coarse=coarse)[0]} == {
        n for n, _ in everything[0]
    }
    with pytest.raises(InputError, match="k: expected at least 1, got 0"):
        search([store[0]], store, 0)


def test_any_engine_can_come_first(store):
    asked = []

    def engine(queries, candidates):
        asked.append((len(queries), candidates))
        return [[("d4", 1.0), ("d8", 0.5), ("gone", 0.1)] for _ in queries]

    queries = [store[4], store[8]]
    found = search(queries, store, 2, coarse=engine, candidates=10)
    assert asked == [(2, 10)]
    exact = maxsim(queries, store)
    for row, hits in zip(exact, found, strict=True):
        assert {n for n, _ in hits} == {"d4", "d8"}
        assert all(score == pytest.approx(row[store.index(name)], rel=1e-5) for name, score in hits)
    # Once, however often it is a candidate.
    assert [
        n for n, _ in search(queries[:1], store, 9, coarse=lambda *_: [[("d4", 2.0), ("d4", 1.0)]])[0]
    ] == ["d4"]
    with pytest.raises(InputError, match="expected hits for 2 queries, got 0"):
        search(queries, store, 2, coarse=lambda queries, candidates: [])


def test_bad_input(store, tmp_path):
    coarse = pool(store, tmp_path / "coarse")
    for call, message in (
        (lambda: pool(store, tmp_path / "x", 1), "factor: expected at least 2, got 1"),
        (lambda: pool(store, tmp_path / "coarse", 3), "already holds a store, which was not made by"),
        (lambda: pool(store, store.path, 4), "already holds a store, which was not made by"),
        (lambda: search([store[0]], store, 1, coarse=store), "coarse: .* is no coarse store"),
        (lambda: search([], store, 1, coarse=coarse), "queries: expected at least one text"),
        (lambda: search([store[0]], [store[0]], 1, coarse=coarse), "coarse: needs a TokenStore"),
        (
            lambda: search([store[0]], store, 1, coarse="s.coarse"),
            "coarse: expected a TokenStore or a callable, got",
        ),
        (lambda: make_coarse(store, tmp_path / "x", "mean"), r"method: expected .* Mean\(\), got 'mean'"),
        (lambda: make_coarse(store, tmp_path / "x", Mean), r"method: expected .* Mean\(\), got <class"),
        (lambda: search([store[0]], store, 1, candidates=5), "candidates: are of coarse, got 5 without it"),
        (
            lambda: search([store[0]], store, 1, coarse=coarse, candidates=0),
            "candidates: expected at least 1",
        ),
        (
            lambda: search([store[0]], store, 1, coarse=coarse, candidates=2.5),
            "candidates: expected an integer",
        ),
        (
            lambda: search([store[0]], store, 1, coarse=coarse, document_ids=["x"] * len(store)),
            "document_ids: expected None with coarse",
        ),
        (
            lambda: search([store[0]], store, 9, coarse=coarse, candidates=5),
            "candidates: expected at least k = 9",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()
