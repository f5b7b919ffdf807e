"""Losses that pull a student's tokens of a foreign sentence to a teacher's of its translation."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from torch import Tensor, nn

from ..errors import ConvergenceWarning, InputError
from ..similarity import TokenStore
from ..similarity.torch_ops import maxsim_scores
from ..transport import alignment_loss
from ..transport.arguments import GRADS, METHODS


class BitextLoss(nn.Module, ABC):
    """What the bitext losses share: the student's tokens, and the teacher's for the same pairs.

    Subclasses define :meth:`compare`.

    Parameters
    ----------
    model : MultiVectorEncoder
        The student.
    teacher : TokenStore or MultiVectorEncoder
        A store with the teacher's tokens of every English sentence, computed once; the batch's
        ``labels`` are then positions in it. Or the teacher itself, which encodes the second text
        column; that column must have been tokenised by the teacher (see
        :class:`optical_rs.training.batches.BitextCollator`).

    Raises
    ------
    InputError
        If student and teacher differ in dimension.
    """

    def __init__(self, model: MultiVectorEncoder, teacher: TokenStore | MultiVectorEncoder):
        super().__init__()
        dim = teacher.dim if isinstance(teacher, TokenStore) else teacher.get_embedding_dimension()
        if dim != model.get_embedding_dimension():
            raise InputError(
                f"teacher: has dimension {dim}, but the student has {model.get_embedding_dimension()}"
            )
        self.model = model
        # In a tuple, so that a teacher that is a module is not trained, moved or saved with the loss.
        self._teacher = (teacher,)

    @property
    def teacher(self) -> TokenStore | MultiVectorEncoder:
        """The teacher, or the store of its tokens."""
        return self._teacher[0]

    def student_tokens(self, features: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """(batch, tokens, dim) unit vectors and their mask, without query expansion tokens."""
        out = self.model(features, task=features.get("task", "query"))
        mask = out["attention_mask"].bool()
        expansion = out.get("query_expansion_positions")
        if expansion is not None:
            mask = mask & ~expansion.bool()
        return out["token_embeddings"], mask

    def teacher_tokens(self, features: list[dict[str, Any]], labels: Tensor | None, device: torch.device):
        """The teacher's tokens and mask of a batch, from the store or from the teacher itself."""
        if isinstance(self.teacher, TokenStore):
            if labels is None:
                raise InputError("labels: a TokenStore teacher needs the pairs' positions in it as labels")
            texts = [self.teacher[i] for i in labels.tolist()]
            return tuple(t.to(device) for t in _pad(texts, self.teacher.dim))
        if len(features) < 2:
            raise InputError("sentence_features: a model as teacher needs the English text as second column")
        self.teacher.eval()
        with torch.no_grad():
            out = self.teacher(dict(features[1]), task=features[1].get("task", "query"))
        return out["token_embeddings"].to(device), out["attention_mask"].bool().to(device)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None):
        """The loss of a batch; a dict of named terms where there are several."""
        features = [dict(f) for f in sentence_features]
        x, x_mask = self.student_tokens(features[0])
        y, y_mask = self.teacher_tokens(features, labels, x.device)
        return self.compare(features[0], labels, x, x_mask, y.to(x.dtype), y_mask)

    @abstractmethod
    def compare(
        self,
        features: dict[str, Any],
        labels: Tensor | None,
        x: Tensor,
        x_mask: Tensor,
        y: Tensor,
        y_mask: Tensor,
    ) -> Tensor | dict[str, Tensor]:
        """Student tokens x (batch, n, dim) against teacher tokens y (batch, m, dim)."""

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of the loss."""
        return {}


def _pad(texts: list[np.ndarray], dim: int) -> tuple[Tensor, Tensor]:
    longest = max((len(t) for t in texts), default=0)
    padded = np.zeros((len(texts), longest, dim), dtype=np.float32)
    mask = np.zeros((len(texts), longest), dtype=bool)
    for i, text in enumerate(texts):
        padded[i, : len(text)] = text
        mask[i, : len(text)] = True
    return torch.from_numpy(padded), torch.from_numpy(mask)


def _pooled(x: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(x.dtype)[:, :, None]
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


def pooled_mse(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    """Mean over the batch of ``|mean(x) − mean(y)|²``."""
    return (_pooled(x, x_mask) - _pooled(y, y_mask)).square().sum(1).mean()


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
    teacher_idf : TokenStore of dimension 1
        Weight of each teacher token, parallel to ``teacher``.
    grad : {"envelope", "implicit"}
        Whether the plan is held fixed. With ``reg_m`` it must be: to a gradient that sees the plan, the nearest
        minimum of ``<T, C>`` is tokens so far apart that none are matched.
    transport_weight : float
        Weight of the transport term; 0 leaves it out.
    pooled_weight : float
        Weight of an added :func:`pooled_mse` term.
    contrastive_weight : float
        Weight of an added in-batch contrastive term (:class:`BitextContrastiveLoss`).

    Examples
    --------
    In a recipe::

        systems:
          optical: {loss: optical, reg: 0.05}
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        teacher: TokenStore | MultiVectorEncoder,
        *,
        reg: float = 0.05,
        reg_scale: str = "absolute",
        reg_m: float | None = None,
        solver: str = "auto",
        max_iter: int = 200,
        tol: float = 1e-3,
        marginals: str = "uniform",
        student_idf: np.ndarray | None = None,
        teacher_idf: TokenStore | None = None,
        grad: str = "envelope",
        transport_weight: float = 1.0,
        pooled_weight: float = 0.0,
        contrastive_weight: float = 0.0,
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
        weights = (transport_weight, pooled_weight, contrastive_weight)
        if not (min(weights) >= 0 and max(weights) > 0):
            raise InputError(f"transport_weight: expected weights >= 0, and not all of them 0, got {weights}")
        if marginals == "idf" and (student_idf is None or not isinstance(teacher_idf, TokenStore)):
            raise InputError("marginals: 'idf' needs student_idf and a teacher_idf store")
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

    def weights(self, features, labels, x_mask, y_mask) -> tuple[Tensor | None, Tensor | None]:
        """Marginals of a batch: mass 1 per sentence, in proportion to IDF; None for uniform."""
        if self.marginals == "uniform":
            return None, None
        assert self.student_idf is not None
        assert self.teacher_idf is not None
        a = self.student_idf.to(x_mask.device)[features["input_ids"]] * x_mask
        b, _ = _pad([self.teacher_idf[i] for i in labels.tolist()], 1)
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
            terms["contrastive"] = self.contrastive_weight * contrastive(x, x_mask, y, y_mask)
        return terms if len(terms) > 1 else next(iter(terms.values()))

    def get_config_dict(self) -> dict[str, Any]:
        return {
            **self.transport,
            "marginals": self.marginals,
            "transport_weight": self.transport_weight,
            "pooled_weight": self.pooled_weight,
            "contrastive_weight": self.contrastive_weight,
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


class PooledMSELoss(BitextLoss):
    """Squared distance of mean token vectors: the sentence-level distillation of Reimers & Gurevych
    (EMNLP 2020), with the mean of the token vectors as the sentence's."""

    def compare(self, features, labels, x, x_mask, y, y_mask):
        return pooled_mse(x, x_mask, y, y_mask)

    @property
    def citation(self) -> str:
        return """
@inproceedings{reimers2020multilingual,
    title = {Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation},
    author = {Reimers, Nils and Gurevych, Iryna},
    booktitle = {Proceedings of EMNLP},
    year = {2020},
    url = {https://arxiv.org/abs/2004.09813}
}
"""


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


def mean_maxsim(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    """MaxSim of every x (batch, n, dim) against every y (batch, m, dim), averaged per token of x."""
    return maxsim_scores(x, y[:, None], x_mask, y_mask[:, None], length_normalize=True)


def contrastive(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor, scale: float = 20.0) -> Tensor:
    """Cross-entropy of finding one's own translation among the batch's, by mean MaxSim · ``scale``."""
    scores = mean_maxsim(x, x_mask, y, y_mask)
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
        teacher: TokenStore | MultiVectorEncoder,
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
        return contrastive(x, x_mask, y, y_mask, self.scale)


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
