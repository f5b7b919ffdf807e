"""Stores in Qdrant (embedded, in qdrant-client's local mode, on the server at ``$QDRANT_URL``), LanceDB (in a folder, in
object storage) and fast-plaid.
"""

import contextlib
import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.edge.fields import Fields, Values
from optical_rs.engines import common, fast_plaid, first_stage, lancedb, qdrant
from optical_rs.similarity import Muvera, Pooling, TokenStore, maxsim, search

from conftest import needs

DIM = 16
IDENTITY = {"model": "toy", "encoder": "e1", "fingerprint": "f1", "teacher_fingerprint": None}


def unit(rng, tokens):
    x = rng.normal(size=(tokens, DIM)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def own_fields(i):
    fields = {
        "year": 1990 + i % 20,
        "day": f"2024-05-{1 + i % 28:02d}",
        "ok": i % 3 == 0,
        "a b": f"it's {i % 2}",
    }
    fields["tag"] = ["a", "b"] if i % 2 else ["b"]
    fields["weight"] = i / 4
    return {} if i % 7 == 0 else fields


def make(path, texts=60, seed=0, metadata=IDENTITY, fields=own_fields, dtype="float32", prefix="d"):
    """A store with texts, fields and a deleted text."""
    rng = np.random.default_rng(seed)
    store = TokenStore.create(path, DIM, metadata, dtype=dtype)
    names = [f"{prefix}{i}" for i in range(texts)]
    tokens = [unit(rng, int(n)) for n in rng.integers(2, 9, size=texts)]
    store.append(tokens, [*names], [f"text {name} ŵ" for name in names])
    if fields:
        Fields(path).write((name, fields(i)) for i, name in enumerate(names))
    store.delete([f"{prefix}5"])
    return store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "BATCH", 16)  # several batches
    return make(tmp_path / "store")


@pytest.fixture
def queries():
    rng = np.random.default_rng(9)
    return [unit(rng, n) for n in (4, 1, 7)]


def edge(tmp_path):
    needs("qdrant_edge")
    return qdrant, tmp_path / "shard"


def client(tmp_path):
    needs("qdrant_client")
    from qdrant_client import QdrantClient

    return qdrant, (QdrantClient(":memory:"), "texts")


def server(tmp_path):
    needs("qdrant_client")
    url = os.environ.get("QDRANT_URL") or pytest.skip("QDRANT_URL names no server of Qdrant")
    return qdrant, f"{url}/{uuid.uuid4().hex}"


def lance(tmp_path):
    needs("lancedb")
    return lancedb, tmp_path / "lance" / "texts"


