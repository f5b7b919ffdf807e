"""Recipes of teachers, and what other recipes make of them."""

import json
from pathlib import Path

import optical_rs
import pytest
import yaml
from optical_rs import InputError

pytest.importorskip("sentence_transformers")
pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from optical_rs.cli import _dispatch, respell
from optical_rs.experiment import read_recipe
from optical_rs.experiment.teacher import read_teacher
from optical_rs.models import load_model


def command(*arguments):
    _dispatch(respell([str(argument) for argument in arguments]))


@pytest.fixture
def recipe(tmp_path, tiny_encoder, pairs, collection_folder):
    """A teacher's recipe over two files and a collection, as a function of changes."""
    for name, rows in (("one", pairs[:5]), ("two", pairs[5:])):
        lines = [json.dumps({"query": f, "passage": e}) for f, e in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))

    def make(**changes):
        content = {
            "encoder": tiny_encoder,
            "dim": 8,
            "pairs": [str(tmp_path / "one.jsonl"), {"pairs": str(tmp_path / "two.jsonl"), "max_pairs": 6}],
            "collections": {"sentences": {"collection": str(collection_folder), "queries": 10}},
            "training": {
                "num_train_epochs": 1, "per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True,
            },
            **changes,
        }  # fmt: skip
        file = tmp_path / "teacher.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return make


def test_the_command_makes_a_checkpoint_that_recipes_take(
    recipe, tmp_path, tiny_encoder, bitext_file, capsys
):
    out = tmp_path / "runs" / "teacher"
    command("teacher", recipe(), "--dry-run", "--output", out)
    shown = capsys.readouterr().out
    assert "one.jsonl', 5 pairs" in shown
    assert "two.jsonl', 6 pairs" in shown
    assert "10 queries, 12 documents" in shown
    assert not out.exists()
    command("teacher", recipe(), "--output", out, "--cache", tmp_path / "cache", "--max_steps", 2, "--json")
    report = json.loads(capsys.readouterr().out)
    assert (report["record"]["pairs"], report["record"]["steps"]) == (11, 2)
    assert set(report["collections"]["sentences"]) == {"pooled", "teacher"}
    mean = {name: e["map"] for name, e in report["collections"]["sentences"].items()}
    (row,) = report["differences"]
    assert row["collection"] == "sentences"
    assert row["map"] == pytest.approx(mean["teacher"] - mean["pooled"], abs=1e-3)
    assert row["low"] <= row["map"] <= row["high"]
    assert row["p_adjusted"] == row["p"]
    assert (out / "evaluation" / "sentences" / "pooled" / "run.trec").exists()
    assert load_model(out).get_embedding_dimension() == 8
    before = (out / "model.safetensors").read_bytes() if (out / "model.safetensors").exists() else None
    command("teacher", recipe(), "--output", out, "--cache", tmp_path / "cache", "--max_steps", 2)
    assert "pooled" in capsys.readouterr().out
    assert before is None or (out / "model.safetensors").read_bytes() == before
    with pytest.raises(InputError, match="holds a model of other settings"):
        command("teacher", recipe(), "--output", out, "--max_steps", 3)
    # A student of the teacher, and one of another encoder that starts in its space.
    (tmp_path / "many.tsv").write_text(
        "".join(f"{f} {g}\t{e} {h}\n" for f, e in many(bitext_file) for g, h in many(bitext_file)[:8])
    )
    for student in ("", tiny_encoder):
        made = optical_rs.distil(
            tmp_path / "many.tsv", out, student=student, dev=False, training={"max_steps": 1, "use_cpu": True}
        )
        assert made.get_embedding_dimension() == 8


