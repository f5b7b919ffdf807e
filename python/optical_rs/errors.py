"""The exceptions and warnings of the package, raised by Python and by the native core alike."""

from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """A bad input: an argument, a file or a combination that cannot be used as given.

    The message is one line that names the argument or the file and line, what was expected and what
    was got. Command-line tools print it and exit with ``status``.
    """

    status = 2


class ConvergenceWarning(UserWarning):
    """Some transport problems of a batch stopped at ``max_iter`` before reaching ``tol``."""


def closest(name: object, valid: Iterable[object]) -> str:
    """A hint for a misspelt name: ``"; did you mean 'x'?"``, or the valid names.

    >>> closest("optcal", ["optical", "greedy"])
    "; did you mean 'optical'?"
    """
    import difflib

    names = sorted(str(v) for v in valid)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; expected one of: {', '.join(names)}"


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
