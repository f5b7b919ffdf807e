"""An exported model indexes and searches as the model in torch does, without torch."""

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.cli import run_command
from optical_rs.cli.export import main as export_main
from optical_rs.cli.index import main as index_main
from optical_rs.cli.search import main as search_main
from optical_rs.edge import Encoder
from optical_rs.edge.export import export
from optical_rs.edge.fields import Fields
from optical_rs.edge.index import coarse_of, document_of, index, update_first_stage
from optical_rs.edge.rerank import rerank
from optical_rs.edge.search import Index
from optical_rs.edge.shards import encode_here
from optical_rs.ranking import read_run
from optical_rs.similarity import Pooling, TokenStore, maxsim

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def test_nothing_of_torch_is_read(exported, tmp_path):
    code = f"""
import sys
from optical_rs.edge import Encoder
from optical_rs.edge.encoder import sealed
from optical_rs.edge.index import index
from optical_rs.edge.search import Index
encoder = Encoder({str(exported[0])!r})
store = index(encoder, {{"a": "the fire", "b": "the water"}}, {str(tmp_path / "s")!r})
print(Index(store.path, encoder).search_batch(["the fire"], 1)[0][0].document, "torch" in sys.modules, "transformers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["a", "False", "False"]


def test_search_is_maxsim_of_the_embeddings(exported, documents, tmp_path):
    encoder = Encoder(exported[0], precision="float32")
    store = index(encoder, documents, tmp_path / "s", dtype="float32")
    queries = list(documents.values())[:4]
    scores = maxsim(encoder.encode_query(queries), encoder.encode_document(list(documents.values())))
    for hits, row in zip(Index(store.path, encoder).search_batch(queries, 5), scores, strict=True):
        assert [h.score for h in hits] == pytest.approx(sorted(row, reverse=True)[:5], abs=1e-5)
        assert all(documents[h.document] == h.text for h in hits)
        assert document_of(store, hits[0].number) == hits[0].document


def test_an_index_is_the_same_by_each_of_its_names(exported, documents, tmp_path):
    rows = [(name, text, {"number": i}) for i, (name, text) in enumerate(documents.items())]
    (tmp_path / "disk").mkdir()
    shutil.copytree(exported[0], tmp_path / "disk" / "model")
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    store = index(Encoder(tmp_path / "data" / "model"), rows[:-1], tmp_path / "data" / "index")
    update_first_stage(store, Pooling(2))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "passages").symlink_to(tmp_path / "data" / "index")
    link = tmp_path / "here" / "passages"

    def found(path, **options):
        return [(hit.document, hit.fields) for hit in Index(path).search("the dog runs fast", 20, **options)]

    wanted = found(tmp_path / "disk" / "index")
    assert len(wanted) == len(rows) - 1
    for path in (link, tmp_path / "data" / "index", link / ".." / "index" / ""):
        assert found(path) == wanted
        assert found(path, filters={"number": {"gte": 2}}, lexical=True)
        assert Index(path)._coarse[0] is not None
    # What is added through the link has its fields and first stage beside the index, not beside the link.
    index(Encoder(exported[0]), rows, link)
    update_first_stage(TokenStore(link), None)
    assert [file.name for file in (tmp_path / "here").iterdir()] == ["passages"]
    assert (rows[-1][0], rows[-1][2]) in found(tmp_path / "disk" / "index")
    assert len(TokenStore(coarse_of(link))) == len(TokenStore(link))


def test_a_link_that_is_pointed_elsewhere_while_it_is_written_to(exported, documents, tmp_path):
    encoder = Encoder(exported[0])
    link = tmp_path / "link"
    other = index(encoder, [("other", "the fire", {"kind": "old"})], tmp_path / "other")
    before = {file: file.read_bytes() for file in tmp_path.rglob("other*/*")}
    link.symlink_to(tmp_path / "real")

    def encode(encoder, shards, dtype):
        for shard in encode_here(encoder, shards, dtype):
            link.unlink(missing_ok=True)
            link.symlink_to(other.path)
            yield shard

    rows = [(f"{name}-{i}", text, {"kind": "new"}) for i in range(30) for name, text in documents.items()]
    index(encoder, rows, link, encode=encode)
    assert len(TokenStore(tmp_path / "real")) == len(rows)
    assert set(Index(tmp_path / "real", encoder).search("the dog", 1)[0].fields) == {"kind"}
    assert {file: file.read_bytes() for file in tmp_path.rglob("other*/*")} == before


def test_what_lies_in_the_place_of_fields_is_left_alone(exported, documents, tmp_path):
    encoder = Encoder(exported[0])
    kept = index(encoder, [("a", "the fire", {"kind": "x"})], tmp_path / "kept")
    (tmp_path / "new.fields").symlink_to(tmp_path / "kept.fields")
    with pytest.raises(InputError, match=r"new\.fields is a symbolic link, and is left alone"):
        index(encoder, documents, tmp_path / "new")
    assert Index(kept.path, encoder).search("the fire", 1)[0].fields == {"kind": "x"}
    shutil.copytree(tmp_path / "kept.fields", tmp_path / "mine.fields")
    (tmp_path / "mine.fields" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="has files that are not of a store, and is left alone"):
        index(encoder, documents, tmp_path / "mine")
    assert TokenStore(tmp_path / "mine.fields").ids == ["a"]
    assert not (tmp_path / "mine").exists()
    assert not (tmp_path / "new").exists()


def test_an_index_that_is_read_only_is_searched(exported, documents, tmp_path, unprivileged):
    model = shutil.copytree(exported[0], tmp_path / "model")
    rows = [(name, text, {"number": i}) for i, (name, text) in enumerate(documents.items())]
    store = index(Encoder(model), rows, tmp_path / "s")
    update_first_stage(store, Pooling(2))

    def found():
        hits = Index(store.path, model).search(
            "the dog runs fast", 3, filters={"number": {"gte": 2}}, lexical=True
        )
        return [(hit.document, hit.score, hit.text, hit.fields) for hit in hits]

    wanted = found()
    for place in (model, store.path, coarse_of(store.path)):
        for file in place.iterdir():
            file.chmod(0o444)
        place.chmod(0o555)

    def work():
        assert found() == wanted
        with pytest.raises(InputError, match=r"cannot be written to|could not be written") as caught:
            index(Encoder(model), [*rows, ("new", "the fire", {})], store.path)
        assert "\n" not in str(caught.value)

    unprivileged(tmp_path, work)


def test_a_model_on_another_drive(exported, documents, tmp_path, monkeypatch):
    def relpath(path, start):
        raise ValueError(f"path is on mount 'C:', start on mount 'D:': {path}, {start}")

    with monkeypatch.context() as patch:
        patch.setattr("os.path.relpath", relpath)  # as on Windows
        index(Encoder(exported[0]), documents, tmp_path / "store")
    assert Index(tmp_path / "store").search("the dog", 1)


def test_an_interrupted_index_goes_on(exported, documents, tmp_path, monkeypatch):
    encoder = Encoder(exported[0])
    monkeypatch.setattr("optical_rs.edge.index.BATCH", 5)

    def stop(done, total, tokens):
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(encoder, documents, tmp_path / "s", progress=stop)
    assert len(TokenStore(tmp_path / "s")) == 5
    store = index(encoder, documents, tmp_path / "s")
    assert sorted(store.ids) == sorted(documents)
    assert len(index(encoder, documents, tmp_path / "s")) == len(documents), "nothing is added twice"


def test_an_index_survives_kills(exported, documents, tmp_path, kill_index):
    file = tmp_path / "documents.tsv"
    texts = list(documents.values())
    file.write_text("".join(f"d{i}\t{texts[i % 12]} {texts[i % 7]} {i}\n" for i in range(3000)))
    figures = kill_index.kills(exported[0], file, tmp_path, 4)
    assert figures["documents"] == 3000
    assert figures["that left new documents"] >= 1


def test_the_precision_of_an_index(exported, documents, tmp_path, capsys):
    file, out = tmp_path / "documents.tsv", tmp_path / "s"
    file.write_text("".join(f"{k}\t{v}\n" for k, v in documents.items()))
    arguments = ["--model", str(exported[0]), "--documents", str(file), "--output", str(out)]
    index_main([*arguments, "--precision", "auto"])
    said = capsys.readouterr().err
    assert "tokens/s (mean cosine" in said
    assert f"encoding: {len(documents)} documents of" in said
    chosen = TokenStore(out).metadata["encoder"]
    assert chosen in {Encoder(exported[0], precision=p).content for p in ("int8", "float32")}
    # Nothing depends on the pace of a machine unless it is asked for.
    index_main([*arguments[:-1], str(tmp_path / "new")])
    assert "fastest" not in capsys.readouterr().err
    assert TokenStore(tmp_path / "new").metadata["encoder"] == Encoder(exported[0], precision="int8").content
    # A store is continued in its own precision, and nothing is timed.
    for precision in ("int8", "float32"):
        index_main([*arguments[:-1], str(tmp_path / precision), "--precision", precision])
        capsys.readouterr()
        index_main([*arguments[:-1], str(tmp_path / precision)])
        said = capsys.readouterr().err
        assert "tokens/s" not in said, "nothing was encoded"
        wanted = Encoder(exported[0], precision=precision).content
        assert TokenStore(tmp_path / precision).metadata["encoder"] == wanted
    # One of an older version does not say its precision, which was int8; one of another model is refused at once.
    TokenStore.create(tmp_path / "old", Encoder(exported[0]).dim, {"model": "m", "overlap": 0}, dtype="int8")
    with pytest.warns(UserWarning, match="does not say which model made it"):
        index_main([*arguments[:-1], str(tmp_path / "old")])
    said = capsys.readouterr().err
    assert "in int8, adding to" in said
    assert "fastest" not in said
    TokenStore.create(tmp_path / "other", Encoder(exported[0]).dim, {"model": "m", "encoder": "e"})
    with pytest.raises(InputError, match="was made with another model"):
        index_main([*arguments[:-1], str(tmp_path / "other")])
    assert "fastest" not in capsys.readouterr().err
    with pytest.raises(InputError, match="threads: expected at least 1, got -1"):
        index_main([*arguments, "--threads", "-1"])


def test_documents_may_be_a_stream(exported, documents, tmp_path, monkeypatch):
    encoder = Encoder(exported[0])
    monkeypatch.setattr("optical_rs.edge.index.BATCH", 5)
    seen = []
    whole = index(encoder, documents, tmp_path / "a")
    store = index(encoder, iter(documents.items()), tmp_path / "b", progress=lambda *at: seen.append(at))
    assert (store.ids, list(store.contents)) == (whole.ids, list(whole.contents))
    assert all(np.array_equal(store[i], whole[i]) for i in range(len(store)))
    assert seen[-1] == (len(documents), 0, int(store.offsets[-1]))
    twice = [*documents.items(), next(iter(documents.items()))]
    for batch in (5, 100):
        monkeypatch.setattr("optical_rs.edge.index.BATCH", batch)
        with pytest.raises(InputError, match="documents: id 'd0' is repeated"):
            index(encoder, iter(twice), tmp_path / f"c{batch}")


def test_documents_that_changed_are_replaced(exported, documents, tmp_path):
    encoder = Encoder(exported[0])
    for options in ({}, {"window": 2}):
        folder = tmp_path / str(len(options))
        store = index(encoder, documents, folder, **options)
        texts = len(store)
        changed = {**documents, "d3": "the fire is big", "new": "rain"}
        store = index(encoder, changed, folder, **options)
        fresh = index(encoder, changed, tmp_path / f"fresh{len(options)}", **options)
        live = {store.ids[i]: i for i in range(len(store)) if not store.deleted[i]}
        assert live.keys() == set(fresh.ids)
        assert all(np.array_equal(store[i], fresh[fresh.index(name)]) for name, i in live.items())
        # What is the same is not encoded again.
        assert len(store) - texts == sum(name.startswith(("d3", "new")) for name in fresh.ids)
        assert Index(folder, encoder).search("the fire is big", 1)[0].text.split()[0] == "the"


def test_the_best_piece_counts(exported, tmp_path):
    encoder = Encoder(exported[0], precision="float32")
    long = " ".join(["the water is in the jar"] * 5 + ["fire fire fire"] + ["the house is big"] * 5)
    pieces = encoder.windows(long, 8, 3)
    words = long.split()
    assert [p.split() for p in pieces[:2]] == [words[:8], words[5:13]]
    assert pieces[-1].split()[-1] == "big"
    assert {w for p in pieces for w in p.split()} == set(words)
    assert encoder.windows("fire", 8, 3) == ["fire"]
    assert encoder.windows("", 8, 3) == [""]
    store = index(
        encoder,
        {"long": long, "short": "the dog runs fast"},
        tmp_path / "s",
        dtype="float32",
        window=8,
        overlap=3,
    )
    assert store.ids[:2] == ["long#0", "long#1"]
    hits = Index(store.path, encoder).search_batch(["fire fire fire"], 2)[0]
    assert [h.document for h in hits] == ["long", "short"]
    assert "fire" in hits[0].text
    best = maxsim(encoder.encode_query(["fire fire fire"]), encoder.encode_document(pieces)).max()
    assert hits[0].score == pytest.approx(best, abs=1e-5)
    for size, overlap, message in (
        (0, 0, "size: expected 1 to"),
        (99, 0, "size: expected 1 to"),
        (4, 4, "overlap"),
    ):
        with pytest.raises(InputError, match=message):
            encoder.windows(long, size, overlap)


def test_a_run_is_reranked(exported, documents, tmp_path, capsys):
    encoder = Encoder(exported[0], precision="float32")
    store = index(encoder, documents, tmp_path / "s", dtype="float32", window=4, overlap=1)
    queries = {"q1": documents["d3"], "q2": documents["d7"]}
    first = {"q1": {"d1": 3.0, "d3": 2.0, "d5": 1.0, "d9": 0.5}, "q2": [("d7", 1.0)]}
    found = rerank(Index(store.path, encoder), queries, first, depth=3)
    everything = Index(store.path, encoder).search_batch(list(queries.values()), len(documents))
    wanted = {hit.document: hit.score for hit in everything[0]}
    assert found["q1"] == sorted(
        ((d, pytest.approx(wanted[d], abs=1e-5)) for d in ("d1", "d3", "d5")), key=lambda h: -wanted[h[0]]
    )
    assert found["q1"][0][0] == "d3"
    for bad, message in (
        ({"q1": {"zz": 1.0}}, "document 'zz' of query 'q1' is not"),
        ({"q1": {"\udcff": 1.0, "d1": 2.0}}, "document '\udcff' of query"),  # a byte that is no UTF-8
        ({"q9": {}}, "no text for 'q9'"),
    ):
        with pytest.raises(InputError, match=message):
            rerank(Index(store.path, encoder), queries, bad)
    (tmp_path / "queries.tsv").write_text("".join(f"{k}\t{v}\n" for k, v in queries.items()))
    (tmp_path / "run").write_text("q1 Q0 d1 1 3 t\nq1 Q0 d3 2 2 t\n")
    arguments = [
        "--model",
        str(exported[0]),
        "--index",
        str(tmp_path / "s"),
        "--rerank",
        str(tmp_path / "run"),
    ]
    search_main([*arguments, "--queries", str(tmp_path / "queries.tsv"), "--output", str(tmp_path / "out")])
    assert list(read_run(tmp_path / "out")["q1"]) == ["d3", "d1"]
    with pytest.raises(InputError, match="--rerank: needs"):
        search_main(arguments)


def test_threads_with_and_without_windows_share_an_encoder(exported):
    encoder = Encoder(exported[0], precision="int8", threads=1)
    long = " ".join(["the fire is on the dog"] * 40)
    pieces, tokens, cost = encoder.windows(long, 8, 3), encoder.tokens(long, "document"), (0.0, 1.0)
    assert len(tokens) == encoder.max_tokens
    wrong = []

    def repeat(work, wanted):
        try:
            for _ in range(300):
                if work() != wanted:
                    wrong.append(wanted)
        except Exception as error:  # noqa: BLE001 (whatever a thread raises is a failure here)
            wrong.append(error)

    works = [
        (lambda: encoder.windows(long, 8, 3), pieces),
        (lambda: encoder.tokens(long, "document"), tokens),
        (lambda: encoder.vocabulary_cost([long]), cost),
    ]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=repeat, args=work) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_why_a_document_was_found(exported, documents, tmp_path):
    encoder = Encoder(exported[0], precision="float32")
    store = index(encoder, documents, tmp_path / "s", dtype="float32")
    hit = Index(store.path, encoder).search("the dog runs fast", 1, explain=True)[0]
    why = hit.explanation
    assert why.query == ["[CLS]", "query", ":", "the", "dog", "runs", "fast", "[SEP]"]
    assert len(why.document) == len(store[hit.number])
    assert why.similarity[np.arange(8), why.matches].sum() == pytest.approx(hit.score, abs=1e-5)
    np.testing.assert_allclose(why.plan.sum(axis=1), 1 / 8, atol=1e-3)
    assert len(why.lines()) == 8


def test_the_commands(exported, documents, tmp_path, capsys, monkeypatch):
    folder, file = str(exported[0]), tmp_path / "documents.tsv"
    file.write_text("".join(f"{k}\t{v}\n" for k, v in documents.items()))
    store = str(tmp_path / "store")
    index_main(["--model", folder, "--documents", str(file), "--out", store])
    assert f"{len(documents)} documents" in capsys.readouterr().out
    arguments = ["--model", folder, "--index", store, "--k", "3"]
    search_main([*arguments, "--queries", str(file), "--output", str(tmp_path / "run")])
    run = read_run(tmp_path / "run")
    assert list(run) == list(documents)
    assert all(len(hits) == 3 for hits in run.values())
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.StringIO("the dog runs fast\n\n"))
    search_main([*arguments, "--explain"])
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[0] == "1"
    assert any("dog" in line for line in out)
    monkeypatch.setattr(
        sys, "stdin", io.StringIO("dog\n\n  \ncat")
    )  # from a file, an empty line ends nothing
    search_main([*arguments, "--json"])
    assert [json.loads(line)["query"] for line in capsys.readouterr().out.splitlines()] == ["dog", "cat"]
    with pytest.raises(InputError, match=r"--output: no such folder: .*nowhere$"):
        search_main([*arguments, "--queries", str(file), "--output", str(tmp_path / "nowhere" / "run")])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    with pytest.raises(InputError, match="standard input: not valid UTF-8"):
        search_main(arguments)
    index_main(["--model", folder, "--documents", str(file), "--out", store, "--pool", "2"])
    assert "{'method': 'pooling', 'factor': 2}" in capsys.readouterr().out
    for extra in ([], ["--exact"]):
        search_main([*arguments, "--queries", str(file), "--output", str(tmp_path / "coarse"), *extra])
        assert [list(hits) for hits in read_run(tmp_path / "coarse").values()] == [
            list(h) for h in run.values()
        ]
    capsys.readouterr()
    # A store that was compacted has its first stage again.
    TokenStore(store).delete(list(documents)[:2])
    before = [(hit.document, hit.score) for hit in Index(store, folder).search("the dog", 3)]
    run_command_status(["inspect", store, "--compact"], 0)
    assert "making the first stage anew" in capsys.readouterr().err
    assert [(hit.document, hit.score) for hit in Index(store, folder).search("the dog", 3)] == before
    index_main(["--model", folder, "--documents", str(file), "--out", store])
    capsys.readouterr()
    run_command_status(["inspect", store, "--verify", "--json"], 0)
    assert json.loads(capsys.readouterr().out)["texts"] == len(documents)
    run_command_status(["inspect", store, "--convert", str(tmp_path / "half"), "--dtype", "float16"], 0)
    assert TokenStore(tmp_path / "half").dtype == "float16"


def run_command_status(arguments, status):
    from optical_rs.cli import _dispatch

    with pytest.raises(SystemExit) as stop:
        run_command(_dispatch, arguments)
    assert stop.value.code == status


def test_evaluation_without_torch(exported, collection_folder, tmp_path, capsys):
    from optical_rs.cli.evaluate import main

    arguments = [
        "--model",
        str(exported[0]),
        "--collection",
        str(collection_folder),
        "--output_dir",
        str(tmp_path),
    ]
    arguments += ["--runtime", "edge", "--precision", "float32"]
    # A student is not scored against its own documents in silence.
    with pytest.raises(
        InputError, match="teacher: expected --teacher, the exported model of the English side"
    ):
        main(arguments)
    main([*arguments, "--teacher", str(exported[0])])
    assert "12 queries, 12 documents" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["map"] > 0
    assert metrics["precision"] == {"query": "float32", "document": "float32"}


def test_bad_input(exported, documents, tmp_path):
    folder = exported[0]
    encoder = Encoder(folder)
    store = index(encoder, documents, tmp_path / "s")
    other = TokenStore.create(tmp_path / "other", 5)
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "edge.json").write_text(json.dumps({"format": "optical-edge", "version": 9}))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "edge.json").write_text("{")
    for call, message in (
        (lambda: Encoder(tmp_path), "is no exported model"),
        (lambda: Encoder(newer), "format version 9, this program reads 1 and 2"),
        (lambda: Encoder(broken), "is damaged"),
        (lambda: Encoder(folder, precision="int4"), "precision: .* has no 'int4'"),
        (lambda: encoder.encode(["x"], "qery"), "role: expected"),
        (lambda: encoder.encode([3], "query"), "texts: expected strings, got int at 0"),
        (
            lambda: Index(store.path, encoder).search_batch(["a", " "]),
            "queries: expected text, got nothing at 1",
        ),
        (lambda: Index(store.path, encoder).search(3), "queries: expected strings, got int at 0"),
        (lambda: Index(store.path, encoder).search_batch("ab"), "queries: expected a list of strings"),
        (
            lambda: Index(store.path, encoder).search("\udcff"),
            "queries: expected Unicode text, got surrogates",
        ),
        (lambda: Index(store.path, encoder).search("a", "3"), "k: expected an integer, got '3'"),
        (
            lambda: Index(store.path, encoder).search("a", 2.5, lexical=True),
            "k: expected an integer, got 2.5",
        ),
        (
            lambda: Index(store.path, encoder).search("a", candidates=0),
            "candidates: expected at least 1, got 0",
        ),
        (lambda: encoder.encode(["\udcff"], "query"), "texts: expected Unicode text, got surrogates"),
        (lambda: index(encoder, documents, tmp_path / "x", window=0), "size: expected 1 to"),
        (lambda: index(encoder, documents, tmp_path / "x", window=2, overlap=2), "overlap: expected 0 to 1"),
        (
            lambda: index(encoder, documents, tmp_path / "x", overlap=2),
            "overlap: is of documents that are cut",
        ),
        (lambda: index(encoder, documents, store.path, dtype="float32"), "with dtype int8, got float32"),
        (lambda: Index(other.path, encoder), "store: has dimension 5, but the model has 8"),
        (lambda: Index(store.path, encoder).search_batch(["a"], 0), "k: expected at least 1"),
        (lambda: export(folder, folder), "output: .* is not empty"),
        (lambda: export(folder, tmp_path / "x", precisions=["int4"]), "unknown precision 'int4'"),
        (lambda: export_main(["--model", str(tmp_path), "--out", str(tmp_path / "x")]), "holds no model"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert not (tmp_path / "x").exists()
    # Nothing but unknown symbols is text like any other.
    assert len(Index(store.path, encoder).search_batch(["☃☃☃"], 2)[0]) == 2
    assert Index(store.path, encoder).search_batch([]) == []
    assert Index(TokenStore.create(tmp_path / "empty", 8).path, encoder).search_batch(["a"]) == [[]]


def test_an_index_in_the_folder_that_one_is_in(exported, documents, tmp_path, monkeypatch):
    model = shutil.copytree(exported[0], tmp_path / "model")
    (tmp_path / "s").mkdir()
    monkeypatch.chdir(tmp_path / "s")
    store = index(Encoder(model), [(name, text, {"year": 1}) for name, text in documents.items()], ".")
    update_first_stage(store, Pooling(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "s", "s.coarse", "s.fields"]
    for place in (".", tmp_path / "s", "../s/../s/.", tmp_path / "s" / "x" / ".."):
        hits = Index(place).search("the dog runs fast", 3, filters={"year": 1})
        assert [hit.fields for hit in hits] == [{"year": 1}] * 3


def test_an_index_that_grows_while_it_is_opened(exported, documents, tmp_path, monkeypatch):
    encoder = Encoder(exported[0])
    store = index(encoder, documents, tmp_path / "s")
    update_first_stage(store, Pooling(2))

    def grow(encoder, store):
        index(encoder, {"new": "the fire"}, store.path)
        update_first_stage(TokenStore(store.path), None)

    with monkeypatch.context() as patch:
        patch.setattr("optical_rs.edge.search.expect_fitting", grow)
        opened = Index(store.path, encoder)
    assert len(opened) == len(documents)
    assert opened.search("the fire", 2)[0].document != "new"
    assert len(Index(store.path, encoder).search("the fire", 20)) == len(documents) + 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("", "the fire"), "documents: expected an id, got ''"),
        (("\ud800", "the fire"), r"documents: '\\ud800': expected Unicode text"),
        (("b", "\ud800"), "documents: 'b': expected Unicode text"),
        (("b", None), r"documents: expected \(id, text\) or \(id, text, fields\), got \('b', None\)"),
        ((3, "the fire"), r"documents: expected .* got \(3, 'the fire'\)"),
        (("b", "the fire", None), "documents: expected"),
        (("b",), "documents: expected"),
        ("ab", "documents: expected .* got ab"),
        (("b", "the fire", {"year": float("nan")}), "documents: 'b', field 'year': expected text, a number"),
    ],
)
def test_what_is_no_document_changes_nothing(exported, tmp_path, row, message):
    encoder = Encoder(exported[0])
    store = index(encoder, [("a", "the dog runs fast", {"year": 1})], tmp_path / "s")
    with pytest.raises(InputError, match=message):
        index(encoder, [("a", "the sun shines today", {"year": 2}), row], store.path)
    found = TokenStore(store.path)
    assert [found.contents[i] for i in np.flatnonzero(~found.deleted)] == ["the dog runs fast"]
    assert Fields(store.path).of("a") == {"year": 1}


def test_a_document_that_cannot_be_replaced_stays(exported, tmp_path, monkeypatch):
    encoder = Encoder(exported[0])
    rows = [("a", "the dog runs fast", {"year": 1}), ("b", "the fire")]
    store = index(encoder, rows, tmp_path / "s")
    real, left = os.fsync, [0]

    def fsync(file):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    new = [("a", "the sun shines today", {"year": 2}), ("b", "the water")]
    for moment in range(40):
        left[0] = moment
        with contextlib.suppress(InputError):
            index(encoder, new, store.path)
        found = Index(store.path, encoder)
        said = {found.text(i) for i in found.live().tolist()}
        assert said in ({text for _, text, *_ in rows}, {text for _, text, *_ in new}), moment
        assert Fields(store.path).of("a")["year"] in (1, 2)
    assert said == {text for _, text, *_ in new}, "there were enough moments"


def test_what_is_in_the_place_of_a_coarse_store_is_left_alone(exported, documents, tmp_path, monkeypatch):
    encoder = Encoder(exported[0])
    store = index(encoder, documents, tmp_path / "s")
    coarse = tmp_path / "s.coarse"
    coarse.mkdir()
    (coarse / "thesis.txt").write_text("mine")
    (tmp_path / "file.tsv").write_text("new\tthe fire\n")
    arguments = [
        "--model",
        str(exported[0]),
        "--documents",
        str(tmp_path / "file.tsv"),
        "--out",
        str(store.path),
    ]
    for options in ([], ["--pool", "2"]):
        with pytest.raises(InputError, match="is no coarse store, and is left alone"):
            index_main([*arguments, *options])
    assert len(TokenStore(store.path)) == len(documents), "refused before anything was encoded"
    (coarse / "thesis.txt").unlink()
    coarse.rmdir()
    TokenStore.create(coarse, 8)
    with pytest.raises(InputError, match="is no coarse store"):
        update_first_stage(store, Pooling(2))
    shutil.rmtree(coarse)
    (tmp_path / "elsewhere").mkdir()
    coarse.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is no coarse store"):
        update_first_stage(store, Pooling(2))
    coarse.unlink()
    with pytest.raises(InputError, match="name a method"):
        update_first_stage(store, None)
    update_first_stage(store, Pooling(2))
    (coarse / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is no coarse store"):
        update_first_stage(store, Pooling(3))
    assert (coarse / "notes.txt").read_text() == "mine"
    (coarse / "notes.txt").unlink()
    assert update_first_stage(store, Pooling(3)).metadata["coarse"] == {"method": "pooling", "factor": 3}
    index_main(arguments)
    assert len(TokenStore(coarse)) == len(documents) + 1, "made of what was added"
    assert not (tmp_path / "s.coarse.new").exists()
    # Killed after the old one was removed: the next call puts the new one in its place, though it does not name it.
    coarse.rename(tmp_path / "s.coarse.new")
    index_main(arguments)
    assert len(TokenStore(coarse)) == len(documents) + 1
    store = TokenStore(store.path)
    store.delete(["new"])
    store.compact()
    assert len(update_first_stage(store, None)) == len(documents), "made again"
    index_main([*arguments, "--first_stage", "mean"])
    assert TokenStore(coarse).metadata["coarse"] == {"method": "mean"}
    assert TokenStore(coarse).offsets.tolist() == list(range(len(documents) + 2))  # "new" came again
    index_main([*arguments, "--first_stage", "none"])
    assert not coarse_of(store.path).exists()
    index_main(arguments)
    assert not coarse_of(store.path).exists(), "a small store needs none"
    tokens = TokenStore(store.path).inspect()["tokens"]
    monkeypatch.setattr("optical_rs.edge.index.LARGE", tokens + 1)
    index_main(arguments)
    assert not coarse_of(store.path).exists()
    monkeypatch.setattr("optical_rs.edge.index.LARGE", tokens)
    index_main(arguments)
    assert TokenStore(coarse).metadata["coarse"] == {"method": "mean"}
    index_main([*arguments, "--pool", "2"])
    index_main(arguments)
    assert TokenStore(coarse).metadata["coarse"]["method"] == "pooling", "what was asked for stays"
    with pytest.raises(InputError, match="--pool: is of the first stage pooling, got none"):
        index_main([*arguments, "--first_stage", "none", "--pool", "3"])