def test_a_teacher_with_fewer_layers(recipe, tmp_path, deep_encoder, bitext_file, capsys):
    whole, out = tmp_path / "whole", tmp_path / "fewer"
    cache = ("--cache", tmp_path / "cache")
    command("teacher", recipe(encoder=deep_encoder), "--output", whole, *cache, "--max_steps", 1)
    file = recipe(encoder=str(whole), text=[{"text": str(bitext_file), "max_pairs": 10}], layers=3)
    content = {k: v for k, v in yaml.safe_load(file.read_text()).items() if k != "dim"}
    file.write_text(yaml.safe_dump(content))
    capsys.readouterr()
    command("teacher", file, "--dry-run", "--layers", 2, "--output", out)
    assert "text: 20" in capsys.readouterr().out
    command("teacher", file, "--layers", 2, "--output", out, *cache, "--max_steps", 2, "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["record"]["system"]["layers"] == report["recipe"]["layers"] == 2
    assert list(report["collections"]["sentences"]) == ["all-layers", "teacher"]
    mean = {name: e["map"] for name, e in report["collections"]["sentences"].items()}
    assert report["differences"][0]["map"] == pytest.approx(mean["teacher"] - mean["all-layers"], abs=1e-3)
    command("teacher", file, "--layers", 2, "--output", out, *cache, "--max_steps", 2)
    assert "MAP, teacher minus all-layers" in capsys.readouterr().out
    assert load_model(out)[0].auto_model.config.num_hidden_layers == 2
    # Its students have its layers; those of the whole teacher have all, and search what it encoded.
    for student, layers in (("", 2), (str(whole), 4)):
        made = optical_rs.distil(
            bitext_file, out, student=student, dev=False, training={"max_steps": 1, "use_cpu": True}
        )
        assert made[0].auto_model.config.num_hidden_layers == layers


def many(file):
    return [line.split("\t") for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encodr": "x"}, "unknown key 'encodr'; did you mean 'encoder'"),
        ({"dim": "x"}, "dim: expected int, got 'x'"),
        ({"dropout": "x"}, "dropout: expected float or int or null, got 'x'"),
        ({"pairs": []}, "expected a mapping with a list 'pairs'"),
        ({"pairs": [{"pair": "qed"}]}, "pairs: expected a spec or a mapping with 'pairs'"),
        ({"pairs": [{"pairs": "qed", "splt": "x"}]}, "pairs: unknown key 'splt'; did you mean 'split'"),
        ({"pairs": [{"pairs": "qed", "max_pairs": "6"}]}, "pairs: max_pairs: expected at least 1, got '6'"),
        ({"collections": {"a": {"collection": "x", "query": 1}}}, "collections: a: unknown key 'query'"),
        ({"collections": {"../a": "x"}}, "not usable as the name of a folder"),
        ({"negatives": "bm52"}, "negatives: by: unknown miner 'bm52'"),
        ({"negatives": 5}, "negatives: expected str or dict, got 5"),
        ({"training": {"epochs": 1}}, "training: unknown key 'epochs'"),
        ({"encoder": "./none"}, "encoder: no such model folder: ./none"),
        ({"layers": 2}, "dim: takes no part in training layers; leave it out"),
        ({"layers": "x"}, "layers: expected int or null, got 'x'"),
        ({"text": [{"texts": "qed"}]}, "text: expected a spec or a mapping with 'text'"),
        ({"text": "qed"}, "text: is for layers; questions with passages go to pairs"),
    ],
)  # fmt: skip
def test_bad_recipes_leave_nothing(recipe, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        command("teacher", recipe(**changes), "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layers_are_those_of_a_late_interaction_checkpoint(tmp_path, tiny_encoder):
    (tmp_path / "one.jsonl").write_text('{"query": "who", "passage": "she"}')
    content = {"encoder": tiny_encoder, "pairs": str(tmp_path / "one.jsonl"), "layers": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="encoder: expected a late-interaction checkpoint to take layers of"):
        command("teacher", tmp_path / "recipe.yaml", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_recipes_of_the_other_kind(recipe):
    with pytest.raises(InputError, match="optical-rs experiment runs a recipe of systems"):
        read_teacher("demo")
    with pytest.raises(InputError, match="optical-rs teacher trains a teacher"):
        read_recipe(recipe())


def test_the_recipe_that_comes_along():
    recipe = read_teacher("english_teacher", {"training": {"max_steps": 1}})
    assert recipe.training["max_steps"] == 1
    assert recipe.training["per_device_train_batch_size"] == 24
    assert len(recipe.pairs) == 4
    shorter = read_teacher("fewer_layers", {"layers": 4})
    assert (shorter.layers, shorter.encoder) == (4, "runs/english_teacher")
    assert Path(optical_rs.__file__).parent.joinpath("recipes", "english_teacher.yaml").exists()


def test_a_place_that_cannot_be_is_refused_before_the_work(tiny_encoder, tmp_path, monkeypatch):
    from optical_rs.training import teacher as module

    def works(*_, **__):
        raise AssertionError("it works before it knows that it cannot write")

    monkeypatch.setattr(module, "late_interaction", works)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"file/start"):
        module.prepare_teacher(tiny_encoder, 8, ["fire"], tmp_path / "file" / "start")
