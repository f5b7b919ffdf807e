"""``optical-rs export``: a trained model as a small folder that needs no torch."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError, require
from ..progress import quiet, say
from .options import Parser

PRECISIONS = ("float32", "int8")


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(
        "export",
        "Write a trained model as a small folder that needs no torch.",
        {"--out": "--output", "--output_dir": "--output"},
    )
    parser.add_argument("--model", required=True, help="checkpoint: a folder or a hub id")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--format",
        choices=("edge", "pylate"),
        default="edge",
        help="for this package (edge), or for PyLate",
    )
    parser.add_argument(
        "--teacher",
        metavar="MODEL",
        help="the checkpoint of the teacher, for a student whose checkpoint does not name it",
    )
    parser.add_argument(
        "--precision", choices=(*PRECISIONS, "both"), default="int8", help="precision of the weights"
    )
    parser.add_argument(
        "--vocabulary",
        action="append",
        metavar="TEXTS",
        help="keep only what these texts need: a collection (kolibri:ny), or a file of lines; may be repeated",
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs export``."""
    options = build_parser().parse_args(arguments)
    require("torch", "train")
    import transformers  # noqa: F401 - what is not loaded yet cannot be silenced

    from ..edge.export import export, texts_of

    quiet()
    if options.format == "pylate":
        from ..edge.pylate import export_pylate

        if options.vocabulary or options.precision != "int8":
            raise InputError("format: 'pylate' cannot be combined with --vocabulary or --precision")
        config = export_pylate(options.model, options.output)
        print(f"{options.output}: for PyLate, texts of up to {config['document_length']} tokens")
        return
    texts = None
    if options.vocabulary:
        texts = [text for spec in options.vocabulary for text in texts_of(spec)]
        say(f"vocabulary of {len(texts)} texts")
    precisions = PRECISIONS if options.precision == "both" else (options.precision,)
    say(
        f"exporting {options.model} as {' and '.join(precisions)}, and comparing its embeddings with the model's"
    )
    config = export(
        options.model, options.output, precisions=precisions, vocabulary=texts, teacher=options.teacher
    )
    print(f"{options.output}: dimension {config['dim']}, {config['vocabulary']} pieces of vocabulary")
    from ..edge.encoder import MODELS

    for precision, cosine in config["agreement"].items():
        size = (options.output / MODELS[precision]).stat().st_size
        print(
            f"  {precision:8} {size / 1e6:6.1f} MB   cosine to the model: mean {cosine['mean']:.4f}, "
            f"smallest {cosine['smallest']:.4f}"
        )
