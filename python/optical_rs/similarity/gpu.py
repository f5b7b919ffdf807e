"""MaxSim on a GPU by the kernels of ``late-interaction-kernels``, where that package is installed.

Source: https://github.com/hcompai/late-interaction-kernels. The kernels never store the similarity matrix (queries ×
documents × tokens × tokens), which plain torch does. Products of single precision are taken in half precision there and
summed in single.
"""

import importlib.util
from functools import cache

import torch
from torch import Tensor


@cache
def kernels_found() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("late_interaction_kernels") is not None


def scores(
    queries: Tensor, documents: Tensor, q_mask: Tensor | None, d_mask: Tensor | None, own: int | None
) -> Tensor:
    """MaxSim of every query and every document, or each query's ``own`` ones; as :mod:`.torch_ops` defines it.

    Parameters
    ----------
    queries : (Q, tokens, dim) tensor
        On a GPU, in single or half precision; shapes were checked before.
    documents : (D, tokens, dim) tensor
        D is Q · ``own``, if that is given.
    q_mask, d_mask : (Q, tokens) and (D, tokens) bool tensors or None
        Real tokens; all by default.
    own : int or None
        Documents of each query, which lie one after the other; None scores all with all.

    Returns
    -------
    (Q, D) or (Q, own) float32 tensor
        ``-inf`` for a document without tokens, unless the query has none either: 0. Differentiable.
    """
    import late_interaction_kernels

    if own is not None:
        documents = documents.view(len(queries), own, *documents.shape[1:])
        d_mask = None if d_mask is None else d_mask.view(len(queries), own, -1)
    # The other way of the gradient rounds it to half precision.
    backward = "unified" if torch.float32 in (queries.dtype, documents.dtype) else None
    found = late_interaction_kernels.maxsim(queries, documents, q_mask, d_mask, backward=backward)
    if d_mask is None:
        return found
    # Theirs is 0 for a document without tokens.
    nothing = ~d_mask.any(-1)
    if q_mask is not None:
        nothing = nothing & q_mask.any(-1)[:, None]
    return found.masked_fill(nothing, -torch.inf)
