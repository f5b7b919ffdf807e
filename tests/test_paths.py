"""What is no path is refused in one line that names the argument, and nothing is written."""

import os

import numpy as np
import pytest
from optical_rs import InputError, evaluate_student
from optical_rs.data import (
    Bitext,
    Collection,
    load_bitext,
    load_collection,
    load_pairs,
    splits_of,
    stream_documents,
)
from optical_rs.files import read_bytes, read_qrels, read_run, write_run
from optical_rs.similarity import Mean, TokenStore, make_coarse, pool

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
PAIRS = Bitext("pairs", ["moto"] * 8, ["fire"] * 8)
COLLECTION = Collection("c", {"q": "moto"}, {"d": "fire"}, {"q": {"d": 1}})
WRONG = [None, 3, b"bytes", "", "a\0b", {"a": 1}]


@pytest.fixture(scope="module")
def calls(exported, teacher, tmp_path_factory):
    """Functions of one argument, each with its name."""
    from optical_rs import distil
    from optical_rs.edge import Encoder
    from optical_rs.edge.export import export
    from optical_rs.edge.index import index
    from optical_rs.edge.pylate import export_pylate
    from optical_rs.edge.search import Index
    from optical_rs.edge.serve import application
    from optical_rs.models import late_interaction, load_model
    from optical_rs.token_cache import TokenCache

    folder = tmp_path_factory.mktemp("here")
    store = TokenStore.create(folder / "store", 8)
    store.append([np.eye(8)], ["a"])
    encoder = Encoder(exported[0], precision="int8", threads=1)
    made = index(encoder, {"a": "the fire"}, folder / "index")
    return [
        *(("bitext", call) for call in (load_bitext, distil)),
        *(("collection", call) for call in (load_collection, splits_of)),
        ("collection", lambda path: evaluate_student(teacher, path)),
        ("documents", stream_documents),
        ("documents", lambda given: index(encoder, given, "out")),
        ("pairs", load_pairs),
        *(("path", call) for call in (read_qrels, read_run, read_bytes, TokenStore, Encoder, Index)),
        ("path", lambda path: write_run(path, {"q": {"d": 1.0}}, "tag")),
        ("path", lambda path: TokenStore.create(path, 8)),
        ("path", lambda path: store.convert(path, "int8")),
        ("path", lambda path: make_coarse(store, path, Mean())),
        ("path", lambda path: pool(store, path)),
        ("out", lambda path: index(encoder, {"a": "the fire"}, path)),
        ("out", lambda path: export(teacher, path)),
        ("out", lambda path: export_pylate(teacher, path)),
        *(("model", call) for call in (load_model, TokenCache)),
        ("model", lambda path: export(path, "out")),
        ("encoder", late_interaction),
        ("encoder", lambda given: index(given, {"a": "the fire"}, "out")),
        ("index", application),
        ("teacher", lambda path: distil(PAIRS, path, dev=False, output="out")),
        ("student", lambda path: evaluate_student(path, COLLECTION)),
        # None is their default.
        ("teacher", lambda path: Index(made.path, encoder, teacher=path or 3)),
        ("model", lambda path: Index(made.path, path or 3)),
        ("output", lambda path: distil(PAIRS, teacher, dev=False, output=path or 3)),
        ("folder", lambda path: TokenCache(encoder, path or 3)),
    ]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_what_is_no_path_is_refused(calls, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unclear = []
    for place, (argument, function) in enumerate(calls):
        try:
            function(wrong)
        except InputError as error:
            message = str(error)
        except Exception as error:  # noqa: BLE001 (whatever else is raised is told below)
            message = repr(error)
        else:
            message = "no error"
        clear = message.startswith(f"{argument}: expected ") and ", got " in message and "\n" not in message
        if not clear or os.listdir():
            unclear.append((place, argument, message, os.listdir()))
    assert unclear == []


def test_what_are_no_documents_leaves_no_index(exported, tmp_path, monkeypatch):
    from optical_rs.edge import Encoder
    from optical_rs.edge.index import index

    encoder = Encoder(exported[0], precision="int8", threads=1)
    monkeypatch.chdir(tmp_path)
    for documents in ({"a": 1}, ["a"], [("a", "the fire"), ("a", "the dog")], "documents.tsv", [("", "x")]):
        with pytest.raises(InputError, match=r"^documents: "):
            index(encoder, documents, "out")
        assert os.listdir() == []
    assert len(index(encoder, [], "out")) == 0
