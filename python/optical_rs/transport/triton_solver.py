"""Transport on a GPU: one Triton program per problem, its kernel held in registers.

The iterations of :mod:`.torch_solver` in a single launch, with per-problem stopping. Triton's
interpreter runs the same code on a CPU (``TRITON_INTERPRET=1``), which is how it is tested there.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Padded elements of a problem up to which its kernel fits one program's registers.
LARGEST = 256 * 256

LINEAR, LOG = 0, 2


@triton.jit
def _solve(
    cost_at,
    reg_at,
    a_at,
    b_at,
    start_at,
    rho_at,
    plan_at,
    f_at,
    g_at,
    n_iter_at,
    status_at,
    n,
    m,
    max_iter,
    tol,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    ONLY_LOG: tl.constexpr,
    RELAXED: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    row, col = tl.arange(0, ROWS), tl.arange(0, COLS)
    is_row, is_col = row < n, col < m
    inside = is_row[:, None] & is_col[None, :]
    at = row[:, None] * m + col[None, :]
    infinity = float("inf")

    cost = tl.load(cost_at + i * n * m + at, mask=inside, other=infinity)
    a = tl.load(a_at + i * n + row, mask=is_row, other=0.0)
    b = tl.load(b_at + i * m + col, mask=is_col, other=0.0)
    g_start = tl.load(start_at + i * m + col, mask=is_col, other=0.0)
    reg = tl.load(reg_at + i)
    rate = 1.0 / reg
    log_a = tl.where(a > 0, tl.log(tl.where(a > 0, a, 1.0)), -infinity)
    log_b = tl.where(b > 0, tl.log(tl.where(b > 0, b, 1.0)), -infinity)
    goal = tol * tl.sum(a)

    # Scalings of exp((f₀ + g₀ − C) / reg), f₀ the row minima: the largest entry of a row is 1.
    f_start = tl.min(cost - g_start[None, :], 1)
    f_start = tl.where(f_start < infinity, f_start, 0.0)
    exponent = (f_start[:, None] + g_start[None, :] - cost) * rate
    spread = -tl.min(tl.where(cost < infinity, exponent, 0.0))
    f, g = f_start, g_start
    it = 0
    finished = False
    if not ONLY_LOG:
        kernel = tl.exp(exponent)
        u = tl.where(is_row, 1.0, 0.0)
        v = tl.where(is_col, 1.0, 0.0)
        in_range = spread <= 80.0
        going = in_range & (max_iter > 0)
        while going:
            sums = tl.sum(kernel * v[None, :], 1)
            error = tl.sum(tl.abs(u * sums - a))
            u = a / tl.maximum(sums, 1e-37)
            v = b / tl.maximum(tl.sum(kernel * u[:, None], 0), 1e-37)
            in_range = tl.maximum(tl.max(u), tl.max(v)) <= 1e25
            it += 1
            done = (tol > 0) & (it > 1) & (error <= goal)
            going = in_range & (it < max_iter) & (not done)
        finished = in_range
        if finished:
            f = tl.where(u > 0, f + reg * tl.log(tl.where(u > 0, u, 1.0)), -infinity)
            g = tl.where(v > 0, g + reg * tl.log(tl.where(v > 0, v, 1.0)), -infinity)
    if not finished:
        it = 0
        f, g = tl.zeros_like(f_start), g_start
        rho_a, rho_b = tl.load(rho_at + 2 * i), tl.load(rho_at + 2 * i + 1)
        tau_a, tau_b = 1.0 / (1.0 + reg / rho_a), 1.0 / (1.0 + reg / rho_b)
        going = max_iter > 0
        while going:
            scaled = (g[None, :] - cost) * rate
            top = tl.max(scaled, 1)
            top = tl.where(top > -infinity, top, 0.0)
            total = tl.log(tl.sum(tl.exp(scaled - top[:, None]), 1)) + top
            new = tl.where(a > 0, tau_a * reg * (log_a - total), -infinity)
            change = tl.abs(tl.exp(tl.where(a > 0, (f - new) * rate, 0.0)) - 1)
            sums = a
            if RELAXED:
                sums = tl.where(a > 0, a * tl.exp(-new / rho_a), 0.0)
            error = tl.sum(sums * change)
            f = new
            scaled = (f[:, None] - cost) * rate
            top_b = tl.max(scaled, 0)
            top_b = tl.where(top_b > -infinity, top_b, 0.0)
            total_b = tl.log(tl.sum(tl.exp(scaled - top_b[None, :]), 0)) + top_b
            g = tl.where(b > 0, tau_b * reg * (log_b - total_b), -infinity)
            it += 1
            done = (tol > 0) & (it > 1) & (error <= goal)
            going = (it < max_iter) & (not done)

    # Read again rather than kept in registers throughout.
    cost = tl.load(cost_at + i * n * m + at, mask=inside, other=infinity)
    plan = tl.exp((f[:, None] + g[None, :] - cost) * rate)
    plan = tl.where((a > 0)[:, None] & (b > 0)[None, :], plan, 0.0)
    tl.store(plan_at + i * n * m + at, plan, mask=inside)
    tl.store(f_at + i * n + row, f, mask=is_row)
    tl.store(g_at + i * m + col, g, mask=is_col)
    tl.store(n_iter_at + i, it.to(tl.int64))
    tl.store(status_at + i, tl.where(finished, 0, 2).to(tl.int64))


def _padded(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


def fits(cost: Tensor, method: str) -> bool:
    """Whether a batch can be solved here: float32, and small enough for registers."""
    n, m = cost.shape[1:]
    return cost.dtype == torch.float32 and method != "ipot" and _padded(n) * _padded(m) <= LARGEST


def iterate(
    cost: Tensor,
    reg: Tensor,
    a: Tensor,
    b: Tensor,
    start: Tensor,
    rho: Tensor,
    method: str,
    max_iter: int,
    tol: float,
    relaxed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``plan, f, g, n_iter, status`` of a prepared batch.

    Parameters
    ----------
    cost : (B, n, m) float32 tensor
        Costs, +inf where there is no edge.
    reg : (B,) float32 tensor
    a, b, start : (B, n), (B, m) and (B, m) float32 tensors
        Marginals, and the column potentials to start from.
    rho : (B, 2) float32 tensor
        ``reg_m`` of rows and columns, inf for hard marginals.
    """
    batch, n, m = cost.shape
    plan, f, g = torch.empty_like(cost), torch.empty_like(a), torch.empty_like(b)
    n_iter, status = (torch.empty(batch, dtype=torch.int64, device=cost.device) for _ in range(2))
    rows, cols = _padded(n), _padded(m)
    if batch:
        _solve[(batch,)](
            cost.contiguous(),
            reg.contiguous(),
            a.contiguous(),
            b.contiguous(),
            start.contiguous(),
            rho.contiguous(),
            plan,
            f,
            g,
            n_iter,
            status,
            n,
            m,
            max_iter,
            tol,
            ROWS=rows,
            COLS=cols,
            ONLY_LOG=method == "log" or relaxed,
            RELAXED=relaxed,
            num_warps=warps(rows * cols),
        )
    return plan, f, g, n_iter, status


def warps(elements: int) -> int:
    """Warps per program, by padded elements: as few as hold the kernel (measured on an H100)."""
    return 1 if elements <= 1024 else 2 if elements <= 16384 else 4 if elements <= 32768 else 8
