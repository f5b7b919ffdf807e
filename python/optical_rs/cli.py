"""The command ``optical-rs``."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from .errors import InputError, closest

COMMANDS = {
    "train": "distil students by a recipe, and evaluate them",
    "experiment": "compare systems over languages and seeds, by a recipe",
    "evaluate": "evaluate a student on a collection",
    "trec-eval": "trec_eval's measures of TREC runs, as it prints them",
    "compare": "compare TREC runs, with corrected tests and intervals",
    "fuse": "one TREC run out of several",
    "export": "write a model for search without torch",
    "index": "encode documents into a store, without torch",
    "search": "search a store by text, without torch",
    "serve": "a search page for a store, on this machine",
    "inspect": "look into a store: size, checksums, conversion",
    "info": "how the native core was built",
}
#: Where a command's ``main`` lives, and the package that it cannot do without, with the extra that has it.
MODULES: dict[str, tuple[str, tuple[str, str] | None]] = {
    "train": ("optical_rs.train", ("sentence_transformers", "train")),
    "experiment": ("optical_rs.experiment", ("sentence_transformers", "train")),
    "evaluate": ("optical_rs.retrieval", None),
    "trec-eval": ("optical_rs.ranking.trec_eval", None),
    "compare": ("optical_rs.ranking.comparison", None),
    "fuse": ("optical_rs.ranking.fusion", None),
    "export": ("optical_rs.edge.export", ("torch", "train")),
    "index": ("optical_rs.edge.index", ("onnxruntime", "edge")),
    "search": ("optical_rs.edge.search", ("onnxruntime", "edge")),
    "serve": ("optical_rs.edge.serve", ("onnxruntime", "edge")),
    "inspect": ("optical_rs.similarity.store", None),
}


def run_command(
    command: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None
) -> NoReturn:
    """Run a command and exit: 0, the error's status with one line for a bad input, 130 when interrupted."""
    try:
        command(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            sys.stdout.close()
        sys.exit(141)
    sys.exit(0)


def _dispatch(arguments: Sequence[str] | None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: optical-rs COMMAND [options]\n")
        for name, what in COMMANDS.items():
            print(f"  {name:12}{what}")
        print("\noptical-rs COMMAND --help tells a command's options")
        return
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise InputError(f"no command '{name}'{closest(name, COMMANDS)}")
    if name == "info":
        from . import build_info

        for key, value in build_info().items():
            print(f"{key:16}{', '.join(value) if isinstance(value, list) else value}")
        return
    from importlib import import_module

    from .errors import require

    module, needed = MODULES[name]
    if needed:
        require(*needed)
    import_module(module).main(rest)


def main() -> None:
    """Entry point of the console script."""
    run_command(_dispatch)


if __name__ == "__main__":
    main()
