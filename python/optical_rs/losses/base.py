"""What the losses over bitext share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from torch import Tensor, nn

from ..errors import InputError


class BitextLoss(nn.Module, ABC):
    """The student's tokens, and the teacher's for the same pairs; subclasses define :meth:`compare`.

    A loss of your own is a subclass: recipes name it as ``"package.module:Class"``, Python passes the class. Its
    keyword arguments after ``model`` and ``teacher`` are the options that a recipe may set.

    Parameters
    ----------
    model : MultiVectorEncoder
        The student.
    teacher : TokenStore, StoredTokens or MultiVectorEncoder
        The teacher's tokens of English sentences, computed once; the batch's ``labels`` are then positions
        in them. Or the teacher itself, which encodes the second text column; that column must have been
        tokenised by the teacher (see :class:`optical_rs.training.batches.BitextCollator`).

    Raises
    ------
    InputError
        If student and teacher differ in dimension.

    Examples
    --------
    ::

        class CosineLoss(BitextLoss):
            '''One minus the cosine of mean token vectors.'''

            def __init__(self, model, teacher, *, weight: float = 1.0):
                super().__init__(model, teacher)
                self.weight = weight

            def compare(self, features, labels, x, x_mask, y, y_mask):
                cosine = torch.cosine_similarity(mean_tokens(x, x_mask), mean_tokens(y, y_mask))
                return self.weight * (1 - cosine).mean()
    """

    def __init__(self, model: MultiVectorEncoder, teacher: Any):
        super().__init__()
        own = model.get_embedding_dimension()
        dim = teacher.dim if hasattr(teacher, "dim") else teacher.get_embedding_dimension()
        if dim != own:
            raise InputError(f"teacher: has dimension {dim}, but the student has {own}")
        self.model = model
        # In a tuple, so that a teacher that is a module is not trained, moved or saved with the loss.
        self._teacher = (teacher,)

    @property
    def teacher(self) -> Any:
        """The teacher, or its tokens."""
        return self._teacher[0]

    def student_tokens(self, features: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """(batch, tokens, dim) unit vectors and their mask, without query expansion tokens."""
        student: Any = self.model
        return without_expansion(student(features, task=features.get("task", "query")))

    def teacher_tokens(self, features: list[dict[str, Any]], labels: Tensor | None, device: torch.device):
        """The teacher's tokens and mask of a batch, stored or from the teacher itself."""
        if not isinstance(self.teacher, nn.Module):
            if labels is None:
                raise InputError("labels: stored teacher tokens need the pairs' positions in them as labels")
            texts = [self.teacher[i] for i in labels.tolist()]
            return tuple(t.to(device) for t in pad(texts, self.teacher.dim))
        if len(features) < 2:
            raise InputError("sentence_features: a model as teacher needs the English text as second column")
        self.teacher.eval()
        with torch.no_grad():
            tokens, mask = without_expansion(
                self.teacher(dict(features[1]), task=features[1].get("task", "query"))
            )
        return tokens.to(device), mask.to(device)

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


def without_expansion(out: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Token embeddings and their mask; query expansion tokens, which stand for no word, are left out."""
    mask = out["attention_mask"].bool()
    expansion = out.get("query_expansion_positions")
    if expansion is not None:
        mask = mask & ~expansion.bool()
    return out["token_embeddings"], mask


def pad(texts: Sequence[np.ndarray], dim: int) -> tuple[Tensor, Tensor]:
    """Ragged arrays (tokens, dim) as one padded tensor, and its mask."""
    longest = max((len(t) for t in texts), default=0)
    padded = np.zeros((len(texts), longest, dim), dtype=np.float32)
    mask = np.zeros((len(texts), longest), dtype=bool)
    for i, text in enumerate(texts):
        padded[i, : len(text)] = text
        mask[i, : len(text)] = True
    return torch.from_numpy(padded), torch.from_numpy(mask)


def mean_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """Mean token vectors (batch, dim)."""
    weights = mask.to(x.dtype)[:, :, None]
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


def copies(labels: Tensor | None, y: Tensor, y_mask: Tensor) -> Tensor:
    """(batch, batch) bool: which other rows of a batch have the same English text as a row.

    They are translations of it as well, so a loss must not push the row away from them. Equal texts share a position in
    the teacher's tokens; without positions, texts are equal if their tokens are.
    """
    if labels is not None:
        same = labels[:, None] == labels[None, :]
    else:
        shown = y * y_mask.to(y.dtype)[:, :, None]
        same = (shown[:, None] == shown[None]).all(dim=(2, 3)) & (y_mask[:, None] == y_mask[None]).all(dim=2)
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
