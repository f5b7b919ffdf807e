"""TokenStore: what is committed stays, and damage is noticed."""

import importlib.util
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import zlib
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.similarity import TokenStore, maxsim, search

# The scenarios of `make torture`, here with small counts.
_spec = importlib.util.spec_from_file_location("torture", Path(__file__).parents[2] / "tools" / "torture.py")
torture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(torture)


@pytest.fixture
def shared_memory():
    """A folder in memory where there is one: what is killed are processes, not the machine."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


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


def test_another_process_is_waited_for(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "s")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"writing\n"
        with pytest.raises(InputError, match="is being written by process"), store.writing(timeout=0.05):
            pass
        threading.Timer(0.2, other.stdin.close).start()
        with store.writing(timeout=60):
            store.append(texts[:1], ["a"])
    assert TokenStore(tmp_path / "s").ids == ["a"]


def test_objects_of_one_process_write_in_turn(tmp_path, texts):
    one = TokenStore.create(tmp_path / "s", 5)
    two = TokenStore(tmp_path / "s")
    with one.writing():
        two.append(texts[:1], ["a"])
        one.append(texts[2:3], ["b"])
        two.delete(["a"])
        assert "a" in one  # what it has seen
        one.append(texts[3:], ["c"])
        assert "a" not in one
    assert two.ids == ["a", "b"]
    assert TokenStore(tmp_path / "s").ids == ["a", "b", "c"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_the_lock(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    read, write = os.pipe()
    with store.writing():
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    try:
        code = "import sys; from optical_rs.similarity import TokenStore; TokenStore(sys.argv[1]).delete([])"
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=True)
    finally:
        os.close(read)
        os.close(write)
        os.waitpid(child, 0)


def test_a_store_that_was_made_anew_is_not_mixed_with_the_old(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    store.append(texts[:1], ["a"])
    shutil.rmtree(tmp_path / "s")
    TokenStore.create(tmp_path / "s", 5).append(texts[2:], ["x", "y"])
    store.append(texts[:1], ["z"])
    assert store.ids == TokenStore(tmp_path / "s").ids == ["x", "y", "z"]
    assert store[0].tolist() == texts[2].tolist()


def test_readers_outlive_the_compaction_of_another_process(tmp_path, texts):
    TokenStore.create(tmp_path / "s", 5).append(texts, list("abcd"), ["one", "two", "three", "four"])
    reader = TokenStore(tmp_path / "s")
    code = """
import sys
from optical_rs.similarity import TokenStore
store = TokenStore(sys.argv[1])
store.delete(["a"])
store.compact()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=True)
    assert not (tmp_path / "s" / "values.0").exists()
    reader.verify()
    assert reader.ids == list("abcd")
    assert reader.contents == ["one", "two", "three", "four"]
    assert search(texts[:1], reader, 1)[0][0][0] in "abcd"
    assert [reader[i].tolist() for i in range(4)] == [t.tolist() for t in texts]
    assert TokenStore(tmp_path / "s").ids == ["b", "c", "d"]


