"""``alignment_loss``: from token embeddings to a transport loss in one call."""

from typing import Any

from .. import _core
from ..errors import InputError
from . import arguments
from .result import warn_unless_converged

REDUCTIONS = ("mean", "sum", "none")
REG_SCALES = ("absolute", "spread")


def alignment_loss(
    x: Any,
    y: Any,
    x_mask: Any = None,
    y_mask: Any = None,
    reg: float = 0.1,
    *,
    a: Any = None,
    b: Any = None,
    reg_scale: str = "absolute",
    reg_m: float | tuple[float | None, float | None] | None = None,
    method: str = "auto",
    max_iter: int = 200,
    tol: float = 1e-3,
    accelerate: bool = True,
    grad: str = "envelope",
    reduction: str = "mean",
) -> Any:
    """Optimal transport between the tokens of paired texts, as a loss.

    For each pair, over its real tokens::

        C = 1 − cos(x, y),   T = argmin <T, C> + reg · Σ T (log T − 1),   loss = <T, C>

    This is the distillation loss of OPTICAL [1]_, where x are the student's tokens of a foreign
    sentence and y the teacher's of its English translation. On a CPU the native core computes costs,
    plan, loss and gradients pair by pair in cache; no (B, n, m) tensor is ever stored.

    Parameters
    ----------
    x : (B, n, dim) float array or tensor
        Token embeddings of the first texts, of any length (they are normalised here). float16 and
        bfloat16 are computed in float32.
    y : (B, m, dim) float array or tensor
        Token embeddings of the second texts.
    x_mask, y_mask : (B, n) and (B, m) bools, optional
        The real tokens.
    reg : float
        Regularisation: in cost units with ``reg_scale="absolute"``, in standard deviations of the
        pair's own costs with ``reg_scale="spread"``.
    a, b : (B, n) and (B, m), or (n,) and (m,), float arrays, optional
        Weights of the tokens; of equal mass per pair, and shared by all if of one dimension. Uniform by
        default.
    reg_scale : {"absolute", "spread"}
        The unit of ``reg`` and ``reg_m``. Cosines of raw transformer tokens can all lie within .1 of each other;
        a relative ``reg`` adapts to that. (It is a constant for the gradient.)
    reg_m
        Unbalanced marginals, as in :func:`~optical_rs.transport.solve_batch`: a token without a
        counterpart may stay (partly) unmatched.
    method, max_iter, tol, accelerate
        As in :func:`~optical_rs.transport.solve_batch`, with defaults for training.
    grad : {"envelope", "implicit", "detach"}
        ``"envelope"`` holds the plan fixed; ``"implicit"`` differentiates through it.
    reduction : {"mean", "sum", "none"}
        Over the pairs.

    Returns
    -------
    scalar or (B,) array or tensor
        The loss, differentiable in ``x`` and ``y``. An empty pair has loss 0.

    Raises
    ------
    InputError
        As in :func:`~optical_rs.transport.solve_batch`.

    References
    ----------
    .. [1] Z. Huang, P. Yu, J. Allan. Improving cross-lingual information retrieval on low-resource
       languages via optimal transport distillation. WSDM 2023. arXiv:2301.12566.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.transport import alignment_loss
    >>> tokens = np.eye(4, dtype=np.float32)[None]
    >>> round(float(alignment_loss(tokens, tokens[:, ::-1], reg=0.01)), 6)
    0.0
    """
    solver = arguments.solver(method, max_iter, tol, reg_m, accelerate, grad)
    if reduction not in REDUCTIONS:
        raise InputError(f"reduction: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    if reg_scale not in REG_SCALES:
        raise InputError(f"reg_scale: expected one of {', '.join(REG_SCALES)}, got {reg_scale!r}")
    for name, tokens in (("x", x), ("y", y)):
        arguments.check_ndim(name, tokens, 3, "(batch, tokens, dim)")
    relative = reg_scale == "spread"
    if arguments.is_tensor(x):
        from . import torch_ops

        losses: Any = torch_ops.alignment_losses(x, y, x_mask, y_mask, reg, a, b, relative, solver, grad)
    else:
        x = arguments.floats("x", x)
        (batch, n, _), m = x.shape, y.shape[1]
        reports = _core.align_batch(
            x,
            arguments.native("y", y, x.dtype),
            arguments.marginal("a", a, batch, n, x.dtype),
            arguments.marginal("b", b, batch, m, x.dtype),
            arguments.side("x", None, x_mask, batch, n),
            arguments.side("y", None, y_mask, batch, m),
            float(reg),
            relative,
            False,
            solver,
            False,
            False,
        ).reports
        losses = reports.value_linear
        warn_unless_converged(reports.converged, reports.marginal_error, solver)
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()
