"""TokenStore: what is added is found."""

import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.similarity import TokenStore, maxsim, search


def test_round_trip_and_append(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5, {"teacher": "x"})
    store.append(texts[:2], ["a", "b"])
    store.append(texts[2:], ["ç", "d e"])
    again = TokenStore(tmp_path / "s")
    again.verify()
    assert again.ids == ["a", "b", "ç", "d e"]
    assert again.metadata == {"teacher": "x"}
    assert [again[i].tolist() for i in range(4)] == [t.tolist() for t in texts]
    assert again[-1].tolist() == texts[3].tolist()
    assert again.index("ç") == 2
    with pytest.raises(IndexError):
        again[4]
    assert (maxsim(again, again) == maxsim(texts, texts)).all()


def test_opens_without_torch(tmp_path, texts):
    TokenStore.create(tmp_path / "s", 5).append(texts, list("abcd"))
    code = f"import sys; from optical_rs.similarity import TokenStore; print(len(TokenStore({str(tmp_path / 's')!r})), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "False"]


def test_an_empty_store(tmp_path):
    store = TokenStore.create(tmp_path / "s", 3)
    assert (len(store), store.values.shape) == (0, (0, 3))
    store.append([], [])
    assert len(TokenStore(tmp_path / "s")) == 0


def test_what_an_interrupted_append_left_is_forgotten(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    store.append(texts[:1], ["a"])
    for file in (tmp_path / "s").glob("*.0"):
        with open(file, "ab") as f:
            f.write(b"half-written")
    again = TokenStore(tmp_path / "s")
    again.verify()
    assert again.ids == ["a"]
    again.append(texts[2:3], ["b"])
    assert TokenStore(tmp_path / "s")[1].tolist() == texts[2].tolist()


@given(st.data())
@hypothesis.settings(max_examples=25)
def test_any_changes_leave_what_a_dict_would_hold(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("s") / "store"
    dtype = data.draw(st.sampled_from(["float32", "float16", "bfloat16"]))
    store, model = TokenStore.create(folder, 3, dtype=dtype), {}
    names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)
    for _ in range(data.draw(st.integers(1, 6))):
        change = data.draw(st.sampled_from(["append", "delete", "compact", "open", "convert"]))
        if change == "append":
            ids = data.draw(st.lists(names.filter(lambda n: n not in model), unique=True, max_size=4))
            # Quarters are exact in half precision.
            tokens = [np.full((data.draw(st.integers(0, 3)), 3), i / 4, np.float32) for i in range(len(ids))]
            contents = [data.draw(names) for _ in ids]
            store.append(tokens, ids, contents)
            model.update(zip(ids, zip(tokens, contents, strict=True), strict=True))
        elif change == "delete" and model:
            ids = data.draw(st.lists(st.sampled_from(sorted(model)), unique=True))
            store.delete(ids)
            for name in ids:
                del model[name]
        elif change == "compact":
            store.compact()
            assert len(store) == len(model)
        elif change == "convert":
            folder = tmp_path_factory.mktemp("s") / "store"
            store = store.convert(folder, dtype)
        else:
            store = TokenStore(folder)
        store.verify()
        kept = {name: i for i, name in enumerate(store.ids) if not store.deleted[i]}
        assert kept.keys() == model.keys()
        for name, i in kept.items():
            assert store.index(name) == i
            assert store[i].tolist() == model[name][0].tolist()
            assert store.contents[i] == model[name][1]
        order = [store.ids[i] for i in np.argsort(store.places) if store.places[i] >= 0]
        assert order == sorted(model, key=str.encode)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "size"),
    [("float32", 0, 4), ("float16", 1e-3, 2), ("bfloat16", 2e-3, 2), ("int8", 0.02, 1)],
)
def test_forms_take_less_room_and_are_searched_as_they_are(tmp_path, dtype, tolerance, size):
    generator = np.random.default_rng(0)
    texts = [generator.normal(size=(n, 64)).astype(np.float32) for n in generator.integers(1, 30, 50)]
    texts = [t / np.linalg.norm(t, axis=1, keepdims=True) for t in texts]
    store = TokenStore.create(tmp_path / "s", 64, dtype=dtype)
    store.append(texts, [str(i) for i in range(50)])
    assert store.values.nbytes == sum(map(len, texts)) * 64 * size
    assert max(np.abs(store[i] - t).max() for i, t in enumerate(texts)) <= tolerance
    queries = texts[:5]
    got, want = maxsim(queries, store), maxsim(queries, texts)
    assert np.abs(got - want).max() <= max(30 * tolerance, 1e-5)
    assert [hits[0][0] for hits in search(queries, store, 3)] == [str(i) for i in range(5)]
    # A store as queries is read as floats.
    assert maxsim(store, store).shape == (50, 50)
    assert store.inspect()["dtype"] == dtype


def test_bfloat16_is_rounded_as_torch_rounds_it(tmp_path):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).normal(size=(500, 16)).astype(np.float32)
    x[0, :4] = [0.0, -0.0, 1.00390625, 1.01171875]  # the last two lie half way between neighbours
    store = TokenStore.create(tmp_path / "s", 16, dtype="bfloat16")
    store.append([x], ["a"])
    assert np.array_equal(store[0], torch.from_numpy(x).bfloat16().float().numpy())


