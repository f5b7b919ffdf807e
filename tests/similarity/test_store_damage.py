"""TokenStore: damage is noticed, and what cannot be kept is refused; the store is then as it was."""

import json
import os
import shutil
import signal
import zlib

import numpy as np
import pytest
from optical_rs import InputError, _core
from optical_rs.similarity import TokenStore, columns, pool, search


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


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("store.json", 0),
        ("lengths.0", 0),
        ("deleted.0", 0),
        ("ids.0", 1),
        ("id_ends.0", 1),
        ("contents.0", 2),
        ("content_ends.0", 2),
        ("values.0", 3),
        ("scales.0", 3),
    ],
)
def test_when_damage_is_noticed(tmp_path, texts, name, moment):
    folder = tmp_path / "s"
    store = TokenStore.create(folder, 5, dtype="int8")
    store.append(texts, list("abcd"), ["one", "two", "", "four"])
    store.delete(["b"])
    good = (folder / name).read_bytes()
    (folder / name).write_bytes(good[:1] + bytes([good[1] ^ 4]) + good[2:])
    passed = []

    def look_closer():
        store = TokenStore(folder)
        passed.append("opening")
        assert store.ids == list("abcd")
        passed.append("ids")
        assert store.contents[3] == "four"
        passed.append("contents")
        store.verify()

    with pytest.raises(InputError, match=r"damaged|describe"):
        look_closer()
    assert len(passed) == moment


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
        (lambda: store.append(texts[:1], [3]), "ids: expected strings, got int at 0"),
        (lambda: store.append(texts[:1], ["\ud800"]), "ids: expected Unicode text, got surrogates"),
        (lambda: store.append(texts[:1], ["a"], [None]), "contents: expected strings, got NoneType at 0"),
        # A string is a sequence of strings, but never meant as one: "12" is no list of texts 1 and 2.
        (lambda: store.append(texts[:2], "ab"), "ids: expected a list of strings, got the string 'ab'"),
        (lambda: store.delete("12"), "ids: expected a list of ids, got the string '12'"),
        (lambda: store.append(texts[:1], ["a"], replacing=["b"]), "replacing: 'b' is not in the store"),
        (lambda: TokenStore.create(tmp_path / "x", 5, {"a": {1}}), "metadata: expected a JSON object"),
        (lambda: TokenStore.create(tmp_path / "x", 5, [1]), "metadata: expected a JSON object, got list"),
        (lambda: TokenStore.create(tmp_path / "x", 2.5), "dim: expected at least 1, got 2.5"),
        (
            lambda: TokenStore.create(tmp_path / "x", 133_145, dtype="int8"),
            "dim: expected at most 133144 with",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert not (tmp_path / "x").exists()
    assert len(TokenStore(tmp_path / "s")) == 0


def test_a_folder_that_is_read_only_can_be_read(tmp_path, texts, unprivileged):
    folder = tmp_path / "s"
    TokenStore.create(folder, 5).append(texts, list("abcd"))
    open_folder, open_files = (tmp_path / name for name in ("folder", "files"))
    for other in (open_folder, open_files):
        shutil.copytree(folder, other)

    def work():
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
        for place in (open_folder, open_files):
            store = TokenStore(place)
            for change in (
                lambda s=store: s.append(texts[:1], ["e"]),
                lambda s=store: s.delete(["a"]),
                store.compact,
            ):
                with pytest.raises(InputError, match=r"cannot be written to|could not be written") as caught:
                    change()
                assert "\n" not in str(caught.value)
            TokenStore(place).verify()
            assert [name for name in TokenStore(place).ids if name in store] == list("abcd")

    for place, of_folder, of_files in (
        (folder, 0o555, 0o444),
        (open_folder, 0o777, 0o444),
        (open_files, 0o555, 0o666),
    ):
        for file in place.iterdir():
            file.chmod(of_files)
        place.chmod(of_folder)
    unprivileged(tmp_path, work)
    for place in (folder, open_folder, open_files):
        place.chmod(0o755)


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


def test_a_store_that_cannot_be_begun_leaves_nothing(tmp_path, monkeypatch):
    real = os.fsync
    for left in range(9):
        calls = iter(range(left))

        def full(file, calls=calls):
            if next(calls, None) is None:
                raise OSError(28, "No space left on device")
            real(file)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"cannot be written to \(No space left on device\)"):
            TokenStore.create(tmp_path / "s", 5)
        assert not (tmp_path / "s").exists()
    monkeypatch.undo()
    TokenStore.create(tmp_path / "s", 5)


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


