"""Files inside installed packages, found without importing them."""

import importlib.util
from pathlib import Path

from ..errors import InputError


def package_folder(module: str, distribution: str, install: str = "optical_rs[demo]") -> Path:
    """The folder of an installed package that carries data.

    The package is not imported: some have side effects on import, or binaries for another Python.

    Raises
    ------
    InputError
        If it is not installed; the message names what brings it.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the package {distribution} is not installed: pip install '{install}'")
    return Path(next(iter(spec.submodule_search_locations)))


def package_file(module: str, distribution: str, path: str, install: str = "optical_rs[demo]") -> Path:
    """A file in :func:`package_folder`, which must exist."""
    file = package_folder(module, distribution, install) / path
    if not file.exists():
        raise InputError(f"the installed {distribution} has no {path}: pip install -U '{install}'")
    return file
