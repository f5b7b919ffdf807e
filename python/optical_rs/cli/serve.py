"""``optical-rs serve``: a search page for one index, on this machine."""

import argparse
from collections.abc import Sequence

from ..errors import require
from ..progress import say
from .options import Parser
from .search import OLD, add_model_options, opened


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser("serve", "Serve a search page for one index.", OLD)
    parser.add_argument("index", help="a store made by optical-rs index")
    add_model_options(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; with another one than the default, other machines can reach the page",
    )
    parser.add_argument("--port", type=int, default=8080)
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs serve``."""
    options = build_parser().parse_args(arguments)
    require("uvicorn", "serve")
    say(f"opening {options.index} and {options.model}")
    encoder, other, store, coarse = opened(options)
    from ..edge.search import search_texts
    from ..edge.serve import application, listen, own_names

    search_texts(
        encoder, store, ["test"], 1, coarse=coarse
    )  # what does not fit is reported before anybody waits
    page = application(encoder, store, other, coarse, hosts=own_names(options.host))
    server = listen(page, options.host, options.port)
    print(f"http://{options.host}:{options.port}/  ({len(store)} texts; Ctrl-C ends)", flush=True)
    server.run()
