"""Distillation losses over bitext, on sentence-transformers' contract."""

from .bitext import (
    BitextContrastiveLoss,
    BitextLoss,
    GreedyAlignmentLoss,
    OpticalLoss,
    PooledMSELoss,
)

#: Names that recipes use.
LOSSES = {
    "optical": OpticalLoss,
    "pooled-mse": PooledMSELoss,
    "greedy": GreedyAlignmentLoss,
    "contrastive": BitextContrastiveLoss,
}

__all__ = [
    "LOSSES",
    "BitextContrastiveLoss",
    "BitextLoss",
    "GreedyAlignmentLoss",
    "OpticalLoss",
    "PooledMSELoss",
]
