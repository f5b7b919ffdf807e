"""``optical-rs experiment``: compare systems over languages and seeds."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import require
from .options import Parser, rename


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(
        "experiment",
        "Compare systems over languages and seeds, by a recipe; see docs/experiments.md.",
        {"--output_dir": "--output"},
    )
    parser.add_argument("recipe", type=Path, help="a recipe, a YAML file")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/RECIPE")
    parser.add_argument("--systems", nargs="+", help="only these")
    parser.add_argument("--languages", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, help="number of seeds, for all languages")
    parser.add_argument(
        "--reuse",
        type=Path,
        metavar="DIR",
        help="another experiment's folder, of which cells of the same definition are taken over",
    )
    parser.add_argument("--report_only", action="store_true", help="report the cells that exist, make none")
    parser.add_argument("--dry_run", action="store_true", help="list what would be done")
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs experiment``."""
    build_parser().parse_args(arguments)
    require("sentence_transformers", "train")
    from ..experiment.runner import main as experiment

    experiment(rename(arguments, {"--output": "--output_dir"}))
