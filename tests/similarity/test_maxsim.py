"""MaxSim and search: against brute force in float64."""

import numpy as np
import optical_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.similarity import maxsim, search


def brute(queries, documents):
    out = np.zeros((len(queries), len(documents)))
    for i, q in enumerate(queries):
        for j, d in enumerate(documents):
            products = q.astype(np.float64) @ d.astype(np.float64).T
            if len(q):
                out[i, j] = sum(row.max() if row.size else -np.inf for row in products)
    return out


def ragged(draw, count, dim, longest):
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    lengths = draw(st.lists(st.integers(0, longest), min_size=1, max_size=count))
    coarse = draw(st.booleans())
    texts = [rng.normal(size=(n, dim)).astype(np.float32) for n in lengths]
    return [np.round(t) for t in texts] if coarse else texts


@st.composite
def problems(draw):
    dim = draw(st.sampled_from([1, 3, 16, 31]))
    return ragged(draw, 5, dim, 40), ragged(draw, 12, dim, 40)


@given(problems())
def test_equals_brute_force(problem):
    queries, documents = problem
    np.testing.assert_allclose(maxsim(queries, documents), brute(queries, documents), rtol=1e-5, atol=1e-5)


@given(problems())
def test_a_score_does_not_depend_on_its_company(problem):
    queries, documents = problem
    whole = maxsim(queries, documents)
    for i, q in enumerate(queries):
        for j, d in enumerate(documents):
            assert maxsim([q], [d])[0, 0] == whole[i, j]


@given(problems(), st.integers(1, 15))
def test_search_is_a_sort_with_ties_by_id(problem, k):
    queries, documents = problem
    names = [f"d{(7 * j) % 13}-{j}" for j in range(len(documents))]
    scores = maxsim(queries, documents)
    for hits, row in zip(search(queries, documents, k, document_ids=names), scores, strict=True):
        want = sorted(
            ((n, float(s)) for n, s in zip(names, row, strict=True)), key=lambda h: (h[1], h[0]), reverse=True
        )
        assert hits == want[:k]


def test_padding_never_wins():
    # All real similarities are negative; a zero-padded maximum would be 0.
    query, document = np.ones((1, 2, 4)), -np.ones((1, 3, 4))
    padded = np.zeros((1, 9, 4))
    padded[:, :3] = document
    assert maxsim(query, padded, document_lengths=[3])[0, 0] == -8


def test_padded_arrays_tensors_and_lists_are_the_same():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    padded, lengths = rng.normal(size=(3, 6, 5)).astype(np.float32), [6, 2, 0]
    texts = [p[:n] for p, n in zip(padded, lengths, strict=True)]
    want = maxsim(texts, texts)
    assert (maxsim(padded, padded, query_lengths=lengths, document_lengths=lengths) == want).all()
    assert (maxsim([torch.from_numpy(t) for t in texts], texts) == want).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("level", optical_rs.build_info()["simd_supported"])
def test_levels_and_threads(level, threads):
    rng = np.random.default_rng(1)
    queries = [rng.normal(size=(n, 128)).astype(np.float32) for n in (32, 5)]
    documents = [rng.normal(size=(n, 128)).astype(np.float32) for n in rng.integers(1, 180, 300)]
    used = optical_rs.build_info()["simd"]
    try:
        optical_rs.set_simd_level(level)
        optical_rs.set_num_threads(threads)
        scores = maxsim(queries, documents)
    finally:
        optical_rs.set_simd_level(used)
        optical_rs.set_num_threads(0)
    exact = brute(queries, documents)
    # The stated bound: 1e-5 relative to float64.
    assert (np.abs(scores - exact) <= 1e-5 * np.abs(exact)).all()
    if level == used:
        assert (scores == maxsim(queries, documents)).all()


def test_bad_input():
    one = [np.ones((2, 3))]
    for call, message in (
        (lambda: maxsim(one, [np.ones((2, 4))]), "documents: expected dimension 3"),
        (lambda: maxsim(one, [np.ones(3)]), "documents: expected arrays"),
        (lambda: maxsim([], one), "queries: expected at least one text"),
        (lambda: maxsim(np.ones((2, 3)), one), "queries: expected a padded array"),
        (lambda: maxsim(np.ones((1, 2, 3)), one, query_lengths=[5]), "queries: expected 1 lengths"),
        (lambda: search(one, one, 0), "k: expected"),
        (lambda: search(one, one, 1, document_ids=["a", "b"]), "document_ids: expected 1"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_more_scores_than_memory_are_a_memory_error():
    texts = np.zeros((300_000, 1, 1), np.float32)
    with pytest.raises(MemoryError):
        maxsim(texts, texts)
