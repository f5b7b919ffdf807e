"""The plain encoder as retrieval knew it before late interaction: one vector of a text."""

from typing import Any

from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize
from torch import nn

from .late_interaction import transformer_of


class MeanToken(nn.Module):
    """The mean of a text's token vectors as its only token."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def get_embedding_dimension(self) -> int:
        """Numbers of the vector."""
        return self.dim

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Features with ``token_embeddings`` (texts, 1, dim)."""
        mask = features["attention_mask"]
        weights = mask.to(features["token_embeddings"].dtype)[:, :, None]
        mean = (features["token_embeddings"] * weights).sum(1) / weights.sum(1).clamp(min=1)
        return {**features, "token_embeddings": mean[:, None], "attention_mask": mask.new_ones(len(mask), 1)}


def pooled_encoder(encoder: Any, *, device: str | None = None) -> MultiVectorEncoder:
    """A model with one vector of a text: the mean of an encoder's token vectors, before any head.

    MaxSim of two such texts is the cosine of the means, so that all that searches tokens searches them too. It is
    made, not saved.

    Parameters
    ----------
    encoder : str, path, SentenceTransformer or MultiVectorEncoder
        As for :func:`~optical_rs.models.late_interaction`; of a late-interaction model it is the encoder below the
        head. Prompts are the encoder's own.
    device : str, optional
        As in sentence-transformers.

    Returns
    -------
    MultiVectorEncoder

    Raises
    ------
    InputError
        No such model.

    Examples
    --------
    >>> from optical_rs.models import pooled_encoder
    >>> model = pooled_encoder("packaged:multilingual-e5-small")  # doctest: +SKIP
    >>> model.encode_query("where is Kano?").shape  # doctest: +SKIP
    (1, 384)
    """
    transformer, prompts = transformer_of(encoder, device)
    mean = MeanToken(transformer.get_embedding_dimension())
    modules = [transformer, mean, Normalize(module_input_name="token_embeddings")]
    return MultiVectorEncoder(modules=modules, prompts=prompts, device=device)
