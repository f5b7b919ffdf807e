"""``optical-rs info``: how the native core was built and what it runs with."""

import argparse
import json
from collections.abc import Sequence

from .options import Parser, add_json


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser("info", "Show how the native core was built and what it runs with.")
    add_json(parser)
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs info``."""
    from .. import build_info

    options = build_parser().parse_args(arguments)
    info = build_info()
    if options.json:
        print(json.dumps(info, indent=1))
        return
    for key, value in info.items():
        print(f"{key:16}{', '.join(value) if isinstance(value, list) else value}")
