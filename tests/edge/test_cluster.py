"""An index that a Ray cluster encodes has the bytes of one that is encoded here."""

import functools
import os
import secrets
import sys
import time
import types

import numpy as np
import pytest
from optical_rs import Index, InputError
from optical_rs.cli.index import main as index_main
from optical_rs.edge import Encoder, cluster
from optical_rs.edge.cluster import on_ray
from optical_rs.edge.index import index
from optical_rs.edge.shards import Kept, encode_here, index_shard, shards_of
from optical_rs.similarity import TokenStore

from conftest import needs

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

TEXTS = ["the fire is big", "rain fell on the market", "a child reads", "the dog runs to the school"]
DOCUMENTS = [(f"d{i}", f"{TEXTS[i % 4]} {TEXTS[i % 3]}", {"number": i}) for i in range(23)]


def content(*folders):
    """All files of folders but the lock, by name."""
    return [
        {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "writer.lock"}
        for folder in folders
    ]


@pytest.fixture
def encoder(exported):
    return Encoder(exported[0], threads=1)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr("optical_rs.edge.index.BATCH", 5)


@pytest.fixture(scope="module")
def ray():
    needs("ray")
    # Read when Ray is imported; without a token of the tests' own it writes one into the user's folder.
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=100 << 20,
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
    )
    yield ray
    ray.shutdown()


def test_a_cluster_writes_the_same_bytes(ray, exported, small_batches, tmp_path):
    for precision, dtype, options in (
        ("int8", "int8", {}),
        ("float32", "float32", {"window": 3, "overlap": 1}),
    ):
        encoder = Encoder(exported[0], precision=precision, threads=1)
        here, there = tmp_path / precision / "here", tmp_path / precision / "there"
        options |= {"dtype": dtype}
        # Made, then added to, with a document that changed and one that is new; then with nothing to do.
        changed = [*DOCUMENTS[:7], ("d7", "mother cooks", {}), *DOCUMENTS[8:], ("new", "it is hot", {})]
        for documents in (DOCUMENTS, changed, changed):
            index(encoder, iter(documents), here, **options)
            index(encoder, iter(documents), there, encode=on_ray(kept=shards_of(there)), **options)
            parts = [[store, store.with_name(store.name + ".fields")] for store in (here, there)]
            assert content(*parts[0]) == content(*parts[1])
        TokenStore(there).verify()
        assert not shards_of(there).exists()
        found = [Index(store, encoder).search_batch(TEXTS, 5, lexical=True) for store in (here, there)]
        assert found[0] == found[1]


def test_an_interrupted_index_goes_on_and_makes_no_shard_twice(ray, encoder, small_batches, tmp_path):
    whole = index(encoder, DOCUMENTS, tmp_path / "whole")
    store, kept = tmp_path / "store", Kept(shards_of(tmp_path / "store"))

    def stop(*done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(encoder, DOCUMENTS, store, encode=on_ray(kept=kept.folder), progress=stop)
    assert len(TokenStore(store)) == 5
    # A shard that was finished before its turn: it is taken, which shows in what it says.
    texts = [text for _, text, _ in DOCUMENTS[10:15]]
    shard = index_shard(encoder, texts, "int8")
    marked = {**shard, "values": bytes(len(shard["values"]))}
    kept.remove(kept.key(encoder, texts, "int8"))
    kept.write(kept.key(encoder, texts, "int8"), marked)
    kept.write("0" * 32, shard)  # of documents that are no longer given
    found = index(encoder, DOCUMENTS, store, encode=on_ray(kept=kept.folder))
    assert found.ids == whole.ids
    for i in range(len(whole)):
        assert np.array_equal(found[i], whole[i] * (0 if 10 <= i < 15 else 1))
    assert not kept.folder.exists()


def test_a_lost_process_costs_its_shard_alone(ray, encoder, small_batches, tmp_path):
    """Every process that encodes is killed once."""
    index(encoder, DOCUMENTS, tmp_path / "whole")
    killed = []

    @ray.remote
    def number():
        return os.getpid()

    def kill(*done):
        if not killed:
            killed.extend(set(ray.get([number.remote() for _ in range(4)])))
            for process in killed:
                os.kill(process, 9)

    index(encoder, DOCUMENTS, tmp_path / "store", encode=on_ray(kept=tmp_path / "k"), progress=kill)
    assert killed
    assert content(tmp_path / "whole") == content(tmp_path / "store")


def test_what_cannot_work_is_said_in_one_line(ray, encoder, exported, documents, tmp_path, monkeypatch):
    def refused(words, model=encoder, **options):
        with pytest.raises(InputError, match=words) as caught:
            index(model, documents, tmp_path / "s", encode=on_ray(kept=tmp_path / "k", **options))
        assert "\n" not in str(caught.value)

    began = time.monotonic()
    refused("address: no Ray cluster answers at 127.0.0.1:9 within 1 s", address="127.0.0.1:9", timeout=1)
    refused("address: expected HOST:PORT, got 'somewhere'", address="somewhere")
    refused("address: no machine of the cluster has 99 cores", threads=99)
    refused("threads: expected at least 1, got 0", threads=0)
    with monkeypatch.context() as patch:
        wanted = {**cluster.versions(), "numpy": "0.1"}
        patch.setattr(cluster, "versions", lambda: wanted)
        refused("address: the machine .* has numpy .*, expected numpy 0.1")
    (tmp_path / "k").write_text("")
    with pytest.raises(InputError, match=r"shards: .* cannot be written to"):
        Kept(tmp_path / "k").write("0" * 32, {})
    (tmp_path / "k").unlink()
    index(encoder, documents, tmp_path / "s", encode=on_ray(kept=tmp_path / "k"))
    other = Encoder(exported[0], precision="float32")
    refused("was made with another model", model=other)
    assert time.monotonic() - began < 600


def test_kept_shards_are_whole_or_none(encoder, torture, tmp_path):
    shard = index_shard(encoder, TEXTS, "int8")
    kept = Kept(tmp_path / "kept")
    key = kept.key(encoder, TEXTS, "int8")
    assert key != kept.key(encoder, TEXTS[:3], "int8") != kept.key(encoder, TEXTS, "float32")
    assert kept.read(key) is None
    kept.write(key, shard)
    assert kept.read(key) == shard
    before = kept.file(key).read_bytes()
    kept.write(key, index_shard(encoder, TEXTS, "int8"))
    assert kept.file(key).read_bytes() == before, "a shard twice is the same bytes"
    with pytest.raises(InputError, match="made again with other content"):
        kept.write(key, {**shard, "values": bytes(len(shard["values"]))})
    assert kept.read(key) == shard
    for damaged in [
        before[:-30],
        b"",
        *(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :] for at in range(0, len(before), 17)),
    ]:
        kept.file(key).write_bytes(damaged)
        assert kept.read(key) is None
        assert not kept.file(key).exists()
    with torture.small_disk(tmp_path / "disk", 1 << 16):
        small = Kept(tmp_path / "disk" / "kept")
        small.write(key, shard)
        with pytest.raises(InputError, match=r"shards: .* cannot be written to .*stays"):
            small.write("0" * 32, {**shard, "values": os.urandom(1 << 17)})
        assert small.read(key) == shard
        assert [file.name for file in small.folder.iterdir()] == [small.file(key).name]