@functools.cache
def object_storage():
    """The address of an S3 server in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    return f"http://127.0.0.1:{server.get_host_and_port()[1]}"


def bucket(tmp_path):
    needs("lancedb", "moto")
    import lancedb as library

    url, name = object_storage(), uuid.uuid4().hex
    urllib.request.urlopen(urllib.request.Request(f"{url}/{name}", method="PUT")).close()
    options = {"endpoint": url, "allow_http": "true", "region": "us-east-1"}
    options |= {"access_key_id": "any", "secret_access_key": "any"}
    return lancedb, (library.connect(f"s3://{name}/folder", storage_options=options), "texts")


def plaid(tmp_path):
    needs("fast_plaid")
    return fast_plaid, tmp_path / "plaid"


EXACT = [edge, client, server, lance, bucket]
ENGINES = [*EXACT, plaid]


@pytest.fixture(params=EXACT, ids=lambda make: make.__name__)
def engine(request, tmp_path):
    """An engine that compares exactly, and a target that does not exist."""
    return request.param(tmp_path)


def exists(engine, target):
    if isinstance(target, str):
        from qdrant_client import QdrantClient

        url, _, name = target.rpartition("/")
        target = QdrantClient(url), name
    if isinstance(target, tuple):
        place, name = target
        return name in place.table_names() if engine is lancedb else place.collection_exists(name)
    place = Path(f"{target}.lance") if engine is lancedb else Path(target)
    return place.exists() or place.with_name(place.name + ".new").exists()


def test_hits_are_those_of_exact_search(engine, store, queries):
    engine, target = engine
    engine.write(store, target)
    want = search(queries, store, 10)
    for got, hits in zip(engine.search(target, queries, 10), want, strict=True):
        assert [(hit.id, pytest.approx(hit.score, abs=1e-4)) for hit in got] == hits
        for hit in got:
            assert hit.document == hit.id
            assert hit.text == f"text {hit.id} ŵ"
            assert hit.fields == own_fields(int(hit.id[1:]))
    everything = engine.search(target, queries[:1], 100)[0]
    assert "d5" not in {hit.id for hit in everything}
    assert engine.search(target, queries[:1], 2**70) == [everything]
    assert engine.search(target, [np.zeros((0, DIM))], 3) == [[]]


FILTERS = [
    {"year": {"gte": 1995, "lt": 1997}},
    {"year": [1995, 1996.0]},
    {"weight": {"gt": 3.5}},
    {"weight": 2.5},
    {"weight": np.float32(2.5)},
    {"year": {"gte": np.int64(1995)}},
    {"tag": "a"},
    {"tag": ["a", "z"], "year": {"lte": 2000}},
    {"ok": True},
    {"ok": [True, False]},
    {"day": {"gte": "2024-05-20"}},
    {"a b": "it's 1"},
    {"a b": []},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("kind", ENGINES, ids=lambda make: make.__name__)
def test_filters_leave_what_ours_leave(kind, filters, store, queries, tmp_path):
    engine, target = kind(tmp_path)
    engine.write(store, target)
    kept = ((i, own_fields(i)) for i, gone in enumerate(store.deleted) if not gone)
    left = Values(len(store), kept).select(filters)
    options = {"n_ivf_probe": 64} if engine is fast_plaid else {}
    got = engine.search(target, queries[:1], 100, filters=filters, **options)[0]
    found, want = {hit.id for hit in got}, {store.ids[i] for i in np.flatnonzero(left)}
    if engine is fast_plaid:  # which need not find all
        assert found <= want
        assert bool(found) == bool(want)
    else:
        assert found == want


def test_bad_filters_and_queries(engine, store, queries):
    engine, target = engine
    engine.write(store, target)
    for options, message in (
        ({"filters": {"yaer": 1990}}, "filters: no document has a field 'yaer'; did you mean 'year'?"),
        ({"filters": {"year": "1990"}}, "filters: 'year': expected numbers, got '1990'"),
        ({"filters": {"year": {"above": 3}}}, "filters: 'year': unknown bound 'above'"),
        ({"k": 0}, "k: expected at least 1, got 0"),
        ({"k": 2.5}, "k: expected an integer, got 2.5"),
        ({"k": "3"}, "k: expected an integer, got '3'"),
        ({"queries": ["moto"]}, "encoder: expected the exported model"),
        ({"queries": [np.ones((2, 3))]}, r"queries: expected shape \(tokens, 16\) at 0, got \(2, 3\)"),
        ({"queries": [np.full((2, DIM), np.nan)]}, "queries: query 0 has NaN or infinity"),
    ):
        asked = options.pop("queries", queries)
        with pytest.raises(InputError, match=message):
            engine.search(target, asked, **options)


def test_what_an_engine_cannot_filter(store, queries, tmp_path):
    for kind, filters, message in (
        (edge, {"a b": {"gte": "it"}}, "Qdrant has ranges of numbers, or of dates"),
        (lance, {"tag": {"gte": "a"}}, "LanceDB has no ranges of a field that is a list"),
    ):
        with contextlib.suppress(pytest.skip.Exception):
            engine, target = kind(tmp_path)
            engine.write(store, target)
            with pytest.raises(InputError, match=message):
                engine.search(target, queries, filters=filters)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_reading_back_gives_the_store(engine, store, tmp_path, dtype, monkeypatch):
    engine, target = engine
    monkeypatch.setattr(qdrant, "BATCH", 16)
    monkeypatch.setattr(lancedb, "BATCH", 16)
    engine.write(store, target, dtype=dtype)
    back = engine.read(target, tmp_path / "back")
    kept = [i for i in range(len(store)) if not store.deleted[i]]
    assert sorted(back.ids) == sorted(store.ids[i] for i in kept)
    assert back.metadata == store.metadata
    for i in kept:
        number = back.index(store.ids[i])
        exact = dtype == "float32"
        np.testing.assert_allclose(back[number], store[i], rtol=0, atol=0 if exact else 5e-4)
        assert back.contents[number] == store.contents[i]
    want = {n: f for n, f in Fields(store.path).items() if n != "d5"}
    assert dict(Fields(back.path).items()) == want
    with pytest.raises(InputError, match="holds"):
        engine.read(target, tmp_path / "back")
    assert dict(Fields(back.path).items()) == want


def test_writing_again_replaces_adds_and_removes(engine, store, queries, tmp_path):
    engine, target = engine
    engine.write(store, target)
    rng = np.random.default_rng(3)
    store.delete(["d1", "d2"])
    store.append([unit(rng, 3), unit(rng, 2)], ["d1", "new"], ["changed", "added"])
    Fields(store.path).write([("d1", {"year": 2050}), ("new", {"tag": ["c"]})])
    for _ in range(2):
        engine.write(store, target)
        got = {hit.id: hit for hit in engine.search(target, queries[:1], 100)[0]}
        assert got.keys() == {name for name in store.ids if name in store}
        assert (got["d1"].text, got["d1"].fields) == ("changed", {"year": 2050})
        best = search(queries[:1], store, 5)[0]
        assert [hit.id for hit in engine.search(target, queries[:1], 5)[0]] == [name for name, _ in best]
        assert [h.id for h in engine.search(target, queries[:1], filters={"tag": "c"})[0]] == ["new"]
    other = make(tmp_path / "other", seed=1, prefix="o", texts=10)
    engine.write(other, target)
    got = {hit.id for hit in engine.search(target, queries[:1], 100)[0]}
    assert {"o1", "d1"} <= got, "several stores are one target"


def test_a_store_that_does_not_belong(engine, store, queries, tmp_path):
    engine, target = engine
    engine.write(store, target)
    before = engine.search(target, queries, 60)
    wide = TokenStore.create(tmp_path / "wide", 3, IDENTITY)
    for other, message in (
        (
            make(tmp_path / "model", metadata={**IDENTITY, "fingerprint": "f2", "model": "two"}),
            "another model .two.",
        ),
        (make(tmp_path / "cut", metadata={**IDENTITY, "window": 100}), "written with window None, got 100"),
        (wide, "store: has dimension 3, but .* has 16"),
    ):
        with pytest.raises(InputError, match=message):
            engine.write(other, target)
    assert engine.search(target, queries, 60) == before


def test_an_encoder_of_another_teacher_is_refused(engine, store):
    engine, target = engine
    engine.write(store, target)

    class Other:
        identity = {"fingerprint": "x", "teacher_fingerprint": "y"}  # noqa: RUF012

    with pytest.raises(InputError, match="encoder: the model is of another teacher"):
        engine.search(target, ["moto"], encoder=Other())


@pytest.mark.parametrize("before", [False, True])
def test_an_interruption_leaves_what_was(engine, before, store, queries, tmp_path, monkeypatch):
    engine, target = engine
    if before:
        engine.write(make(tmp_path / "before", texts=10), target)
    whole = common.batches

    def stopped(store):
        parts = whole(store)
        yield next(parts)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "batches", stopped)
        with pytest.raises(KeyboardInterrupt):
            engine.write(store, target)
    if not before:
        assert not exists(engine, target)
    else:
        got = {hit.id for hit in engine.search(target, queries[:1], 100)[0]}
        # Qdrant has no way to take texts back that were sent; each of them is whole.
        added = 0 if engine is lancedb else 6
        assert got == {f"d{i}" for i in range(10 + added + (added > 0)) if i != 5}
    engine.write(store, target)
    assert len(engine.search(target, queries[:1], 100)[0]) == 59


#: A process that stops in the middle of writing, until it is told to go on.
WRITER = """
import sys
from pathlib import Path
from optical_rs import engines
from optical_rs.engines import common
from optical_rs.similarity import TokenStore

