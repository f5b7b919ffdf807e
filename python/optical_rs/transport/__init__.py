"""Batched entropic optimal transport, and the alignment loss between two texts' tokens."""

from .alignment import alignment_loss
from .solve import TransportResult, solve_batch

__all__ = ["TransportResult", "alignment_loss", "solve_batch"]
