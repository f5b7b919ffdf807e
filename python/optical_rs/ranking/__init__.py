"""Runs, judgments and trec_eval's measures."""

from .evaluate import EvaluationResult, evaluate
from .trec import read_qrels, read_run, write_run

__all__ = ["EvaluationResult", "evaluate", "read_qrels", "read_run", "write_run"]
