"""MaxSim and search: against brute force in float64."""

import os
import threading
import time

import numpy as np
import optical_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.similarity import Documents, TokenStore, maxsim, search


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


def test_arrays_are_scored_where_they_lie():
    rng = np.random.default_rng(2)
    texts = [rng.normal(size=(n, 8)).astype(np.float32) for n in (5, 0, 9)]
    read_only = [t.copy() for t in texts]
    for t in read_only:
        t.flags.writeable = False
    misaligned = [
        np.frombuffer(b"\0" + t.tobytes(), np.uint8, offset=1).view(np.float32).reshape(t.shape)
        for t in texts
    ]
    want = maxsim(texts, texts)
    for other in (
        read_only,
        misaligned,
        [t.astype(">f4") for t in texts],
        [np.asfortranarray(t) for t in texts],
        [t.tolist() if len(t) else t for t in texts],
    ):
        assert (maxsim(texts, other) == want).all()
    documents = Documents(texts)
    # No copy: what is written to the array is what is scored.
    texts[0][:] = 0
    assert (maxsim([np.ones((1, 8))], documents)[0, 0]) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("level", optical_rs.build_info()["simd_supported"])
def test_numbers_that_are_not_finite_are_refused_by_name(bad, level):
    texts = [np.ones((n, 5), np.float32) for n in (3, 9, 2)]
    wrong = [t.copy() for t in texts]
    wrong[1][7, 4] = bad
    used = optical_rs.build_info()["simd"]
    try:
        optical_rs.set_simd_level(level)
        for call in (lambda: maxsim(texts, wrong), lambda: search(texts, wrong, 2)):
            with pytest.raises(
                InputError, match=r"documents: text 1 has \S+ in token 7; expected finite numbers"
            ):
                call()
        with pytest.raises(InputError, match=r"queries: text 1 has \S+ in token 7"):
            maxsim(wrong, texts)
    finally:
        optical_rs.set_simd_level(used)


def test_more_hits_than_could_be_are_asked_for():
    texts = [np.ones((1, 2), np.float32)] * 3
    for k in (3, 4, 2**31, 2**63, 2**200):
        assert len(search(texts[:1], texts, k)[0]) == 3


def memory_of_this_process(name):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(name)) * 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")
def test_documents_without_tokens_need_little_memory():
    queries = [np.ones((32, 8), np.float32)] * 64
    documents = [np.ones((0, 8), np.float32)] * 30_000
    search(queries, documents[:10], 1)
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")
    before = memory_of_this_process("VmRSS")
    search(queries, documents, 1)
    assert memory_of_this_process("VmHWM") - before < 40 << 20


@given(problems(), st.integers(1, 6), st.data())
def test_an_allow_list_is_a_search_of_fewer_documents(problem, k, data):
    queries, documents = problem
    names = [f"d{(7 * j) % 13}-{j}" for j in range(len(documents))]
    allow = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    whole = search(queries, documents, len(names), document_ids=names)
    some = search(queries, documents, k, document_ids=names, allow=allow)
    assert some == [[hit for hit in hits if hit[0] in allow][:k] for hits in whole]


def test_several_stores_are_searched_as_one(tmp_path):
    rng = np.random.default_rng(3)
    queries = [rng.normal(size=(4, 8)).astype(np.float32) for _ in range(3)]
    documents = [rng.normal(size=(n, 8)).astype(np.float32) for n in rng.integers(1, 9, 20)]
    names = [f"d{i}" for i in range(20)]
    stores = []
    for part, (first, end) in enumerate(((0, 12), (12, 20))):
        store = TokenStore.create(tmp_path / str(part), dim=8)
        store.append(documents[first:end], ids=names[first:end])
        stores.append(store)
    want = search(queries, documents, 7, document_ids=names)
    assert search(queries, stores, 7) == want
    assert search(queries, stores, 2, allow=["d3", "d15"]) == search(
        queries, documents, 2, document_ids=names, allow=["d3", "d15"]
    )
    stores[0].delete([want[0][0][0] if want[0][0][0] in stores[0] else "d0"])
    left = [n for n in names if n in stores[0] or n in stores[1]]
    assert search(queries, stores, 7) == search(queries, documents, 7, document_ids=names, allow=left)
    with pytest.raises(InputError, match="allow: no document has the id 'd99'"):
        search(queries, stores, 1, allow=["d1", "d99"])


