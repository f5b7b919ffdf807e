"""Losses over the scores of a batch."""

from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder
from torch import Tensor, nn

from ..errors import InputError
from ..similarity.torch_ops import maxsim_scores
from .base import BitextLoss, copies


def mean_maxsim(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    """MaxSim of every x (batch, n, dim) against every y (batch, m, dim), averaged per token of x."""
    return maxsim_scores(x, y[:, None], x_mask, y_mask[:, None], length_normalize=True)


def contrastive(
    x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor, labels: Tensor | None = None, scale: float = 20.0
) -> Tensor:
    """Cross-entropy of finding one's own translation among the batch's, by mean MaxSim · ``scale``.

    Other rows with the same English text are no negatives: they are left out.
    """
    scores = mean_maxsim(x, x_mask, y, y_mask).masked_fill(copies(labels, y, y_mask), -torch.inf)
    return nn.functional.cross_entropy(scale * scores, torch.arange(len(x), device=x.device))


class ScoreLoss(BitextLoss):
    """What losses over the batch's scores share: mean MaxSim, which lies in −1..1, times a factor.

    Parameters
    ----------
    model, teacher
        As in :class:`BitextLoss`.
    scale : float
        The factor, an inverse temperature.

    Raises
    ------
    InputError
        A ``scale`` that is not above 0.
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        teacher: Any,
        *,
        scale: float = 20.0,
    ):
        super().__init__(model, teacher)
        if not scale > 0:
            raise InputError(f"scale: expected a number > 0, got {scale}")
        self.scale = scale

    def get_config_dict(self) -> dict[str, Any]:
        return {"scale": self.scale}


class BitextContrastiveLoss(ScoreLoss):
    """In-batch contrastive loss: a sentence must find its own translation among those of the batch,
    by MaxSim over the student's tokens, averaged per token. Parameters are those of :class:`ScoreLoss`."""

    def compare(self, features, labels, x, x_mask, y, y_mask):
        return contrastive(x, x_mask, y, y_mask, labels, self.scale)


class TranslateDistillLoss(ScoreLoss):
    """The student's scores of the batch's English texts follow the teacher's: Translate-Distill (Yang et
    al., ECIR 2024) within the batch. Parameters are those of :class:`ScoreLoss`.

    The teacher asks with the English sentence, the student with its translation, and both score all English
    texts of the batch by mean MaxSim S; the loss is the divergence of their distributions, averaged over
    the batch::

        KL(softmax(scale · S_teacher) ‖ softmax(scale · S_student))
    """

    def compare(self, features, labels, x, x_mask, y, y_mask):
        with torch.no_grad():
            target = nn.functional.log_softmax(self.scale * mean_maxsim(y, y_mask, y, y_mask), dim=1)
        scores = nn.functional.log_softmax(self.scale * mean_maxsim(x, x_mask, y, y_mask), dim=1)
        return nn.functional.kl_div(scores, target, reduction="batchmean", log_target=True)

    @property
    def citation(self) -> str:
        return """
@inproceedings{yang2024translate,
    title = {Translate-Distill: Learning Cross-Language Dense Retrieval by Translation and Distillation},
    author = {Yang, Eugene and Lawrie, Dawn and Mayfield, James and Oard, Douglas W. and Miller, Scott},
    booktitle = {Proceedings of ECIR},
    year = {2024},
    url = {https://arxiv.org/abs/2401.04810}
}
"""