def test_columns_of_others_are_checked(encoder, tmp_path):
    shard = index_shard(encoder, TEXTS, "int8")
    store = TokenStore.create(tmp_path / "s", encoder.dim, dtype="int8")
    for wrong in (
        {**shard, "values": shard["values"][:-1]},
        {name: data for name, data in shard.items() if name != "scales"},
        {**shard, "more": b""},
        {**shard, "lengths": shard["lengths"][8:]},
        index_shard(encoder, TEXTS, "float32"),
    ):
        with pytest.raises(
            InputError, match="encoded: expected the columns of 4 texts of dimension 8 in int8"
        ):
            store.append_columns(wrong, list("abcd"), TEXTS)
    with pytest.raises(InputError, match="contents: expected 4, one per text, got 1"):
        store.append_columns(shard, list("abcd"), ["a"])
    assert len(store) == 0
    store.append_columns(shard, list("abcd"), TEXTS)
    other = TokenStore.create(tmp_path / "o", encoder.dim, dtype="int8")
    other.append(encoder.encode_document(TEXTS), list("abcd"), TEXTS)
    assert content(store.path) == content(other.path)


class Backwards:
    """As much of Ray as is used, on two cores, of which what was begun last is finished first."""

    def put(self, files):
        return files

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 2}}]

    def remote(self, **options):
        return lambda function: types.SimpleNamespace(
            remote=lambda *given: functools.partial(index_shard, self.encoder, *given[-2:])
        )

    def wait(self, tasks, timeout):
        return tasks[-1:], tasks[:-1]

    def get(self, task):
        return task()


def test_shards_of_the_same_texts(encoder, tmp_path):
    """They are one file while they wait, which the first of them does not take away from the others."""
    shards = [["the fire"], ["rain"], ["the fire"], ["the fire"], [], ["rain"], ["the fire"]]
    order = Backwards()
    order.encoder = encoder
    kept = Kept(tmp_path / "kept")
    made = list(cluster._encoded(order, encoder, iter(shards), "int8", kept, 1))
    assert made == list(encode_here(encoder, iter(shards), "int8"))
    assert not kept.folder.exists()


def test_encoding_here_needs_no_cluster(encoder):
    made = list(encode_here(encoder, iter([TEXTS[:2], [], TEXTS[2:]]), "int8"))
    assert [len(shard.get("lengths", b"")) // 8 for shard in made] == [2, 0, 2]


def test_the_command(ray, exported, documents, tmp_path, monkeypatch, capsys):
    file = tmp_path / "documents.tsv"
    file.write_text("".join(f"{name}\t{text}\n" for name, text in documents.items()))
    # Named: the faster one may be another in the second run.
    given = ["--model", str(exported[0]), "--documents", str(file), "--precision", "int8"]
    index_main([*given, "--output", str(tmp_path / "here")])
    index_main([*given, "--output", str(tmp_path / "there"), "--engine", "ray"])
    assert content(tmp_path / "here") == content(tmp_path / "there")
    assert "cores on 1 machines" in capsys.readouterr().err


def test_ray_is_an_extra(exported, tmp_path, monkeypatch):
    file = tmp_path / "documents.tsv"
    file.write_text("a\tthe fire\n")
    given = ["--model", str(exported[0]), "--documents", str(file), "--output", str(tmp_path / "s")]
    with pytest.raises(InputError, match="--address: is of --engine ray"):
        index_main([*given, "--address", "127.0.0.1:6379"])
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"ray is not installed: pip install 'optical_rs\[ray\]'"):
        index_main([*given, "--engine", "ray"])
    assert not (tmp_path / "s").exists()
