"""What a solve returns, and what it warns of."""

import dataclasses
import warnings
from typing import Any

from ..errors import ConvergenceWarning, InputError
from . import arguments


@dataclasses.dataclass(frozen=True)
class TransportResult:
    """Solutions of a batch of transport problems; field names as in POT's ``OTResult``.

    Arrays are of the kind (numpy or torch) that the cost was.

    Attributes
    ----------
    plan : (B, n, m) float array or None
        Transport plans; 0 in padding and on forbidden edges.
    potentials : tuple of (B, n) and (B, m) float arrays
        Dual potentials ``(f, g)`` in the units of the cost: ``plan = exp((f ⊕ g − C) / reg)``, with the
        field ``reg``.
    value : (B,) float array
        ``<T, C> + reg · Σ T (log T − 1)``, plus the divergences of unbalanced marginals; for IPOT
        ``<T, C>``. POT's ``value`` is ``<T, C> + reg · Σ T log T`` (its default ``reg_type="KL"`` with
        uniform reference aside), which is larger by ``reg`` times the plan's mass: :attr:`value_pot`.
    value_linear : (B,) float array
        ``<T, C>``.
    duality_gap : (B,) float array
        ``value`` less the dual objective at the potentials, below which no feasible plan's value is; for
        IPOT that of the problem without regularisation. How far ``value`` is above the optimum at most, up
        to ``marginal_error`` for hard marginals (and so a little below 0 at times).
    n_iter : (B,) int array
        Iterations run.
    converged : (B,) bool array
        Whether ``marginal_error <= tol``.
    marginal_error : (B,) float array
        The larger of ``Σ|T 1 − a|`` and ``Σ|Tᵀ 1 − b|``, relative to ``Σ a``: what stops the iteration
        and what is warned of. For an unbalanced marginal the distance to ``a · exp(−f / reg_m)``, which T 1 equals at the optimum.
    status : list of str
        How each was solved: ``"linear"``, ``"stabilised"``, ``"log"``, ``"ipot"``, ``"exact"`` or
        ``"empty"`` (no real rows or columns, or none with mass).
    reg : (B,) float array
        The regularisation that plan and potentials are of; for IPOT ``reg / t`` after t steps.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.transport import solve_batch
    >>> solve_batch(np.array([[[0.0, 1.0], [1.0, 0.0]]]), reg=0.1)
    TransportResult(1 problem of up to 2 × 2, 1 converged in up to 2 iterations: linear)
    """

    plan: Any
    potentials: tuple[Any, Any]
    value: Any
    value_linear: Any
    duality_gap: Any
    n_iter: Any
    converged: Any
    marginal_error: Any
    status: list[str]
    reg: Any

    @property
    def value_pot(self) -> Any:
        """``value`` as POT defines it: ``<T, C> + reg · Σ T log T``, larger by ``reg`` times the plan's mass."""
        if self.plan is None:
            raise InputError("value_pot: needs the plan; solve with return_plan=True")
        return self.value + self.reg * self.plan.sum((1, 2))

    def __repr__(self) -> str:
        f, g = self.potentials
        n = len(self.status)
        steps = int(self.n_iter.max()) if n else 0
        return (
            f"TransportResult({n} problem{'' if n == 1 else 's'} of up to {f.shape[-1]} × {g.shape[-1]}, "
            f"{int(self.converged.sum())} converged in up to {steps} iterations: "
            f"{', '.join(sorted(set(self.status))) or 'none'})"
        )

    def _repr_html_(self) -> str:
        from ..display import heat_map, table

        columns = (self.status, self.n_iter, self.converged, self.marginal_error, self.value_linear)
        status, steps, done, error, linear = (getattr(c, "tolist", lambda c=c: c)() for c in columns)
        rows = [
            [i, status[i], steps[i], "yes" if done[i] else "no", f"{error[i]:.2g}", f"{linear[i]:.6g}"]
            for i in range(len(status))
        ]
        head = ["problem", "status", "iterations", "converged", "marginal error", "⟨T, C⟩"]
        picture = (
            heat_map(self.plan[0].tolist(), "plan of problem 0") if self.plan is not None and rows else ""
        )
        return table(head, rows, repr(self)) + picture


def reported(reports: Any) -> dict[str, Any]:
    """The native core's reports, as fields of a :class:`TransportResult`."""
    names = (field.name for field in dataclasses.fields(TransportResult))
    return {name: getattr(reports, name) for name in names if name not in ("plan", "potentials")}


def warn_unless_converged(converged: Any, error: Any, solver: arguments.Solver) -> None:
    """One :class:`ConvergenceWarning` for a batch, if it is due (``tol=0`` asks for no convergence)."""
    if solver.tol > 0 and not bool(converged.all()):
        count = int((~converged).sum())
        warnings.warn(
            f"{count} of {len(converged)} transport problems stopped at max_iter={solver.max_iter} before "
            f"tol={solver.tol:g}; the largest marginal error is {float(error.max()):.2g}",
            ConvergenceWarning,
            stacklevel=3,
        )
