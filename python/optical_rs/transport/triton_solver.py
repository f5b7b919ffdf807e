"""Transport on a GPU: one Triton program per problem, its kernel held in registers.

Everything of a problem (marginals, checks, iterations, plan and values) happens in one launch, with
per-problem stopping. Triton's interpreter runs the same code on a CPU (``TRITON_INTERPRET=1``), which is
how it is tested there.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Padded bytes of a problem up to which its kernel fits one program's registers.
LARGEST = 256 * 256 * 4


@triton.jit
def _marginal(given_at, i, index, present, size, GIVEN: tl.constexpr):
    """Weights over the real entries (uniform, or as given), and whether one is no weight."""
    if GIVEN:
        weights = tl.load(given_at + i * size + index, mask=present, other=0.0)
    else:
        weights = tl.where(present, 1.0 / tl.sum(present.to(given_at.dtype.element_ty)), 0.0)
    bad = tl.sum(tl.where((weights >= 0) & (weights < float("inf")), 0, 1)) > 0
    return weights, bad


@triton.jit
def _log_sum(scaled, AXIS: tl.constexpr):
    """log Σ exp, where the sum of nothing but −∞ is −∞."""
    top = tl.max(scaled, AXIS)
    top = tl.where(top > -float("inf"), top, 0.0)
    return tl.log(tl.sum(tl.exp(scaled - tl.expand_dims(top, AXIS)), AXIS)) + top


@triton.jit
def _kept(sums, weights, live, potential, rho, UNBALANCED: tl.constexpr):
    """Distance of a plan's sums from what its marginal wants, the price of that if it is unbalanced, and this
    side's part of the duality gap. ``live`` are the weights less those without an edge."""
    finite = tl.where(live > 0, potential, 0.0)
    wanted, price = live, 0.0
    dual = tl.sum(live * finite)
    if UNBALANCED:
        wanted = live * tl.exp(-finite / rho)
        both = (sums > 0) & (weights > 0)
        ratio = tl.where(both, sums, 1.0) / tl.where(both, weights, 1.0)
        divergence = tl.sum(sums * tl.log(ratio) - sums + weights)
        price = tl.where(rho < float("inf"), rho * divergence, 0.0)
        dual = tl.where(rho < float("inf"), rho * tl.sum(weights - wanted), dual)
    return tl.sum(tl.abs(sums - wanted)), price, tl.sum(sums * finite) + price - dual


@triton.jit
def _scaling(wanted, sums, before, power):
    """A new scaling, over-relaxed by 1 + power; the rule of the native core (``Rule::Relaxed``)."""
    new = wanted / tl.maximum(sums, 1e-37)
    ratio = tl.minimum(new / tl.maximum(before, 1e-37), 1e30)
    return tl.where(
        power > 0, new * ((1 + power) * ratio + (1 - power)) / ((1 - power) * ratio + (1 + power)), new
    )


@triton.jit
def _best(rate):
    return tl.minimum(2.0 / (1.0 + tl.sqrt(tl.maximum(1.0 - rate, 0.0))), 1.97)


@triton.jit
def _pace(error, goal, tight, omega, resume, allowed, count, mark, was_plain):
    """The over-relaxation of the next sweep, from the error before this one; as in the native core (``Pace``).

    Over-relaxed sweeps that reach ``tight`` are confirmed by two plain ones; every eighth sweep looks at the rate.
    """
    plain = omega == 1.0
    going = allowed & ((was_plain & plain & (error <= goal)) == 0)
    confirm = going & (plain == 0) & (error <= tight)
    back = going & plain & was_plain & (resume > 1.0)
    next_resume = tl.where(confirm, omega, tl.where(back, 1.0, resume))
    omega = tl.where(confirm, 1.0, tl.where(back, resume, omega))
    tight = tl.where(confirm, 0.5 * tight, tight)
    count = tl.where(confirm | back, 0, count)
    adapting = going & (confirm == 0) & (next_resume == 1.0)
    count += tl.where(adapting, 1, 0)
    look = adapting & (count % 8 == 1)
    rate = tl.exp(tl.log(tl.maximum(error, 1e-37) / tl.maximum(mark, 1e-37)) * 0.125)
    judge = look & (count > 1)
    worse = judge & (omega > 1.0) & (error > 4.0 * mark)
    mark = tl.where(look, error, mark)
    # Young's relation between the rate seen with omega and that of plain sweeps.
    relation = (rate + omega - 1.0) / omega
    of_plain = tl.minimum(relation * relation / rate, 1.0)
    start = judge & (omega == 1.0) & (rate > 0.7) & (rate < 1.0)
    more = judge & (omega > 1.0) & (rate < 1.0) & (rate > omega - 1.0)
    better = tl.where(start, _best(tl.minimum(rate, 1.0)), tl.where(more, _best(of_plain), omega))
    omega = tl.where(worse, 1.0, tl.maximum(omega, better))
    return tight, omega, next_resume, allowed & (worse == 0), count, mark, plain


