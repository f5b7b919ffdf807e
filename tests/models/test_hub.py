"""Model cards, and students on a hub: pushed, found and loaded by a stranger with their teacher."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import optical_rs
import pytest
from hub_server import serving
from optical_rs import InputError

pytest.importorskip("sentence_transformers")
yaml = pytest.importorskip("yaml")

from optical_rs.models import origin, push_to_hub, write_card  # noqa: E402


@pytest.fixture(scope="module")
def student(tiny_encoder, pairs, tmp_path_factory):
    """The folder of a student with its teacher and an evaluation, as training leaves it."""
    folder = tmp_path_factory.mktemp("run") / "student"
    bitext = optical_rs.data.Bitext("kolibri:ny", [f for f, _ in pairs], [e for _, e in pairs])
    made = optical_rs.distil(
        bitext,
        tiny_encoder,
        dim=8,
        dev=False,
        output=folder,
        cache=folder.parent / "cache",
        training={"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True},
    )
    assert made.get_embedding_dimension() == 8
    (folder / "evaluation" / "verses").mkdir(parents=True)
    metrics = {"map": 0.5, "map_interval": [0.4, 0.6], "ndcg_cut_10": 0.55, "recall_100": 0.9}
    (folder / "evaluation" / "verses" / "metrics.json").write_text(json.dumps(metrics))
    (folder / "evaluation" / "verses" / "run.trec").write_text("large\n")
    return folder


def front(card):
    return yaml.safe_load(card.split("---\n")[1])


def parsed(card):
    """The commands of a card, as their parsers read them; an unknown option ends the test."""
    commands = [
        line[len("$ optical-rs ") :] for block in code_of(card, "console") for line in block.splitlines()
    ]
    found = []
    for name, *arguments in map(shlex.split, commands):
        parser = import_module(f"optical_rs.cli.{name}").build_parser()
        found.append((name, parser.parse_args(arguments)))
    return found


def code_of(card, language):
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


def test_training_leaves_a_card_of_its_own(student):
    card = (student / "README.md").read_text(encoding="utf-8")
    assert front(card)["language"] == ["ny", "en"]
    assert "This **student** encodes queries in another language" in card
    assert "interface messages of Kolibri, 32 languages" in card
    assert "licence MIT" in card
    assert "Loss: `PooledMSELoss`, mean squared error between mean token vectors." in card
    assert "interpolated between start (0) and trained (1) at 0.5" in card
    # The library's template has the label frequencies of a training cell, and encodes documents with the student.
    assert "label" not in card.lower()
    assert "student.encode_document" not in card
    teacher = (student / "teacher" / "README.md").read_text(encoding="utf-8")
    assert "no weight was trained" in teacher


def test_the_card_has_results_and_what_runs(student, pairs, tmp_path, monkeypatch):
    card = write_card(student)
    assert "| verses | 0.500 [0.400, 0.600] | 0.550 | 0.900 |" in card
    code = code_of(card, "python")[0].replace('"..."', '"moto uli pa moto"')
    names = {}
    exec(code, names)
    assert names["scores"].shape == (1, 2)


def test_what_strangers_must_not_see(student, tmp_path):
    card = write_card(student, name="me/student", teacher="me/teacher", language="ny,tum", licence="mit")
    assert str(student.parent) not in card
    assert str(Path.home()) not in card
    assert front(card) | {"tags": []} == {
        "library_name": "sentence-transformers",
        "pipeline_tag": "feature-extraction",
        "language": ["ny", "tum", "en"],
        "license": "mit",
        "tags": [],
    }
    record = json.loads((student / "optical.json").read_text())
    for base, shown in (("packaged:multilingual-e5-small", "intfloat/multilingual-e5-small"), ("a/b", "a/b")):
        (tmp_path / "optical.json").write_text(json.dumps({**record, **origin(base, ())}))
        assert front(write_card(tmp_path, name="me/x"))["base_model"] == shown


def test_a_card_says_no_more_than_the_record(tmp_path):
    card = write_card(tmp_path, {})
    assert "no weight was trained" not in card
    assert "teacher's side" not in card
    about = {
        **origin("/home/me/models/secret", ["mafand:hau", "/home/me/b.tsv", "acme/c.tsv"]),
        "side": "query",
    }
    assert about == {"base": "secret", "bitext": ["mafand:hau", "b.tsv", "c.tsv"], "side": "query"}
    options = {"loss": "optical", "reg": 0.05, "mlm": "/home/me/e.txt"}
    card = write_card(tmp_path, {**about, "options": options, "teacher": "me/t", "dev_map": 0.5})
    assert "/home" not in card
    assert "acme" not in card
    assert "base_model" not in card
    assert front(card)["language"] == ["hau", "en"]
    assert "Options: reg 0.05." in card
    assert "chosen" not in card
    # A teacher was trained on English questions, whatever the source is called.
    assert "language" not in front(write_card(tmp_path, {"base": "a/b", "bitext": ["afriqa:hau"]}))
    metrics = tmp_path / "evaluation" / "test" / "metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text('{"map": 0.5, "map_interval": null}')
    card = write_card(tmp_path, {})
    assert "| test | 0.500 |  |  |" in card
    assert "bootstrap" not in card
    for content in ("{", "{}", "[]"):
        metrics.write_text(content)
        with pytest.raises(InputError, match=r"metrics\.json is damaged"):
            write_card(tmp_path, {})
    with pytest.raises(InputError, match="no such folder"):
        write_card(tmp_path / "none")


def test_a_student_of_documents_is_used_for_documents(student, tmp_path):
    record = json.loads((student / "optical.json").read_text())
    (tmp_path / "optical.json").write_text(json.dumps({**record, "side": "document"}))
    code = code_of(write_card(tmp_path, name="me/s", teacher="me/t"), "python")[0]
    assert "teacher.encode_query" in code
    calls = parsed((tmp_path / "README.md").read_text(encoding="utf-8"))
    assert [name for name, _ in calls] == ["export", "export", "index", "search"]
    assert [options.model for _, options in calls] == ["me/t", "me/s", "for-documents", "for-queries"]
    assert "student.encode_document" in code
    del record["teacher"]
    (tmp_path / "optical.json").write_text(json.dumps(record))
    code = code_of(write_card(tmp_path, name="me/s"), "python")[0]
    assert "teacher" not in code
    assert "student.encode_document" in code


def test_push_and_use_of_what_was_pushed(student, collection_folder, tmp_path):
    """In a process of its own: the client of the hub reads its address when it is imported."""
    for private in (".env", "training.log", ".git/config"):
        (student / private).parent.mkdir(exist_ok=True)
        (student / private).write_text("/home/me")
    code = f"""
