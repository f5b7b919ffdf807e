"""``optical-rs inspect``: what a token store holds."""

import argparse
import json
from collections.abc import Sequence

from ..errors import InputError
from ..progress import say
from .options import Parser, add_json

DTYPES = ("float32", "float16", "bfloat16", "int8")


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(
        "inspect", "Show what a token store holds; verify or convert it.", {"--convert": "--output"}
    )
    parser.add_argument("store", help="directory of the store")
    parser.add_argument("--verify", action="store_true", help="read all of it and compare checksums")
    parser.add_argument(
        "--compact",
        action="store_true",
        help="rewrite it without deleted texts, and make its first stage again",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="also write it to another directory, in the form of --dtype"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="int8", help="form of the tokens there")
    add_json(parser)
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs inspect``."""
    options = build_parser().parse_args(arguments)
    from ..edge.index import coarse_of, first_stage_of, update_first_stage
    from ..similarity import TokenStore

    store = TokenStore(options.store)
    if options.verify:
        say(f"reading all of {options.store}")
        store.verify()
    if options.compact:
        staged = first_stage_of(options.store)
        if staged is not None and "coarse" not in staged.metadata:
            raise InputError(
                f"--compact: the first stage {staged.path} is of an older version; optical-rs index --first-stage makes it again"
            )
        say(f"writing {options.store} without deleted texts")
        store.compact()
        if staged is not None:
            say(f"making the first stage anew, {coarse_of(options.store)}")
            update_first_stage(store, None)
    if options.output:
        say(f"writing {options.output} as {options.dtype}")
        store = store.convert(options.output, options.dtype)
    found = store.inspect()
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for key, value in found.items():
        print(f"{key:16}{json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value}")
    if options.verify:
        print("all checksums match")
