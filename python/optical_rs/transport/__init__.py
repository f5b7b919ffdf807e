"""Batched optimal transport, entropic and exact, and the alignment loss between two texts' tokens."""

from .alignment import alignment_loss
from .divergence import sinkhorn_divergence
from .exact import solve_exact
from .result import TransportResult
from .solve import solve_batch

__all__ = ["TransportResult", "alignment_loss", "sinkhorn_divergence", "solve_batch", "solve_exact"]