@triton.jit
def _solve(
    cost_at, reg_at, a_at, b_at, rows_at, cols_at, start_at, rho_at,
    plan_at, f_at, g_at, value_at, linear_at, gap_at, error_at, n_iter_at, converged_at, status_at, refused_at,
    n, m, reg_step, max_iter, tol, hard_rows, hard_cols,
    ROWS: tl.constexpr, COLS: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    ROW_MASK: tl.constexpr, COL_MASK: tl.constexpr, START: tl.constexpr,
    ONLY_LOG: tl.constexpr, UNBALANCED: tl.constexpr, PROXIMAL: tl.constexpr, ACCELERATE: tl.constexpr,
):  # fmt: skip
    number = cost_at.dtype.element_ty
    i = tl.program_id(0).to(tl.int64)
    row, col = tl.arange(0, ROWS), tl.arange(0, COLS)
    is_row, is_col = row < n, col < m
    at = i * n * m + row[:, None] * m + col[None, :]
    everywhere = is_row[:, None] & is_col[None, :]
    infinity = float("inf")
    real_row, real_col = is_row, is_col
    if ROW_MASK:
        real_row = is_row & (tl.load(rows_at + i * n + row, mask=is_row, other=0) != 0)
    if COL_MASK:
        real_col = is_col & (tl.load(cols_at + i * m + col, mask=is_col, other=0) != 0)
    inside = real_row[:, None] & real_col[None, :]
    empty = (tl.max(real_row.to(tl.int32)) == 0) | (tl.max(real_col.to(tl.int32)) == 0)
    a, bad_a = _marginal(a_at, i, row, real_row, n, A)
    b, bad_b = _marginal(b_at, i, col, real_col, m, B)
    mass_a, mass_b = tl.sum(a), tl.sum(b)
    given_a, given_b = a, b
    reg = tl.load(reg_at + i * reg_step)
    rate = 1.0 / reg
    g = tl.zeros([COLS], number)
    if START:
        g = tl.load(start_at + i * m + col, mask=is_col, other=0.0)
        g = tl.where(tl.abs(g) < infinity, g, 0.0)

    # What the host must refuse. (NaN compares with nothing, hence the forms below.)
    cost = tl.load(cost_at + at, mask=inside, other=infinity)
    no_number = tl.max(tl.where(cost > -infinity, 0, 1)) > 0
    edge = (cost < infinity) & (a > 0)[:, None] & (b > 0)[None, :]
    lonely_row = (a > 0) & (tl.max(edge.to(tl.int32), 1) == 0)
    lonely_col = (b > 0) & (tl.max(edge.to(tl.int32), 0) == 0)
    infeasible = (
        tl.max(lonely_row.to(tl.int32)) * hard_rows + tl.max(lonely_col.to(tl.int32)) * hard_cols
    ) > 0
    massless = ((mass_a > 0) & (mass_b > 0)) == 0
    rounding: tl.constexpr = 1e-9 if number == tl.float64 else 1e-4
    unequal = tl.abs(mass_a - mass_b) > rounding * tl.maximum(mass_a, mass_b)
    bad_reg = ((reg > 0) & (reg < infinity)) == 0
    wrong = no_number | bad_a | bad_b | massless | infeasible
    if not UNBALANCED:
        wrong = wrong | unequal
        b = b * (mass_a / mass_b)
        given_b = b
    refused = (wrong & (empty == 0)) | bad_reg
    live = (empty == 0) & (refused == 0)
    a = tl.where(lonely_row, 0.0, a)
    b = tl.where(lonely_col, 0.0, b)
    goal = tol * mass_a
    log_a = tl.where(a > 0, tl.log(tl.where(a > 0, a, 1.0)), -infinity)
    log_b = tl.where(b > 0, tl.log(tl.where(b > 0, b, 1.0)), -infinity)
    rho_a, rho_b = infinity, infinity
    tau_a, tau_b = 1.0, 1.0
    if UNBALANCED:
        rho_a, rho_b = tl.load(rho_at + 2 * i), tl.load(rho_at + 2 * i + 1)
        tau_a, tau_b = 1.0 / (1.0 + reg / rho_a), 1.0 / (1.0 + reg / rho_b)

    # Row minima first: the largest entry of a row of exp((f + g − C) / reg) is 1.
    f = tl.min(cost - g[None, :], 1)
    f = tl.where(tl.abs(f) < infinity, f, 0.0)
    spread = tl.max(tl.where(cost < infinity, cost - g[None, :] - f[:, None], 0.0)) * rate
    status = 2
    it = 0
    finished = live == 0
    if PROXIMAL:
        # Sinkhorn with reg / t after t steps, in potentials t times as large.
        status = 3
        f, g = tl.zeros_like(f), tl.zeros_like(g)
        before = g
        last = tl.full([], infinity, number)
        going = live & (max_iter > 0)
        while going:
            it += 1
            step_cost = tl.cast(it, number) * cost
            ahead = tl.where(tl.abs(g) < infinity, 2 * g - before, g)
            f = tl.where(a > 0, reg * (log_a - _log_sum((ahead[None, :] - step_cost) * rate, 1)), -infinity)
            before = g
            g = tl.where(b > 0, reg * (log_b - _log_sum((f[:, None] - step_cost) * rate, 0)), -infinity)
            moved = tl.exp((f[:, None] + g[None, :] - step_cost) * rate)
            error = tl.sum(tl.abs(tl.sum(moved, 1) - a))
            value = tl.sum(tl.where(cost < infinity, moved * cost, 0.0))
            settled = tl.abs(value - last) <= 0.1 * tol * tl.abs(value)
            last = value
            going = (it < max_iter) & (((tol > 0) & (error <= goal) & settled) == 0)
        steps = tl.cast(tl.maximum(it, 1), number)
        f, g, reg, rate = f / steps, g / steps, reg / steps, rate * steps
    elif not ONLY_LOG:
        # Linear domain; its scalings are absorbed, and a log step taken, each time they leave the range.
        status = tl.where(spread <= 80.0, 0, 1)
        log_steps = tl.where(spread <= 80.0, 0, 1)
        large = tl.where(spread <= 80.0, 1e25, 1e8)
        tight, mark = goal, goal
        omega, resume = tl.full([], 1.0, number), tl.full([], 1.0, number)
        allowed = tol > 0
        while (finished == 0) & (it < max_iter):
            cost = tl.load(cost_at + at, mask=inside, other=infinity)
            steps = 0
            while (steps < log_steps) & (it < max_iter):
                f = tl.where(a > 0, reg * (log_a - _log_sum((g[None, :] - cost) * rate, 1)), -infinity)
                g = tl.where(b > 0, reg * (log_b - _log_sum((f[:, None] - cost) * rate, 0)), -infinity)
                steps += 1
                it += 1
            kernel = tl.exp((f[:, None] + g[None, :] - cost) * rate)
            u = tl.where(real_row, 1.0, 0.0).to(number)
            v = tl.where(real_col, 1.0, 0.0).to(number)
            sweeps, count = 0, 0
            going = it < max_iter
            in_range = True
            # Whether the scalings whose error comes next are of a plain sweep.
            was_plain = allowed & False
            while going:
                sums = tl.sum(kernel * v[None, :], 1)
                error = tl.sum(tl.abs(u * sums - a))
                plain = omega == 1.0
                u = _scaling(a, sums, u, omega - 1.0)
                v = _scaling(b, tl.sum(kernel * u[:, None], 0), v, omega - 1.0)
                in_range = tl.maximum(tl.max(u), tl.max(v)) <= large
                done = (tol > 0) & was_plain & plain & (error <= goal)
                if ACCELERATE:
                    tight, omega, resume, allowed, count, mark, was_plain = _pace(
                        error, goal, tight, omega, resume, allowed, count, mark, was_plain
                    )
                else:
                    was_plain = plain
                if in_range:
                    it += 1
                    sweeps += 1
                going = in_range & (it < max_iter) & (done == 0)
            finished = in_range
            if finished | (sweeps > 0):
                u = tl.minimum(tl.maximum(u, tl.where(finished, 0.0, 1e-37)), 1e37)
                v = tl.minimum(tl.maximum(v, tl.where(finished, 0.0, 1e-37)), 1e37)
                f = tl.where(a > 0, f + reg * tl.log(tl.where(a > 0, u, 1.0)), -infinity)
                g = tl.where(b > 0, g + reg * tl.log(tl.where(b > 0, v, 1.0)), -infinity)
            if finished == 0:
                # The sweep that left the range was absorbed, too, unless it was the first.
                it += tl.where(sweeps > 0, 1, 0)
                status = 1
                large = 1e8
                # More log steps each time that not one sweep stays in range.
                log_steps = tl.where(sweeps > 0, 1, tl.minimum(tl.maximum(2 * log_steps, 1), 64))
    else:
        f = tl.zeros_like(f)
        going = live & (max_iter > 0)
        while going:
            new = tau_a * reg * (log_a - _log_sum((g[None, :] - cost) * rate, 1))
            new = tl.where(a > 0, new, -infinity)
            change = tl.abs(tl.exp(tl.where(a > 0, (f - new) * rate, 0.0)) - 1)
            sums = a
            if UNBALANCED:
                sums = a * tl.exp(-tl.where(a > 0, new, 0.0) / rho_a)
            error = tl.sum(sums * change)
            f = new
            g = tau_b * reg * (log_b - _log_sum((f[:, None] - cost) * rate, 0))
            g = tl.where(b > 0, g, -infinity)
            if UNBALANCED and ACCELERATE:
                # What both marginals pay is least after this translation, which leaves the plan as it is (Séjourné,
                # Vialard, Peyré, AISTATS 2022).
                kept_a = tl.sum(a * tl.exp(-tl.where(a > 0, f, 0.0) / rho_a))
                kept_b = tl.sum(b * tl.exp(-tl.where(b > 0, g, 0.0) / rho_b))
                shift = (tl.log(kept_a) - tl.log(kept_b)) / (1.0 / rho_a + 1.0 / rho_b)
                f, g = f + shift, g - shift
            it += 1
            done = (tol > 0) & (it > 1) & (error <= goal)
            going = (it < max_iter) & (done == 0)

    # Read again rather than kept in registers throughout.
    cost = tl.load(cost_at + at, mask=inside, other=infinity)
    plan = tl.exp((f[:, None] + g[None, :] - cost) * rate)
    plan = tl.where((a > 0)[:, None] & (b > 0)[None, :] & live, plan, 0.0)
    sums_a, sums_b = tl.sum(plan, 1), tl.sum(plan, 0)
    linear = tl.sum(tl.where(cost < infinity, plan * cost, 0.0))
    off_a, price_a, gap_a = _kept(sums_a, given_a, a, f, rho_a, UNBALANCED)
    off_b, price_b, gap_b = _kept(sums_b, given_b, b, g, rho_b, UNBALANCED)
    dual = tl.sum(tl.where(sums_a > 0, sums_a * f, 0.0)) + tl.sum(tl.where(sums_b > 0, sums_b * g, 0.0))
    error = tl.where(live, tl.maximum(off_a, off_b) / mass_a, 0.0)
    tl.store(plan_at + at, plan, mask=everywhere)
    tl.store(f_at + i * n + row, tl.where(real_row & live, f, 0.0), mask=is_row)
    tl.store(g_at + i * m + col, tl.where(real_col & live, g, 0.0), mask=is_col)
    value = dual - reg * tl.sum(sums_a) + price_a + price_b
    gap = gap_a + gap_b
    if PROXIMAL:
        finite_g = tl.where(b > 0, g, 0.0)
        nearest = tl.min(cost - tl.where(b > 0, g, -infinity)[None, :], 1)
        value = linear
        gap = linear - tl.sum(b * finite_g) - tl.sum(tl.where(a > 0, a * nearest, 0.0))
    tl.store(value_at + i, tl.where(live, value, 0.0))
    tl.store(linear_at + i, linear)
    tl.store(gap_at + i, tl.where(live, gap, 0.0))
    tl.store(error_at + i, error)
    tl.store(n_iter_at + i, it)
    tl.store(converged_at + i, (error <= tol).to(tl.int8))
    tl.store(status_at + i, tl.where(empty, 4, status).to(tl.int64))
    tl.store(refused_at + i, refused.to(tl.int8))


