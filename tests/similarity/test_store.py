"""TokenStore: what is committed stays, and damage is noticed."""

import os
import signal
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.similarity import TokenStore, maxsim, search


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


def test_every_flipped_byte_is_noticed(tmp_path, texts):
    folder = tmp_path / "s"
    store = TokenStore.create(folder, 5, dtype="int8")
    store.append(texts, list("abcd"), ["one", "two", "", "four"])
    store.delete(["b"])
    files = [f for f in sorted(folder.iterdir()) if f.name != "writer.lock" and f.stat().st_size]
    assert len(files) == 9
    for file in files:
        good = file.read_bytes()
        for at in range(len(good)):
            file.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
            with pytest.raises(InputError, match=r"damaged|format version|describe"):
                TokenStore(folder).verify()
        file.write_bytes(good[:-1])
        with pytest.raises(InputError, match=r"damaged|truncated"):
            TokenStore(folder)
        file.write_bytes(good)
    TokenStore(folder).verify()


def test_what_is_no_store(tmp_path):
    folder = tmp_path / "s"
    TokenStore.create(folder, 5)
    line = (folder / "store.json").read_bytes().split(b"\n")[0]
    (folder / "store.json").write_bytes(line.replace(b'"version": 2', b'"version": 99') + b"\n")
    with pytest.raises(InputError, match="format version 99, this program reads 2"):
        TokenStore(folder)
    (folder / "store.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        TokenStore(folder)
    os.unlink(folder / "store.json")
    with pytest.raises(InputError, match="no token store"):
        TokenStore(folder)
    for call, message in (
        (lambda: TokenStore.create(folder, 0), "dim: expected at least 1"),
        (lambda: TokenStore.create(folder, 2, dtype="int4"), "dtype: expected one of"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_create_does_not_replace(tmp_path):
    TokenStore.create(tmp_path / "s", 5)
    with pytest.raises(InputError, match="already holds a store"):
        TokenStore.create(tmp_path / "s", 5)


def test_readers_keep_what_they_opened(tmp_path, texts):
    writer = TokenStore.create(tmp_path / "s", 5)
    writer.append(texts[:3], list("abc"))
    reader = TokenStore(tmp_path / "s")
    writer.append(texts[3:], ["d"])
    writer.delete(["a"])
    writer.compact()
    assert [reader[i].tolist() for i in range(len(reader))] == [t.tolist() for t in texts[:3]]
    assert reader.offsets[-1] == sum(map(len, texts[:3]))
    assert TokenStore(tmp_path / "s").ids == ["b", "c", "d"]
    # A writer that was opened before sees what others have written, and loses none of it.
    late = TokenStore(tmp_path / "s")
    writer.append(texts[:1], ["e"])
    late.append(texts[:1], ["f"])
    assert TokenStore(tmp_path / "s").ids == ["b", "c", "d", "e", "f"]


WRITER = """
import sys, time
from optical_rs.similarity import TokenStore
with TokenStore(sys.argv[1]).writing():
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "s")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"writing\n"
        with pytest.raises(InputError, match=f"is being written by process {other.pid}"):
            store.append(texts[:1], ["a"])
        other.kill()
    store.append(texts[:1], ["a"])  # the lock went with its holder
    with store.writing():
        store.append(texts[:1], ["b"])
    assert TokenStore(tmp_path / "s").ids == ["a", "b"]


def test_a_full_disk_loses_nothing(tmp_path, texts):
    resource = pytest.importorskip("resource")
    store = TokenStore.create(tmp_path / "s", 5)
    store.append(texts[:1], ["a"])
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
        for change in (lambda: store.append([np.ones((400, 5))], ["b"]),):
            with pytest.raises(InputError, match=r"could not be written .*; the store is as it was"):
                change()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    again = TokenStore(tmp_path / "s")
    again.verify()
    assert again.ids == ["a"]
    store.append([np.ones((400, 5))], ["b"])
    assert TokenStore(tmp_path / "s").ids == ["a", "b"]


KILLED = """
import os, random, select, signal, sys, time
import numpy as np
from optical_rs.similarity import TokenStore

folder, rounds = sys.argv[1], int(sys.argv[2])
TokenStore.create(folder, 8)
generator, committed = random.Random(0), 0
for _ in range(rounds):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        store = TokenStore(folder)
        for i in range(len(store), len(store) + 1000):
            store.append([np.full((i % 5 + 1, 8), i, np.float32)], [str(i)])
            os.write(write, b".")
            if i % 7 == 3:
                store.compact()
        os._exit(0)
    os.close(write)
    # However slow the machine: every other writer is let come to its first commit.
    if generator.random() < 0.5:
        select.select([read], [], [], 60)
    time.sleep(generator.random() * 0.03)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as pipe:
        committed += len(pipe.read())
    store = TokenStore(folder)
    store.verify()
    # What was told to be committed is there, and nothing but whole texts.
    assert len(store) >= committed, (len(store), committed)
    assert store.ids == [str(i) for i in range(len(store))]
    assert all((store[i] == i).all() and len(store[i]) == i % 5 + 1 for i in range(len(store)))
    committed = len(store)
print(committed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_writers_killed_at_any_point_lose_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "s"), "200"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50, "the writers got far enough to be interrupted in the middle"
