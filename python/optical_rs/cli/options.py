"""What the parsers of commands have in common."""

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ..errors import InputError, closest


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line of :class:`~optical_rs.errors.InputError`.

    Parameters
    ----------
    command, description : str
    old : dict of str to str
        Earlier names of options, which are accepted without being listed, and what they are called today.
    """

    def __init__(self, command: str, description: str, old: Mapping[str, str] | None = None):
        super().__init__(prog=f"optical-rs {command}", description=description, allow_abbrev=False)
        self.old = dict(old or {})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, of old names too."""
        return super().parse_known_args(rename(args or (), self.old), namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; an unknown option is answered with the nearest that exists."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            hint = closest(unknown[0].partition("=")[0], known) if unknown[0].startswith("-") else ""
            raise InputError(f"{self.prog}: unknown argument '{unknown[0]}'{hint}")
        return options

    def format_help(self) -> str:
        """As argparse's, with hyphens in long options, as the pages spell them."""
        return re.sub(r"(?<![\w-])--\w+", lambda name: name[0].replace("_", "-"), super().format_help())

    def error(self, message: str) -> NoReturn:
        """Raise the parser's complaint; ``--help`` is where the options are listed."""
        raise InputError(f"{message} ({self.prog} --help lists the options)")


def rename(arguments: Sequence[str], old: Mapping[str, str]) -> list[str]:
    """Arguments with the names of options replaced as ``old`` says.

    >>> rename(["--out=x", "--out", "out"], {"--out": "--output"})
    ['--output=x', '--output', 'out']
    """
    renamed = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        renamed.append(old.get(name, name) + equals + value)
    return renamed


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option of commands whose results scripts read."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
