"""Distillation losses over bitext, on sentence-transformers' contract."""

import inspect
from importlib import import_module
from typing import Any

from ..errors import InputError, closest
from .base import BitextLoss, mean_tokens
from .greedy import GreedyAlignmentLoss
from .optical import OpticalLoss
from .pooled import PooledMSELoss
from .scores import BitextContrastiveLoss, TranslateDistillLoss
from .tokens import TokenMSELoss

#: Names that recipes use.
LOSSES: dict[str, type[BitextLoss]] = {
    "optical": OpticalLoss,
    "pooled-mse": PooledMSELoss,
    "greedy": GreedyAlignmentLoss,
    "contrastive": BitextContrastiveLoss,
    "translate-distill": TranslateDistillLoss,
}
#: Arguments of losses that training gives, not the recipe.
_GIVEN = ("self", "model", "teacher", "student_idf", "teacher_idf", "passages")


def resolve_loss(loss: Any, argument: str = "loss") -> type[BitextLoss]:
    """The class of a loss: of a name in :data:`LOSSES`, of ``"package.module:Class"``, or a class itself.

    Raises
    ------
    InputError
        An unknown name, a module that cannot be imported, or a class that is no :class:`BitextLoss`.

    Examples
    --------
    >>> resolve_loss("optical").__name__, resolve_loss("optical_rs.losses.greedy:GreedyAlignmentLoss").__name__
    ('OpticalLoss', 'GreedyAlignmentLoss')
    """
    if isinstance(loss, str) and ":" in loss:
        module, _, name = loss.partition(":")
        try:
            loss = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise InputError(f"{argument}: cannot import '{loss}': {error}") from None
    if isinstance(loss, type) and issubclass(loss, BitextLoss):
        return loss
    if loss not in LOSSES:
        raise InputError(
            f"{argument}: unknown loss {loss!r}{closest(loss, LOSSES)}; or 'package.module:Class' of a BitextLoss"
        )
    return LOSSES[loss]


def options_of(loss: type[BitextLoss]) -> set[str]:
    """Names of the options that a recipe may give a loss."""
    return set(inspect.signature(loss).parameters) - set(_GIVEN)


__all__ = [
    "LOSSES",
    "BitextContrastiveLoss",
    "BitextLoss",
    "GreedyAlignmentLoss",
    "OpticalLoss",
    "PooledMSELoss",
    "TokenMSELoss",
    "TranslateDistillLoss",
    "mean_tokens",
    "options_of",
    "resolve_loss",
]
