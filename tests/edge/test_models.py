"""Exported models: the same bits in any company, whose they are, and that they are whole."""

import copy
import json
import shutil
import warnings

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.cli.export import main as export_main
from optical_rs.edge import Encoder
from optical_rs.edge.encoder import sealed
from optical_rs.edge.export import export
from optical_rs.edge.index import index
from optical_rs.edge.rerank import rerank
from optical_rs.edge.search import Index
from optical_rs.fingerprint import of_model
from optical_rs.models import RECORD
from optical_rs.similarity import TokenStore

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


TEXTS = ["moto uli pa moto", "the child reads a book", "fire", "unknown words here", "the"]


def changed(folder, out, **fields):
    """A copy of an exported model whose edge.json says something else; what is LEFT_OUT it does not say."""
    shutil.copytree(folder, out)
    config = {**json.loads((out / "edge.json").read_text()), **fields}
    config = {key: value for key, value in config.items() if value is not LEFT_OUT}
    (out / "edge.json").write_text(json.dumps(sealed(config)))
    return out


LEFT_OUT = object()


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


def test_long_text_is_cut(exported):
    encoder = Encoder(exported[0])
    assert encoder.max_tokens == 32
    assert len(encoder.encode_document(["fire " * 500])[0]) == 32


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
            assert Index(store.path, encoder).search_batch([query], 1)[0]
        assert Index(index(Encoder(sibling), documents, tmp_path / "s3").path, student).search_batch(
            [query], 1
        )[0]
    for call in (
        lambda: Index(strange.path, student).search_batch([query]),
        lambda: rerank(Index(strange.path, student), {"q": query}, run),
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
        assert Index(store.path, Encoder(old)).search_batch([query], 1)[0]


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
