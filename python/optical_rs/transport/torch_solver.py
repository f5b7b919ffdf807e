"""Transport in plain torch, for devices that the native core does not reach.

Log domain throughout, masked exactly, with per-problem stopping; on a GPU the iterations of small
problems run in :mod:`.triton_solver`. Also the readable statement of what the operators compute, and an
oracle for their tests.
"""

import math

import torch
from torch import Tensor

from ..errors import InputError

#: Problems are asked whether all have converged only this often: each asking waits for the device.
CHECK_EVERY = 8


def _present(mask: Tensor | None, batch: int, size: int, device: torch.device) -> Tensor:
    return torch.ones(batch, size, dtype=torch.bool, device=device) if mask is None else mask


def _marginal(x: Tensor | None, present: Tensor, empty: Tensor, dtype: torch.dtype) -> Tensor:
    """Given or uniform weights over the real entries, 0 elsewhere and in empty problems."""
    if x is None:
        x = present.to(dtype) / present.sum(1, keepdim=True).clamp(min=1)
    return torch.where(present & ~empty[:, None], x.to(dtype), 0.0)


def _check(cost, edges, reg, a, b, empty, reg_m) -> tuple[Tensor, Tensor]:
    """Refuse bad input; the marginals, without what unbalanced ones leave behind for want of an edge.

    All questions are put together, so that a device is waited for once.
    """
    hard = [math.isinf(side) for side in reg_m]
    mass_a, mass_b = a.double().sum(1), b.double().sum(1)
    tolerance = 1e-9 if cost.dtype == torch.float64 else 1e-4
    unequal = (mass_a - mass_b).abs() > tolerance * torch.maximum(mass_a, mass_b)
    bad_cost = edges & (torch.isnan(cost) | (cost == -torch.inf))
    allowed = edges & (cost != torch.inf) & (a > 0)[:, :, None] & (b > 0)[:, None, :]
    lonely = [(x > 0) & ~allowed.any(dim) for x, dim in ((a, 2), (b, 1))]
    bad_weights = [~(torch.isfinite(x) & (x >= 0)) for x in (a, b)]
    bad_reg = ~(torch.isfinite(reg) & (reg > 0))
    asked = [bad_reg, bad_cost, *bad_weights]
    asked += [unequal] * all(hard) + [side for side, rigid in zip(lonely, hard, strict=True) if rigid]
    if bool(torch.stack([question.any().to(cost.device) for question in asked]).any()):
        if bool(bad_reg.any()):
            raise InputError(f"reg: expected finite numbers > 0, got {reg.tolist()}")
        if bool(bad_cost.any()):
            problem, row, col = bad_cost.nonzero()[0].tolist()
            value = cost[problem, row, col].item()
            raise InputError(
                f"cost: problem {problem} has {value} at row {row}, column {col}; expected a number or +inf"
            )
        for name, x, bad in zip("ab", (a, b), bad_weights, strict=True):
            if bool(bad.any()):
                problem, index = bad.nonzero()[0].tolist()
                raise InputError(
                    f"{name}: problem {problem} has {x[problem, index].item()} at {index}; expected a finite "
                    "number >= 0"
                )
        if all(hard) and bool(unequal.any()):
            k = int(unequal.nonzero()[0])
            raise InputError(
                f"a, b: problem {k} has masses {mass_a[k].item()} and {mass_b[k].item()}; "
                "expected equal masses"
            )
        for side, bad, rigid in zip(("row", "column"), lonely, hard, strict=True):
            if rigid and bool(bad.any()):
                problem, index = bad.nonzero()[0].tolist()
                raise InputError(
                    f"cost: problem {problem} is infeasible: {side} {index} has mass but only +inf costs"
                )
    return torch.where(lonely[0], 0.0, a), torch.where(lonely[1], 0.0, b)


