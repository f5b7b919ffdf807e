"""The command ``optical-rs``: a module for each command, read when the command is called.

Every module has ``build_parser()``, which needs neither torch nor numpy nor an extra, and ``main(arguments)``. Commands
import the library; nothing in the library imports them.
"""

import contextlib
import errno
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from ..errors import InputError, closest

COMMANDS = {
    "train": "train students, and evaluate them",
    "experiment": "compare systems over languages and seeds",
    "teacher": "train a teacher on English questions with passages",
    "evaluate": "evaluate a student on a collection",
    "split": "hold sentence pairs out as a test collection",
    "trec-eval": "evaluate TREC runs, with the output of trec_eval",
    "compare": "compare TREC runs, with corrected tests and intervals",
    "fuse": "fuse several TREC runs into one",
    "export": "write a model for search without torch",
    "index": "encode documents into a store, without torch",
    "search": "search a store by text, without torch",
    "serve": "serve a search page for a store",
    "inspect": "show, verify or convert a store",
    "info": "show how the native core was built",
}

#: What a system refuses whatever the program does: permissions, a full disk, a path that cannot be.
REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG,
    errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip


def respell(arguments: Sequence[str]) -> list[str]:
    """Long options as the parsers have them, with underscores; values and what follows ``--`` stay as they are.

    >>> respell(["--max-queries=a-b", "x-y", "-m", "map", "--", "--dry-run"])
    ['--max_queries=a-b', 'x-y', '-m', 'map', '--', '--dry-run']
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    spelled = []
    for argument in arguments[:end]:
        name, equals, value = argument.partition("=")
        spelled.append("--" + name[2:].replace("-", "_") + equals + value if name[:2] == "--" else argument)
    return [*spelled, *arguments[end:]]


def run_command(command: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0, the error's status with one line for a bad input or what the system refuses, 130 when interrupted."""
    warnings.showwarning = _note
    try:
        command(respell(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except InputError as error:
        if not error.told:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        _discard_output()
        sys.exit(141)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}", file=sys.stderr)
        _discard_output()
        sys.exit(InputError.status)
    sys.exit(0)


def _discard_output() -> None:
    """Close standard output: what is left of it cannot be written, and would be tried again at the end."""
    with contextlib.suppress(OSError):
        sys.stdout.close()


def _note(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """A warning as one line for a reader who did not write the code; those for programmers are left out."""
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | ResourceWarning):
        print(f"note: {message}", file=sys.stderr)


def _dispatch(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: optical-rs COMMAND [options]\n")
        for name, what in COMMANDS.items():
            print(f"  {name:12}{what}")
        print("\noptical-rs COMMAND --help lists the options of a command; optical-rs --version")
        return
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        from .. import __version__

        print(f"optical-rs {__version__}")
        return
    if name not in COMMANDS:
        raise InputError(f"no command '{name}'{closest(name, COMMANDS)}")
    import_module(f".{name.replace('-', '_')}", __name__).main(rest)


def main() -> None:
    """Entry point of the console script."""
    run_command(_dispatch)