def test_copies_on_a_full_disk(tmp_path, texts, torture, monkeypatch):
    store = TokenStore.create(tmp_path / "s", 64)
    rows = np.random.default_rng(0).normal(size=(60, 40, 64)).astype(np.float32)
    store.append(rows, [str(i) for i in range(60)])
    monkeypatch.setattr("optical_rs.similarity.coarse._PART", 10)

    def work():
        with torture.small_disk(tmp_path / "disk", 1 << 16):
            with pytest.raises(InputError, match=r"written .*"):
                store.convert(tmp_path / "disk" / "copy", "float32")
            assert not (tmp_path / "disk" / "copy").exists()
            coarse = tmp_path / "disk" / "coarse"
            with pytest.raises(InputError, match="the store is as it was"):
                pool(store, coarse, 2)
            # What was committed is whole, and is continued elsewhere.
            TokenStore(coarse).verify()
            assert 0 < len(TokenStore(coarse)) < 60
            shutil.copytree(coarse, tmp_path / "larger")
        assert np.array_equal(
            pool(store, tmp_path / "larger", 2).values, pool(store, tmp_path / "fresh", 2).values
        )

    assert os.waitpid(torture.forked(work), 0)[1] == 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_texts_of_one_token_beside_one_of_none(tmp_path, dtype):
    texts = list(np.random.default_rng(0).normal(size=(20, 1, 7)).astype(np.float32))
    texts[3] = texts[3][:0]
    store = TokenStore.create(tmp_path / "s", 7, dtype=dtype)
    store.append(texts, [str(i) for i in range(20)])
    for i, text in enumerate(texts):
        np.testing.assert_allclose(store[i], text, atol=0.05)


def test_bytes_are_made_of_rows_alone():
    columns = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    with pytest.raises(InputError, match="expected a contiguous array"):
        _core.quantise(columns)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_columns_with_infinite_numbers_are_refused(tmp_path, texts, dtype):
    store = TokenStore.create(tmp_path / "s", 5, dtype=dtype)
    good = columns.encoded([np.ones((2, 5), np.float32)], 5, dtype)
    name, number = {
        "float32": ("values", np.array(np.nan, "<f4")),
        "float16": ("values", np.array(np.inf, "<f2")),
        "bfloat16": ("values", np.array(0xFF80, "<u2")),
        "int8": ("scales", np.array(np.inf, "<f4")),
    }[dtype]
    wrong = {**good, name: good[name][: -number.itemsize] + number.tobytes()}
    with pytest.raises(InputError, match="encoded: expected finite numbers"):
        store.append_columns(wrong, ["a"])
    for lengths in (b"", b"abc", np.array([1, 1], "<i8").tobytes(), np.array([-2], "<i8").tobytes()):
        with pytest.raises(InputError, match="encoded: expected the columns of 1 texts"):
            store.append_columns({**good, "lengths": lengths}, ["a"])
    assert len(TokenStore(tmp_path / "s")) == 0
    store.append_columns(good, ["a"])
    assert search(texts[:1], store, 1)[0][0][0] == "a"
    for argument, call in (
        ("tokens", lambda: store.append(["text"], ["b"])),
        ("replacing", lambda: store.append(texts[:1], ["b"], replacing=None)),
        ("ids", lambda: store.delete(None)),
    ):
        with pytest.raises(InputError, match=f"^{argument}: expected"):
            call()
    assert len(TokenStore(tmp_path / "s")) == 1
