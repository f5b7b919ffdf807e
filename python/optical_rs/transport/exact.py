"""Transport without regularisation, by POT's network simplex: the reference that Sinkhorn tends to."""

from typing import Any

import numpy as np

from ..errors import InputError, require
from . import arguments
from .result import TransportResult


def solve_exact(
    cost: Any,
    a: Any = None,
    b: Any = None,
    *,
    row_lengths: Any = None,
    row_mask: Any = None,
    col_lengths: Any = None,
    col_mask: Any = None,
    max_iter: int = 1_000_000,
) -> TransportResult:
    """Solve a padded batch of optimal transport problems exactly.

    For each problem, over its real rows and columns::

        minimise  <T, C>   subject to   T 1 = a,  Tᵀ 1 = b,  T >= 0

    with ``ot.emd`` of POT [1]_ (extra ``exact``), one problem after the other, in float64. Meant for
    reference and evaluation: it is far slower than :func:`~optical_rs.transport.solve_batch`, and its
    plan is no smooth function of the cost.

    Parameters
    ----------
    cost : (B, n, m) or (n, m) array
        Costs; two dimensions are a batch of one. +inf forbids an edge.
    a, b : (B, n) and (B, m), or (n,) and (m,), arrays, optional
        Marginals of equal mass per problem, shared if of one dimension; uniform with mass 1 by default.
    row_lengths, row_mask, col_lengths, col_mask
        As in :func:`~optical_rs.transport.solve_batch`.
    max_iter : int
        Pivots at most.

    Returns
    -------
    TransportResult
        ``value`` and ``value_linear`` are the same, potentials are those of the linear program, and
        ``status`` is ``"exact"`` (or ``"empty"``). ``n_iter`` is 0: POT does not tell.

    Raises
    ------
    InputError
        NaN or ``-inf`` in the cost, unequal masses, forbidden edges that no plan can avoid, POT missing.

    References
    ----------
    .. [1] R. Flamary et al. POT: Python Optimal Transport. JMLR 22(78), 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.transport import solve_exact
    >>> solve_exact(np.array([[[0.0, 1.0], [1.0, 0.0]]])).plan
    array([[[0.5, 0. ],
            [0. , 0.5]]])
    """
    ot = require("ot", "exact")
    cost = arguments.native("cost", cost, np.float64)
    cost = cost[None] if cost.ndim == 2 else cost
    arguments.check_ndim("cost", cost, 3, "(batch, n, m) or (n, m)")
    batch, n, m = cost.shape
    rows = arguments.present("row", row_lengths, row_mask, batch, n)
    cols = arguments.present("col", col_lengths, col_mask, batch, m)
    a = arguments.marginal("a", a, batch, n, np.float64)
    b = arguments.marginal("b", b, batch, m, np.float64)
    plan, f, g = np.zeros_like(cost), np.zeros((batch, n)), np.zeros((batch, m))
    value, gap, error, converged, status = (
        np.zeros(batch),
        np.zeros(batch),
        np.zeros(batch),
        np.ones(batch, bool),
        [],
    )
    for i in range(batch):
        r, c = rows[i], cols[i]
        status.append("exact" if r.any() and c.any() else "empty")
        if status[i] == "empty":
            continue
        inner = cost[i][np.ix_(r, c)]
        if np.isnan(inner).any() or (inner == -np.inf).any():
            raise InputError(f"cost: problem {i} has NaN or -inf; expected numbers or +inf")
        weights_a, weights_b = (
            np.full(keep.sum(), 1 / keep.sum()) if x is None else x[i][keep] for x, keep in ((a, r), (b, c))
        )
        mass_a, mass_b = weights_a.sum(), weights_b.sum()
        if abs(mass_a - mass_b) > 1e-6 * max(mass_a, mass_b):
            raise InputError(f"a, b: problem {i} has masses {mass_a} and {mass_b}; expected equal masses")
        weights_b = weights_b * (mass_a / mass_b)
        forbidden = np.isinf(inner)
        # Dearer than any detour over allowed edges.
        finite = inner[~forbidden]
        spread = np.ptp(finite) if finite.size else 0.0
        dear = (finite.max() if finite.size else 0.0) + (spread + 1) * (len(inner) + inner.shape[1])
        found, log = ot.emd(
            weights_a, weights_b, np.where(forbidden, dear, inner), numItermax=max_iter, log=True
        )
        if found[forbidden].sum() > 1e-12 * mass_a:
            raise InputError(f"cost: problem {i} is infeasible: every plan needs a forbidden edge")
        found[forbidden] = 0
        plan[i][np.ix_(r, c)] = found
        f[i][r], g[i][c] = log["u"], log["v"]
        value[i] = (found[~forbidden] * finite).sum()
        gap[i] = value[i] - weights_a @ log["u"] - weights_b @ log["v"]
        off = np.abs(found.sum(1) - weights_a).sum(), np.abs(found.sum(0) - weights_b).sum()
        error[i] = max(off) / mass_a
        converged[i] = log["warning"] is None
    return TransportResult(
        plan,
        (f, g),
        value,
        value.copy(),
        gap,
        np.zeros(batch, int),
        converged,
        error,
        status,
        np.zeros(batch),
    )
