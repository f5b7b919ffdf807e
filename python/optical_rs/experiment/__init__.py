"""Compare systems over languages and seeds: ``optical-rs experiment recipes/seven_pairs.yaml``.

A recipe names a bitext, test collections, languages, seeds, and *systems*. Each cell (system, language, seed) is trained
where it needs training, searched, measured and written to a folder of its own; a run that is started again makes what is
missing. ``optical-rs train`` is the same for one language and one seed, and keeps its students.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "recipe": ("Cell", "Recipe", "cells", "restrict"),
    "reading": ("make_recipe", "read_recipe"),
    "runner": ("CellsFailed", "run"),
    "report": ("write_report",),
}

__all__ = [
    "Cell", "CellsFailed", "Recipe", "cells", "make_recipe", "read_recipe", "restrict", "run", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Reading a recipe needs no torch.
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
