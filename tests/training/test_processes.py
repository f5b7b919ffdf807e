"""One student of several processes: through torchrun, with a folder in common or each with one of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

SCRIPT = """
import os
from optical_rs.cli import run_command
from optical_rs.cli.train import main
from optical_rs.training import processes
processes.BEAT, processes.LOST = {beat}, {lost}
with open("process", "w") as file:
    file.write(str(os.getpid()))
run_command(main)
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory, tiny_encoder, pairs):
    """A function that makes the folders of two machines, of which the first alone has data and model."""

    def make(name, **changes):
        recipe = {
            "teacher": "./encoder",
            "dim": 8,
            "bitext": "pairs.tsv",
            "systems": {"optical": {"loss": "optical"}, "idf": {"loss": "optical", "marginals": "idf"}},
            # With dropout, so that every process has random numbers of its own.
            "dropout": 0.1,
            "training": {
                "num_train_epochs": 3, "per_device_train_batch_size": 8, "disable_tqdm": True,
                "save_strategy": "steps", "eval_strategy": "steps", "save_steps": 4, "eval_steps": 4,
            },
            **changes,
        }  # fmt: skip
        folders = [tmp_path_factory.mktemp(f"{name}{i}") for i in range(2)]
        for folder in folders:
            (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
            (folder / "start.py").write_text(SCRIPT.format(beat=0.5, lost=40))
            (folder / "tmp").mkdir()
        shutil.copytree(tiny_encoder, folders[0] / "encoder")
        lines = [f"{f} {g}\t{e} {h}\n" for f, e in pairs for g, h in pairs]
        (folders[0] / "pairs.tsv").write_text("".join(lines), encoding="utf-8")
        return folders

    return make


def start(folders, port, *more):
    """The command of docs/how-to/cluster.md on each machine; what it says is in ``log``."""
    started = []
    for i, folder in enumerate(folders):
        (folder / "process").unlink(missing_ok=True)
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "1", "--nnodes", "2"]
        command += [
            "--node_rank",
            str(i),
            "--master_addr",
            "127.0.0.1",
            "--master_port",
            str(port),
            "start.py",
        ]
        command += ["recipe.yaml", "--output", "out", *(more if i else ())]
        own = {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
        with (folder / "log").open("w") as log:
            options = {"cwd": folder, "env": {**os.environ, **own}, "stdout": log, "stderr": log}
            started.append(subprocess.Popen(command, **options))
    return started


def ended(started, folders, seconds=600):
    codes = [process.wait(timeout=seconds) for process in started]
    return codes, [(folder / "log").read_text() for folder in folders]


def weights(folder):
    from safetensors.torch import load_file

    files = [f for f in sorted(Path(folder).rglob("*.safetensors")) if "checkpoint-" not in str(f)]
    return {f"{f.relative_to(folder)}/{k}": v for f in files for k, v in load_file(f).items()}


def expect_same(one, other):
    one, other = weights(one), weights(other)
    assert one
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def signal_at(step, folders, victims, number, system="optical"):
    """Send a signal to processes once there is a checkpoint of a step."""
    deadline = time.monotonic() + 600
    folder = folders[0] / "out" / system
    while max((int(p.name.split("-")[1]) for p in folder.glob("checkpoint-*")), default=0) < step:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for i in victims:
        os.kill(int((folders[i] / "process").read_text()), number)


@pytest.fixture(scope="module")
def shared(machines):
    """The output folder of two processes of one machine."""
    folder, _ = machines("shared")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        "29517",
    ]
    command += ["-m", "optical_rs.train", "--config", "recipe.yaml", "--output", "out"]
    own = {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=folder, env={**os.environ, **own}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("report, runs, measures per query") == 1
    return folder / "out"


@pytest.mark.slow
def test_two_processes_train_one_student(shared):
    """DistributedDataParallel through torchrun; on a CPU its backend is gloo."""
    for name in ("optical", "idf"):
        record = json.loads((shared / name / "optical.json").read_text())
        # 130 pairs, as 14 are held out, in batches of eight over two processes: eight full steps in each epoch.
        assert (record["pairs"], record["steps"]) == (130, 24)
        assert 0 < record["dev_map"] <= 1


@pytest.mark.slow
def test_machines_without_a_shared_disk_train_the_same_student(machines, shared):
    """The second machine has the recipe and nothing else; it keeps its tokens alone."""
    folders = machines("apart")
    codes, logs = ended(start(folders, 29518), folders)
    assert codes == [0, 0], logs
    expect_same(shared, folders[0] / "out")
    kept = {path.name for path in folders[1].iterdir()}
    assert kept == {"recipe.yaml", "start.py", "tmp", "cache", "process", "log"}
    assert not list((folders[1] / "tmp").glob("tmp*")), "what torchrun itself leaves has other names"


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_command_continues(machines, shared):
    folders = machines("killed")
    started = start(folders, 29519)
    signal_at(4, folders, [1], signal.SIGKILL)
    codes, logs = ended(started, folders)
    assert 0 not in codes
    assert logs[0].count("error: ") == 1, logs[0]
    assert "error: processes: another process has ended or cannot be reached" in logs[0]
    assert not (folders[0] / "out" / "optical" / "optical.json").exists()
    # The other machine's disk is another one by now, and both are lost.
    folders[1] = machines("other")[1]
    started = start(folders, 29520)
    signal_at(12, folders, [0, 1], signal.SIGKILL)
    ended(started, folders)
    codes, logs = ended(start(folders, 29521), folders)
    assert codes == [0, 0], logs
    expect_same(shared, folders[0] / "out")


@pytest.mark.slow
def test_another_command_on_the_other_machine_is_refused(machines):
    folders = machines("refused")
    codes, logs = ended(start(folders, 29522, "--learning_rate", "0.1"), folders)
    assert 0 not in codes
    found = [line for log in logs for line in log.splitlines() if line.startswith("error: ")]
    assert len(found) == 1, logs
    assert "process 1 (" in found[0]
    assert (
        "differs from the main process in recipe: training; every machine needs the same command" in found[0]
    )
    assert not (folders[0] / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_silent_machine_ends_the_other(machines, victim):
    """As one that is switched off: its connections stay open, and nothing comes from it."""
    folders = machines(f"silent{victim}")
    started = start(folders, 29523 + victim)
    signal_at(4, folders, [victim], signal.SIGSTOP)
    log, process = folders[1 - victim] / "log", started[1 - victim]
    assert process.wait(timeout=300) != 0
    said = f"error: processes: no sign of life of process {victim} for 20 s; the same command goes on"
    assert said in log.read_text()
    os.kill(int((folders[victim] / "process").read_text()), signal.SIGKILL)
    started[victim].wait(timeout=300)
    assert not list((folders[1 - victim] / "tmp").glob("tmp*"))
