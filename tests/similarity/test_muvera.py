"""Fixed-dimensional encodings: against their definition in numpy, and as a first stage of search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError, set_num_threads
from optical_rs.edge.index import update_first_stage
from optical_rs.similarity import Muvera, Pooling, TokenStore, make_coarse, search

MASK = (1 << 64) - 1


def random(seed, place):
    """SplitMix64."""
    z = seed ^ ((place + 1) * 0x9E3779B97F4A7C15 & MASK)
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def normal(seed, place):
    """A sum of twelve uniform numbers."""
    words = [random(seed, 3 * place + part) for part in range(3)]
    total = sum((word >> (16 * i)) & 0xFFFF for word in words for i in range(4))
    return np.float32((total - 12 * 32767.5) / 65536)


def reference(method, tokens, query):
    """The definition, a token and a part at a time."""
    dim, planes = tokens.shape[1], method.r_reps * method.k_sim
    of_planes, of_sketch = random(method.seed, 0), random(method.seed, 1)
    plane = np.array([[normal(of_planes, k * planes + p) for p in range(planes)] for k in range(dim)])
    size, out = min(method.dim_proj, dim), []
    for repetition in range(method.r_reps):
        sketch = np.zeros((dim, size))
        for k in range(dim):
            bits = random(of_sketch, repetition * dim + k)
            at, sign = ((bits >> 1) % size, 1 - 2 * (bits & 1)) if size < dim else (k, 1)
            sketch[k, at] = sign
        own = plane[:, repetition * method.k_sim : (repetition + 1) * method.k_sim]
        signs = tokens.astype(np.float64) @ own > 0
        for part in range(2**method.k_sim):
            wanted = np.array([part >> (method.k_sim - 1 - bit) & 1 for bit in range(method.k_sim)], bool)
            distance = (signs != wanted).sum(axis=1)
            inside = tokens[distance == 0]
            if query:
                block = inside.sum(axis=0)
            elif len(inside):
                block = inside.mean(axis=0)
            else:
                block = tokens[distance.argmin()]
            out.append(block @ sketch)
    return np.concatenate(out)


@given(
    k_sim=st.integers(1, 5),
    dim_proj=st.integers(1, 12),
    r_reps=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 20),
    dim=st.integers(1, 10),
    data=st.integers(0, 2**32 - 1),
)
def test_encodings_are_those_of_the_definition(k_sim, dim_proj, r_reps, seed, tokens, dim, data):
    method = Muvera(k_sim, dim_proj, r_reps, seed)
    # Small integers: sums are exact, so that no sign depends on their order.
    text = np.random.default_rng(data).normal(size=(tokens, dim)).astype(np.float32)
    for query, found in ((True, method.queries([text])), (False, method.documents([text]))):
        assert found[0].shape == (1, method.dimension(dim))
        np.testing.assert_allclose(found[0][0], reference(method, text, query), atol=1e-4)


def test_the_bits_are_pinned():
    text = (np.arange(24, dtype=np.float32).reshape(3, 8) % 5 - 2) / 4
    found = Muvera(k_sim=2, dim_proj=3, r_reps=2, seed=5).documents([text])[0][0]
    np.testing.assert_array_equal(found, PINNED)
    try:
        set_num_threads(2)
        again = Muvera(k_sim=2, dim_proj=3, r_reps=2, seed=5).documents([text] * 50)
    finally:
        set_num_threads(0)
    assert all((row == found).all() for row in again)


PINNED = np.array(
    [
        0.0,
        0.5,
        -0.25,
        0.25,
        0.0,
        -1.0,
        0.25,
        0.0,
        -1.0,
        0.0,
        -0.125,
        -0.25,
        -0.5,
        0.0,
        -0.25,
        -0.5,
        0.0,
        -0.25,
        0.5,
        0.5,
        0.0,
        0.0,
        0.25,
        0.5,
    ],
    np.float32,
)


@pytest.fixture
def store(tmp_path):
    generator = np.random.default_rng(0)
    topics = generator.normal(size=(60, 32))
    texts = []
    for _ in range(400):
        own = topics[generator.integers(0, 60, generator.integers(1, 25))]
        own = own + 0.3 * generator.normal(size=own.shape)
        texts.append((own / np.linalg.norm(own, axis=1, keepdims=True)).astype(np.float32))
    texts[7] = np.zeros((0, 32), np.float32)
    made = TokenStore.create(tmp_path / "store", 32, dtype="int8")
    made.append(texts, [f"d{i}" for i in range(400)])
    return made


def test_it_finds_candidates(store, tmp_path):
    coarse = make_coarse(store, tmp_path / "coarse", Muvera(k_sim=4, dim_proj=16, r_reps=10))
    assert coarse.dim == 2560
    assert np.diff(coarse.offsets).tolist() == [int(i != 7) for i in range(400)]
    queries = [store[i][:8] for i in range(10, 60)]
    exact = search(queries, store, 5)
    found = search(queries, store, 5, coarse=coarse, candidates=60)
    shared = [len({n for n, _ in a} & {n for n, _ in b}) for a, b in zip(exact, found, strict=True)]
    assert np.mean(shared) / 5 > 0.9
    # All candidates are the exact search, but for texts without tokens, which nothing looks like.
    assert search(queries, store, 399, coarse=coarse, candidates=400) == search(queries, store, 399)
    assert search([np.zeros((0, 32), np.float32)], store, 3, coarse=coarse)[0][0][1] == 0


def test_adding_and_deleting_make_nothing_again(store, tmp_path):
    coarse = make_coarse(store, tmp_path / "coarse", Muvera())
    before = coarse.values.copy()
    store.append([store[3], store[9]], ["new", "newer"])
    store.delete(["d3"])
    asked = [store[3]]
    assert search(asked, store, 1, coarse=coarse, candidates=1)[0][0][0] == "new"
    grown = make_coarse(store, tmp_path / "coarse", Muvera())
    assert (grown.values[: len(before)] == before).all()
    assert len(grown.values) == len(before) + 2
    assert search(asked, store, 1, coarse=grown, candidates=1)[0][0][0] == "new"


def test_an_index_changes_its_first_stage(store):
    assert update_first_stage(store, Pooling(4)).metadata["coarse"] == {"method": "pooling", "factor": 4}
    made = update_first_stage(store, Muvera(r_reps=2))
    wanted = {"method": "muvera", "k_sim": 4, "dim_proj": 16, "r_reps": 2, "seed": 0}
    assert made.metadata["coarse"] == update_first_stage(store, None).metadata["coarse"] == wanted


def test_bad_input(store, tmp_path):
    for call, message in (
        (lambda: Muvera(k_sim=17), "k_sim: expected an integer from 1 to 16, got 17"),
        (lambda: Muvera(r_reps=0), "r_reps: expected an integer from 1"),
        (lambda: Muvera(dim_proj=2.5), "dim_proj: expected an integer from 1 to .*, got 2.5"),
        (lambda: Muvera(seed=-1), "seed: expected an integer from 0"),
        (lambda: Muvera(16, 32, 1000).dimension(32), "with at most 2\\^24 numbers"),
        (lambda: make_coarse(store, tmp_path / "x", Muvera(16, 32, 1000)), "with at most 2\\^24 numbers"),
        (lambda: Muvera().documents([np.full((1, 4), np.nan)]), "text 0 has NaN"),
        (lambda: Muvera().documents([np.eye(2), np.eye(3)]), "of one dim"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert not (tmp_path / "x").exists()
