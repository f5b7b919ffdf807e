"""``optical-rs teacher``: train a teacher on English questions with passages, by a recipe."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, require
from ..progress import quiet, say
from .options import Parser, add_json
from .recipes import TRAINER, read_training

DESCRIPTION = (
    "Train a late-interaction model on English questions with passages that answer them; other recipes take its folder "
    "as their teacher. See docs/how-to/teachers.md."
)
#: Keys of a recipe that a command line can express.
KEYS = {
    "encoder": "any encoder, or a late-interaction checkpoint to train on",
    "dim": "token dimension of the head",
    "layers": "keep so many evenly spaced layers of the encoder, which learn its tokens",
    "negatives": "what finds hard negatives: bm25, model or none",
    "dev_collection": "whose dev queries choose the checkpoint",
    "scale": "factor of the scores in the softmax, the reciprocal of the temperature",
    "freeze_embeddings": "keep the word embedding table fixed: true or false",
    "dropout": "in training; null for the encoder's own value",
    "interpolate": "weights between those before training (0) and after it (1)",
}


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser("teacher", DESCRIPTION)
    parser.usage = "optical-rs teacher RECIPE [--option VALUE ...]"
    parser.add_argument("recipe", help="a YAML file, or the name of a recipe of the package")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the teacher (default: runs/RECIPE)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a teacher of other settings")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder of cached token embeddings (default: in the user's cache folder)",
    )
    parser.add_argument("--dry_run", action="store_true", help="list what would be trained and evaluated on")
    add_json(parser)
    keys = parser.add_argument_group("keys of a recipe", "They win over the recipe's.")
    for name, what in KEYS.items():
        keys.add_argument(
            f"--{name}", help=what, metavar=name.rpartition("_")[2].upper(), default=argparse.SUPPRESS
        )
    more = parser.add_argument_group(
        "training",
        "Every option of sentence-transformers' MultiVectorEncoderTrainingArguments is accepted, also in a recipe "
        "under 'training'. The most used:",
    )
    for name, what in TRAINER.items():
        more.add_argument(
            f"--{name}", help=what, metavar=name.rpartition("_")[2].upper(), default=argparse.SUPPRESS
        )
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs teacher``."""
    parser = build_parser()
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return
    require("sentence_transformers", "train")
    training, rest = read_training(list(arguments))
    options = parser.parse_args(rest)
    from ..experiment.recipe import find_recipe, read_yaml
    from ..experiment.teacher import make_teacher, read_teacher, show_teacher

    given = vars(options)
    changes: dict[str, Any] = {
        name: given[name] if name in ("encoder", "dev_collection") else read_yaml(given[name])
        for name in KEYS
        if name in given
    }
    if training:
        changes["training"] = training
    recipe = read_teacher(options.recipe, changes)
    if options.output is not None and options.output.is_file():
        raise InputError(f"output: {options.output} is a file")
    folder = options.output or Path("runs") / find_recipe(options.recipe).stem
    quiet()
    report = make_teacher(
        recipe,
        folder,
        overwrite=options.overwrite,
        dry_run=options.dry_run,
        cache=options.cache,
        say=print if options.dry_run else say,
    )
    if not report:
        return
    if options.json:
        print(json.dumps(report, indent=1, default=str))
        return
    if report["collections"]:
        print("\n" + show_teacher(report))
    print(f"\nteacher, runs, measures per query: {folder}")
