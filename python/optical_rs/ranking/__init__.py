"""Runs, judgments, trec_eval's measures, and comparisons that can be published."""

from .compare import Comparison, Difference, adjust, compare
from .evaluate import EvaluationResult, evaluate
from .languages import (
    LanguageGap,
    awrf,
    language_gap,
    max_rank,
    means_by_language,
    peer,
    rank_distance,
)
from .trec import read_qrels, read_run, write_run

__all__ = [
    "Comparison",
    "Difference",
    "EvaluationResult",
    "LanguageGap",
    "adjust",
    "awrf",
    "compare",
    "evaluate",
    "language_gap",
    "max_rank",
    "means_by_language",
    "peer",
    "rank_distance",
    "read_qrels",
    "read_run",
    "write_run",
]
