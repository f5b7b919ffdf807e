"""What ``optical-rs train`` and ``optical-rs experiment`` share: all of their options, and what they do."""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError, closest, require
from ..progress import quiet, say
from .options import Parser, add_json

#: Earlier names of options.
OLD = {
    "--output_dir": "--output",
    "--overwrite_output_dir": "--overwrite",
    "--overwrite_output": "--overwrite",
}
#: Keys of a recipe that a command line can express.
KEYS = (
    *("bitext", "collection", "dev_collection", "teacher", "student", "dim", "side", "max_pairs", "baseline"),
    *("head_text", "freeze_embeddings", "dropout", "token_dtype", "foreign_column", "english_column"),
)
#: The most used of the trainer's options.
TRAINER = {
    "num_train_epochs": "passes over the pairs",
    "max_steps": "stop after this number of steps",
    "per_device_train_batch_size": "pairs in a step, on each device",
    "gradient_accumulation_steps": "steps whose gradients are summed",
    "learning_rate": "the highest learning rate",
    "warmup_steps": "steps until the learning rate is highest, as a number or as a share of all",
    "seed": "of batches and initial weights; further seeds are the next numbers",
    "bf16": "compute in bfloat16: true or false",
    "use_cpu": "train on the CPU: true or false",
    "eval_strategy": "when dev queries are searched: no, steps or epoch",
    "save_strategy": "when a checkpoint is written: no, steps or epoch",
    "save_steps": "steps between checkpoints",
    "resume_from_checkpoint": "a checkpoint, or false to start anew (default: the newest of an interrupted run)",
}


