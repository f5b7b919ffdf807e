"""``optical-rs split``: hold pairs out of bitext as a collection for dev and test."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="optical-rs split",
        description="Hold sentence pairs out as a known-item collection: a foreign sentence looks for its "
        "translation. Writes train.tsv, documents.tsv, and queries and judgments of dev and test.",
    )
    made.add_argument("bitext", help="sentence pairs: a file or a source, as load_bitext takes them")
    made.add_argument("--output_dir", "--output-dir", type=Path, required=True, help="a new folder")
    made.add_argument("--dev", type=int, default=300, help="queries for dev (default: 300)")
    made.add_argument("--test", type=int, default=500, help="queries for test (default: 500)")
    made.add_argument("--seed", type=int, default=0, help="another one holds out other pairs (default: 0)")
    made.add_argument("--foreign_column", "--foreign-column", default="foreign", help="its name in the file")
    made.add_argument("--english_column", "--english-column", default="english", help="its name in the file")
    made.add_argument(
        "--no_distractors",
        "--no-distractors",
        action="store_true",
        help="leave the English of the training pairs out of the documents",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parser().parse_args(arguments)
    from ..data import load_bitext
    from ..data.split import check_output, hold_out, write_split
    from ..errors import InputError

    if options.dev + options.test <= 0:
        raise InputError("dev, test: expected a number of queries for one of them")
    check_output(options.output_dir)  # before a large file is read
    bitext = load_bitext(options.bitext, columns=(options.foreign_column, options.english_column))
    train, held = hold_out(
        bitext,
        dev=options.dev,
        test=options.test,
        seed=options.seed,
        distractors=not options.no_distractors,
    )
    write_split(options.output_dir, train, held)
    documents = len(next(iter(held.values())).documents)
    print(f"{options.output_dir}/train.tsv: {len(train):,} pairs of {len(bitext):,}")
    for name, collection in held.items():
        print(f"{name}: {len(collection.queries):,} queries over {documents:,} documents")
