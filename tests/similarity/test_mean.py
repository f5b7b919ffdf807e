"""One vector a text: against the definition, and as a first stage of search."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.edge.index import coarse_of, first_stage_of, remove_first_stage, update_first_stage
from optical_rs.similarity import Mean, Muvera, Pooling, TokenStore, columns, make_coarse, maxsim, search


def texts_of(seed, lengths, dim):
    """Unit tokens, those of a text alike."""
    draw = np.random.default_rng(seed)
    found = []
    for length in lengths:
        own = draw.normal(size=(1, dim)) + 0.5 * draw.normal(size=(length, dim))
        found.append((own / np.linalg.norm(own, axis=1, keepdims=True)).astype(np.float32))
    return found


@pytest.fixture
def store(tmp_path):
    lengths = np.random.default_rng(1).integers(1, 25, 400)
    lengths[7] = 0
    made = TokenStore.create(tmp_path / "store", 32, dtype="int8")
    made.append(texts_of(0, lengths, 32), [f"d{i}" for i in range(400)])
    return made


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    dim=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_it_is_the_definition(lengths, dim, seed):
    texts = texts_of(seed, lengths, dim)
    for text, document, query in zip(texts, Mean().documents(texts), Mean().queries(texts), strict=True):
        assert document.dtype == query.dtype == np.float32
        assert document.shape == query.shape == (min(len(text), 1), dim)
        if not len(text):
            continue
        total = text.astype(np.float64).sum(axis=0)
        assert query[0] == pytest.approx(total, rel=1e-6, abs=1e-9)
        if (length := np.linalg.norm(total)) > 1e-6:
            assert document[0] == pytest.approx(total / length, rel=1e-6, abs=1e-9)
    # MaxSim of texts whose tokens all are their mean.
    means = [np.repeat(mean, 3, axis=0) for mean in Mean().documents(texts)]
    want = maxsim(texts, means)
    got = maxsim(Mean().queries(texts), Mean().documents(texts))
    assert got == pytest.approx(want, rel=1e-4, abs=1e-4)


def test_tokens_that_cancel_out_have_no_direction():
    assert Mean().documents([np.array([[1.0, 0.0], [-1.0, 0.0]])])[0].tolist() == [[0.0, 0.0]]


def test_a_coarse_store_is_a_store_like_any_other(store, tmp_path):
    coarse, queries = make_coarse(store, tmp_path / "coarse", Mean()), [store[10]]
    alone = search(queries, TokenStore(coarse.path), 3)
    twice = search(queries, store, 3, coarse=coarse)
    assert search(queries, coarse, 3) == alone
    assert search(queries, store, 3, coarse=coarse) == twice
    assert maxsim(queries, coarse).shape == (1, 400)


def test_it_finds_candidates(store, tmp_path):
    coarse = make_coarse(store, tmp_path / "coarse", Mean())
    assert np.diff(coarse.offsets).tolist() == [int(i != 7) for i in range(400)]
    queries = [store[i][:8] for i in range(10, 60)]
    exact = search(queries, store, 5)
    found = search(queries, store, 5, coarse=coarse, candidates=40)
    shared = [len(dict(a).keys() & dict(b).keys()) for a, b in zip(exact, found, strict=True)]
    assert np.mean(shared) / 5 > 0.9
    # All candidates are the exact search, but for texts without tokens, which nothing looks like.
    assert search(queries, store, 399, coarse=coarse, candidates=400) == search(queries, store, 399)
    assert search([np.zeros((0, 32), np.float32)], store, 3, coarse=coarse)[0][0][1] == 0


def test_texts_made_one_after_the_other_are_those_made_at_once(store, tmp_path, monkeypatch):
    monkeypatch.setattr("optical_rs.similarity.coarse._PART", 30)
    coarse = make_coarse(store, tmp_path / "coarse", Mean())
    store.append(texts_of(5, [3, 0, 9], 32), ["new", "empty", "newer"])
    store.delete(["d3", "newer"])
    grown = make_coarse(store, tmp_path / "coarse", Mean())
    fresh = make_coarse(store, tmp_path / "fresh", Mean())
    kept = np.flatnonzero(~store.deleted).tolist()
    assert len(grown) == len(fresh) == len(store)
    assert all(np.array_equal(grown[i], fresh[i]) for i in kept)
    queries = [store[i] for i in (0, 3, 400)]
    assert search(queries, store, 5, coarse=grown) == search(queries, store, 5, coarse=fresh)
    assert "d3" not in {name for hits in search(queries, store, 100, coarse=coarse) for name, _ in hits}


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("before", [None, Pooling(4)])
def test_a_killed_change_of_the_first_stage_stands_in_no_way(shared_memory, monkeypatch, before):
    monkeypatch.setattr("optical_rs.similarity.coarse._PART", 2)
    for moment in range(100):
        store = TokenStore.create(shared_memory / str(moment), 4)
        store.append(texts_of(1, [1, 2, 3, 4, 5], 4), list("abcde"))
        if before:
            update_first_stage(store, before)
        left = [moment]

        def counted(real, left=left):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    raise Crash
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "unlink", "rmdir", "rename"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                update_first_stage(store, Mean())
                crashed = False
            except Crash:
                crashed = True
        path = coarse_of(store.path)
        begun = path.with_name(path.name + ".new")
        had = len(TokenStore(begun)) if columns.holds_store(begun) else 0
        assert before is None or first_stage_of(store.path) is not None
        done = []
        made = update_first_stage(
            TokenStore(store.path), Mean(), lambda count, _, done=done: done.append(count)
        )
        assert made.metadata["coarse"] == {"method": "mean"}
        assert len(made) == 5
        assert done == ([n for n in (2, 4, 5) if n > had] if crashed else []), "what was made is gone on with"
        assert not begun.exists()
        if not crashed:
            break
    assert not crashed
    remove_first_stage(store)
    assert first_stage_of(store.path) is None


def test_the_first_stage_of_an_empty_index(tmp_path):
    store = TokenStore.create(tmp_path / "store", 4)
    for _ in range(2):
        assert len(update_first_stage(store, Mean())) == 0
    assert update_first_stage(store, None).metadata["coarse"] == {"method": "mean"}
    update_first_stage(store, Pooling(2))
    remove_first_stage(store)
    assert not coarse_of(store.path).exists()


def test_an_index_changes_its_first_stage(store):
    assert update_first_stage(store, Pooling(4)).metadata["coarse"] == {"method": "pooling", "factor": 4}
    made = update_first_stage(store, Mean())
    assert made.metadata["coarse"] == update_first_stage(store, None).metadata["coarse"] == {"method": "mean"}


@pytest.mark.filterwarnings("error")
def test_tokens_whose_scores_overflow_are_refused(tmp_path):
    texts = texts_of(0, [5] * 50, 4)
    store = TokenStore.create(tmp_path / "store", 4)
    store.append(texts, [str(i) for i in range(50)])
    large = np.full((3, 4), 3e38, np.float32)
    for method in (Mean(), Muvera(k_sim=1, dim_proj=4, r_reps=1), Pooling(2)):
        coarse = make_coarse(store, tmp_path / type(method).__name__, method)
        wanted = search([texts[0] * 1e30], store, 3, coarse=coarse, candidates=50)
        assert [name for name, _ in wanted[0]] == [name for name, _ in search([texts[0]], store, 3)[0]]
        with pytest.raises(InputError, match=r"^queries: expected tokens whose .* single precision, got"):
            search([texts[0], large], store, 3, coarse=coarse)
        # What is no number is said where it is, not where the first stage finds it.
        broken = texts[0].copy()
        broken[2, 1] = np.nan
        with pytest.raises(InputError, match=r"^queries: text 1 has nan in token 2"):
            search([texts[0], broken], store, 3, coarse=coarse)
    for documents in (store, texts):
        with pytest.raises(InputError, match=r"^queries: expected tokens whose scores fit .* got a score of"):
            search([large], documents, 3)
        with pytest.raises(InputError, match=r"^queries: expected tokens whose scores fit .* got a score of"):
            maxsim([large], documents)
    # Only what is infinite by its size is refused: a text without tokens has no score.
    assert maxsim([large[:0], texts[0]], [texts[0], texts[0][:0]])[:, 1].tolist() == [0, -np.inf]