def test_prepared_documents_follow_their_store(tmp_path):
    store = TokenStore.create(tmp_path / "store", dim=2)
    store.append([np.eye(2)], ids=["a"])
    assert search([np.eye(2)], store, 5) == [[("a", 2.0)]]
    store.append([2 * np.eye(2)], ids=["b"])
    assert search([np.eye(2)], store, 5) == [[("b", 4.0), ("a", 2.0)]]
    store.delete(["b"])
    assert search([np.eye(2)], store, 5) == [[("a", 2.0)]]


def test_a_search_starts_no_thread_and_costs_nothing_by_the_number_of_documents():
    threads = threading.active_count()
    documents = Documents([np.ones((1, 4), np.float32)] * 20_000)
    query, allow = [np.ones((1, 4), np.float32)], ["5", "7"]
    search(query, documents, 1)
    search(query, documents, 1, allow=allow)
    seconds = []
    for _ in range(100):
        began = time.perf_counter()
        search(query, documents, 1, allow=allow)
        seconds.append(time.perf_counter() - began)
    # Milliseconds each, if all documents were looked at. The least time is not that of other work on the machine.
    assert min(seconds) < 0.001
    assert threading.active_count() == threads


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
    # As many results, of which there may be any number.
    for k in (300_000, 2**70):
        with pytest.raises(MemoryError):
            search(texts, texts, k)
    assert len(search(texts[:1], texts[:5], 2**70, allow=["0", "3"])[0]) == 2


@pytest.mark.parametrize("k", [1.5, None, "3"])
def test_a_number_of_results_that_is_none(k):
    with pytest.raises(InputError, match="k: expected an integer"):
        search([np.eye(2)], [np.eye(2)], k)


@pytest.mark.parametrize("level", optical_rs.build_info()["simd_supported"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_one_vector_scores_as_among_others(level, dtype, tmp_path):
    draw = np.random.default_rng(0)
    # Texts of one token, and then of none, one or two: they are multiplied together, or each alone.
    lengths = [1] * 300 + [i % 3 for i in range(200)]
    texts = [draw.normal(size=(n, 20)) for n in lengths]
    store = TokenStore.create(tmp_path / "store", 20, dtype=dtype)
    store.append(texts, [str(i) for i in range(500)])
    apart = TokenStore.create(tmp_path / "apart", 20, dtype=dtype)
    between = [part for text in texts for part in (text, np.zeros((0, 20)))]
    apart.append(between, [str(i) for i in range(1000)])
    queries = [draw.normal(size=(n, 20)).astype(np.float32) for n in (1, 1, 0, 40)]
    before = optical_rs.build_info()["simd"]
    optical_rs.set_simd_level(level)
    try:
        want = maxsim(queries, apart)[:, ::2]
        assert np.array_equal(maxsim(queries, store), want)
        for query, scores in zip(queries, want, strict=True):
            assert np.array_equal(maxsim([query], store)[0], scores)
    finally:
        optical_rs.set_simd_level(before)


def test_the_longest_tokens_in_bytes_do_not_overflow(tmp_path):
    store = TokenStore.create(tmp_path / "store", 133_144, dtype="int8")
    ones = np.ones((1, store.dim), np.float32)
    store.append([ones], ["a"])
    for queries, want in (([ones], store.dim), ([np.repeat(ones, 2, axis=0)], 2 * store.dim)):
        assert maxsim(queries, store)[0, 0] == pytest.approx(want, rel=1e-6)