name, store, target = sys.argv[1:]
common.BATCH = 16
engine, whole = getattr(engines, name), common.batches

def slowly(store):
    for number, part in enumerate(whole(store)):
        yield part
        if number == 0:
            print("began", flush=True)
            sys.stdin.readline()

if __name__ == "__main__":
    engine.batches = slowly
    engine.write(TokenStore(store), Path(target))
"""


@contextlib.contextmanager
def another_process(engine, store, target):
    name = engine.__name__.rpartition(".")[2]
    command = [sys.executable, "-c", WRITER, name, str(store.path), str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "began\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kind", [edge, lance, plaid], ids=lambda make: make.__name__)
def test_two_processes_that_write_one_target(kind, store, queries, tmp_path):
    engine, target = kind(tmp_path)
    options = {"n_ivf_probe": 64} if engine is fast_plaid else {}
    with another_process(engine, store, target) as process:
        with pytest.raises(InputError, match=f"is being written by process {process.pid}"):
            engine.write(store, target)
        process.communicate("\n")
        assert process.returncode == 0
    assert exists(engine, target)
    assert not target.with_name(target.name + ".new").exists()
    assert len(engine.search(target, queries[:1], 1, **options)[0]) == 1


@pytest.mark.parametrize("kind", [edge, lance, plaid], ids=lambda make: make.__name__)
def test_what_a_killed_writer_leaves(kind, store, queries, tmp_path):
    engine, target = kind(tmp_path)
    options = {"n_ivf_probe": 64} if engine is fast_plaid else {}
    with another_process(engine, store, target) as process:
        process.kill()
        process.wait()
    with pytest.raises(InputError, match=r"target: (no Edge shard|there is no table|no index)"):
        engine.search(target, queries)
    engine.write(store, target)
    assert len(engine.search(target, queries[:1], 1, **options)[0]) == 1
    assert not target.with_name(target.name + ".new").exists()


@pytest.mark.parametrize("kind", [edge, plaid], ids=lambda make: make.__name__)
def test_what_was_made_meanwhile_is_left_alone(kind, store, tmp_path, monkeypatch):
    engine, target = kind(tmp_path)
    whole = common.batches

    def overtaken(store):
        yield from whole(store)
        target.mkdir()
        (target / "file").write_text("mine")

    monkeypatch.setattr(engine, "batches", overtaken)
    with pytest.raises(InputError, match=f"target: {target} cannot be written to"):
        engine.write(store, target)
    assert (target / "file").read_text() == "mine"
    assert [file.name for file in tmp_path.glob(f"{target.name}*")] == [target.name]


@pytest.mark.parametrize("kind", [lance, bucket], ids=lambda make: make.__name__)
def test_a_table_that_another_writer_made_meanwhile_stays(kind, store, tmp_path, monkeypatch):
    _, target = kind(tmp_path)
    import pyarrow as pa

    _, connection, name = lancedb._opened(target)
    whole = common.batches

    def overtaken(given):
        connection.create_table(name, data=pa.table({"id": ["theirs"]}))  # LanceDB itself knows no lock
        yield from whole(given)

    monkeypatch.setattr(lancedb, "batches", overtaken)
    with pytest.raises(InputError, match=r"target: .* cannot be used .*already exists"):
        lancedb.write(store, target)
    assert connection.open_table(name).to_arrow().to_pydict() == {"id": ["theirs"]}


@pytest.mark.parametrize("kind", [lance, bucket], ids=lambda make: make.__name__)
def test_what_another_writer_added_is_not_taken_back(kind, store, queries, tmp_path, monkeypatch):
    _, target = kind(tmp_path)
    first, other = make(tmp_path / "first", prefix="f"), make(tmp_path / "other", prefix="o", texts=10)
    lancedb.write(first, target)

    def overtaken(_):
        monkeypatch.undo()
        lancedb.write(other, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(lancedb, "gone", overtaken)  # our texts are in the table by then
    with pytest.raises(KeyboardInterrupt):
        lancedb.write(store, target)
    assert {"o1", "f1"} <= {hit.id for hit in lancedb.search(target, queries[:1], 200)[0]}
    # Without another writer the same table is what it was, also through a table that was opened before.
    table = lancedb._opened(target)[0]
    lancedb.write(make(tmp_path / "last", prefix="l", texts=10), target)
    before = lancedb.search(target, queries, 200)

    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(lancedb, "gone", stopped)
    for place in (table, target):
        with pytest.raises(KeyboardInterrupt):
            lancedb.write(make(tmp_path / f"new{place is table}", prefix="n", seed=5), place)
        assert lancedb.search(target, queries, 200) == before


def test_no_target(engine, queries, tmp_path):
    engine, target = engine
    with pytest.raises(InputError, match=r"target: (no Edge shard|there is no (table|collection))"):
        engine.search(target, queries)
    with pytest.raises(InputError, match=r"target: (no Edge shard|there is no (table|collection))"):
        engine.read(target, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ENGINES, ids=lambda make: make.__name__)
def test_pieces_count_for_their_documents(kind, tmp_path, queries):
    engine, target = kind(tmp_path)
    rng = np.random.default_rng(0)
    store = TokenStore.create(tmp_path / "s", DIM, {**IDENTITY, "window": 8, "overlap": 0})
    store.append([unit(rng, 4) for _ in range(60)], [f"d#{i // 12}#{i % 12}" for i in range(60)], ["t"] * 60)
    Fields(store.path).write((f"d#{i}", {"number": i}) for i in range(5))
    engine.write(store, target)
    options = {"n_ivf_probe": 64} if engine is fast_plaid else {}
    got = engine.search(target, queries[:1], 3, **options)[0]
    scores = maxsim(queries[:1], store)[0].reshape(5, 12).max(1)
    if engine is not fast_plaid:
        best = np.argsort(-scores)[:3]
        assert [(h.document, h.score) for h in got] == [
            (f"d#{i}", pytest.approx(scores[i], abs=1e-4)) for i in best
        ]
    assert len({hit.document for hit in got}) == 3
    assert all(hit.fields == {"number": int(hit.document[2:])} for hit in got)


@pytest.mark.parametrize("kind", [edge, client, server], ids=lambda make: make.__name__)
@pytest.mark.parametrize("method", [Muvera(4, 8, 16), Pooling(2)], ids=lambda m: type(m).__name__)
def test_qdrant_scores_candidates_exactly(kind, method, store, queries, tmp_path):
    if isinstance(method, Pooling):
        needs("scipy")
    _, target = kind(tmp_path)
    qdrant.write(store, target, first_stage=method)
    want = search(queries, store, 10)
    got = qdrant.search(target, queries, 10, candidates=59)
    assert [[hit.id for hit in hits] for hits in got] == [[name for name, _ in hits] for hits in want]
    few = qdrant.search(target, queries, 10, candidates=10, filters={"ok": True})
    exact = {name: score for hits in search(queries[:1], store, 60) for name, score in hits}
    assert all(hit.fields["ok"] and hit.score == pytest.approx(exact[hit.id], abs=1e-4) for hit in few[0])


def test_opened_targets_stay_open(store, queries, tmp_path):
    needs("qdrant_edge", "lancedb")
    import lancedb as library
    from qdrant_edge import EdgeShard

    qdrant.write(store, tmp_path / "shard")
    shard = EdgeShard.load(str(tmp_path / "shard"))
    for _ in range(2):
        assert qdrant.search(shard, queries, 1)[0][0].id == search(queries, store, 1)[0][0][0]
    with pytest.raises(InputError, match="is open elsewhere"):
        qdrant.search(tmp_path / "shard", queries)
    shard.close()
    connection = library.connect("memory://")
    lancedb.write(store, (connection, "texts"))
    table = connection.open_table("texts")
    assert lancedb.search(table, queries, 1)[0][0].id == search(queries, store, 1)[0][0][0]
    assert len(lancedb.read(table, tmp_path / "back")) == 59


def test_what_is_there_is_left_alone(store, tmp_path):
    needs("qdrant_edge", "qdrant_client", "lancedb")
    import lancedb as library
    import pyarrow as pa
    from qdrant_client import QdrantClient, models

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(InputError, match="something else than an Edge shard"):
        qdrant.write(store, tmp_path / "full")
    assert (tmp_path / "full" / "file").read_text() == "mine"
    (tmp_path / "x.new").mkdir()
    (tmp_path / "x.new" / "file").write_text("mine")
    with pytest.raises(InputError, match=r"x\.new was not made here, and is left alone"):
        qdrant.write(store, tmp_path / "x")
    assert [file.name for file in (tmp_path / "x.new").iterdir()] == ["file"]
    theirs = QdrantClient(":memory:")
    theirs.create_collection("t", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    table = library.connect(str(tmp_path / "db")).create_table("t", data=pa.table({"id": ["a"]}))
    for engine, target in ((qdrant, (theirs, "t")), (lancedb, tmp_path / "db" / "t")):
        for call in (engine.write, lambda s, t, e=engine: e.search(t, [np.ones((1, DIM))])):
            with pytest.raises(InputError, match="does not hold texts of optical_rs"):
                call(store, target)
    assert table.count_rows() == 1
    assert theirs.count("t").count == 0


class Answering(http.server.BaseHTTPRequestHandler):
    """What a server of Qdrant says to the first calls of a new collection."""

    protocol_version = "HTTP/1.1"

    def answer(self, result):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"exists": False})

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def listening(handler):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}/t"
        found.shutdown()


@pytest.mark.slow
def test_a_server_that_is_slow_and_then_goes_is_named(store):
    needs("qdrant_client")

    class Slow(Answering):
        def do_GET(self):
            time.sleep(5.5)  # longer than qdrant-client waits by itself
            self.answer({"exists": True})

        def do_POST(self):
            self.close_connection = True

    with (
        listening(Slow) as target,
        pytest.raises(InputError, match=r"cannot be used .Server disconn") as told,
    ):
        qdrant.write(store, target)
    assert f"target: {target} cannot" in str(told.value)


@pytest.mark.parametrize("kind", [edge, client, server], ids=lambda make: make.__name__)
def test_qdrant_takes_dates_of_one_form(kind, tmp_path, queries):
    _, target = kind(tmp_path)
    store = make(tmp_path / "s", texts=28, fields=lambda i: {"day": f"2024-05-{1 + i:02d}T10:00:00Z"})
    qdrant.write(store, target)
    for limit, days in (
        ("2024-05-20", range(20, 29)),
        ("2024-05-20T10:00:01", range(21, 29)),
        ("2024-05-20t10:00:00z", range(20, 29)),
        ("2024-05-20 10:00:00.5Z", range(21, 29)),
        ("2024-05-20T10:00:00.123456789+02:00", range(20, 29)),
    ):
        got = qdrant.search(target, queries[:1], 100, filters={"day": {"gte": limit}})[0]
        assert {hit.fields["day"][8:10] for hit in got} == {f"{day:02d}" for day in days}, limit
    for limit in (
        "20240520",
        "2024-W21-1",
        "2024-05",
        "2024-02-30",
        "0000-01-01",
        "2024-05-20T10",
        "2024-05-20T10:00Z",
        "2024-05-20T24:00:00Z",
        "2024-05-20T10:00:60Z",
        "2024-05-20T10:00:00+99:00",
        "2024-05-20\n",
    ):
        message = f"filters: 'day': .* or of dates such as \"2024-05-31\" .*, got {re.escape(repr(limit))}"
        with pytest.raises(InputError, match=message):
            qdrant.search(target, queries, filters={"day": {"gte": limit}})


def test_addresses_that_are_none(store, queries, tmp_path, monkeypatch):
    needs("qdrant_edge", "qdrant_client")
    monkeypatch.chdir(tmp_path)
    for target, message in (
        ("localhost:6333/texts", "; did you mean 'http://localhost:6333/texts'?"),
        ("127.0.0.1:6333", "; did you mean 'http://127.0.0.1:6333'?"),
        ("http://127.0.0.1:port/t", ""),
        ("http://127.0.0.1:99999/t", ""),
        ("http://:6333/t", ""),
        ("ftp://127.0.0.1:6333/t", ""),
    ):
        message = f"target: expected a folder, http://.*, got '{target}'{re.escape(message)}$"
        for call in (lambda t=target: qdrant.write(store, t), lambda t=target: qdrant.search(t, queries)):
            with pytest.raises(InputError, match=message):
                call()
    assert [file.name for file in tmp_path.iterdir() if not file.name.startswith("store")] == []


def test_why_writing_stopped_is_said_though_the_collection_cannot_be_deleted(store, monkeypatch):
    needs("qdrant_client")
    asked = []

    class Going(Answering):
        def do_PUT(self):
            self.answer(True)

        def do_DELETE(self):
            asked.append(self.path)
            self.close_connection = True

    def stopped(_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(qdrant, "batches", stopped)
    with listening(Going) as target, pytest.raises(KeyboardInterrupt):
        qdrant.write(store, target)
    assert len(asked) == 1


def test_requests_are_small_enough_for_a_server(tmp_path):
    needs("qdrant_client")
    sizes, names = [], []

    class Counting(Answering):
        def do_PUT(self):
            if "points" not in self.path:
                return self.answer(True)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.headers.replace_header("Content-Length", "0")
            sizes.append(len(body))
            names.extend(p["payload"].get("id") for p in json.loads(body)["points"])
            self.answer({"operation_id": 0, "status": "completed"})

    store = TokenStore.create(tmp_path / "s", DIM, IDENTITY)
    rng, texts = np.random.default_rng(0), [f"{i} " + 2_500_000 * "x" for i in range(20)]
    ids = [f"d{i}" for i in range(20)]
    store.append([unit(rng, 2) for _ in range(20)], ids, texts)
    Fields(store.path).write([("d3", {"words": 3_000_000 * "y"})])
    with listening(Counting) as target:
        qdrant.write(store, target)
    assert names == [*ids, None]
    assert max(sizes) < 32 << 20
    assert len(sizes) < 8


@pytest.mark.slow
def test_large_texts_go_to_a_server(tmp_path, queries):
    _, target = server(tmp_path)
    store = TokenStore.create(tmp_path / "s", DIM, IDENTITY)
    rng = np.random.default_rng(0)
    store.append([unit(rng, 3) for _ in range(16)], [f"d{i}" for i in range(16)], 16 * [1_250_000 * "ŵ"])
    qdrant.write(store, target)
    assert len(qdrant.search(target, queries[:1], 16)[0]) == 16


def test_servers_that_do_not_answer(store, queries):
    needs("qdrant_client", "lancedb")
    for call in (
        lambda: qdrant.write(store, "http://127.0.0.1:9/t"),
        lambda: qdrant.search("http://127.0.0.1:9/t", queries),
    ):
        with pytest.raises(InputError, match=r"target: http://127.0.0.1:9/t cannot be used \(.*refused"):
            call()
    with pytest.raises(InputError, match="target: expected a folder, http"):
        qdrant.search("http://127.0.0.1:9", queries)
    with pytest.raises(InputError, match="target: expected a folder, http"):
        qdrant.search(7, queries)
    with pytest.raises(InputError, match="target: expected 'folder/name'"):
        lancedb.search(7, queries)


@pytest.mark.parametrize(
    ("engine", "package", "target", "brings"),
    [
        (qdrant, "qdrant_edge", "shard", "'optical_rs[qdrant]'"),
        (qdrant, "qdrant_client", "http://127.0.0.1:9/t", "'optical_rs[qdrant]'"),
        (lancedb, "lancedb", "lance/t", "'optical_rs[lancedb]'"),
        (fast_plaid, "fast_plaid", "plaid", "fast_plaid"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)).rpartition(".")[2],
)
def test_an_engine_that_is_not_installed(engine, package, target, brings, store, tmp_path, monkeypatch):
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    target = target if "://" in target else tmp_path / target
    with pytest.raises(InputError, match=re.escape(f"is not installed: pip install {brings}")):
        engine.write(store, target)
    assert not list(tmp_path.glob("shard*")) + list(tmp_path.glob("lance*")) + list(tmp_path.glob("plaid*"))


def test_lancedb_takes_unit_tokens_and_one_kind(tmp_path, queries, monkeypatch):
    needs("lancedb")
    monkeypatch.setattr(common, "BATCH", 16)
    long = make(tmp_path / "long", prefix="l")
    long.append([np.ones((1, DIM))], ["last"])
    with pytest.raises(
        InputError, match="text 'last' has a token whose length differs from 1 by 3; LanceDB compares"
    ):
        lancedb.write(long, tmp_path / "db" / "t")
    mixed = make(tmp_path / "mixed", fields=lambda i: {"x": "a" if i % 2 else 1})
    with pytest.raises(
        InputError, match="field 'x' has numbers and text, but a column of LanceDB has one type"
    ):
        lancedb.write(mixed, tmp_path / "db" / "t")
    assert not list(tmp_path.glob("db/*"))
    lancedb.write(make(tmp_path / "one"), tmp_path / "db" / "t")
    more = make(tmp_path / "more", prefix="m", fields=lambda i: {"year": 1, "extra": "x"})
    with pytest.raises(
        InputError, match=r"the schema of .* differs: field 'extra' is text in the store, and none"
    ):
        lancedb.write(more, tmp_path / "db" / "t")
    with pytest.raises(InputError, match="text 'last' has a token"):
        lancedb.write(long, tmp_path / "db" / "t")
    assert len(lancedb.search(tmp_path / "db" / "t", queries[:1], 100)[0]) == 59


def test_lancedb_leaves_what_is_no_table_and_takes_the_place_of_what_is_half_one(tmp_path, queries):
    needs("lancedb")
    store, folder = make(tmp_path / "s"), tmp_path / "db" / "t.lance"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="something else than a table"):
        lancedb.write(store, tmp_path / "db" / "t")
    assert [file.read_text() for file in folder.iterdir()] == ["mine"]
    (folder / "mine.txt").unlink()
    (folder / "data").mkdir()
    (folder / "data" / "orphan.lance").write_text("of a writer that was killed")
    with pytest.raises(InputError, match=r"^index: "):
        lancedb.write(store, tmp_path / "db" / "t", index={"index_type": "IVF_PQ", "num_partitions": "x"})
    assert not folder.exists()
    lancedb.write(store, tmp_path / "db" / "t")
    assert not (folder / "data" / "orphan.lance").exists()
    assert len(lancedb.search(tmp_path / "db" / "t", queries[:1], 100)[0]) == 59


def test_lancedb_with_an_index(tmp_path, queries):
    needs("lancedb")
    store = make(tmp_path / "s", texts=400)
    target = tmp_path / "db" / "t"
    lancedb.write(store, target, index={"index_type": "IVF_FLAT", "num_partitions": 4})
    for name, message in (
        (
            "index_tipe",
            "index: create_index of LanceDB takes no 'index_tipe' here; did you mean 'index_type'?",
        ),
        ("metric", "index: create_index of LanceDB takes no 'metric' here"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            lancedb.write(store, tmp_path / "db" / "u", index={name: "IVF_PQ"})
    assert [file.name for file in (tmp_path / "db").iterdir()] == ["t.lance"]
    with pytest.raises(InputError, match="nprobes: expected at least 1, got -1"):
        lancedb.search(target, queries, 10, nprobes=-1)
    got = lancedb.search(target, queries, 10, nprobes=4, refine=10)
    want = search(queries, store, 10)
    assert [[hit.id for hit in hits] for hits in got] == [[name for name, _ in hits] for hits in want]


def test_bytes_and_half_precision_are_written_as_they_are_read(tmp_path, queries, engine):
    engine, target = engine
    store = make(tmp_path / "s", dtype="int8")
    engine.write(store, target)
    want = search(
        queries,
        [store[i] for i in range(60)],
        5,
        document_ids=store.ids,
        allow=[n for n in store.ids if n in store],
    )
    for got, hits in zip(engine.search(target, queries, 5), want, strict=True):
        # A token that is kept as bytes has not quite unit length, which a cosine does not see.
        assert [hit.score for hit in got] == pytest.approx([score for _, score in hits], abs=0.05)


def test_fast_plaid(tmp_path, queries):
    needs("fast_plaid")
    store = make(tmp_path / "s", texts=300)
    fast_plaid.write(store, tmp_path / "plaid")
    coarse = first_stage(fast_plaid, fast_plaid.opened(tmp_path / "plaid"))
    asked = [store[i] for i in range(10, 15)]
    found = search(asked, store, 1, coarse=coarse, candidates=50)
    assert [hits[0][0] for hits in found] == [store.ids[i] for i in range(10, 15)]
    hit = fast_plaid.search(tmp_path / "plaid", asked[:1])[0][0]
    assert (hit.id, hit.text, hit.fields) == ("d10", "text d10 ŵ", own_fields(10))
    with pytest.raises(InputError, match="no index of fast-plaid"):
        fast_plaid.search(tmp_path / "nothing", asked)
    with pytest.raises(InputError, match="exists already"):
        fast_plaid.write(store, tmp_path / "plaid")
    empty = TokenStore.create(tmp_path / "e", DIM)
    with pytest.raises(InputError, match="has no tokens"):
        fast_plaid.write(empty, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_engines_come_first(engine, store, queries):
    engine, target = engine
    engine.write(store, target)
    got = search(queries, store, 3, coarse=first_stage(engine, target), candidates=20)
    assert got == search(queries, store, 3)
