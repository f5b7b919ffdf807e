"""The way from texts to a run: tokens are cached by content, documents are searched in parts."""

import multiprocessing

import numpy as np
import pytest
from optical_rs.similarity import TokenStore, search

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from optical_rs import InputError, retrieval, token_cache  # noqa: E402
from optical_rs.data import Collection  # noqa: E402
from optical_rs.files import read_texts  # noqa: E402
from optical_rs.models import load_model, student_of  # noqa: E402
from optical_rs.retrieval import encode, evaluate_pair, search_tokens  # noqa: E402
from optical_rs.token_cache import StoredTokens, TokenCache  # noqa: E402


@pytest.fixture
def counted(monkeypatch):
    """How many texts were encoded."""
    seen = []
    own = token_cache.encode
    monkeypatch.setattr(
        token_cache, "encode", lambda m, texts, *a, **o: seen.append(len(texts)) or own(m, texts, *a, **o)
    )
    return seen


def test_a_text_is_encoded_once(teacher, pairs, tmp_path, counted):
    texts = [e for _, e in pairs]
    cache = TokenCache(teacher, tmp_path)
    first = cache.tokens(texts, "document")
    again = TokenCache(student_of(teacher), tmp_path).tokens([*texts[::-1], texts[0]], "document")
    assert counted == [len(texts)]
    want = encode(teacher, texts, "document")
    for i, tokens in enumerate(want):
        np.testing.assert_allclose(first[i], tokens, atol=1e-6)
        assert np.array_equal(again[len(texts) - 1 - i], first[i])
    assert np.array_equal(again[len(texts)], first[0])
    # The other role is another encoding, in the same store.
    both = first.joined(cache.tokens(texts[:2], "query"))
    assert counted == [len(texts), 2]
    np.testing.assert_allclose(both[len(texts)], encode(teacher, texts[:1], "query")[0], atol=1e-6)
    assert not np.allclose(both[len(texts)][:3], first[0][:3])


def test_another_model_with_the_same_head_has_a_cache_of_its_own(teacher, pairs, tmp_path, counted):
    """Also one that differs in a prompt or in its longest input alone."""
    texts = [e for _, e in pairs]
    tokens = [TokenCache(teacher, tmp_path).tokens(texts, "document")]
    changes = (
        lambda m: m[0].auto_model.encoder.layer[0].output.dense.weight.data.mul_(2),
        lambda m: m.prompts.update(document="query : "),
        lambda m: (
            setattr(m, "max_seq_length", 5)
            if hasattr(m, "max_seq_length")
            else setattr(m[0], "max_seq_length", 5)
        ),
    )
    for change in changes:
        other = student_of(teacher)
        change(other)
        tokens.append(TokenCache(other, tmp_path).tokens(texts, "document"))
    assert counted == [len(texts)] * 4
    assert len({found.store.path for found in tokens}) == 4
    for other in tokens[1:]:
        assert other[0].shape != tokens[0][0].shape or not np.allclose(other[0], tokens[0][0])


def test_what_was_encoded_survives_a_kill(teacher, pairs, tmp_path, counted, monkeypatch):
    monkeypatch.setattr(token_cache, "PART", 4)
    own = token_cache.encode
    calls = []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(*arguments, **options)

    texts = [e for _, e in pairs]
    monkeypatch.setattr(token_cache, "encode", killed)
    with pytest.raises(KeyboardInterrupt):
        TokenCache(teacher, tmp_path).tokens(texts, "document")
    monkeypatch.setattr(token_cache, "encode", own)
    del counted[:]
    cache = TokenCache(teacher, tmp_path)
    assert len(TokenStore(cache.path)) == 8
    assert len(cache.tokens(texts, "document")) == 12
    assert counted == [4]


def test_a_precision_has_a_cache_of_its_own(teacher, pairs, tmp_path, counted):
    texts = [e for _, e in pairs]
    caches = [TokenCache(teacher, tmp_path, precision=precision) for precision in ("float32", "bfloat16")]
    exact, reduced = (np.concatenate(list(cache.tokens(texts, "document"))) for cache in caches)
    assert counted == [len(texts)] * 2
    assert not np.array_equal(exact, reduced)
    assert (exact * reduced).sum(axis=1).min() > 0.99


def _fill(folder, cache, texts):
    found = TokenCache(load_model(folder, device="cpu"), cache).tokens(texts, "document")
    assert len(found) == len(texts)


def test_a_folder_that_cannot_be_written_to_is_an_error_at_once(
    teacher, pairs, tmp_path, unprivileged, monkeypatch
):
    texts = [e for _, e in pairs]
    wanted = TokenCache(teacher, tmp_path / "full").tokens(texts, "document")
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "secret.tsv").write_text("d0\ttext\n")
    (tmp_path / "secret.tsv").chmod(0)

    def waits(seconds):
        raise AssertionError("it waits for what does not come")

    def work():
        found = TokenCache(teacher, tmp_path / "full").tokens(texts, "document")
        assert all(np.array_equal(x, y) for x, y in zip(found, wanted, strict=True))
        for folder, asked in (("full", "another text"), ("new", "fire"), ("file", "fire")):
            with pytest.raises(InputError, match="cannot be written to"):
                TokenCache(teacher, tmp_path / folder).tokens([asked], "document")
        with pytest.raises(InputError, match=r"secret\.tsv: cannot be read \(Permission denied\)"):
            read_texts(tmp_path / "secret.tsv")

    monkeypatch.setattr(token_cache.time, "sleep", waits)
    for place in (tmp_path / "full").iterdir():
        place.chmod(0o555)
    unprivileged(tmp_path, work)


@pytest.mark.slow
def test_two_processes_fill_one_cache(teacher, pairs, tmp_path):
    teacher.save_pretrained(str(tmp_path / "model"))
    texts = [f"{e} {h}" for _, e in pairs for _, h in pairs]
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_fill, args=(tmp_path / "model", tmp_path / "cache", texts[part:]))
        for part in (0, 70)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
        assert worker.exitcode == 0
    store = TokenStore(TokenCache(load_model(tmp_path / "model", device="cpu"), tmp_path / "cache").path)
    assert len(store) == len(set(texts))
    store.verify()


def test_searching_in_parts_is_searching(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    documents = [draw.normal(size=(n, 4)).astype(np.float32) for n in draw.integers(1, 6, 50)]
    documents += documents[:7]  # ties
    ids = [f"d{i:02}" for i in draw.permutation(57)]
    store = TokenStore.create(tmp_path / "store", 4)
    store.append(documents, ids)
    order = draw.permutation(57)
    queries = [draw.normal(size=(3, 4)).astype(np.float32) for _ in range(4)]
    monkeypatch.setattr(retrieval, "SEARCHED", 10)
    names = [ids[i] for i in order]
    found = search_tokens(queries, StoredTokens(store, order), 20, names)
    want = search(queries, [documents[i] for i in order], 20, document_ids=names)
    assert found == want


def test_a_cache_in_bytes_finds_nearly_the_same(teacher, pairs, tmp_path):
    collection = Collection(
        "test",
        {f"q{i}": f for i, (f, _) in enumerate(pairs)},
        {f"d{i}": e for i, (_, e) in enumerate(pairs)},
        {f"q{i}": {f"d{i}": 1} for i in range(len(pairs))},
    )
    exact, coarse = (
        evaluate_pair(teacher, TokenCache(teacher, tmp_path, dtype=dtype), collection, "query")
        for dtype in ("float32", "int8")
    )
    for query, hits in exact.run.items():
        assert dict(coarse.run[query]) == pytest.approx(dict(hits), abs=0.1)
