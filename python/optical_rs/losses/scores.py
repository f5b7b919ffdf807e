"""Losses over the scores of a batch."""

from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from torch import Tensor, nn

from ..errors import InputError
from ..similarity import search
from ..similarity.torch_ops import maxsim_scores
from .base import BitextLoss, copies, pad
from .pooled import pooled_mse

#: How many of the teacher's best passages a step draws from.
DEPTH = 64


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


def score_divergence(
    x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor, z: Tensor, z_mask: Tensor, scale: float = 20.0
) -> Tensor:
    """``KL(softmax(scale · S(y, z)) ‖ softmax(scale · S(x, z)))`` with mean MaxSim S over all z, averaged over the batch."""
    with torch.no_grad():
        target = nn.functional.log_softmax(scale * mean_maxsim(y, y_mask, z, z_mask), dim=1)
    scores = nn.functional.log_softmax(scale * mean_maxsim(x, x_mask, z, z_mask), dim=1)
    return nn.functional.kl_div(scores, target, reduction="batchmean", log_target=True)


class Candidates:
    """English passages that the teacher finds with each English sentence, of which steps draw some.

    Parameters
    ----------
    teacher : StoredTokens or TokenStore
        The teacher's tokens of the English sentences; a batch's labels are positions in them.
    passages : StoredTokens
        The teacher's tokens of passages, in their role.
    count : int
        Passages for each sentence and step: half of them the best ones, half drawn from the best :data:`DEPTH`.

    Raises
    ------
    InputError
        No candidate, or a teacher without stored tokens.
    """

    def __init__(self, teacher: Any, passages: Any, count: int = 8):
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f"candidates: expected an integer of at least 1, got {count!r}")
        if isinstance(teacher, nn.Module):
            raise InputError("passages: expected the teacher's stored tokens of the English side")
        self.passages, self.count = passages, count
        texts = [np.asarray(passages[i]) for i in range(len(passages))]
        hits = search([np.asarray(teacher[i]) for i in range(len(teacher))], texts, k=DEPTH)
        # A passage without tokens scores minus infinity, which no distribution has.
        self.found = [[int(name) for name, score in best if score > -np.inf] for best in hits]

    def draw(self, labels: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (passages, tokens, dim) and mask of the passages of a step, each once, as ``y`` in type and device."""
        best = (self.count + 1) // 2
        chosen: dict[int, None] = {}
        for place in labels.tolist():
            found = self.found[place]
            rest = found[best:]
            # torch's generator is part of a checkpoint, so that a continued run draws the same.
            drawn = torch.randperm(len(rest))[: self.count - best].tolist()
            chosen |= dict.fromkeys([*found[:best], *(rest[i] for i in drawn)])
        tokens, mask = pad([self.passages[i] for i in chosen], self.passages.dim)
        return tokens.to(y), mask.to(y.device)


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
    """The student's scores of English texts follow the teacher's: Translate-Distill (Yang et al., ECIR 2024).

    The teacher asks with the English sentence, the student with its translation, and both score the same English texts
    by mean MaxSim S; the loss is the divergence of their distributions, averaged over the batch::

        KL(softmax(scale · S_teacher) ‖ softmax(scale · S_student))

    The texts are those of the batch or, with ``passages``, some that the teacher finds best for each sentence of the
    batch: the student learns what is found with a question, and no judgments are needed.

    Parameters
    ----------
    model, teacher
        As in :class:`BitextLoss`.
    scale : float
        The factor of the scores, an inverse temperature.
    passages : StoredTokens, optional
        As in :class:`Candidates`; recipes and ``distil`` name their text. Those of the other sentences of the batch are
        scored as well.
    candidates : int
        Passages for each sentence and step.
    pooled_weight : float
        Weight of an added :func:`~optical_rs.losses.pooled.pooled_mse` term.

    Raises
    ------
    InputError
        A ``scale`` that is not above 0, a negative weight, no candidate; ``passages`` without the teacher's stored
        tokens.
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        teacher: Any,
        *,
        scale: float = 20.0,
        passages: Any = None,
        candidates: int = 8,
        pooled_weight: float = 0.0,
    ):
        super().__init__(model, teacher, scale=scale)
        if not pooled_weight >= 0:
            raise InputError(f"pooled_weight: expected a number >= 0, got {pooled_weight}")
        self.candidates = None if passages is None else Candidates(teacher, passages, candidates)
        self.pooled_weight = pooled_weight

    def compare(self, features, labels, x, x_mask, y, y_mask):
        z, z_mask = (y, y_mask) if self.candidates is None else self.candidates.draw(labels, y)
        loss = score_divergence(x, x_mask, y, y_mask, z, z_mask, self.scale)
        if not self.pooled_weight:
            return loss
        return {"scores": loss, "pooled": self.pooled_weight * pooled_mse(x, x_mask, y, y_mask)}

    def get_config_dict(self) -> dict[str, Any]:
        found = {} if self.candidates is None else {"candidates": self.candidates.count}
        return {"scale": self.scale, **found, "pooled_weight": self.pooled_weight}

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
