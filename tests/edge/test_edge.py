"""An exported model encodes, indexes and searches as the model in torch does, without torch."""

import copy
import io
import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.cli import run_command
from optical_rs.cli.export import main as export_main
from optical_rs.cli.index import main as index_main
from optical_rs.cli.search import main as search_main
from optical_rs.edge import Encoder
from optical_rs.edge.encoder import sealed
from optical_rs.edge.export import export
from optical_rs.edge.index import document_of, index, make_coarse
from optical_rs.edge.search import explain, rerank, search_texts
from optical_rs.fingerprint import of_model
from optical_rs.models import RECORD
from optical_rs.ranking import read_run
from optical_rs.similarity import TokenStore, maxsim

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

TEXTS = ["moto uli pa moto", "the child reads a book", "fire", "unknown words here", "the"]


@pytest.fixture(scope="session")
def exported(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge") / "model"
    config = export(teacher, folder, precisions=["float32", "int8"])
    return folder, config


def changed(folder, out, **fields):
    """A copy of an exported model whose edge.json says something else; what is LEFT_OUT it does not say."""
    shutil.copytree(folder, out)
    config = {**json.loads((out / "edge.json").read_text()), **fields}
    config = {key: value for key, value in config.items() if value is not LEFT_OUT}
    (out / "edge.json").write_text(json.dumps(sealed(config)))
    return out


LEFT_OUT = object()


@pytest.fixture(scope="session")
def documents(pairs):
    return {f"d{i}": english for i, (_, english) in enumerate(pairs)}


def test_the_same_embeddings(teacher, exported):
    folder, config = exported
    assert config["agreement"]["float32"]["smallest"] > 0.99999
    encoder = Encoder(folder, precision="float32")
    assert (encoder.dim, encoder.prompts) == (8, {"query": "query : ", "document": "passage : "})
    for role, theirs in (("query", teacher.encode_query), ("document", teacher.encode_document)):
        for x, y in zip(encoder.encode(TEXTS, role), theirs(TEXTS, convert_to_numpy=True), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)
    assert [len(x) for x in Encoder(folder).encode_query(TEXTS)] == [
        len(x) for x in encoder.encode_query(TEXTS)
    ]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_text_has_the_same_bits_in_any_company(exported, documents, monkeypatch, precision):
    encoder = Encoder(exported[0], precision=precision)
    texts = [*TEXTS, *documents.values(), "fire " * 30]
    together = encoder.encode_query(texts)
    for text, wanted in zip(texts, together, strict=True):
        assert np.array_equal(encoder.encode_query([text])[0], wanted)
    for order in (np.arange(len(texts))[::-1], np.random.default_rng(0).permutation(len(texts))):
        for i, found in zip(order, encoder.encode_query([texts[i] for i in order]), strict=True):
            assert np.array_equal(found, together[i])
    for found, wanted in zip(encoder.encode_query(texts * 7), together * 7, strict=True):
        assert np.array_equal(found, wanted)
    monkeypatch.setattr("optical_rs.edge.encoder.TOKENS_PER_BATCH", 1)
    for x, y in zip(encoder.encode_query(texts), together, strict=True):
        assert np.array_equal(x, y)
    seen = []
    encoder.encode(TEXTS, "query", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
    assert encoder.encode_query([]) == []
    for threads in (1, 2, 3):
        alone = Encoder(exported[0], precision=precision, threads=threads).encode_query(texts)
        assert all(np.array_equal(x, y) for x, y in zip(alone, together, strict=True))


def test_bytes_are_close_to_the_model(exported):
    assert exported[1]["agreement"]["int8"]["mean"] > 0.999
    assert exported[1]["agreement"]["int8"]["smallest"] > 0.995


def test_one_call_of_index_is_two(exported, documents, tmp_path):
    encoder = Encoder(exported[0])
    one = index(encoder, documents, tmp_path / "one")
    index(encoder, dict(list(documents.items())[::2]), tmp_path / "two")
    two = index(encoder, documents, tmp_path / "two")
    for i, name in enumerate(one.ids):
        assert np.array_equal(one[i], two[two.index(name)])


def test_a_student_and_an_index_of_other_teachers_are_told_apart(
    exported, teacher, documents, tmp_path, collection_folder
):
    from optical_rs.data import load_collection
    from optical_rs.retrieval import evaluate_student

    folder, config = exported
    assert config["fingerprint"] == of_model(teacher)
    assert config["teacher_fingerprint"] is None
    # A student is the teacher with other weights and a record.
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student[1].linear.weight.mul_(1.5)
    student.save_pretrained(str(tmp_path / "student"))
    record = {"teacher": "../teacher", "teacher_fingerprint": of_model(teacher), "side": "query"}
    (tmp_path / "student" / RECORD).write_text(json.dumps(record))
    said = export(tmp_path / "student", tmp_path / "exported")
    assert said["teacher_fingerprint"] == config["fingerprint"] != said["fingerprint"]
    student = Encoder(tmp_path / "exported")
    store = index(Encoder(folder), documents, tmp_path / "s")
    assert store.metadata["fingerprint"] == config["fingerprint"]
    other = changed(folder, tmp_path / "other", fingerprint="0" * 64)
    strange = index(Encoder(other), documents, tmp_path / "strange")
    sibling = changed(
        folder, tmp_path / "sibling", fingerprint="1" * 64, teacher_fingerprint=config["fingerprint"]
    )
    query, run = next(iter(documents.values())), {"q": {"d1": 1.0}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for encoder in (student, Encoder(folder), Encoder(sibling)):
            assert search_texts(encoder, store, [query], 1)[0]
        assert search_texts(student, index(Encoder(sibling), documents, tmp_path / "s3"), [query], 1)[0]
    for call in (
        lambda: search_texts(student, strange, [query]),
        lambda: rerank(student, strange, {"q": query}, run),
    ):
        with pytest.raises(
            InputError, match=r"store: .* is of another teacher: the embeddings cannot be compared"
        ):
            call()
    collection = load_collection(str(collection_folder))
    with pytest.raises(InputError, match=r"teacher: .* is of another teacher"):
        evaluate_student(Encoder(tmp_path / "exported"), collection, teacher=Encoder(other))
    teacher.save_pretrained(str(tmp_path / "teacher"))
    assert evaluate_student(tmp_path / "student", collection, teacher=tmp_path / "teacher").run
    (tmp_path / "student" / RECORD).write_text(json.dumps({**record, "teacher_fingerprint": "0" * 64}))
    with pytest.raises(InputError, match=r"teacher: .* is of another teacher"):
        evaluate_student(tmp_path / "student", collection, teacher=tmp_path / "teacher")
    # Files of before are accepted, and a note says that nothing was compared.
    old = changed(folder, tmp_path / "old", fingerprint=LEFT_OUT, teacher_fingerprint=LEFT_OUT)
    with pytest.warns(UserWarning, match="cannot be checked to have the same teacher"):
        assert search_texts(Encoder(old), store, [query], 1)[0]


def test_a_student_without_a_record_is_given_its_teacher(teacher, exported, tmp_path):
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student[1].linear.weight.mul_(0.5)
    assert export(student, tmp_path / "a", teacher=teacher)["teacher_fingerprint"] == of_model(teacher)


def test_an_index_knows_its_model_by_content(exported, documents, tmp_path):
    folder = exported[0]
    store = index(Encoder(folder), dict(list(documents.items())[:3]), tmp_path / "s")
    shutil.copytree(folder, tmp_path / "moved")
    assert len(index(Encoder(tmp_path / "moved"), documents, tmp_path / "s")) == len(documents)
    for other, options in (
        (folder, {"precision": "float32"}),
        (changed(folder, tmp_path / "prompts", prompts={"query": "", "document": ""}), {}),
    ):
        with pytest.raises(InputError, match="was made with another model"):
            index(Encoder(other, **options), documents, tmp_path / "s")
    with pytest.raises(InputError, match="was made with window None, got 4"):
        index(Encoder(folder), documents, tmp_path / "s", window=4)
    before = TokenStore.create(tmp_path / "before", store.dim, {"model": "m", "window": None, "overlap": 0})
    with pytest.warns(UserWarning, match="does not say which model made it"):
        index(Encoder(folder), documents, before.path)


def opened(folder):
    """A model in both of its precisions."""
    return [Encoder(folder, precision=precision) for precision in ("int8", "float32")]


def test_every_damaged_byte_of_a_model_is_noticed(exported, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(exported[0], folder)
    for file in sorted(folder.iterdir()):
        good = file.read_bytes()
        for at in range(0, len(good), len(good) // 12):
            file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(
                InputError, match=r"damaged|does not describe|no exported model|format version"
            ):
                opened(folder)
        file.unlink()
        with pytest.raises(InputError, match=r"has no"):
            opened(folder)
        file.write_bytes(good)
    Encoder(folder)


def test_models_of_the_first_version_are_read(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    folder = changed(exported[0], tmp_path / "model", version=1, precisions=["float32"], files=LEFT_OUT)
    (folder / "tokenizer.json").write_text((exported[0] / "tokenizer.json").read_text())
    number = onnx.TensorProto
    shapes = {"input_ids": ["batch", "tokens"], "attention_mask": ["batch", "tokens"]}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Gather", ["words", "input_ids"], ["found"]),
            onnx.helper.make_node("Cast", ["attention_mask"], ["mask"], to=number.FLOAT),
            onnx.helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
            onnx.helper.make_node("Mul", ["found", "column"], ["token_embeddings"]),
        ],
        "old",
        [onnx.helper.make_tensor_value_info(name, number.INT64, shape) for name, shape in shapes.items()],
        [onnx.helper.make_tensor_value_info("token_embeddings", number.FLOAT, ["batch", "tokens", 8])],
        [
            onnx.numpy_helper.from_array(
                np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32), "words"
            ),
            onnx.numpy_helper.from_array(np.array([-1]), "last"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    encoder = Encoder(folder)
    assert [len(x) for x in encoder.encode_query(TEXTS)] == [len(encoder.tokens(t, "query")) for t in TEXTS]
    assert np.abs(encoder.encode_query(TEXTS)[0]).min() > 0
    assert encoder.content == Encoder(folder).content
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer.json"):
        Encoder(folder)


def test_long_text_is_cut(exported):
    encoder = Encoder(exported[0])
    assert encoder.max_tokens == 32
    assert len(encoder.encode_document(["fire " * 500])[0]) == 32


def test_nothing_of_torch_is_read(exported, tmp_path):
    code = f"""
import sys
from optical_rs.edge import Encoder
from optical_rs.edge.encoder import sealed
from optical_rs.edge.index import index
from optical_rs.edge.search import search_texts
encoder = Encoder({str(exported[0])!r})
store = index(encoder, {{"a": "the fire", "b": "the water"}}, {str(tmp_path / "s")!r})
print(search_texts(encoder, store, ["the fire"], 1)[0][0].document, "torch" in sys.modules, "transformers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["a", "False", "False"]


def test_search_is_maxsim_of_the_embeddings(exported, documents, tmp_path):
    encoder = Encoder(exported[0], precision="float32")
    store = index(encoder, documents, tmp_path / "s", dtype="float32")
    queries = list(documents.values())[:4]
    scores = maxsim(encoder.encode_query(queries), encoder.encode_document(list(documents.values())))
    for hits, row in zip(search_texts(encoder, store, queries, 5), scores, strict=True):
        assert [h.score for h in hits] == pytest.approx(sorted(row, reverse=True)[:5], abs=1e-5)
        assert all(documents[h.document] == h.text for h in hits)
        assert document_of(store, hits[0].number) == hits[0].document


def test_an_interrupted_index_goes_on(exported, documents, tmp_path, monkeypatch):
    encoder = Encoder(exported[0])
    monkeypatch.setattr("optical_rs.edge.index.BATCH", 5)

    def stop(done, total):
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(encoder, documents, tmp_path / "s", progress=stop)
    assert len(TokenStore(tmp_path / "s")) == 5
    store = index(encoder, documents, tmp_path / "s")
    assert sorted(store.ids) == sorted(documents)
    assert len(index(encoder, documents, tmp_path / "s")) == len(documents), "nothing is added twice"


def test_documents_may_be_a_stream(exported, documents, tmp_path, monkeypatch):
    encoder = Encoder(exported[0])
    monkeypatch.setattr("optical_rs.edge.index.BATCH", 5)
    seen = []
    whole = index(encoder, documents, tmp_path / "a")
    store = index(encoder, iter(documents.items()), tmp_path / "b", progress=lambda *at: seen.append(at))
    assert (store.ids, list(store.contents)) == (whole.ids, list(whole.contents))
    assert all(np.array_equal(store[i], whole[i]) for i in range(len(store)))
    assert seen[-1] == (len(documents), 0)
    twice = [*documents.items(), next(iter(documents.items()))]
    with pytest.raises(InputError, match=r"ids: .* is in the store already"):
        index(encoder, iter(twice), tmp_path / "c")


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
    hits = search_texts(encoder, store, ["fire fire fire"], 2)[0]
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
    found = rerank(encoder, store, queries, first, depth=3)
    everything = search_texts(encoder, store, list(queries.values()), len(documents))
    wanted = {hit.document: hit.score for hit in everything[0]}
    assert found["q1"] == sorted(
        ((d, pytest.approx(wanted[d], abs=1e-5)) for d in ("d1", "d3", "d5")), key=lambda h: -wanted[h[0]]
    )
    assert found["q1"][0][0] == "d3"
    for bad, message in (
        ({"q1": {"zz": 1.0}}, "document 'zz' of query 'q1' is not"),
        ({"q9": {}}, "no text for 'q9'"),
    ):
        with pytest.raises(InputError, match=message):
            rerank(encoder, store, queries, bad)
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


def test_why_a_document_was_found(exported, documents, tmp_path):
    encoder = Encoder(exported[0], precision="float32")
    store = index(encoder, documents, tmp_path / "s", dtype="float32")
    hit = search_texts(encoder, store, ["the dog runs fast"], 1)[0][0]
    why = explain(encoder, store, "the dog runs fast", hit)
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
    index_main(["--model", folder, "--documents", str(file), "--out", store, "--pool", "2"])
    assert "a token in 2" in capsys.readouterr().out
    for extra in ([], ["--exact"]):
        search_main([*arguments, "--queries", str(file), "--output", str(tmp_path / "coarse"), *extra])
        assert [list(hits) for hits in read_run(tmp_path / "coarse").values()] == [
            list(h) for h in run.values()
        ]
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
    assert json.loads((tmp_path / "metrics.json").read_text())["map"] > 0


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
        (lambda: search_texts(encoder, store, ["a", " "]), "queries: expected text, got nothing at 1"),
        (lambda: search_texts(encoder, other, ["a"]), "store: has dimension 5, but the model has 8"),
        (lambda: search_texts(encoder, store, ["a"], 0), "k: expected at least 1"),
        (lambda: export(folder, folder), "out: .* is not empty"),
        (lambda: export(folder, tmp_path / "x", precisions=["int4"]), "unknown precision 'int4'"),
        (lambda: export_main(["--model", str(tmp_path), "--out", str(tmp_path / "x")]), "holds no model"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    # Nothing but unknown symbols is text like any other.
    assert len(search_texts(encoder, store, ["☃☃☃"], 2)[0]) == 2
    assert search_texts(encoder, store, []) == []
    assert search_texts(encoder, TokenStore.create(tmp_path / "empty", 8), ["a"]) == [[]]


def test_what_is_in_the_place_of_a_coarse_store_is_left_alone(exported, documents, tmp_path):
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
    with pytest.raises(InputError, match="is no token store"):
        make_coarse(store, 2)
    coarse.rmdir()
    TokenStore.create(coarse, 8)
    with pytest.raises(InputError, match="is no coarse store"):
        make_coarse(store, 2)
    shutil.rmtree(coarse)
    (tmp_path / "elsewhere").mkdir()
    coarse.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is no coarse store"):
        make_coarse(store, 2)
    coarse.unlink()
    make_coarse(store, 2)
    (coarse / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is no coarse store"):
        make_coarse(store, 3)
    assert (coarse / "notes.txt").read_text() == "mine"
    (coarse / "notes.txt").unlink()
    assert make_coarse(store, 3).metadata["pool"] == 3
    index_main(arguments)
    assert TokenStore(coarse).metadata["of"] == TokenStore(store.path).fingerprint, (
        "made again with what was added"
    )
    assert not (tmp_path / "s.coarse.new").exists()


@pytest.fixture(scope="module")
def pieces_model(pairs, tmp_path_factory):
    """A late-interaction model whose tokenizer can be trimmed: WordPiece over the words and their characters."""
    transformers = pytest.importorskip("transformers")
    from optical_rs.models import late_interaction
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({w for pair in pairs for text in pair for w in text.split()})
    letters = sorted({c for w in words for c in w})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = dict.fromkeys([*special, *letters, *(f"##{c}" for c in letters), *words])
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder = tmp_path_factory.mktemp("pieces")
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, mask_token="[MASK]", model_max_length=64, **named
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return late_interaction(str(folder), 8, fit_on=[e for _, e in pairs] * 2, device="cpu")


def test_texts_outside_the_vocabulary_are_told(pieces_model, pairs, tmp_path):
    english = [e for _, e in pairs]
    covered, outside = {"a": english[0], "b": english[1]}, {f"c{i}": f for i, (f, _) in enumerate(pairs)}
    with pytest.warns(UserWarning, match=r"vocabulary: new texts like these take \d\.\d × the tokens"):
        config = export(pieces_model, tmp_path / "model", vocabulary=english)
    assert config["vocabulary_cost"] > 1.1
    encoder = Encoder(tmp_path / "model")
    assert encoder.vocabulary_cost(english) == (0.0, 1.0)
    share, cost = encoder.vocabulary_cost(list(outside.values()))
    assert share > 0.8
    assert cost > 2
    assert len(encoder.encode_document(["the fire"])[0]) == 4, "measuring changes nothing"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index(encoder, covered, tmp_path / "s")
        whole = export(pieces_model, tmp_path / "whole")
    with pytest.warns(UserWarning, match=r"vocabulary: 92% of documents lie outside .* \d\.\d × the tokens"):
        index(encoder, outside, tmp_path / "s")
    assert "vocabulary_cost" not in whole
    assert Encoder(tmp_path / "whole").vocabulary_cost(list(outside.values())) == (0.0, 1.0)
    # Most texts alike: a vocabulary that serves new ones is not complained of.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert export(pieces_model, tmp_path / "served", vocabulary=english * 20)["vocabulary_cost"] <= 1.1


def test_the_command_writes_what_it_is_documented_to(pieces_model, pairs, tmp_path):
    pieces_model.save_pretrained(str(tmp_path / "checkpoint"))
    (tmp_path / "texts").write_text("\n".join(text for pair in pairs * 20 for text in pair))
    export_main(
        [
            "--model",
            str(tmp_path / "checkpoint"),
            "--out",
            str(tmp_path / "x"),
            "--vocabulary",
            str(tmp_path / "texts"),
        ]
    )
    assert sorted(f.name for f in (tmp_path / "x").iterdir()) == [
        "edge.json",
        "model.int8.onnx",
        "tokenizer.json",
        "untrimmed.json.xz",
    ]
