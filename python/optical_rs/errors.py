"""The exceptions and warnings of the package, raised by Python and by the native core alike."""

import operator
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """A bad input: an argument, a file or a combination that cannot be used as given.

    The message is one line that names the argument or the file and line, what was expected and what
    was got. Command-line tools print it and exit with ``status``; ``told`` says that another process prints it.
    """

    status = 2
    told = False


class ConvergenceWarning(UserWarning):
    """Some transport problems of a batch stopped at ``max_iter`` before reaching ``tol``."""


def closest(name: object, valid: Iterable[object]) -> str:
    """A hint for a misspelt name: ``"; did you mean 'x'?"``, or the valid names.

    >>> closest("optcal", ["optical", "greedy"])
    "; did you mean 'optical'?"
    """
    import difflib

    names = sorted(str(v) for v in valid)
    if not names:
        return ""
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; expected one of: {', '.join(names)}"


def texts_only(argument: str, texts: Iterable[Any]) -> None:
    """Refuse what is no list of Unicode strings.

    Raises
    ------
    InputError
        One string, whose characters would be taken for texts, something else than a string, or half of a character.

    >>> texts_only("queries", ["moto", "madzi"])
    """
    if isinstance(texts, str):
        raise InputError(f"{argument}: expected a list of strings, got the string {texts[:40]!r}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{argument}: expected strings, got {type(text).__name__} at {i}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{argument}: expected Unicode text, got {error.reason} at {i}") from None


def whole(argument: str, value: Any) -> int:
    """A count that was given, as Python's own integer.

    Raises
    ------
    InputError
        Something else than an integer, or one below 1.

    >>> whole("k", 10)
    10
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{argument}: expected an integer, got {value!r}") from None
    if number < 1:
        raise InputError(f"{argument}: expected at least 1, got {number}")
    return number


def require(module: str, extra: str | None = None) -> Any:
    """Import and return ``module``, or say what brings it: an extra of this package, or its own.

    Raises
    ------
    InputError
        If the module is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.split(".")[0]):
            raise
        brings = f"'optical_rs[{extra}]'" if extra else module
        raise InputError(f"{module} is not installed: pip install {brings}") from None
