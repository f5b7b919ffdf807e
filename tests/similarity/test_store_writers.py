"""TokenStore: threads, processes, and readers beside them."""

import os
import pickle
import shutil
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.similarity import TokenStore, search


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


def test_copies_that_have_seen_more_and_less_share_their_ids(tmp_path, texts):
    store, other = TokenStore.create(tmp_path / "s", 5), TokenStore(tmp_path / "s")
    store.append(texts[:1], ["a"])
    assert "a" in store
    late = store.snapshot()
    other.append(texts[:1], ["b"])
    with late.writing():
        other.append(texts[:1], ["c"])
    with store.writing():
        assert store.ids == ["a", "b", "c"]
    assert "b" in late
    assert "c" not in late
    assert late.ids == ["a", "b"]


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
        lambda torture, folder: torture.threads(folder, 300, objects=False),
        lambda torture, folder: torture.threads(folder, 300, objects=True),
        lambda torture, folder: torture.kills(folder, 30),
        lambda torture, folder: torture.disks(folder, 4),
        lambda torture, folder: torture.opens(folder, 300),
        lambda torture, folder: torture.writers(folder, 60),
        lambda torture, folder: torture.flips(folder, 200),
    ],
    ids=["one object", "objects", "kills", "full disks", "opens during compaction", "writers", "flips"],
)
def test_nothing_is_lost(shared_memory, torture, scenario):
    # In a process of its own: it forks, and threads of other tests do not survive that.
    child = torture.forked(lambda: scenario(torture, shared_memory / "s"))
    assert os.waitpid(child, 0)[1] == 0


def test_a_link_to_a_store_is_followed_once(tmp_path, texts):
    link = tmp_path / "link"
    for name in ("one", "two"):
        TokenStore.create(tmp_path / name, 5).append(texts[:1], [f"of {name}"])
    link.symlink_to(tmp_path / "one")
    store = TokenStore(link)
    before = {file.name: file.read_bytes() for file in (tmp_path / "two").iterdir()}

    def point(name):
        link.unlink()
        link.symlink_to(tmp_path / name)

    # While it is open, and in the middle of a change.
    point("two")
    store.append(texts[:1], ["a"])
    with store.writing():
        point("one")
        store.append(texts[:1], ["b"])
        point("two")
        store.compact()
    assert TokenStore(tmp_path / "one").ids == ["of one", "a", "b"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "two").iterdir()} == before
    assert pickle.loads(pickle.dumps(store)).ids == store.ids


def test_the_lock_is_that_of_the_folder_itself(tmp_path, texts):
    from optical_rs.lock import folder_lock

    for name in ("one", "two"):
        TokenStore.create(tmp_path / name, 5)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "one")
    by_link = folder_lock(link)
    link.unlink()
    link.symlink_to(tmp_path / "two")
    with by_link.held():
        assert (tmp_path / "one" / "writer.lock").read_text() == str(os.getpid())
        assert folder_lock(tmp_path / "one") is by_link
        assert folder_lock(link) is not by_link


def test_a_store_is_made_where_a_link_leads(tmp_path, texts):
    (tmp_path / "disk").mkdir()
    for name in ("disk", "disk/new"):
        (tmp_path / "link").symlink_to(tmp_path / name)
        TokenStore.create(tmp_path / "link", 5).append(texts[:1], ["a"])
        assert TokenStore(tmp_path / name).ids == ["a"]
        shutil.rmtree(tmp_path / name)
        (tmp_path / "link").unlink()
        (tmp_path / "disk").mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(InputError, match="cannot be written to"):
        TokenStore.create(tmp_path / "link", 5)
