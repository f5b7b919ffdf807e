"""MaxSim with gradients, for training with sentence-transformers' losses."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _core
from ..errors import InputError
from . import gpu

_library = torch.library.Library("optical_rs", "FRAGMENT")
_library.define(
    "maxsim(Tensor queries, Tensor query_offsets, Tensor documents, Tensor document_offsets, int? own) -> "
    "(Tensor scores, Tensor matched)"
)
_library.define(
    "maxsim_gradient(Tensor queries, Tensor query_offsets, Tensor documents, Tensor document_offsets, "
    "Tensor matched, Tensor weights, int? own) -> (Tensor of_queries, Tensor of_documents)"
)


def _native(function: Callable[..., Any], *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, own = arguments
    found = function(*(t.detach().contiguous().numpy() for t in tensors), own)
    return tuple(map(torch.from_numpy, found))


_library.impl("maxsim", lambda *arguments: _native(_core.maxsim_matches, *arguments), "CPU")
_library.impl("maxsim_gradient", lambda *arguments: _native(_core.maxsim_gradient, *arguments), "CPU")


@torch.library.register_fake("optical_rs::maxsim")
def _(
    queries: Any, query_offsets: Any, documents: Any, document_offsets: Any, own: Any
) -> tuple[Tensor, Tensor]:
    texts = document_offsets.shape[0] - 1
    return (
        queries.new_empty(query_offsets.shape[0] - 1, texts if own is None else own),
        queries.new_empty(texts, queries.shape[0], dtype=torch.int32),
    )


@torch.library.register_fake("optical_rs::maxsim_gradient")
def _(
    queries: Any,
    query_offsets: Any,
    documents: Any,
    document_offsets: Any,
    matched: Any,
    weights: Any,
    own: Any,
) -> Any:
    return queries.new_empty(queries.shape), documents.new_empty(documents.shape)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.own = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, weights: Tensor, _: Any) -> tuple[Tensor, None, Tensor, None, None]:
    of_queries, of_documents = torch.ops.optical_rs.maxsim_gradient(*ctx.saved_tensors, weights, ctx.own)
    return of_queries, None, of_documents, None, None


torch.library.register_autograd("optical_rs::maxsim", _backward, setup_context=_save)


def _packed(texts: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(tokens, dim) of the real tokens, and the offsets of the texts."""
    count, length, dim = texts.shape
    if mask is None:
        return texts.reshape(-1, dim), torch.arange(count + 1) * length
    sizes = mask.sum(1, dtype=torch.int64)
    return texts[mask], torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _check(name: str, texts: Tensor, mask: Tensor | None, ndim: int) -> Tensor | None:
    if texts.ndim != ndim:
        raise InputError(f"{name}_embeddings: expected {ndim} dimensions, got shape {tuple(texts.shape)}")
    if mask is not None and mask.shape != texts.shape[:-1]:
        raise InputError(
            f"{name}_mask: expected shape {tuple(texts.shape[:-1])}, as the embeddings have, "
            f"got {tuple(mask.shape)}"
        )
    return None if mask is None else mask.to(device=texts.device, dtype=torch.bool)


def maxsim_scores(
    queries_embeddings: Tensor,
    documents_embeddings: Tensor,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    *,
    length_normalize: bool = False,
) -> Tensor:
    """MaxSim of every query against every document of a batch, differentiable.

    Takes the place of sentence-transformers' ``colbert_scores`` as ``similarity_fct`` of its contrastive
    losses. On a CPU, in single or half precision, the native core scores the real tokens alone and
    remembers which token each maximum came from; the similarity matrix (queries × documents × tokens
    × tokens) is never stored, nor gone through again for the gradient. On an NVIDIA GPU the kernels of
    late-interaction-kernels do it, if that package is installed. Elsewhere, and in double precision, torch does it.

    ::

        score(q, d) = Σ_i max_j <q_i, d_j>        ∂ score / ∂ q_i = d_match(i)

    Parameters
    ----------
    queries_embeddings : (queries, tokens, dim) tensor
    documents_embeddings : (groups, n, tokens, dim) tensor
        ``n`` documents for each of some queries: a positive and its negatives.
    queries_mask : (queries, tokens) tensor, optional
        Real tokens; all by default.
    documents_mask : (groups, n, tokens) tensor, optional
    length_normalize : bool
        Divide by the number of the query's real tokens.

    Returns
    -------
    (queries, groups · n) tensor
        float32 (float64 for double precision). ``-inf`` for a document without real tokens, unless the
        query has none either: 0. Where several tokens are equally near, the first gets the gradient.

    Raises
    ------
    InputError
        Shapes that do not fit.

    Examples
    --------
    >>> import torch
    >>> from optical_rs.similarity.torch_ops import maxsim_scores
    >>> queries = torch.eye(2)[None].requires_grad_()
    >>> documents = torch.tensor([[[[0.5, 0.75]], [[1.0, 0.0]]]])
    >>> scores = maxsim_scores(queries, documents)
    >>> scores.tolist()
    [[1.25, 1.0]]
    >>> scores[0, 0].backward()
    >>> queries.grad.tolist()
    [[[0.5, 0.75], [0.5, 0.75]]]

    In a loss::

        losses.MultiVectorMultipleNegativesRankingLoss(model, similarity_fct=maxsim_scores)
    """
    return _maxsim(
        queries_embeddings, documents_embeddings, queries_mask, documents_mask, length_normalize, None
    )


