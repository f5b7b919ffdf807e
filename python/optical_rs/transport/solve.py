"""``solve_batch``: many small entropic transport problems at once."""

import dataclasses
from typing import Any

import numpy as np

from .. import _core
from ..errors import InputError
from . import arguments
from .result import TransportResult, reported, warn_unless_converged


def solve_batch(
    cost: Any,
    reg: Any,
    a: Any = None,
    b: Any = None,
    *,
    row_lengths: Any = None,
    row_mask: Any = None,
    col_lengths: Any = None,
    col_mask: Any = None,
    reg_m: float | tuple[float | None, float | None] | None = None,
    method: str = "auto",
    max_iter: int = 1000,
    tol: float = 1e-4,
    accelerate: bool = True,
    potentials: tuple[Any, Any] | None = None,
    grad: str = "envelope",
    return_plan: bool = True,
) -> TransportResult:
    """Solve a padded batch of entropic optimal transport problems, or one.

    For each problem, over its real rows and columns::

        minimise  <T, C> + reg · Σ T (log T − 1)   subject to   T 1 = a,  Tᵀ 1 = b

    by Sinkhorn's iteration [1]_, in the linear domain where that is safe and with scalings absorbed
    into the kernel [2]_ where it is not; or without regularisation by proximal steps [3]_. Every
    problem stops by itself. Its result does not depend on padding, on the rest of the batch or on
    the number of threads, bit for bit.

    numpy in, numpy out; tensors in, tensors out. Tensors on a CPU are solved by the native core,
    on other devices by a torch implementation. Arrays of other libraries are taken by DLPack.

    Parameters
    ----------
    cost : (B, n, m) or (n, m) float array or tensor
        Costs; two dimensions are a batch of one. ``+inf`` forbids an edge. float64 is computed in float64,
        all else in float32; plans and potentials of half precision come back in it.
    reg : float or (B,) floats
        Regularisation in the units of the cost; for ``method="ipot"`` the proximal step β.
    a, b : (B, n) and (B, m), or (n,) and (m,), float arrays, optional
        Marginals, >= 0, of equal mass per problem; zeros are allowed, padding is ignored. Of one dimension
        they are shared by all problems. Uniform with mass 1 over the real rows and columns by default. A
        problem without mass has an empty plan.
    row_lengths, col_lengths : (B,) ints, optional
        Only the first ``lengths[i]`` rows (columns) of problem i are real.
    row_mask, col_mask : (B, n) and (B, m) bools, optional
        Which rows (columns) are real, instead of lengths.
    reg_m : float or pair of floats, optional
        Unbalanced marginals: instead of holding exactly, they cost
        ``reg_m · KL(T 1 | a)`` and ``reg_m · KL(Tᵀ 1 | b)``, with KL(x | y) = Σ x log(x/y) − x + y
        [4]_. One value for both sides, or one each, where None (or ``inf``) is hard. Masses may
        differ then, and a row without an edge keeps its mass.
    method : {"auto", "linear", "log", "ipot"}
        ``"auto"`` and ``"linear"`` choose the domain by the problem and say which in ``status``;
        ``"log"`` stays in the log domain throughout.
    max_iter : int
        Iterations at most.
    tol : float
        Stop when the relative L1 error of the row marginal is at most this. 0 runs ``max_iter``.
    accelerate : bool
        With ``tol > 0``, fewer iterations to the same solution: over-relaxation once the rate of convergence is
        known (hard marginals in the linear domains [5]_), the best translation of the potentials after each
        sweep (unbalanced ones [6]_), and annealing where costs spread far.
    potentials : pair of (B, n) and (B, m) arrays, optional
        Start from these, as returned for a similar batch.
    grad : {"envelope", "implicit", "detach"}
        Tensors only: what ``value_linear`` is differentiated as. ``"envelope"``: the plan is held
        fixed, so the gradient with respect to the cost is the plan (that of ``value``).
        ``"implicit"``: the true gradient of ``<T*(C), C>``. ``"detach"``: no gradients. ``value``
        has its true gradients with respect to cost (the plan) and marginals (the potentials). The plan is
        differentiable in the cost with ``"implicit"``; with ``"envelope"`` it is a constant, so that
        ``(plan * cost).sum()`` has the same gradient as ``value_linear``. Potentials carry none.
    return_plan : bool
        Without it, ``plan`` is None and memory does not grow with B · n · m (numpy only).

    Returns
    -------
    TransportResult

    Raises
    ------
    InputError
        NaN or ``-inf`` in the cost, unequal masses, a row or column with mass but only forbidden
        edges, shapes or options that do not fit. Names the problem.

    Warns
    -----
    ConvergenceWarning
        Once per call, if a problem reached ``max_iter`` before ``tol`` (not on a GPU, where asking
        would wait for it, and not in compiled graphs).

    References
    ----------
    .. [1] M. Cuturi. Sinkhorn distances: lightspeed computation of optimal transport. NeurIPS 2013.
    .. [2] B. Schmitzer. Stabilized sparse scaling algorithms for entropy regularized transport
       problems. SIAM J. Sci. Comput. 41(3), 2019.
    .. [3] Y. Xie, X. Wang, R. Wang, H. Zha. A fast proximal point method for computing exact
       Wasserstein distance. UAI 2019.
    .. [4] L. Chizat, G. Peyré, B. Schmitzer, F.-X. Vialard. Scaling algorithms for unbalanced optimal
       transport problems. Mathematics of Computation 87, 2018.
    .. [5] T. Lehmann, M.-K. von Renesse, A. Sambale, A. Uschmajew. A note on overrelaxation in the
       Sinkhorn algorithm. Optimization Letters 16, 2022.
    .. [6] T. Séjourné, F.-X. Vialard, G. Peyré. Faster unbalanced optimal transport: translation
       invariant Sinkhorn and 1-D Frank-Wolfe. AISTATS 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.transport import solve_batch
    >>> result = solve_batch(np.array([[[0.0, 1.0], [1.0, 0.0]]]), reg=0.1)
    >>> result.plan.round(3)
    array([[[0.5, 0. ],
            [0. , 0.5]]])
    >>> result.status, result.converged
    (['linear'], array([ True]))
    """
    solver = arguments.solver(method, max_iter, tol, reg_m, accelerate, grad)
    if arguments.is_tensor(cost):
        from . import torch_ops

        result = torch_ops.solve_batch(
            cost,
            reg,
            a,
            b,
            row_lengths=row_lengths,
            row_mask=row_mask,
            col_lengths=col_lengths,
            col_mask=col_mask,
            solver=solver,
            potentials=potentials,
            grad=grad,
        )
        return result if return_plan else dataclasses.replace(result, plan=None)
    half = getattr(cost, "dtype", None) == np.float16
    cost = arguments.floats("cost", cost)
    cost = cost[None] if cost.ndim == 2 else cost
    arguments.check_ndim("cost", cost, 3, "(batch, n, m) or (n, m)")
    batch, n, m = cost.shape
    start = None
    if potentials is not None:
        if len(potentials) != 2:
            raise InputError(f"potentials: expected a pair (f, g), got {len(potentials)} items")
        start = arguments.marginal("potentials", potentials[1], batch, m, cost.dtype)
    solved = _core.solve_batch(
        cost,
        np.atleast_1d(np.asarray(reg, dtype=np.float64)).tolist(),
        arguments.marginal("a", a, batch, n, cost.dtype),
        arguments.marginal("b", b, batch, m, cost.dtype),
        arguments.side("row", row_lengths, row_mask, batch, n),
        arguments.side("col", col_lengths, col_mask, batch, m),
        start,
        solver,
        return_plan,
    )
    plan, f, g = (
        x.astype(np.float16) if half and x is not None else x for x in (solved.plan, solved.f, solved.g)
    )
    warn_unless_converged(solved.reports.converged, solved.reports.marginal_error, solver)
    return TransportResult(plan, (f, g), **reported(solved.reports))
