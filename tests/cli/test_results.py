"""What commands print for people and, with ``--json``, for scripts."""

import json
import re

import numpy as np
import pytest
from optical_rs import record
from optical_rs.cli import _dispatch, evaluate
from optical_rs.data import load_bitext
from optical_rs.errors import InputError
from optical_rs.files import read_run, write_run
from optical_rs.similarity import TokenStore


@pytest.fixture
def runs(tmp_path):
    """Judgments and two runs, both called run.trec, as train writes them."""
    (tmp_path / "qrels.txt").write_text("".join(f"q{i} 0 d{i % 3} 1\n" for i in range(12)))
    for system, turn in (("optical", 0), ("pooled", 1)):
        folder = tmp_path / system / "evaluation"
        folder.mkdir(parents=True)
        found = {f"q{i}": [(f"d{(j + turn * (i % 2)) % 3}", 3.0 - j) for j in range(3)] for i in range(12)}
        write_run(folder / "run.trec", found, tag=system)
    return tmp_path


def test_runs_are_written_with_the_same_line_ends_everywhere(runs):
    assert b"\r" not in (runs / "optical" / "evaluation" / "run.trec").read_bytes()


def test_compare_on_the_runs_of_one_training(runs, capsys):
    pytest.importorskip("scipy")
    files = [str(runs / name / "evaluation" / "run.trec") for name in ("optical", "pooled")]
    _dispatch(["compare", str(runs / "qrels.txt"), *files, "-m", "map", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [(row["first"], row["second"]) for row in found["rows"]] == [("optical", "pooled")]
    _dispatch(["compare", str(runs / "qrels.txt"), *files, "--baseline", "pooled"])
    assert "| optical 0." in capsys.readouterr().out


def test_fuse(runs, capsys):
    files = [str(runs / name / "evaluation" / "run.trec") for name in ("optical", "pooled")]
    _dispatch(["fuse", *files, "--output", str(runs / "fused"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found == {"output": str(runs / "fused"), "queries": 12, "results": 36}
    assert len(read_run(runs / "fused")) == 12


def test_inspect(tmp_path, capsys):
    store = TokenStore.create(tmp_path / "store", 2, {"model": "toy"})
    store.append([np.eye(2, dtype=np.float32)], ["a"])
    _dispatch(["inspect", str(store.path), "--json"])
    assert json.loads(capsys.readouterr().out) == TokenStore(store.path).inspect()
    _dispatch(
        ["inspect", str(store.path), "--verify", "--output", str(tmp_path / "half"), "--dtype", "float16"]
    )
    out, err = capsys.readouterr()
    assert "dtype           float16\n" in out
    assert "all checksums match" in out
    assert "writing" in err


@pytest.fixture
def student(teacher, tmp_path):
    """A checkpoint with the record of its teacher, as training leaves it."""
    for name in ("student", "teacher"):
        teacher.save_pretrained(str(tmp_path / name))
    (tmp_path / "student" / record.RECORD).write_text(json.dumps({"teacher": "../teacher", "side": "query"}))
    return tmp_path / "student"


def test_evaluate_on_a_device_and_as_json(student, collection_folder, tmp_path, capsys):
    arguments = ["evaluate", "--model", str(student), "--collection", str(collection_folder)]
    _dispatch([*arguments, "--output", str(tmp_path / "out"), "--device", "cpu", "--json"])
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["queries"] == found["documents"] == 12
    assert found["teacher"] == str(student / "../teacher")
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["precision"] == written.pop("precision") == {"query": "float32", "document": "float32"}
    assert found["measures"] == written
    assert f"encoding 12 queries by {student} and 12 documents by {student / '../teacher'}" in err
    with pytest.raises(InputError, match="device: cannot use 'gpu7'"):
        _dispatch([*arguments, "--output", str(tmp_path / "out"), "--device", "gpu7"])


def test_the_precision_that_evaluate_chooses_is_recorded(student, collection_folder, tmp_path, capsys):
    arguments = ["evaluate", "--model", str(student), "--collection", str(collection_folder)]
    _dispatch([*arguments, "--output", str(tmp_path / "out"), "--precision", "auto", "--json"])
    out, err = capsys.readouterr()
    chosen = re.search(r"encoding in (\w+), the fastest of", err)[1]
    assert json.loads(out)["precision"] == {"query": chosen, "document": chosen}
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["precision"] == {"query": chosen, "document": chosen}


def test_evaluate_of_an_exported_student_asks_for_its_teacher(student, tmp_path):
    def chosen(**changes):
        given = {"model": str(student), "teacher": None, "runtime": "edge", **changes}
        return evaluate._teacher(evaluate.argparse.Namespace(**given), given["model"])

    assert chosen(runtime="torch") == str(student / "../teacher")
    with pytest.raises(
        InputError, match=r"expected --teacher.*its teacher is .*teacher, which is not exported"
    ):
        chosen()
    (tmp_path / "teacher" / record.EXPORTED).write_text("{}")
    assert chosen() == str(student / "../teacher")
    assert chosen(teacher="other") == "other"
    with pytest.raises(InputError, match=r"expected --teacher.*does not name one; give"):
        chosen(model=str(tmp_path))
    with pytest.raises(InputError, match="device: only with --runtime torch"):
        _dispatch(
            ["evaluate", "--model", str(student), "--collection", "x", "--runtime", "edge", "--device", "cpu"]
        )


def test_records(tmp_path):
    assert record.record_of(tmp_path) == {}
    assert record.record_of(tmp_path / "nothing") == {}
    assert record.teacher_of(tmp_path) is None
    (tmp_path / record.EXPORTED).write_text('{"teacher": "hub/name"}')
    assert record.teacher_of(tmp_path) == "hub/name"
    for text in ("{", "[]"):
        (tmp_path / record.RECORD).write_text(text)
        with pytest.raises(InputError, match=r"optical\.json is damaged"):
            record.record_of(tmp_path)


def test_split(bitext_file, tmp_path, capsys):
    arguments = ["split", str(bitext_file), "--dev", "3", "--test", "4", "--output", str(tmp_path / "held")]
    _dispatch([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["queries"] == {"dev": 3, "test": 4}
    assert found["pairs"] == 12
    assert found["train"] == len(load_bitext(tmp_path / "held" / "train.tsv")) == 5
    with pytest.raises(InputError, match="expected a number of queries"):
        _dispatch([*arguments[:2], "--dev", "0", "--test", "0", "--output", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()