def test_a_snapshot_stays_as_it_is(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    store.append(texts[:3], list("abc"))
    seen = store.snapshot()
    store.delete(["a"])
    store.append(texts[3:], ["a"])
    assert (seen.index("a"), store.index("a")) == (0, 3)
    store.compact()
    assert seen.ids == ["a", "b", "c"]
    assert seen[0].tolist() == texts[0].tolist()
    assert len(store) == 3
    again = pickle.loads(pickle.dumps(store))
    assert again.ids == store.ids


@pytest.mark.parametrize(
    ("dtype", "large", "fits"),
    [("float16", 65520.0, 65519.0), ("bfloat16", 3.4e38, 3.38e38), ("float32", 1e39, 3.4e38)],
)
def test_numbers_that_do_not_fit_are_refused(tmp_path, dtype, large, fits):
    store = TokenStore.create(tmp_path / "s", 2, dtype=dtype)
    good = np.array([[1.0, -fits]])
    store.append([good, good], ["a", "b"])
    with pytest.raises(
        InputError, match=rf"tokens: expected (finite numbers|numbers that fit {dtype}).* at 1"
    ):
        store.append([good, np.array([[0.0, 1.0], [-large, 1.0]]), good], ["c", "d", "e"])
    assert TokenStore(tmp_path / "s").ids == ["a", "b"]
    assert np.isfinite(store[1]).all()


def test_what_killed_writers_left_is_removed(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    store.append(texts[:1], ["a"])
    (tmp_path / "s" / "values.1").write_bytes(b"of a compaction that was killed")
    (tmp_path / "s" / "store.tmp").write_bytes(b"{")
    (tmp_path / "s" / "values.old").write_bytes(b"of somebody else")
    store.compact()
    assert sorted(f.name for f in (tmp_path / "s").iterdir() if f.name.startswith(("values", "store"))) == [
        "store.json",
        "values.1",
        "values.old",
    ]
    assert TokenStore(tmp_path / "s").ids == ["a"]
    # What a killed create left is no store, and does not stand in the way of one.
    half = tmp_path / "half"
    half.mkdir()
    for name in ("values.0", "writer.lock", "store.tmp"):
        (half / name).write_bytes(b"")
    TokenStore.create(half, 5).append(texts[:1], ["a"])
    TokenStore(half).verify()


def test_folders_and_links_of_others_are_refused(tmp_path, texts):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty and holds no store \(it has 'thesis.txt'\)"):
        TokenStore.create(foreign, 5)
    assert [f.name for f in foreign.iterdir() if f.name != "writer.lock"] == ["thesis.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written to"):
        TokenStore.create(tmp_path / "file", 5)
    store = TokenStore.create(tmp_path / "s", 5)
    store.append(texts[:1], ["a"])
    for name in ("values.0", "store.json"):
        file = tmp_path / "s" / name
        good = file.read_bytes()
        file.unlink()
        (tmp_path / "elsewhere").write_bytes(good)
        file.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match="cannot be read"):
            TokenStore(tmp_path / "s")
        with pytest.raises(InputError):
            store.append(texts[:1], ["b"])
        assert (tmp_path / "elsewhere").read_bytes() == good
        file.unlink()
        file.write_bytes(good)
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "s" / "writer.lock").unlink()
    (tmp_path / "s" / "writer.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="cannot be written to"):
        store.append(texts[:1], ["b"])
    (tmp_path / "s" / "writer.lock").unlink()
    (tmp_path / "s" / "store.tmp").symlink_to(tmp_path / "victim")
    store.append(texts[:1], ["b"])
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize(
    "change",
    [
        {"dim": "5"},
        {"dim": 0},
        {"dim": True},
        {"generation": "../0"},
        {"generation": -1},
        {"bytes": {}},
        {"bytes": {"values": -20}},
        {"bytes": {"lengths": 8.0}},
        {"bytes": {"id_ends": 0}},
        {"bytes": {"values": 1 << 80}},
        {"crc32": None},
        {"metadata": []},
        {"dtype": "int4"},
        {"dtype": ["float32"]},
        {"dtype": "int8"},
    ],
)
def test_metadata_that_cannot_be_is_one_clear_error(tmp_path, texts, change):
    folder = tmp_path / "s"
    TokenStore.create(folder, 5).append(texts[:1], ["a"])
    state = json.loads((folder / "store.json").read_bytes().split(b"\n")[0])
    for key, value in change.items():
        state[key] = {**state[key], **value} if isinstance(value, dict) and value else value
    line = json.dumps(state).encode()
    (folder / "store.json").write_bytes(line + b"\n%08x\n" % zlib.crc32(line))
    with pytest.raises(InputError, match=r"damaged|cannot read"):
        TokenStore(folder)


@pytest.mark.parametrize(
    ("column", "data", "reading"),
    [
        ("deleted", np.array([4], "<i8").tobytes(), len),
        ("deleted", np.array([-1], "<i8").tobytes(), len),
        ("ids", b"\xff\xfe", lambda store: store.ids),
        ("id_ends", np.array([9, 2], "<i8").tobytes(), lambda store: store.ids),
        ("id_ends", np.array([-1, 2], "<i8").tobytes(), lambda store: store.index("a")),
        ("lengths", np.array([4, -1], "<i8").tobytes(), len),
        ("content_ends", np.array([1, 1], "<i8").tobytes(), lambda store: store.contents[0]),
    ],
)
def test_columns_that_cannot_be_are_one_clear_error(tmp_path, texts, column, data, reading):
    folder = tmp_path / "s"
    TokenStore.create(folder, 5).append([texts[0], texts[1]], ["a", "b"], ["x", "y"])
    state = json.loads((folder / "store.json").read_bytes().split(b"\n")[0])
    (folder / f"{column}.0").write_bytes(data)
    state["bytes"][column], state["crc32"][column] = len(data), zlib.crc32(data)
    line = json.dumps(state).encode()
    (folder / "store.json").write_bytes(line + b"\n%08x\n" % zlib.crc32(line))
    with pytest.raises(InputError, match="damaged"):
        reading(TokenStore(folder))


def test_other_bad_input(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    for call, message in (
        (lambda: store.append(texts[:1], [3]), "ids: expected non-empty strings, got 3"),
        (lambda: store.append(texts[:1], ["\ud800"]), "ids: expected Unicode text, got surrogates"),
        (lambda: store.append(texts[:1], ["a"], [None]), "contents: expected"),
        (lambda: TokenStore.create(tmp_path / "x", 5, {"a": {1}}), "metadata: expected a JSON object"),
        (lambda: TokenStore.create(tmp_path / "x", 5, [1]), "metadata: expected a JSON object, got list"),
        (lambda: TokenStore.create(tmp_path / "x", 2.5), "dim: expected at least 1, got 2.5"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert not (tmp_path / "x").exists()
    assert len(TokenStore(tmp_path / "s")) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and users")
def test_a_folder_that_is_read_only_can_be_read(tmp_path, texts):
    folder = tmp_path / "s"
    TokenStore.create(folder, 5).append(texts, list("abcd"))

    def work():
        if os.geteuid() == 0:
            os.setuid(65534)
        store = TokenStore(folder)
        store.verify()
        assert store.ids == list("abcd")
        for change in (
            lambda: store.append(texts[:1], ["e"]),
            store.compact,
            lambda: TokenStore.create(tmp_path / "new", 5),
            lambda: store.convert(tmp_path / "new", "int8"),
        ):
            with pytest.raises(InputError, match="cannot be written to"):
                change()

    places = [tmp_path, *tmp_path.parents]
    modes = [place.stat().st_mode for place in places]
    try:
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        tmp_path.chmod(0o555)
        if os.geteuid() == 0:  # another user may come as far as the store
            for place in places[1:-1]:
                place.chmod(place.stat().st_mode | 0o055)
        assert os.waitpid(torture.forked(work), 0)[1] == 0
    finally:
        for place, mode in zip(places, modes, strict=True):
            if place.stat().st_mode != mode:
                place.chmod(mode)
        folder.chmod(0o755)


def test_a_store_that_was_cut_is_refused_before_it_is_mapped(tmp_path, texts):
    store = TokenStore.create(tmp_path / "s", 5)
    store.append(texts, list("abcd"))
    late = TokenStore(tmp_path / "s")
    os.truncate(tmp_path / "s" / "values.0", 20)
    with pytest.raises(InputError, match="is truncated: 20 bytes, 220 committed"):
        TokenStore(tmp_path / "s")
    late.path.joinpath("values.0").unlink()
    with pytest.raises(InputError, match="is missing"):
        TokenStore(tmp_path / "s")


def test_appending_to_many_texts_reads_none_of_them_again(tmp_path):
    store = TokenStore.create(tmp_path / "s", 1)
    count = 200_000
    names = [f"{i:064x}" for i in range(count)]
    store.append([np.zeros((1, 1), np.float32)] * count, names)
    store = TokenStore(tmp_path / "s")
    assert names[5] in store
    one = np.zeros((1, 1), np.float32)
    for i in range(3):  # a list that was made to measure grows once
        store.append([one], [f"first {i}"])
    tracemalloc.start()
    try:
        for i in range(5):
            store.append([one], [f"more {i}"])
        assert "more 4" in store
        assert tracemalloc.get_traced_memory()[1] < 100_000, "an append holds what grows with the store"
    finally:
        tracemalloc.stop()
    # One list of references besides the ids themselves.
    tracemalloc.start()
    try:
        assert store.ids[count - 1] == names[-1]
        assert tracemalloc.get_traced_memory()[0] < 12 * count
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "scenario",
    [
        lambda folder: torture.threads(folder, 300, objects=False),
        lambda folder: torture.threads(folder, 300, objects=True),
        lambda folder: torture.kills(folder, 30),
        lambda folder: torture.disks(folder, 4),
        lambda folder: torture.opens(folder, 300),
        lambda folder: torture.writers(folder, 60),
        lambda folder: torture.flips(folder, 200),
    ],
    ids=["one object", "objects", "kills", "full disks", "opens during compaction", "writers", "flips"],
)
def test_nothing_is_lost(shared_memory, scenario):
    # In a process of its own: it forks, and threads of other tests do not survive that.
    child = torture.forked(lambda: scenario(shared_memory / "s"))
    assert os.waitpid(child, 0)[1] == 0