import optical_rs
from optical_rs.models import push_to_hub
local = optical_rs.evaluate_student({str(student)!r}, {str(collection_folder)!r}, device="cpu")
print(push_to_hub({str(student)!r}, "me/student", language="ny", private=True, token="hf_secret"))
print(push_to_hub({str(student)!r}, "me/student", language="ny", token="hf_secret"))
found = optical_rs.evaluate_student("me/student", {str(collection_folder)!r}, device="cpu")
assert found.run == local.run, (found, local)
from sentence_transformers import MultiVectorEncoder
assert MultiVectorEncoder("me/student-teacher", device="cpu").encode_query(["moto"])[0].shape[1] == 8
"""
    with serving() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr + str(hub.unknown)
        assert done.stdout.splitlines()[0].startswith(f"{hub.address}/me/student/commit/")
        assert hub.files.keys() == {"me/student", "me/student-teacher"}
        assert hub.private == {"me/student": True, "me/student-teacher": True}
        assert "Bearer hf_secret" in hub.tokens
        files = hub.files["me/student"]
    assert json.loads(files["optical.json"])["teacher"] == "me/student-teacher"
    assert 'MultiVectorEncoder("me/student-teacher")' in files["README.md"].decode()
    assert not [
        path for path in files if path.startswith(("teacher/", "checkpoints")) or path.endswith("run.trec")
    ]
    # Nothing but the model: no logs, no keys, no paths of this machine.
    assert not [path for path in files if path.rpartition("/")[2] in (".env", "training.log", "config")]
    assert not [
        path for path, content in files.items() if b"/home/" in content or str(tmp_path).encode() in content
    ]
    # What is on this machine stays as it was.
    assert json.loads((student / "optical.json").read_text())["teacher"] == "teacher"


def test_what_cannot_be_pushed(student, tmp_path):
    lost = tmp_path / "lost"
    lost.mkdir()
    (lost / "modules.json").write_text("[]")
    (lost / "optical.json").write_text(json.dumps({"side": "query", "teacher": "../../home/me/teacher"}))
    for arguments, message in (
        ((tmp_path, "me/x"), "holds no model"),
        ((lost, "me/x"), "its teacher ../../home/me/teacher is no folder, and no name on a hub"),
        ((student, "x"), "repository: expected owner/name, got 'x'"),
        ((student, "me/"), "repository: expected owner/name, got 'me/'"),
        ((student, "a b/c"), "repository: expected owner/name, got 'a b/c'"),
        ((student, "me/a/b"), "repository: expected owner/name, got 'me/a/b'"),
    ):
        with pytest.raises(InputError, match=message):
            push_to_hub(*arguments)
    with pytest.raises(InputError, match="push_to_hub: upload the finished student"):
        optical_rs.distil("kolibri:ny", training={"push_to_hub": True}, dev=False)
