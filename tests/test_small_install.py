"""What ``pip install optical_rs`` alone can do: numpy is all that it brings."""

import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

#: Refuses every package but numpy and this one, as an environment without them does.
ONLY_NUMPY = """
import sys

class OnlyNumpy:
    def find_spec(self, name, path=None, target=None):
        package = name.split(".")[0]
        if package in sys.stdlib_module_names or package in ("numpy", "optical_rs"):
            return None
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

sys.meta_path.insert(0, OnlyNumpy())
"""

WORK = """
import io, sys
from contextlib import redirect_stdout
import numpy as np
import optical_rs
from optical_rs.cli import COMMANDS, _dispatch
from optical_rs.progress import progress_bar
from optical_rs.similarity import TokenStore, maxsim, search
from optical_rs.transport import solve_batch

rng = np.random.default_rng(0)
plan = solve_batch(rng.random((3, 4, 5), dtype=np.float32), reg=0.1).plan
assert np.allclose(plan.sum(axis=(1, 2)), 1, atol=1e-3)
assert solve_batch(rng.random((4, 5)), reg=0.1).converged.all()
tokens = [rng.normal(size=(n, 8)).astype(np.float32) for n in (3, 5, 2)]
tokens = [t / np.linalg.norm(t, axis=1, keepdims=True) for t in tokens]
assert np.allclose(maxsim(tokens[:1], tokens)[0, 0], 3, rtol=1e-4)
assert search(tokens[:1], tokens, 1, document_ids=["a", "b", "c"])[0][0][0] == "a"

qrels = {"q1": {"d1": 1}, "q2": {"d2": 1}}
run = {"q1": {"d1": 0.5, "d2": 0.7}, "q2": {"d2": 0.9}}
result = optical_rs.ranking.evaluate(qrels, run, ["map", "nDCG@10"])
assert result.mean["map"] == 0.75 and result.interval("map")[1] <= 1
assert optical_rs.ranking.fuse([run, run])["q2"]
optical_rs.ranking.write_run("run", run, "mine")
open("qrels", "w").write("q1 0 d1 1\\nq2 0 d2 1\\n")
for command in (["trec-eval", "-m", "map", "qrels", "run"], ["info"], ["fuse", "run", "run", "--output", "fused"]):
    _dispatch(command)
for name in COMMANDS:
    try:
        with redirect_stdout(io.StringIO()):
            _dispatch([name, "--help"])
    except SystemExit as left:
        assert left.code == 0, name

sys.stderr.isatty = lambda: True
with progress_bar("counting", "number") as report:
    report(1, 2)
print("all done")
"""


def test_transport_maxsim_and_measures_need_numpy_alone(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", ONLY_NUMPY + WORK], capture_output=True, text=True, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    said = found.stdout.splitlines()
    assert said[0].split() == ["map", "all", "0.7500"]
    assert said[-1] == "all done"


def test_what_needs_an_extra_names_it(tmp_path):
    code = """
import optical_rs
from optical_rs import InputError
from optical_rs.cli import _dispatch
runs = {"a": {"q": {"d": 1.0}}, "b": {"q": {"d": 1.0}}}
for call in (
    lambda: optical_rs.ranking.compare({"q": {"d": 1}}, runs),
    lambda: _dispatch(["index", "--model", ".", "--documents", "x.tsv", "--output", "index"]),
    lambda: _dispatch(["serve", "index", "--model", "."]),
    lambda: _dispatch(["evaluate", "--model", ".", "--collection", "x", "--runtime", "torch"]),
    lambda: optical_rs.distil("pairs.tsv"),
    lambda: optical_rs.late_interaction("encoder"),
):
    try:
        call()
    except InputError as error:
        print(str(error).rpartition("pip install ")[2])
"""
    found = subprocess.run(
        [sys.executable, "-c", ONLY_NUMPY + code], capture_output=True, text=True, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    extras = ["compare", "edge", "serve", "train", "train", "train"]
    assert found.stdout.splitlines() == [f"'optical_rs[{extra}]'" for extra in extras]


def test_extras_include_what_they_need():
    """Read with pip's eyes: an extra of this package inside another."""
    project = PYPROJECT["project"]
    assert [r.split(">")[0] for r in project["dependencies"]] == ["numpy"]
    wanted = {extra: set(expanded(extra)) for extra in project["optional-dependencies"]}
    assert wanted["edge"] < wanted["serve"]
    assert wanted["train"] | wanted["edge"] < wanted["export"]
    assert wanted["train"] < wanted["demo"]
    outside = {"demo", "langchain", "llama-index", "lancedb", "mteb", "qdrant", "ray"}
    assert wanted["all"] == set().union(*(wanted[e] for e in wanted.keys() - outside))


def expanded(name):
    """As ``make`` installs it."""
    command = [sys.executable, str(ROOT / "tools" / "requirements.py"), name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_groups_are_for_work_on_the_package_alone():
    groups, extras = PYPROJECT["dependency-groups"], PYPROJECT["project"]["optional-dependencies"]
    assert not groups.keys() & extras.keys()
    assert any(r.startswith("pytest") for r in expanded("dev"))
    assert any(r.startswith("ruff") for r in expanded("dev"))
