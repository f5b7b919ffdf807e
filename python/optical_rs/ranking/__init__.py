"""Runs, judgments, trec_eval's measures, and comparisons that can be published."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..files import read_qrels, read_run
    from .comparison import compare, compare_results
    from .differences import Comparison, Difference
    from .evaluation import EvaluationResult, evaluate
    from .fusion import fuse
    from .languages import (
        LanguageGap,
        awrf,
        language_gap,
        max_rank,
        means_by_language,
        peer,
        rank_distance,
    )
    from .runs import write_run
    from .significance import adjust

__all__ = [
    "Comparison",
    "Difference",
    "EvaluationResult",
    "LanguageGap",
    "adjust",
    "awrf",
    "compare",
    "compare_results",
    "evaluate",
    "fuse",
    "language_gap",
    "max_rank",
    "means_by_language",
    "peer",
    "rank_distance",
    "read_qrels",
    "read_run",
    "write_run",
]

# Modules are read when they are needed: a command that evaluates a file has done so before numpy is there.
_NAMES = {
    "differences": ("Comparison", "Difference"),
    "comparison": ("compare", "compare_results"),
    "evaluation": ("EvaluationResult", "evaluate"),
    "fusion": ("fuse",),
    "languages": (
        "LanguageGap", "awrf", "language_gap", "max_rank", "means_by_language", "peer", "rank_distance",
    ),
    "runs": ("write_run",),
    "significance": ("adjust",),
    ".files": ("read_qrels", "read_run"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
