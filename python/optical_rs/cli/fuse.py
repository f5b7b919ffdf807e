"""``optical-rs fuse``: one TREC run out of several."""

import argparse
import json
from collections.abc import Sequence

from ..ranking.fusion import METHODS, fuse
from .options import Parser, add_json


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser("fuse", "Fuse several TREC runs into one.")
    parser.add_argument("runs", nargs="+", metavar="run", help="TREC runs (.gz too)")
    parser.add_argument("--output", required=True, metavar="RUN", help="the fused run")
    parser.add_argument(
        "--method", choices=METHODS, default="rrf", help="reciprocal ranks, or scaled scores (default: rrf)"
    )
    parser.add_argument("--weights", nargs="+", type=float, help="a weight for each run")
    parser.add_argument("--k", type=int, default=60, help="constant of reciprocal rank fusion (default: 60)")
    parser.add_argument("--depth", type=int, default=1000, help="documents per query (default: 1000)")
    add_json(parser)
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs fuse``."""
    options = build_parser().parse_args(arguments)
    from ..files import write_run

    fused = fuse(
        options.runs, method=options.method, weights=options.weights, k=options.k, depth=options.depth
    )
    write_run(options.output, fused, options.method)
    if options.json:
        results = sum(map(len, fused.values()))
        print(json.dumps({"output": options.output, "queries": len(fused), "results": results}, indent=1))
    else:
        print(f"{options.output}: {len(fused)} queries")
