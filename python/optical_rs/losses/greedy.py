"""The greedy alignment loss: every token to its nearest one."""

import torch
from torch import nn

from .base import BitextLoss


class GreedyAlignmentLoss(BitextLoss):
    """Every student token goes to the teacher token nearest to it: ``mean_i (1 − max_j cos(x_i, y_j))``.

    The token alignment of DR.DECR (Li et al., NAACL 2022) as a loss. Unlike transport it lets many
    tokens go to one, and leaves teacher tokens without a counterpart.
    """

    def compare(self, features, labels, x, x_mask, y, y_mask):
        cosines = nn.functional.normalize(x, dim=2) @ nn.functional.normalize(y, dim=2).mT
        best = cosines.masked_fill(~y_mask[:, None, :], -torch.inf).amax(2)
        weights = x_mask.to(x.dtype) / x_mask.sum(1, keepdim=True).clamp(min=1)
        return (torch.where(x_mask, 1 - best, 0.0) * weights).sum(1).mean()

    @property
    def citation(self) -> str:
        return """
@inproceedings{li2022learning,
    title = {Learning Cross-Lingual {IR} from an {E}nglish Retriever},
    author = {Li, Yulong and Franz, Martin and Sultan, Md Arafat and Iyer, Bhavani and Lee, Young-Suk and Sil, Avirup},
    booktitle = {Proceedings of NAACL},
    year = {2022},
    url = {https://arxiv.org/abs/2112.08185}
}
"""