def maxsim_kd_scores(
    queries_embeddings: Tensor,
    documents_embeddings: Tensor,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    *,
    length_normalize: bool = False,
) -> Tensor:
    """MaxSim of each query against its own ``n`` documents, differentiable.

    Takes the place of ``colbert_kd_scores`` as ``similarity_fct`` of ``MultiVectorDistillKLDivLoss``.

    Parameters
    ----------
    queries_embeddings, documents_embeddings, queries_mask, documents_mask, length_normalize
        As in :func:`maxsim_scores`, with as many groups of documents as queries.

    Returns
    -------
    (queries, n) tensor
        As in :func:`maxsim_scores`.

    Raises
    ------
    InputError
        Shapes that do not fit.

    Examples
    --------
    >>> import torch
    >>> from optical_rs.similarity.torch_ops import maxsim_kd_scores
    >>> maxsim_kd_scores(torch.eye(2)[None], torch.tensor([[[[0.5, 0.75]], [[1.0, 0.0]]]])).tolist()
    [[1.25, 1.0]]
    """
    n = documents_embeddings.shape[1] if documents_embeddings.ndim == 4 else 1
    return _maxsim(
        queries_embeddings, documents_embeddings, queries_mask, documents_mask, length_normalize, n
    )


def maxsim_scores_pairwise(
    queries_embeddings: Tensor,
    documents_embeddings: Tensor,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    *,
    length_normalize: bool = False,
) -> Tensor:
    """MaxSim of each query and the document beside it, differentiable.

    Takes the place of ``colbert_scores_pairwise`` as ``similarity_fct`` of ``MultiVectorMarginMSELoss``.

    Parameters
    ----------
    queries_embeddings, queries_mask, length_normalize
        As in :func:`maxsim_scores`.
    documents_embeddings : (queries, tokens, dim) tensor
    documents_mask : (queries, tokens) tensor, optional

    Returns
    -------
    (queries,) tensor
        As in :func:`maxsim_scores`.

    Raises
    ------
    InputError
        Shapes that do not fit.

    Examples
    --------
    >>> import torch
    >>> from optical_rs.similarity.torch_ops import maxsim_scores_pairwise
    >>> maxsim_scores_pairwise(torch.eye(2)[None], torch.tensor([[[0.5, 0.75]]])).tolist()
    [1.25]
    """
    mask = _check("documents", documents_embeddings, documents_mask, 3)
    documents, d_mask = documents_embeddings[:, None], None if mask is None else mask[:, None]
    return _maxsim(queries_embeddings, documents, queries_mask, d_mask, length_normalize, 1).squeeze(1)


def _maxsim(
    queries_embeddings: Tensor,
    documents_embeddings: Tensor,
    queries_mask: Tensor | None,
    documents_mask: Tensor | None,
    length_normalize: bool,
    own: int | None,
) -> Tensor:
    """Scores against all documents, or against ``own`` of each query's own."""
    q_mask = _check("queries", queries_embeddings, queries_mask, 3)
    d_mask = _check("documents", documents_embeddings, documents_mask, 4)
    if queries_embeddings.shape[-1] != documents_embeddings.shape[-1]:
        raise InputError(
            f"documents_embeddings: expected dimension {queries_embeddings.shape[-1]}, as the queries have, "
            f"got {documents_embeddings.shape[-1]}"
        )
    if own is not None and len(queries_embeddings) != len(documents_embeddings):
        raise InputError(
            f"documents_embeddings: expected documents for {len(queries_embeddings)} queries, "
            f"got {len(documents_embeddings)}"
        )
    documents = documents_embeddings.flatten(0, 1)
    d_mask = None if d_mask is None else d_mask.flatten(0, 1)
    double = queries_embeddings.dtype == torch.float64
    if queries_embeddings.device.type == "cpu" and not double:
        packed = *_packed(queries_embeddings.float(), q_mask), *_packed(documents.float(), d_mask)
        scores, _ = torch.ops.optical_rs.maxsim(*packed, own)
    elif queries_embeddings.device.type == "cuda" and not double and gpu.kernels_found():
        scores = gpu.scores(queries_embeddings, documents, q_mask, d_mask, own)
    else:
        dtype = torch.float64 if double else torch.float32
        scores = _scores(queries_embeddings.to(dtype), documents.to(dtype), q_mask, d_mask, own)
    if length_normalize:
        tokens = queries_embeddings.new_full((len(scores),), queries_embeddings.shape[1], dtype=scores.dtype)
        counts = tokens if q_mask is None else q_mask.sum(1)
        scores = scores / counts.clamp(min=1)[:, None]
    return scores


def _scores(
    queries: Tensor, documents: Tensor, q_mask: Tensor | None, d_mask: Tensor | None, own: int | None
) -> Tensor:
    if own is None:
        products = torch.einsum("qid,pjd->qpij", queries, documents)
        mask = None if d_mask is None else ~d_mask[None, :, None, :]
    else:
        groups = documents.view(len(queries), own, *documents.shape[1:])
        products = torch.einsum("qid,qpjd->qpij", queries, groups)
        mask = None if d_mask is None else ~d_mask.view(len(queries), own, 1, -1)
    if mask is not None:
        products = products.masked_fill(mask, -torch.inf)
    best = products.max(3).values
    return (best if q_mask is None else torch.where(q_mask[:, None, :], best, 0.0)).sum(2)
