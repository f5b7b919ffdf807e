"""The dispatcher, the spelling of options, and what ``--help`` needs."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module

import optical_rs
import pytest
from optical_rs.cli import COMMANDS, _dispatch, respell, run_command
from optical_rs.cli.compare import named
from optical_rs.cli.options import Parser
from optical_rs.errors import InputError

HELP = """
import runpy
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {
            "torch", "transformers", "sentence_transformers", "accelerate", "datasets", "peft", "yaml", "numpy", "scipy",
            "onnx", "onnxruntime", "tokenizers", "starlette", "uvicorn", "huggingface_hub", "ir_datasets", "tqdm",
        }:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
import optical_rs
assert set(optical_rs.__all__) <= set(dir(optical_rs))
from optical_rs.cli import _dispatch

def run(call, *arguments):
    try:
        call(*arguments)
    except SystemExit as stop:
        assert stop.code == 0, (arguments, stop.code)

commands = sys.argv[1:]
for name in commands:
    run(_dispatch, [name, "--help"])
sys.argv[1:] = ["--help"]
for name in ("train", "evaluate", "experiment"):
    print(f"module {name}")
    run(lambda: runpy.run_module(f"optical_rs.{name}", run_name="__main__", alter_sys=True))
"""


def status(arguments, capsys):
    """Exit status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stop:
        run_command(_dispatch, arguments)
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_help_needs_neither_torch_nor_numpy_nor_an_extra():
    done = subprocess.run([sys.executable, "-c", HELP, *COMMANDS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"usage: optical-rs {name} " in done.stdout
    for name in ("train", "evaluate", "experiment"):
        assert f"module {name}\nusage: optical-rs {name} " in done.stdout


def test_the_list_and_the_version(capsys):
    code, out, _ = status([], capsys)
    assert code == 0
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert status(["--version"], capsys)[:2] == (0, f"optical-rs {optical_rs.__version__}\n")
    code, _, err = status(["evalute"], capsys)
    assert (code, "did you mean 'evaluate'?" in err) == (2, True)


def test_info_as_text_and_as_json(capsys):
    assert json.loads(status(["info", "--json"], capsys)[1]) == optical_rs.build_info()
    assert f"version         {optical_rs.__version__}" in status(["info"], capsys)[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_hyphens_and_underscores_are_the_same(name):
    """Every long option of every command, as the dispatcher hands it on."""
    parser = import_module(f"optical_rs.cli.{name.replace('-', '_')}").build_parser()
    options = [o for o in parser._option_string_actions if o.startswith("--")]
    assert options
    assert respell([o.replace("_", "-") + "=a-b" for o in options]) == [o + "=a-b" for o in options]


def test_only_the_names_of_options_are_respelled():
    given = ["--max-queries", "3", "--output=my-folder", "-m", "some-run.txt", "-", "--", "--a-b"]
    wanted = ["--max_queries", "3", "--output=my-folder", "-m", "some-run.txt", "-", "--", "--a-b"]
    assert respell(given) == wanted
    assert respell([]) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("evaluate", "--partner", "teacher"),
        ("evaluate", "--output_dir", "output"),
        ("export", "--out", "output"),
        ("index", "--out", "output"),
        ("search", "--document_model", "teacher"),
        ("serve", "--document_model", "teacher"),
        ("experiment", "--output_dir", "output"),
        ("inspect", "--convert", "output"),
        ("split", "--output_dir", "output"),
        ("compare", "--plot", "output"),
    ],
)
def test_earlier_names_of_options_still_work_and_are_not_listed(name, old, new):
    parser = import_module(f"optical_rs.cli.{name}").build_parser()
    needed = {
        "evaluate": ["--model", "m", "--collection", "c"],
        "export": ["--model", "m"],
        "index": ["--model", "m", "--documents", "d"],
        "search": ["--model", "m", "--index", "i"],
        "serve": ["i", "--model", "m"],
        "experiment": ["recipe"],
        "inspect": ["store"],
        "split": ["pairs.tsv"],
        "compare": ["qrels", "run"],
    }[name]
    for spelling in (old, f"--{new}"):
        assert str(vars(parser.parse_args([*needed, spelling, "x"]))[new]) == "x"
        assert str(vars(parser.parse_args([*needed, f"{spelling}=x"]))[new]) == "x"
    assert old not in parser.format_help().replace("--output", "")


def test_a_wrong_option_is_one_line_with_the_nearest(capsys):
    for arguments, message in (
        (["search", "--model", "m", "--index", "i", "--quries", "q"], "unknown argument '--quries'; did you mean '--queries'?"),
        (["inspect", "store", "--dtype", "int4"], "argument --dtype: invalid choice: 'int4'"),
        (["fuse", "run"], "the following arguments are required: --output"),
        (["inspect", "a", "b"], "optical-rs inspect: unknown argument 'b'"),
    ):  # fmt: skip
        code, out, err = status(arguments, capsys)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert message in err


def test_abbreviations_are_refused():
    parser = Parser("x", "")
    parser.add_argument("--queries")
    with pytest.raises(InputError, match="unknown argument '--que'"):
        parser.parse_args(["--que", "x"])


def test_what_parsers_offer_is_what_the_library_has():
    from optical_rs.cli import compare, evaluate, export, inspect
    from optical_rs.edge.encoder import MODELS
    from optical_rs.ranking import comparison
    from optical_rs.similarity.store import DTYPES

    retrieval = pytest.importorskip("optical_rs.retrieval")
    assert compare.TESTS == comparison.TESTS
    assert compare.CORRECTIONS == comparison.CORRECTIONS
    assert tuple(DTYPES) == inspect.DTYPES
    assert tuple(MODELS) == export.PRECISIONS
    assert evaluate.MEASURES == retrieval.MEASURES


def test_the_help_of_train_lists_options_that_the_trainer_has():
    from dataclasses import fields

    trainer = pytest.importorskip("sentence_transformers").MultiVectorEncoderTrainingArguments
    from optical_rs.cli.train import build_parser

    parser = build_parser()
    listed = parser.format_help()
    for name in (
        "bitext",
        "teacher",
        "collection",
        "side",
        "output",
        "num-train-epochs",
        "learning-rate",
        "seed",
    ):
        assert f"\n  --{name} " in listed
    group = next(g for g in parser._action_groups if g.title == "training")
    assert {action.dest for action in group._group_actions} <= {f.name for f in fields(trainer)}


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        (["a/ours.txt", "b/bm25.run.gz"], ["ours", "bm25"]),
        (["demo/optical/run.trec", "demo/pooled/run.trec"], ["optical", "pooled"]),
        (["optical/evaluation/x/run.trec", "pooled/evaluation/x/run.trec"], ["optical", "pooled"]),
        (["a/x/run.trec", "b/x/run.trec", "b/y/run.trec"], ["a/x", "b/x", "b/y"]),
        (["a/run.trec", "b/run.trec", "mine=c/run.trec", "other.txt"], ["a", "b", "mine", "other"]),
        (["a/run.trec", "b/run.txt"], ["run.trec", "run.txt"]),
    ],
)
def test_runs_of_one_name_are_told_apart_by_their_folders(specs, names):
    assert list(named(specs)) == names
    assert list(named(specs).values()) == [spec.rpartition("=")[2] for spec in specs]


def test_one_file_twice_needs_names():
    with pytest.raises(InputError, match="two runs are called 'run'"):
        named(["a/run.trec", "a/run.trec"])


def test_what_the_system_refuses_is_one_line(bitext_file):
    place = bitext_file / "held"  # below a file
    command = [sys.executable, "-m", "optical_rs.cli", "split", str(bitext_file), "--output", str(place)]
    done = subprocess.run([*command, "--dev", "2", "--test", "2"], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*pairs\.tsv.*: (Not a directory|File exists)\n", done.stderr)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "optical_rs.cli", "info"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")
