"""The transport loss of OPTICAL, and the terms that may be added to it."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from torch import Tensor

from ..errors import ConvergenceWarning, InputError
from ..transport import alignment_loss
from ..transport.arguments import GRADS, METHODS
from .base import BitextLoss, pad
from .pooled import pooled_mse
from .scores import Candidates, contrastive, score_divergence


class OpticalLoss(BitextLoss):
    """Optimal transport distillation: OPTICAL (Huang, Yu, Allan, WSDM 2023).

    ``<T, C>`` with ``C = 1 − cos`` between the student's tokens of the foreign sentence and the
    teacher's of the English one, and T the entropic plan between them; see
    :func:`optical_rs.transport.alignment_loss`.

    Parameters
    ----------
    model, teacher
        As in :class:`BitextLoss`.
    reg : float
        Regularisation, in the unit of ``reg_scale``.
    reg_scale : {"absolute", "spread"}
        Cost units, or standard deviations of the pair's costs.
    reg_m : float, optional
        Relaxed marginals, in the unit of ``reg_scale``: tokens without a counterpart may stay
        unmatched, the more the smaller this is. Hard marginals by default. Needs ``grad="envelope"``.
    solver : {"auto", "linear", "log", "ipot"}
        Sinkhorn, or the proximal steps (IPOT) that the paper uses.
    max_iter, tol
        Of the solver.
    marginals : {"uniform", "idf"}
        Weights of the tokens. ``"idf"`` needs ``student_idf`` and ``teacher_idf``.
    student_idf : (vocabulary,) float array
        Weight of each token id of the student's tokeniser.
    teacher_idf : sequence of (tokens,) float arrays
        Weight of each teacher token, parallel to ``teacher``; see
        :class:`~optical_rs.losses.idf.TeacherWeights`.
    grad : {"envelope", "implicit"}
        Whether the plan is held fixed. With ``reg_m`` it must be: to a gradient that sees the plan, the nearest
        minimum of ``<T, C>`` is tokens so far apart that none are matched.
    transport_weight : float
        Weight of the transport term; 0 leaves it out.
    pooled_weight : float
        Weight of an added :func:`pooled_mse` term.
    contrastive_weight : float
        Weight of an added in-batch contrastive term (:class:`BitextContrastiveLoss`).
    scores_weight : float
        Weight of an added term of Translate-Distill: the student scores ``passages`` as the teacher does
        (:func:`~optical_rs.losses.scores.score_divergence`).
    passages, candidates
        Of that term, as in :class:`TranslateDistillLoss`.

    Examples
    --------
    In a recipe::

        systems:
          optical: {loss: optical, reg: 0.05}
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        teacher: Any,
        *,
        reg: float = 0.05,
        reg_scale: str = "absolute",
        reg_m: float | None = None,
        solver: str = "auto",
        max_iter: int = 200,
        tol: float = 1e-3,
        marginals: str = "uniform",
        student_idf: np.ndarray | None = None,
        teacher_idf: Sequence[np.ndarray] | None = None,
        grad: str = "envelope",
        transport_weight: float = 1.0,
        pooled_weight: float = 0.0,
        contrastive_weight: float = 0.0,
        scores_weight: float = 0.0,
        passages: Any = None,
        candidates: int = 8,
    ):
        super().__init__(model, teacher)
        for name, value, valid in (
            ("solver", solver, METHODS),
            ("grad", grad, GRADS[:2]),
            ("reg_scale", reg_scale, ("absolute", "spread")),
            ("marginals", marginals, ("uniform", "idf")),
        ):
            if value not in valid:
                raise InputError(f"{name}: expected one of {', '.join(valid)}, got {value!r}")
        if not reg > 0:
            raise InputError(f"reg: expected a number > 0, got {reg}")
        if reg_m is not None and not (reg_m > 0 and solver != "ipot"):
            raise InputError(f"reg_m: expected a number > 0, and a solver other than 'ipot', got {reg_m}")
        if reg_m is not None and grad == "implicit":
            raise InputError(
                "grad: expected 'envelope' where reg_m is given, got 'implicit', by which <T, C> falls the "
                "fastest where nothing is transported"
            )
        weights = (transport_weight, pooled_weight, contrastive_weight, scores_weight)
        if not (min(weights) >= 0 and max(weights) > 0):
            raise InputError(f"transport_weight: expected weights >= 0, and not all of them 0, got {weights}")
        if marginals == "idf" and (student_idf is None or teacher_idf is None):
            raise InputError("marginals: 'idf' needs student_idf and teacher_idf")
        self.transport = {
            "reg": reg,
            "reg_scale": reg_scale,
            "reg_m": reg_m,
            "method": solver,
            "max_iter": max_iter,
            "tol": tol,
            "grad": grad,
        }
        self.marginals = marginals
        self.student_idf = None if student_idf is None else torch.as_tensor(student_idf, dtype=torch.float32)
        self.teacher_idf = teacher_idf
        self.transport_weight = transport_weight
        self.pooled_weight = pooled_weight
        self.contrastive_weight = contrastive_weight
        if (scores_weight > 0) != (passages is not None):
            raise InputError(
                f"scores_weight: expected a number > 0 with passages, and 0 without, got {scores_weight}"
            )
        self.scores_weight = scores_weight
        self.candidates = None if passages is None else Candidates(teacher, passages, candidates)

    def weights(self, features, labels, x_mask, y_mask) -> tuple[Tensor | None, Tensor | None]:
        """Marginals of a batch: mass 1 per sentence, in proportion to IDF; None for uniform."""
        if self.marginals == "uniform":
            return None, None
        assert self.student_idf is not None
        assert self.teacher_idf is not None
        a = self.student_idf.to(x_mask.device)[features["input_ids"]] * x_mask
        b, _ = pad([self.teacher_idf[i][:, None] for i in labels.tolist()], 1)
        b = b.squeeze(2).to(y_mask.device) * y_mask
        return tuple(w / w.sum(1, keepdim=True).clamp(min=1e-12) for w in (a, b))

    def compare(self, features, labels, x, x_mask, y, y_mask):
        terms = {}
        if self.transport_weight:
            a, b = self.weights(features, labels, x_mask, y_mask)
            with warnings.catch_warnings():
                # A plan within a percent of its marginals serves a gradient step; once per step is noise.
                warnings.simplefilter("ignore", ConvergenceWarning)
                loss = alignment_loss(x, y, x_mask, y_mask, a=a, b=b, **self.transport)
            terms["transport"] = self.transport_weight * loss
        if self.pooled_weight:
            terms["pooled"] = self.pooled_weight * pooled_mse(x, x_mask, y, y_mask)
        if self.contrastive_weight:
            terms["contrastive"] = self.contrastive_weight * contrastive(x, x_mask, y, y_mask, labels)
        if self.candidates is not None:
            passages = self.candidates.draw(labels, y)
            terms["scores"] = self.scores_weight * score_divergence(x, x_mask, y, y_mask, *passages)
        return terms if len(terms) > 1 else next(iter(terms.values()))

    def get_config_dict(self) -> dict[str, Any]:
        return {
            **self.transport,
            "marginals": self.marginals,
            "transport_weight": self.transport_weight,
            "pooled_weight": self.pooled_weight,
            "contrastive_weight": self.contrastive_weight,
            "scores_weight": self.scores_weight,
            **({} if self.candidates is None else {"candidates": self.candidates.count}),
        }

    @property
    def citation(self) -> str:
        return """
@inproceedings{huang2023optical,
    title = {Improving Cross-lingual Information Retrieval on Low-Resource Languages via Optimal Transport Distillation},
    author = {Huang, Zhiqi and Yu, Puxuan and Allan, James},
    booktitle = {Proceedings of the Sixteenth ACM International Conference on Web Search and Data Mining},
    year = {2023},
    url = {https://arxiv.org/abs/2301.12566}
}
"""
