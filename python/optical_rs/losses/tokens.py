"""The loss of a text's own tokens: both sides are the same text, so that no alignment is needed."""

from torch import Tensor

from ..errors import InputError
from .base import BitextLoss


def token_mse(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    """Mean over the tokens of a batch of ``|x_i − y_i|²``; the tokens of each text are in the same order."""
    # Padding may be on either side, and texts may be padded to different lengths.
    return (x[x_mask] - y[y_mask]).square().sum(1).mean()


class TokenMSELoss(BitextLoss):
    """Squared distance of each token to the teacher's token of the same text.

    It needs pairs with the same text on both sides, and a student with the teacher's tokenizer: it teaches a smaller
    model what a larger one makes of a text.
    """

    def compare(self, features, labels, x, x_mask, y, y_mask):
        if not (x_mask.sum(1) == y_mask.sum(1)).all():
            raise InputError(
                "TokenMSELoss: expected the same text and tokenizer on both sides, got texts of different numbers of tokens"
            )
        return token_mse(x, x_mask, y, y_mask)
