"""English text besides the bitext, which an anchor or a loss over passages takes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data import load_bitext, load_pairs
from ..data.sources import find
from ..errors import InputError
from ..files import lines_of


def specs_of(given: Any, where: str) -> list[str]:
    """One spec or a list of them, as a list.

    Raises
    ------
    InputError
        Anything else; ``where`` is named.
    """
    specs = [given] if isinstance(given, str | os.PathLike) else given
    if not isinstance(specs, list | tuple) or not specs:
        raise InputError(f"{where}: expected a spec or a list of specs, got {given!r}")
    if not all(isinstance(spec, str | os.PathLike) for spec in specs):
        raise InputError(f"{where}: expected a spec or a list of specs, got {given!r}")
    return [os.fspath(spec) for spec in specs]


def read_english(specs: Sequence[str], role: str, where: str) -> list[str]:
    """The texts of specs, one after another.

    Parameters
    ----------
    specs : sequence of str
        Each a source of questions with passages, of which the role takes one side; another bitext, of which English is
        taken; or a ``.txt`` file of a text a line.
    role : {"query", "document"}
    where : str
        What errors name.

    Raises
    ------
    InputError
        Text that cannot be loaded.

    Examples
    --------
    >>> len(read_english(["kolibri:ny"], "document", "passages")) > 500
    True
    """
    return [text for spec in specs for text in _texts(spec, role, where)]


def _texts(spec: str, role: str, where: str) -> list[str]:
    found = find(spec)
    name = Path(spec).name.removesuffix(".gz")
    if found is None and name.endswith(".txt"):
        try:
            return [line for _, line in lines_of(Path(spec)) if line.strip()]
        except OSError as error:
            raise InputError(f"{where}: cannot read {spec}: {error.strerror}") from None
    if (found and found[0].pairs) or name.endswith(".jsonl") or Path(spec).is_dir():
        pairs = load_pairs(spec)
        return pairs.questions if role == "query" else pairs.passages
    return load_bitext(spec).english
