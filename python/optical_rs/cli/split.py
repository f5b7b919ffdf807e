"""``optical-rs split``: hold pairs out of bitext as a collection for dev and test."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .options import Parser, add_json


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(
        "split",
        "Hold sentence pairs out as a known-item collection: a foreign sentence is a query, and its translation the relevant document. "
        "Writes train.tsv, documents.tsv, and queries and judgments of dev and test.",
        {"--output_dir": "--output"},
    )
    parser.add_argument("bitext", help="sentence pairs: a file or a source, as load_bitext takes them")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--dev", type=int, default=300, help="queries for dev (default: 300)")
    parser.add_argument("--test", type=int, default=500, help="queries for test (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of pairs (default: 0)")
    parser.add_argument("--foreign_column", default="foreign", help="name of the column in the file")
    parser.add_argument("--english_column", default="english", help="name of the column in the file")
    parser.add_argument(
        "--no_distractors",
        action="store_true",
        help="leave the English of the training pairs out of the documents",
    )
    add_json(parser)
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs split``."""
    options = build_parser().parse_args(arguments)
    if options.dev + options.test <= 0:
        raise InputError("dev, test: expected a number of queries for one of them")
    from ..data import load_bitext
    from ..data.split import check_output, hold_out, write_split

    check_output(options.output)  # before a large file is read
    bitext = load_bitext(options.bitext, columns=(options.foreign_column, options.english_column))
    train, held = hold_out(
        bitext,
        dev=options.dev,
        test=options.test,
        seed=options.seed,
        distractors=not options.no_distractors,
    )
    write_split(options.output, train, held)
    queries = {name: len(collection.queries) for name, collection in held.items()}
    documents = len(next(iter(held.values())).documents)
    if options.json:
        about = {"output": str(options.output), "pairs": len(bitext), "train": len(train)}
        print(json.dumps({**about, "documents": documents, "queries": queries}, indent=1))
        return
    print(f"{options.output}/train.tsv: {len(train):,} pairs of {len(bitext):,}")
    for name, count in queries.items():
        print(f"{name}: {count:,} queries over {documents:,} documents")
