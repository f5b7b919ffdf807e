"""PyLate's layout: read back by sentence-transformers, and by PyLate itself where it is installed.

PyLate pins an older sentence-transformers, so it lives in an environment of its own: set PYLATE_PYTHON to that
environment's interpreter.
"""

import json
import os
import subprocess

import numpy as np
import pytest
from optical_rs import InputError

pytest.importorskip("sentence_transformers")

from optical_rs.cli import main
from optical_rs.edge.pylate import export_pylate
from optical_rs.models import load_model, student_of

ENCODE = """
import sys, numpy as np
from pylate import models
folder, texts, out = sys.argv[1], open(sys.argv[2], encoding="utf-8").read().splitlines(), sys.argv[3]
model = models.ColBERT(folder, device="cpu")
found = {}
for role in ("query", "document"):
    for i, x in enumerate(model.encode(texts, is_query=role == "query", prompt_name=role)):
        found[f"{role}{i}"] = x
np.savez(out, **found)
"""


def same_embeddings(model, other, texts):
    for role in ("query", "document"):
        encode, again = (getattr(m, f"encode_{role}") for m in (model, other))
        for x, y in zip(
            encode(texts, convert_to_numpy=True), again(texts, convert_to_numpy=True), strict=True
        ):
            np.testing.assert_allclose(x, y, atol=1e-5)


def test_sentence_transformers_reads_the_layout(teacher, pairs, tmp_path):
    config = export_pylate(teacher, tmp_path / "out")
    assert config["prompts"] == {"query": "query : ", "document": "passage : "}
    same_embeddings(teacher, load_model(tmp_path / "out"), [e for _, e in pairs])


def test_pylate_reads_the_layout(teacher, pairs, tmp_path):
    python = os.environ.get("PYLATE_PYTHON")
    if not python:
        pytest.skip("PYLATE_PYTHON is not set")
    model, texts = teacher, [e for _, e in pairs]
    if "PYLATE_MODEL" in os.environ:
        model = load_model(os.environ["PYLATE_MODEL"], device="cpu")
        texts = [text for pair in pairs for text in pair]
    export_pylate(model, tmp_path / "out")
    (tmp_path / "texts").write_text("\n".join(texts), encoding="utf-8")
    out = tmp_path / "found.npz"
    subprocess.run([python, "-c", ENCODE, tmp_path / "out", tmp_path / "texts", out], check=True)
    found = np.load(out)
    for role, encode in (("query", model.encode_query), ("document", model.encode_document)):
        for i, x in enumerate(encode(texts, convert_to_numpy=True)):
            np.testing.assert_allclose(found[f"{role}{i}"], x, atol=1e-5)


def test_the_command(teacher, tmp_path, monkeypatch, capsys):
    teacher.save_pretrained(str(tmp_path / "model"))
    out = tmp_path / "out"
    arguments = ["export", "--model", str(tmp_path / "model"), "--out", str(out), "--format", "pylate"]
    monkeypatch.setattr("sys.argv", ["optical-rs", *arguments])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "for PyLate" in capsys.readouterr().out
    modules = json.loads((out / "modules.json").read_text(encoding="utf-8"))
    assert [m["type"] for m in modules][1] == "pylate.models.Dense.Dense"
    monkeypatch.setattr("sys.argv", ["optical-rs", *arguments, "--precision", "int8"])
    with pytest.raises(SystemExit, match="2"):
        main()


def test_what_cannot_be_written_is_refused(teacher, tiny_encoder, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(InputError, match="is not empty"):
        export_pylate(teacher, tmp_path / "used")
    model = student_of(teacher)
    model[2].skiplist_words, model[2].skiplist_tasks = ["the"], ["query", "document"]
    with pytest.raises(InputError, match="leaves words of queries out"):
        export_pylate(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
