"""TokenStore: what is committed stays, and damage is noticed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.similarity import TokenStore, maxsim


@pytest.fixture
def texts():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, 5)).astype(np.float32) for n in (3, 0, 7, 1)]


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


def test_an_interrupted_append_is_forgotten(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    store.append(texts[:1], ["a"])
    # What a crash before the commit leaves: data beyond the committed end.
    for name in ("values.f32", "lengths.i64", "ids.txt"):
        with open(tmp_path / "s" / name, "ab") as f:
            f.write(b"half-written")
    again = TokenStore(tmp_path / "s")
    again.verify()
    assert again.ids == ["a"]
    again.append(texts[2:3], ["b"])
    assert TokenStore(tmp_path / "s")[1].tolist() == texts[2].tolist()


def test_refused_appends_add_nothing(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    store.append(texts[:1], ["a"])
    for bad, ids, message in (
        ([np.ones((2, 4))], ["b"], "expected shape"),
        (texts[:2], ["b"], "expected 2 ids"),
        (texts[:1], ["a"], "in the store already"),
        (texts[:2], ["b", "b"], "in the store already"),
        (texts[:1], ["b\nc"], "line breaks"),
        (texts[:1], [""], "non-empty"),
    ):
        with pytest.raises(InputError, match=message):
            store.append(bad, ids)
    assert TokenStore(tmp_path / "s").ids == ["a"]


def test_damage_is_noticed(tmp_path, texts):
    folder = tmp_path / "s"
    TokenStore.create(folder, 5).append(texts, list("abcd"))
    values = folder / "values.f32"
    good = values.read_bytes()
    values.write_bytes(good[:-4])
    with pytest.raises(InputError, match="truncated"):
        TokenStore(folder)
    values.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    with pytest.raises(InputError, match="checksum"):
        TokenStore(folder).verify()
    state = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps(state | {"version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        TokenStore(folder)
    (folder / "store.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        TokenStore(folder)
    os.unlink(folder / "store.json")
    with pytest.raises(InputError, match="no token store"):
        TokenStore(folder)


def test_create_does_not_replace(tmp_path):
    TokenStore.create(tmp_path / "s", 5)
    with pytest.raises(InputError, match="already holds a store"):
        TokenStore.create(tmp_path / "s", 5)
