"""The Sinkhorn divergence: entropic transport without its bias."""

from typing import Any

from .solve import solve_batch


def sinkhorn_divergence(
    cost_xy: Any,
    cost_xx: Any,
    cost_yy: Any,
    reg: Any,
    a: Any = None,
    b: Any = None,
    *,
    row_lengths: Any = None,
    row_mask: Any = None,
    col_lengths: Any = None,
    col_mask: Any = None,
    **options: Any,
) -> Any:
    """``S = W(x, y) − ½ W(x, x) − ½ W(y, y)`` for each pair of a padded batch.

    W is the entropic transport value of :func:`~optical_rs.transport.solve_batch`. W(x, x) is not 0, so
    that W alone is least for some y that is narrower than x; the divergence removes this bias. It is
    0 for y = x and, for costs whose kernel exp(−C / reg) is positive definite, positive otherwise [1]_.
    (The reference measure of the entropy cancels: this equals the definition with KL(T | a ⊗ b).)

    Parameters
    ----------
    cost_xy : (B, n, m) array or tensor
    cost_xx : (B, n, n) array or tensor
    cost_yy : (B, m, m) array or tensor
        Costs between and within the two sides.
    reg, a, b, row_lengths, row_mask, col_lengths, col_mask
        As in :func:`~optical_rs.transport.solve_batch`; rows are the points of x, columns those of y.
    **options
        Others of :func:`~optical_rs.transport.solve_batch`: ``method``, ``max_iter``, ``tol``,
        ``accelerate``, ``grad`` (of which ``"detach"`` alone makes a difference). Marginals are hard.

    Returns
    -------
    (B,) float array or tensor
        Differentiable in the costs and the marginals, if tensors.

    Raises
    ------
    InputError
        As in :func:`~optical_rs.transport.solve_batch`.

    References
    ----------
    .. [1] J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré. Interpolating between
       optimal transport and MMD using Sinkhorn divergences. AISTATS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.transport import sinkhorn_divergence
    >>> x = np.array([[0.0, 1.0, 2.0]])
    >>> cost = (x[:, :, None] - x[:, None, :]) ** 2
    >>> abs(float(sinkhorn_divergence(cost, cost, cost, 0.5)[0])) < 1e-6
    True
    """
    rows = {"lengths": row_lengths, "mask": row_mask}
    cols = {"lengths": col_lengths, "mask": col_mask}

    def value(
        cost: Any, of_rows: Any, of_cols: Any, side_rows: dict[str, Any], side_cols: dict[str, Any]
    ) -> Any:
        sides = {f"row_{k}": v for k, v in side_rows.items()} | {f"col_{k}": v for k, v in side_cols.items()}
        return solve_batch(cost, reg, of_rows, of_cols, **sides, **options).value

    between = value(cost_xy, a, b, rows, cols)
    within_x, within_y = value(cost_xx, a, a, rows, rows), value(cost_yy, b, b, cols, cols)
    return between - 0.5 * (within_x + within_y)