def build(command: str, description: str, keep: str) -> argparse.ArgumentParser:
    """The options of a command; ``keep`` is which students it keeps by default."""
    from ..experiment.recipe import Recipe

    parser = Parser(command, description, OLD)
    parser.usage = f"optical-rs {command} [RECIPE] [--option VALUE ...]"
    parser.add_argument("recipe", nargs="?", help="a YAML file, or the name of a recipe of the package")
    parser.add_argument("--config", help="the same as RECIPE")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of results (default: runs/RECIPE)")
    parser.add_argument("--systems", nargs="+", help="only these systems of the recipe")
    parser.add_argument("--languages", nargs="+", help="only these languages of the recipe")
    parser.add_argument("--seeds", type=int, help="number of seeds, for all languages")
    parser.add_argument(
        "--keep",
        choices=("all", "best", "none"),
        default=keep,
        help=f"students that are kept: all, the best by dev queries in each language, or none (default: {keep})",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that other settings made")
    parser.add_argument(
        "--reuse",
        type=Path,
        metavar="DIR",
        help="folder of another run, whose results of the same content are copied",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder of cached token embeddings (default: in the user's cache folder)",
    )
    parser.add_argument(
        "--report_only", action="store_true", help="report the results so far, and compute none"
    )
    parser.add_argument("--dry_run", action="store_true", help="list the results that would be computed")
    add_json(parser)
    keys = parser.add_argument_group("keys of a recipe", "They win over the recipe's.")
    helps = {f.name: f.metadata["help"] for f in dataclasses.fields(Recipe)}
    for name in KEYS:
        keys.add_argument(f"--{name}", help=helps[name], metavar=name.rpartition("_")[2].upper())
    system = parser.add_argument_group(
        "a system",
        "Train one system instead of the recipe's, and compare it with zero-shot search. Options of the loss and of adaptation are accepted.",
    )
    system.add_argument(
        "--loss", help="pooled-mse, optical, greedy, contrastive, translate-distill, module:Class"
    )
    system.add_argument(
        "--interpolate",
        metavar="SHARE",
        help="interpolate between the weights before (0) and after training (1); default: 0.5 without a recipe, 1 with one",
    )
    system.add_argument(
        "--reg",
        help="entropic regularisation of transport; docs/reference/recipes.md has all options of losses",
    )
    more = parser.add_argument_group(
        "training",
        "Every option of sentence-transformers' MultiVectorEncoderTrainingArguments is accepted, also in a recipe "
        "under 'training'. The most used:",
    )
    for name, what in TRAINER.items():
        more.add_argument(f"--{name}", help=what, metavar=name.rpartition("_")[2].upper())
    return parser


def _own(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser without the options that training and systems take: those are read by what knows them."""
    # A recipe without an option's name comes first; elsewhere it would be taken for the value of an option of training.
    parser._remove_action(next(action for action in parser._actions if action.dest == "recipe"))
    for name in [*TRAINER, "loss", "interpolate", "reg"]:
        action = parser._option_string_actions[f"--{name}"]
        parser._remove_action(action)
        for option in action.option_strings:
            parser._option_string_actions.pop(option)
    for name in KEYS:
        parser._option_string_actions[f"--{name}"].default = argparse.SUPPRESS
    return parser


def main(command: str, description: str, keep: str, arguments: Sequence[str]) -> None:
    """What both commands do."""
    parser = build(command, description, keep)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return
    require("sentence_transformers", "train")
    arguments = list(arguments)
    file = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    options, rest = _own(parser).parse_known_args(arguments)
    if file and options.config:
        raise InputError(f"config: got two recipes, {file} and {options.config}")
    options.recipe = file or options.config
    recipe, name = _recipe(command, options, rest)
    from ..experiment import restrict, run
    from ..experiment.report import show

    restrict(recipe, options.systems, options.languages, options.seeds)
    quiet()
    folder = options.output or Path("runs") / name
    report, failures = run(
        recipe,
        folder,
        keep=options.keep,
        overwrite=options.overwrite,
        report_only=options.report_only,
        dry_run=options.dry_run,
        reuse=options.reuse,
        cache=options.cache,
        say=print if options.dry_run else say,
    )
    if report and options.json:
        print(json.dumps(report, indent=1, default=str))
    elif report and len(recipe.every_language) == 1:
        print("\n" + show(report))
    elif report:
        print("\n" + (folder / "report.md").read_text(encoding="utf-8"))
    if report and not options.json:
        print(
            f"\nreport, runs, measures per query{' and students' if options.keep != 'none' else ''}: {folder}"
        )
    if failures:
        from ..experiment import CellsFailed

        raise CellsFailed(f"{len(failures)} of the results failed:\n  " + "\n  ".join(failures))


def _recipe(command: str, options: argparse.Namespace, rest: list[str]) -> tuple[Any, str]:
    """The recipe that was asked for, and its name."""
    from ..experiment.reading import make_recipe, read_recipe
    from ..experiment.recipe import Recipe, find_recipe, read_yaml
    from ..training import DEFAULT

    file = options.recipe
    types = {f.name: str(f.type) for f in dataclasses.fields(Recipe)}
    changes: dict[str, Any] = {}
    for key in KEYS:
        if hasattr(options, key):
            given = getattr(options, key)
            # Names stay as they are; numbers and switches are read as a recipe's.
            changes[key] = given if "str" in types[key] else read_yaml(given)
    training, left = read_training(rest)
    # Without a recipe options change one system, as the arguments of distil do.
    own = file is None and "bitext" in changes
    system = _system(left, DEFAULT if own else {})
    if training:
        changes["training"] = training
    if system:
        changes |= {"baseline": changes.get("baseline", ""), "translation": []}
        changes["systems"] = {
            "zero-shot": None,
            "student" if own else str(system["loss"]).rpartition(":")[2]: system,
        }
    if file:
        return read_recipe(file, changes), find_recipe(file).stem
    if own:
        systems = {"systems": {"zero-shot": None, "student": dict(DEFAULT)}}
        return make_recipe({**systems, **changes}, "options"), Path(str(changes["bitext"]).split(",")[0]).stem
    if command == "train":
        say(
            "no recipe and no bitext: the demo (recipes/demo.yaml) runs, Chichewa queries over English messages"
        )
        return read_recipe("demo", changes), "demo"
    raise InputError("recipe: expected a recipe, or --bitext; see docs/how-to/recipes.md")


def read_training(rest: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Training arguments among what is left of a command line, and the others."""
    from transformers import HfArgumentParser

    from ..training.arguments import TrainingArguments

    class Flags(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise InputError(f"training: {message}")

    parser = Flags(TrainingArguments, add_help=False, allow_abbrev=False)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
        action.required = False
        if action.dest == "resume_from_checkpoint":
            action.type = str
    namespace, left = parser.parse_known_args(rest)
    return vars(namespace), left


def _system(rest: list[str], default: Mapping[str, Any]) -> dict[str, Any]:
    """The system that is described by what is left of a command line: ``--loss`` and its options, over a default's."""
    from ..experiment.recipe import DISTILLATION, read_yaml
    from ..training.arguments import NAMES as TRAINING

    found: dict[str, Any] = {}
    i = 0
    while i < len(rest):
        name, equals, value = rest[i].partition("=")
        i += 1
        if not name.startswith("--"):
            raise InputError(f"unknown argument '{name}'")
        if not equals:
            value = rest[i] if i < len(rest) and not rest[i].startswith("--") else "true"
            i += i < len(rest) and not rest[i].startswith("--")
        found[name[2:]] = read_yaml(value)
    if not found:
        return {}
    found = {**default, **found}
    from ..losses import options_of, resolve_loss

    others = (*KEYS, *TRAINING, "loss", "config", "systems", "output", "languages")
    if "loss" not in found:
        known = {f"--{k}" for k in others}
        name = f"--{next(iter(found))}"
        hint = "; needs --loss" if name[2:] in (*DISTILLATION, "reg") else closest(name, known)
        raise InputError(f"unknown argument '{name}'{hint}")
    valid = {*options_of(resolve_loss(found["loss"])), *DISTILLATION, "loss"}
    for key in found:
        if key not in valid:
            known = {f"--{k}" for k in (*valid, *others)}
            hint = f"; {found['loss']} has none" if key == "reg" else closest(f"--{key}", known)
            raise InputError(f"unknown argument '--{key}'{hint}")
    return found
