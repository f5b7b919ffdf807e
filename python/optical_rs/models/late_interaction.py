"""Late-interaction models made from any encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import nn

from ..errors import InputError
from ..files import spelled
from .head import regression, whitening
from .loading import check_path, is_late_interaction, load_model, without_pooler_reports, zero_pooler
from .packaged import E5_SMALL, PACKAGED, packaged_model

#: Prompts that the E5 family was trained with.
E5_PROMPTS = {"query": "query: ", "document": "passage: "}


def late_interaction(
    encoder: Any,
    dim: int = 128,
    *,
    fit_on: Sequence[str] | None = None,
    match: MultiVectorEncoder | None = None,
    prompts: dict[str, str] | None = None,
    max_seq_length: int | None = None,
    device: str | None = None,
) -> MultiVectorEncoder:
    """A late-interaction model from any encoder, with a projection that needs no training.

    Tokens of a plain encoder all point in nearly the same direction: cosines of multilingual-e5 lie in .7–1,
    too near each other for MaxSim and transport. The head computed here removes the mean of the tokens
    of ``fit_on``, keeps their ``dim`` principal directions and divides each by the square root of
    its standard deviation (half whitening)::

        W = diag(σ^-1/2) · U_dimᵀ,   bias = −W · mean

    With ``match`` it is instead the ridge regression that takes this encoder's mean tokens of each
    text to those of another model, so that a different encoder starts out in its teacher's space.

    Parameters
    ----------
    encoder : str, path, SentenceTransformer or MultiVectorEncoder
        A Hugging Face model (folder or hub id), ``"packaged:multilingual-e5-small"``,
        ``"packaged:all-MiniLM-L6-v2"``, or a loaded model whose Transformer module is taken (and shared).
    dim : int
        Dimension of the token vectors; at most that of the encoder (that of ``match``, if given).
    fit_on : sequence of str
        English texts, some hundreds at least. Without them the head is random and must be trained.
    match : MultiVectorEncoder, optional
        The teacher whose space to start in.
    prompts : dict, optional
        ``{"query": ..., "document": ...}``, put before the texts. By default those of the encoder,
        or E5's for packaged multilingual-e5-small.
    max_seq_length : int, optional
        Longest input in tokens.
    device : str, optional
        As in sentence-transformers.

    Returns
    -------
    MultiVectorEncoder
        Transformer → Dense (``dim``, with bias) → MultiVectorMask → Normalize: a standard checkpoint
        of sentence-transformers when saved.

    Raises
    ------
    InputError
        No such model, a ``dim`` that does not fit, or too few texts to fit on.
    """
    transformer, found = transformer_of(encoder, device)
    if max_seq_length is not None:
        transformer.max_seq_length = max_seq_length
    hidden = transformer.get_embedding_dimension()
    if match is not None:
        dim = match.get_embedding_dimension()
    elif not 1 <= dim <= hidden:
        raise InputError(f"dim: expected 1..{hidden}, the dimension of the encoder, got {dim}")
    head = Dense(
        in_features=hidden,
        out_features=dim,
        bias=True,
        activation_function=nn.Identity(),
        module_input_name="token_embeddings",
    )
    model = MultiVectorEncoder(
        modules=[transformer, head, MultiVectorMask(), Normalize(module_input_name="token_embeddings")],
        prompts=prompts if prompts is not None else found,
        device=device,
    )
    if fit_on is not None:
        texts = list(fit_on)
        weight, bias = regression(model, match, texts) if match else whitening(model, dim, texts)
        with torch.no_grad():
            head.linear.weight.copy_(torch.from_numpy(weight))
            head.linear.bias.copy_(torch.from_numpy(bias))
    return model


def transformer_of(encoder: Any, device: str | None) -> tuple[Transformer, dict[str, str] | None]:
    """The Transformer module of an encoder, and its prompts."""
    if isinstance(encoder, nn.Module):
        module = next((m for m in encoder.modules() if isinstance(m, Transformer)), None)
        if module is None:
            raise InputError(f"encoder: found no Transformer module in a {type(encoder).__name__}")
        return module, {k: v for k, v in getattr(encoder, "prompts", {}).items() if v} or None
    path = spelled("encoder", encoder, "a model, or the path or name of one")
    if path == E5_SMALL:
        with without_pooler_reports():
            return zero_pooler(Transformer(str(packaged_model(E5_SMALL)))), E5_PROMPTS
    path = str(packaged_model(path)) if path in PACKAGED else check_path(path, "encoder")
    if Path(path, "modules.json").exists():
        if is_late_interaction(path, "encoder"):
            return transformer_of(load_model(path, device=device, argument="encoder"), device)
        with without_pooler_reports():
            encoder = SentenceTransformer(path, device=device)
        return transformer_of(encoder, device)
    with without_pooler_reports():
        return zero_pooler(Transformer(path)), None