def test_deleted_texts_are_not_found(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    store.append(texts, list("abcd"))
    store.delete(["c"])
    assert [name for name, _ in search(texts[2:3], store, 10)[0]] != []
    assert "c" not in [name for name, _ in search(texts[2:3], store, 10)[0]]
    assert "c" not in [n for n, _ in search(texts[2:3], store, 10, document_ids=list("abcd"))[0]]
    with pytest.raises(InputError, match="ids: 'c' is not in the store"):
        store.delete(["a", "c"])
    assert store.index("a") == 0
    store.append(texts[2:3], ["c"])
    assert search(texts[2:3], store, 1)[0][0][0] == "c"


def test_refused_appends_add_nothing(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    store.append(texts[:1], ["a"])
    for bad, ids, message in (
        ([np.ones((2, 4))], ["b"], "expected shape"),
        (texts[:2], ["b"], "expected 2 ids"),
        (texts[:1], ["a"], "in the store already"),
        (texts[:2], ["b", "b"], "in the store already"),
        (texts[:1], [""], "non-empty"),
        ([np.full((1, 5), np.nan)], ["b"], "expected finite numbers, got others at 0"),
    ):
        with pytest.raises(InputError, match=message):
            store.append(bad, ids)
    with pytest.raises(InputError, match="contents: expected 1"):
        store.append(texts[:1], ["b"], ["x", "y"])
    assert TokenStore(tmp_path / "s").ids == ["a"]


def test_create_does_not_replace(tmp_path):
    TokenStore.create(tmp_path / "s", 5)
    with pytest.raises(InputError, match="already holds a store"):
        TokenStore.create(tmp_path / "s", 5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_stores_that_the_core_is_tested_with_are_as_they_are_written_now(tmp_path, dtype):
    kept = TokenStore(Path(__file__).parents[2] / "rust" / "core" / "tests" / "stores" / dtype)
    kept.verify()
    tokens = [[[0.5, -1, 0.25], [0.125, 0, 2]], np.zeros((0, 3)), [[1, 0.5, -0.5]], [[4, -4, 1]]]
    again = TokenStore.create(tmp_path / "s", 3, kept.metadata, dtype=dtype)
    again.append(tokens[:2], ["b", "añ"], ["two tokens", "none"])
    again.append(tokens[2:], ["a", "c"])
    again.delete(["a"])
    assert kept.fingerprint == again.fingerprint
    for file in kept.path.iterdir():
        assert file.read_bytes() == (again.path / file.name).read_bytes(), file.name


def test_snapshots_share_ids_that_come_again(tmp_path):
    store = TokenStore.create(tmp_path / "s", 2)
    store.append([np.eye(2)] * 3, ["a", "b", "c"])
    seen = [store.snapshot()]
    for _ in range(3):
        assert store.index("b") == seen[-1].index("b")
        store.append([np.ones((1, 2))], ["b"], replacing=["b"])
        seen.append(store.snapshot())
    store.delete(["b"])
    assert [at.index("b") for at in seen] == [1, 3, 4, 5]
    assert "b" not in store
    assert all(at.view._ids is store.view._ids for at in seen), "nothing is copied"


def test_texts_are_replaced_in_one_commit(tmp_path):
    store = TokenStore.create(tmp_path / "store", 2)
    store.append([np.full((1, 2), i) for i in range(3)], list("abc"), ["old"] * 3)
    before = store.snapshot()
    store.append(
        [np.full((2, 2), 7), np.ones((1, 2))], ["b", "d"], ["new", "more"], replacing=["b", "c", "b"]
    )
    for seen in (store, TokenStore(store.path)):
        assert {name: seen.contents[seen.index(name)] for name in "abd"} == {
            "a": "old",
            "b": "new",
            "d": "more",
        }
        assert "c" not in seen
        assert seen.deleted.tolist() == [False, True, True, False, False]
        assert seen[seen.index("b")].tolist() == [[7.0, 7.0]] * 2
    assert [before.contents[before.index(name)] for name in "abc"] == ["old"] * 3
    with pytest.raises(InputError, match="ids: 'a' is in the store already"):
        store.append([np.ones((1, 2))], ["a"], replacing=["b"])
    assert "b" in TokenStore(store.path)
    store.append([], [], replacing=["a"])
    assert "a" not in TokenStore(store.path)


def test_marks_depend_on_the_texts_alone(tmp_path):
    store = TokenStore.create(tmp_path / "store", 2, dtype="int8")
    for first in range(0, 40, 10):
        ids = [f"d{i}" for i in range(first, first + 10)]
        store.append([np.full((i % 3, 2), i, np.float32) for i in range(10)], ids, ids)
    alone = {count: TokenStore(store.path).view.mark(count) for count in range(41)}
    assert len(set(alone.values())) == 41
    for count in (5, 20, 19, 0, 40, 33, 33, 34):
        assert store.view.mark(count) == alone[count]