def _log_sum_exp(x: Tensor, dim: int) -> Tensor:
    """``logsumexp`` whose value over nothing but −∞ is −∞."""
    top = x.amax(dim, keepdim=True)
    top = torch.where(torch.isfinite(top), top, 0.0)
    return (x - top).exp().sum(dim).log() + top.squeeze(dim)


def _update(log_weight: Tensor, log_sum: Tensor, reg: Tensor, tau: Tensor) -> Tensor:
    return torch.where(log_weight == -torch.inf, log_weight, tau * reg * (log_weight - log_sum))


def _kept(
    sums: Tensor, weights: Tensor, live: Tensor, potential: Tensor, rho: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Distance of a plan's sums from what its marginal wants, the price of that if it is unbalanced, and this
    side's part of the duality gap. ``live`` are the weights less those without an edge."""
    hard = torch.isinf(rho[:, 0])
    wanted = live * (-potential / rho).exp()
    divergence = (torch.xlogy(sums, sums / weights.clamp(min=1e-30)) - sums + weights).sum(1)
    price = torch.where(hard, 0.0, rho[:, 0] * divergence)
    unpaid = torch.where(hard, 0.0, rho[:, 0] * (weights - wanted).sum(1))
    dual = torch.where(hard, (live * potential).sum(1), unpaid)
    return (sums - wanted).abs().sum(1), price, (sums * potential).sum(1) + price - dual


def solve(cost, reg, a, b, row_mask, col_mask, start, method, max_iter, tol, reg_m, accelerate, unit=None):
    """The operator ``optical_rs::solve``; shapes and meaning as in ``solve_batch``.

    ``accelerate`` has an effect in the Triton kernel alone. ``unit`` (B,) multiplies ``reg_m``.
    """
    if _triton_takes(cost):
        from . import triton_solver

        solved = triton_solver.solve(
            cost, reg, a, b, row_mask, col_mask, start, method, max_iter, tol, reg_m, accelerate, unit
        )
        # What it refuses is named below.
        if solved is not None:
            return solved
    batch, n, m = cost.shape
    device, dtype = cost.device, cost.dtype
    rows, cols = _present(row_mask, batch, n, device), _present(col_mask, batch, m, device)
    empty = ~(rows.any(1) & cols.any(1))
    edges = rows[:, :, None] & cols[:, None, :]
    given = _marginal(a, rows, empty, dtype), _marginal(b, cols, empty, dtype)
    a, b = _check(cost, edges, reg, *given, empty, reg_m)
    mass = given[0].double().sum(1)
    empty = empty | (mass == 0) | (given[1].double().sum(1) == 0)
    unbalanced = any(map(math.isfinite, reg_m))
    if not unbalanced:
        b = b * torch.where(empty, 1.0, mass / b.double().sum(1)).to(dtype)[:, None]
        given = a, b
    step = reg.to(dtype).expand(batch)[:, None]
    unit = torch.ones_like(step) if unit is None else unit.to(dtype)[:, None]
    rho_a, rho_b = (side * unit for side in reg_m)
    # Padding costs +inf: exp turns it into an exact 0.
    cost = torch.where(edges, cost, torch.inf)
    start = torch.zeros_like(b) if start is None else torch.where(torch.isfinite(start), start, 0.0).to(dtype)
    proximal = method == "ipot"
    f, g, n_iter = _iterate(cost, step, a, b, start, (rho_a, rho_b), ~empty, mass, proximal, max_iter, tol)
    steps = n_iter.clamp(min=1).to(dtype)[:, None] if proximal else torch.ones_like(step)
    f, g, step = f / steps, g / steps, step / steps
    plan = ((f[:, :, None] + g[:, None, :] - cost) / step[:, :, None]).exp()
    plan = torch.where(edges & (a > 0)[:, :, None] & (b > 0)[:, None, :], plan, 0.0)
    sums_a, sums_b = plan.sum(2), plan.sum(1)
    finite_f, finite_g = (torch.where(torch.isfinite(x), x, 0.0) for x in (f, g))
    off_a, price_a, gap_a = _kept(sums_a, given[0], a, finite_f, rho_a)
    off_b, price_b, gap_b = _kept(sums_b, given[1], b, finite_g, rho_b)
    error = torch.where(empty, 0.0, torch.maximum(off_a, off_b) / mass.clamp(min=1e-300).to(dtype))
    linear = torch.where(torch.isfinite(cost), plan * cost, 0.0).sum((1, 2))
    entropic = (finite_f * sums_a).sum(1) + (finite_g * sums_b).sum(1) - step[:, 0] * sums_a.sum(1)
    if proximal:
        nearest = (cost - torch.where(b > 0, g, -torch.inf)[:, None, :]).amin(2)
        dual = (b * finite_g).sum(1) + torch.where(a > 0, a * nearest, 0.0).sum(1)
        value, gap = linear.clone(), torch.where(empty, 0.0, linear - dual)
    else:
        value, gap = entropic + price_a + price_b, torch.where(empty, 0.0, gap_a + gap_b)
    f = torch.where(rows & ~empty[:, None], f, 0.0)
    g = torch.where(cols & ~empty[:, None], g, 0.0)
    # Codes as in torch_ops.STATUS: this solver is always in the log domain.
    status = torch.where(empty, 4, 3 if proximal else 2)
    return plan, f, g, value, linear, gap, error, n_iter, error <= tol, status


def _triton_takes(cost: Tensor) -> bool:
    if cost.device.type != "cuda":
        return False
    try:
        from . import triton_solver
    except ImportError:
        return False
    return triton_solver.fits(cost)


def _iterate(cost, step, a, b, start, rho, active, mass, proximal, max_iter, tol):
    """Potentials and iteration counts, all problems side by side.

    IPOT is the same iteration with reg = step / t after t steps, in scaled potentials.
    """
    tau_a, tau_b = (1 / (1 + step / side) for side in rho)
    log_a, log_b = a.log(), b.log()
    f = torch.zeros_like(a)
    g = torch.zeros_like(b) if proximal else start
    n_iter = torch.zeros(len(cost), dtype=torch.int64, device=cost.device)
    before = g  # IPOT carries its last column scaling over into the next row update
    last = torch.full((len(cost),), torch.inf, dtype=cost.dtype, device=cost.device)
    finite_cost = torch.where(torch.isfinite(cost), cost, 0.0)
    for iteration in range(max_iter):
        t = iteration + 1 if proximal else 1
        scaled = t * cost
        from_g = torch.where(torch.isfinite(g), 2 * g - before, g) if proximal else g
        new_f = _update(log_a, _log_sum_exp((from_g[:, None, :] - scaled) / step[:, :, None], 2), step, tau_a)
        new_g = _update(log_b, _log_sum_exp((new_f[:, :, None] - scaled) / step[:, :, None], 1), step, tau_b)
        if proximal:
            plan = ((new_f[:, :, None] + new_g[:, None, :] - scaled) / step[:, :, None]).exp()
            error = (plan.sum(2) - a).abs().sum(1)
            value = (plan * finite_cost).sum((1, 2))
            done = (error <= tol * mass) & ((value - last).abs() <= 0.1 * tol * value.abs())
            last = value
        else:
            # a · u_old / u_new are the row sums before the step, for hard marginals; their change, else.
            sums = torch.where(a > 0, a * (-new_f / rho[0]).exp(), 0.0)
            ratio = torch.where(a > 0, (f - new_f) / step, 0.0).exp()
            done = torch.where(a > 0, sums * (ratio - 1).abs(), 0.0).sum(1) <= tol * mass
            if iteration == 0:
                done = torch.zeros_like(done)
        before = g
        f = torch.where(active[:, None], new_f, f)
        g = torch.where(active[:, None], new_g, g)
        n_iter += active
        if tol > 0:
            active = active & ~done
            if iteration % CHECK_EVERY == CHECK_EVERY - 1 and not bool(active.any()):
                break
    return f, g, n_iter


def implicit_gradient(plan, cost, reg, reg_m):
    """The operator ``optical_rs::implicit_gradient``: ``T ⊙ (1 − (C − Π C) / reg)`` in float64."""
    t = plan.double()
    c = torch.where(plan > 0, cost.double(), 0.0)
    rows, cols = t.sum(2), t.sum(1)
    row_c, col_c = (t * c).sum(2), (t * c).sum(1)
    scale = reg.double().expand(t.shape[0])[:, None]
    # Unbalanced marginals make the diagonal larger; `reg_m` may be two numbers or two (B, 1) tensors.
    rows, cols = rows * (1 + scale / reg_m[0]), cols * (1 + scale / reg_m[1])
    inverse = torch.where(rows > 0, 1 / rows, 0.0)
    ridge = 1e-13 * cols.sum(1, keepdim=True).clamp(min=1e-300) / max(cols.shape[1], 1)
    diagonal = torch.where(cols > 0, cols + ridge, 1.0)
    # The normal equations of the projection, with α eliminated.
    system = torch.diag_embed(diagonal) - t.mT @ (inverse[:, :, None] * t)
    right = col_c - (t * (row_c * inverse)[:, :, None]).sum(1)
    beta = torch.linalg.solve(system, right[:, :, None]).squeeze(2)
    alpha = (row_c - (t * beta[:, None, :]).sum(2)) * inverse
    return (t * (1 - (c - alpha[:, :, None] - beta[:, None, :]) / scale[:, :, None])).to(plan.dtype)


def align(
    x,
    y,
    x_mask,
    y_mask,
    a,
    b,
    reg,
    relative,
    implicit,
    method,
    max_iter,
    tol,
    reg_m,
    accelerate,
    want_x,
    want_y,
):
    """The operator ``optical_rs::align``; meaning as in ``alignment_loss``."""
    batch = x.shape[0]
    rows, cols = _present(x_mask, *x.shape[:2], x.device), _present(y_mask, *y.shape[:2], x.device)
    edges = rows[:, :, None] & cols[:, None, :]
    x, y = torch.where(rows[:, :, None], x, 0.0), torch.where(cols[:, :, None], y, 0.0)
    norm_x, norm_y = (t.norm(dim=2, keepdim=True).clamp(min=1e-12) for t in (x, y))
    unit_x, unit_y = x / norm_x, y / norm_y
    cost = (1 - unit_x @ unit_y.mT).clamp(min=0)
    regs = torch.full((batch,), float(reg), dtype=torch.float64, device=x.device)
    unit = torch.ones_like(regs)
    if relative:
        count = edges.sum((1, 2)).clamp(min=1)
        mean = torch.where(edges, cost, 0.0).double().sum((1, 2)) / count
        squares = torch.where(edges, (cost.double() - mean[:, None, None]) ** 2, 0.0)
        unit = (squares.sum((1, 2)) / count).sqrt().clamp(min=1e-6)
        regs = regs * unit
    plan, _, _, _, loss, _, error, n_iter, converged, _ = solve(
        cost, regs, a, b, rows, cols, None, method, max_iter, tol, reg_m, accelerate, unit
    )
    if method == "ipot":
        regs = regs / n_iter.clamp(min=1)
    slope = plan
    if implicit:
        slope = implicit_gradient(plan, cost, regs, [rho * unit[:, None] for rho in reg_m])

    def backward(of_unit: Tensor, unit: Tensor, norm: Tensor) -> Tensor:
        return (of_unit - (of_unit * unit).sum(2, keepdim=True) * unit) / norm

    grad_x = backward(-slope @ unit_y, unit_x, norm_x) if want_x else x.new_empty(0)
    grad_y = backward(-slope.mT @ unit_x, unit_y, norm_y) if want_y else y.new_empty(0)
    return loss, grad_x, grad_y, error, converged
