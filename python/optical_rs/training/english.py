"""Text besides the bitext: English for an anchor or a loss over passages, every text for a model with fewer layers."""

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


def read_every(spec: str, where: str, count: int | None = None) -> list[str]:
    """The texts of both sides of a spec, each once.

    Parameters
    ----------
    spec : str
        Of questions with passages; of bitext; or a ``.txt`` file of a text a line.
    where : str
        What errors name.
    count : int, optional
        Take only the first so many pairs or lines.

    Raises
    ------
    InputError
        Text that cannot be loaded.

    Examples
    --------
    >>> len(read_every("kolibri:ny", "text", 20))
    40
    """
    return list(dict.fromkeys(text for side in _sides(spec, where) for text in side[:count]))


def _texts(spec: str, role: str, where: str) -> list[str]:
    first, second = _sides(spec, where)
    return first if role == "query" and _has_pairs(spec) else second


def _sides(spec: str, where: str) -> tuple[list[str], list[str]]:
    """Questions and passages, or a bitext's foreign and English side; a text file has the same lines on both."""
    if _has_pairs(spec):
        pairs = load_pairs(spec)
        return pairs.questions, pairs.passages
    if find(spec) is None and _name(spec).endswith(".txt"):
        try:
            lines = [line for _, line in lines_of(Path(spec)) if line.strip()]
        except OSError as error:
            raise InputError(f"{where}: cannot read {spec}: {error.strerror}") from None
        return lines, lines
    bitext = load_bitext(spec)
    return bitext.foreign, bitext.english


def _name(spec: str) -> str:
    return Path(spec).name.removesuffix(".gz")


def _has_pairs(spec: str) -> bool:
    """Whether a spec is of questions with passages."""
    found = find(spec)
    if found is None and _name(spec).endswith(".txt"):
        return False
    return bool(found and found[0].pairs) or _name(spec).endswith(".jsonl") or Path(spec).is_dir()
