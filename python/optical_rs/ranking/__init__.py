"""Runs, judgments, trec_eval's measures, and comparisons that can be published."""

from .compare import Comparison, Difference, adjust, compare
from .evaluate import EvaluationResult, evaluate
from .trec import read_qrels, read_run, write_run

__all__ = [
    "Comparison",
    "Difference",
    "EvaluationResult",
    "adjust",
    "compare",
    "evaluate",
    "read_qrels",
    "read_run",
    "write_run",
]