def _padded(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


def fits(cost: Tensor) -> bool:
    """Whether a batch can be solved here: in single or double precision, and small enough for registers."""
    batch, n, m = cost.shape
    padded = _padded(n) * _padded(m) * cost.element_size()
    return cost.dtype in (torch.float32, torch.float64) and padded <= LARGEST and batch * n * m > 0


def warps(size: int) -> int:
    """Warps per program, by padded bytes: as few as hold the kernel (measured on an H100, in single precision)."""
    return 1 if size <= 4096 else max(2, size // 16384)


def solve(cost, reg, a, b, row_mask, col_mask, start, method, max_iter, tol, reg_m, accelerate, unit=None):
    """The operator ``optical_rs::solve`` for a batch that :func:`fits`; None if it must be refused.

    Parameters
    ----------
    cost : (B, n, m) tensor
        float32 or float64; so is what is computed.
    reg : (1,) or (B,) tensor
    a, b : (B, n) and (B, m) tensors or None
    row_mask, col_mask : (B, n) and (B, m) bool tensors or None
    start : (B, m) tensor or None
    method, max_iter, tol, reg_m, accelerate
        As for ``solve_batch``; there is no annealing.
    unit : (B,) tensor, optional
        Multiplies ``reg_m``.
    """
    batch, n, m = cost.shape
    device, kind = cost.device, cost.dtype
    unbalanced = any(map(math.isfinite, reg_m))

    def floats(x):
        return x.to(device=device, dtype=kind).contiguous() if x is not None else cost

    def flags(x):
        return x.contiguous().view(torch.int8) if x is not None else cost

    def empty(*shape, dtype=kind):
        return torch.empty(*shape, dtype=dtype, device=device)

    rho = cost
    if unbalanced:
        rho = torch.tensor(reg_m, dtype=kind, device=device).expand(batch, 2)
        rho = (rho if unit is None else rho * unit.to(kind)[:, None]).contiguous()
    cost = cost.contiguous()
    plan, f, g = torch.empty_like(cost), empty(batch, n), empty(batch, m)
    value, linear, gap, error = empty(4, batch).unbind()
    n_iter, status = empty(2, batch, dtype=torch.int64).unbind()
    converged, refused = empty(2, batch, dtype=torch.int8).unbind()
    rows, cols = _padded(n), _padded(m)
    _solve[(batch,)](
        cost, floats(reg), floats(a), floats(b), flags(row_mask), flags(col_mask), floats(start), rho,
        plan, f, g, value, linear, gap, error, n_iter, converged, status, refused,
        n, m, int(reg.numel() > 1), max_iter, tol, *(int(math.isinf(side)) for side in reg_m),
        ROWS=rows, COLS=cols, A=a is not None, B=b is not None,
        ROW_MASK=row_mask is not None, COL_MASK=col_mask is not None, START=start is not None,
        ONLY_LOG=method == "log" or unbalanced, UNBALANCED=unbalanced, PROXIMAL=method == "ipot",
        ACCELERATE=accelerate and tol > 0, num_warps=warps(rows * cols * cost.element_size()),
    )  # fmt: skip
    if bool(refused.any()):
        return None
    return plan, f, g, value, linear, gap, error, n_iter, converged.view(torch.bool), status
