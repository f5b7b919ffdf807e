"""``optical-rs serve``: a search page for an index, on this machine."""

import argparse
from collections.abc import Sequence

from ..errors import require
from ..progress import say
from .options import Parser
from .search import OLD, add_model_options, opened


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser("serve", "Serve a search page for an index.", OLD)
    parser.add_argument(
        "index", nargs="+", help="a store made by optical-rs index; several are searched as one"
    )
    add_model_options(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; with another one than the default, other machines can reach the page",
    )
    parser.add_argument("--port", type=int, default=8080, help="port to listen at (default: 8080)")
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs serve``."""
    options = build_parser().parse_args(arguments)
    require("uvicorn", "serve")
    say(f"opening {' '.join(options.index)}")
    index = opened(options)
    from ..edge.serve import application, bound, listen, own_names

    index.search("test", 1)  # what does not fit is reported before anybody waits
    page = application(index, hosts=own_names(options.host))
    with bound(options.host, options.port) as listening:
        port = listening.getsockname()[1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        print(f"http://{host}:{port}/  ({len(index)} texts; Ctrl-C ends)", flush=True)
        listen(page, options.host, port).run(sockets=[listening])
