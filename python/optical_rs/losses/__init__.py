"""Distillation losses over bitext, on sentence-transformers' contract."""

from .bitext import (
    BitextContrastiveLoss,
    BitextLoss,
    GreedyAlignmentLoss,
    OpticalLoss,
    PooledMSELoss,
    TranslateDistillLoss,
)

#: Names that recipes use.
LOSSES = {
    "optical": OpticalLoss,
    "pooled-mse": PooledMSELoss,
    "greedy": GreedyAlignmentLoss,
    "contrastive": BitextContrastiveLoss,
    "translate-distill": TranslateDistillLoss,
}

__all__ = [
    "LOSSES",
    "BitextContrastiveLoss",
    "BitextLoss",
    "GreedyAlignmentLoss",
    "OpticalLoss",
    "PooledMSELoss",
    "TranslateDistillLoss",
]
