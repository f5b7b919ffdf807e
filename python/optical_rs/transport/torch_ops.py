"""Transport for torch: registered operators, and the autograd Functions made of them.

Each operator has two implementations, chosen by the dispatcher from the tensors' device: the native
core for CPU tensors (numpy views, no copy when contiguous) and :mod:`.torch_solver` for all others.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _core
from ..errors import InputError
from . import arguments, torch_solver
from .result import TransportResult, warn_unless_converged

STATUS = ("linear", "stabilised", "log", "ipot", "empty")

_library = torch.library.Library("optical_rs", "DEF")
_library.define(
    "solve(Tensor cost, Tensor reg, Tensor? a, Tensor? b, Tensor? row_mask, Tensor? col_mask, "
    "Tensor? start, str method, int max_iter, float tol, float[] reg_m, bool accelerate) -> "
    "(Tensor plan, Tensor f, Tensor g, Tensor value, Tensor value_linear, Tensor duality_gap, "
    "Tensor marginal_error, Tensor n_iter, Tensor converged, Tensor status)"
)
_library.define("implicit_gradient(Tensor plan, Tensor cost, Tensor reg, float[] reg_m) -> Tensor")
_library.define(
    "align(Tensor x, Tensor y, Tensor? x_mask, Tensor? y_mask, Tensor? a, Tensor? b, float reg, "
    "bool relative, bool implicit, str method, int max_iter, float tol, float[] reg_m, bool accelerate, bool want_x, bool want_y) -> "
    "(Tensor loss, Tensor grad_x, Tensor grad_y, Tensor marginal_error, Tensor converged)"
)


def _numpy(x: Tensor | None, dtype: torch.dtype | None = None) -> np.ndarray | None:
    """A numpy view where the tensor is contiguous and of the right type, else a copy."""
    if x is None:
        return None
    return x.detach().to(dtype=dtype or x.dtype).contiguous().numpy()


def _mask_bytes(x: Tensor | None) -> np.ndarray | None:
    return _numpy(None if x is None else x.view(torch.uint8))


def _solve_native(cost, reg, a, b, row_mask, col_mask, start, *solver):
    dtype = cost.dtype
    solved = _core.solve_batch(
        _numpy(cost),
        reg.tolist(),
        _numpy(a, dtype),
        _numpy(b, dtype),
        _mask_bytes(row_mask),
        _mask_bytes(col_mask),
        _numpy(start, dtype),
        _native(*solver),
        True,
    )
    reports = solved.reports
    scalars = (reports.value, reports.value_linear, reports.duality_gap, reports.marginal_error)
    return (
        *(torch.from_numpy(x) for x in (solved.plan, solved.f, solved.g)),
        *(torch.from_numpy(x).to(dtype) for x in scalars),
        torch.from_numpy(reports.n_iter),
        torch.from_numpy(reports.converged),
        torch.tensor([STATUS.index(s) for s in reports.status], dtype=torch.int64),
    )


def _native(method, max_iter, tol, reg_m, accelerate) -> arguments.Solver:
    return arguments.Solver(method, max_iter, tol, tuple(reg_m), accelerate)


def _implicit_native(plan, cost, reg, reg_m):
    return torch.from_numpy(
        _core.implicit_gradient(_numpy(plan), _numpy(cost, plan.dtype), reg.tolist(), tuple(reg_m))
    )


def _align_native(x, y, x_mask, y_mask, a, b, reg, relative, implicit, *rest):
    *solver, want_x, want_y = rest
    dtype = x.dtype
    aligned = _core.align_batch(
        _numpy(x),
        _numpy(y),
        _numpy(a, dtype),
        _numpy(b, dtype),
        _mask_bytes(x_mask),
        _mask_bytes(y_mask),
        reg,
        relative,
        implicit,
        _native(*solver),
        want_x,
        want_y,
    )
    return (
        torch.from_numpy(aligned.reports.value_linear).to(dtype),
        x.new_empty(0) if aligned.grad_x is None else torch.from_numpy(aligned.grad_x),
        y.new_empty(0) if aligned.grad_y is None else torch.from_numpy(aligned.grad_y),
        torch.from_numpy(aligned.reports.marginal_error).to(dtype),
        torch.from_numpy(aligned.reports.converged),
    )


_library.impl("solve", _solve_native, "CPU")
_library.impl("implicit_gradient", _implicit_native, "CPU")
_library.impl("align", _align_native, "CPU")
_library.impl("solve", torch_solver.solve, "CompositeExplicitAutograd")
_library.impl("implicit_gradient", torch_solver.implicit_gradient, "CompositeExplicitAutograd")
_library.impl("align", torch_solver.align, "CompositeExplicitAutograd")


@torch.library.register_fake("optical_rs::solve")
def _(cost, reg, a, b, row_mask, col_mask, start, method, max_iter, tol, reg_m, accelerate):
    batch, n, m = cost.shape
    scalar = cost.new_empty(batch)
    return (
        torch.empty_like(cost, memory_format=torch.contiguous_format),
        cost.new_empty(batch, n),
        cost.new_empty(batch, m),
        scalar,
        torch.empty_like(scalar),
        torch.empty_like(scalar),
        torch.empty_like(scalar),
        cost.new_empty(batch, dtype=torch.int64),
        cost.new_empty(batch, dtype=torch.bool),
        cost.new_empty(batch, dtype=torch.int64),
    )


@torch.library.register_fake("optical_rs::implicit_gradient")
def _(plan, cost, reg, reg_m):
    return torch.empty_like(plan, memory_format=torch.contiguous_format)


@torch.library.register_fake("optical_rs::align")
def _(
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
    batch = x.shape[0]
    whole = {"memory_format": torch.contiguous_format}
    return (
        x.new_empty(batch),
        torch.empty_like(x, **whole) if want_x else x.new_empty(0),
        torch.empty_like(y, **whole) if want_y else y.new_empty(0),
        x.new_empty(batch),
        x.new_empty(batch, dtype=torch.bool),
    )


def _of_marginal(potential: Tensor, reg_m: float) -> Tensor:
    """The slope of ``value`` in a marginal: its potential, or ``reg_m (1 − exp(−f / reg_m))`` if unbalanced.

    The −∞ of an entry without mass has no finite slope, and becomes 0.
    """
    slope = potential if math.isinf(reg_m) else -reg_m * torch.expm1(-potential / reg_m)
    return torch.where(torch.isfinite(slope), slope, 0.0)


def _refuse_second_derivatives() -> None:
    # Gradients are enabled inside backward only for create_graph=True.
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError("transport has no second derivatives: call backward without create_graph=True")


def _final_reg(reg: Tensor, n_iter: Tensor, method: str) -> Tensor:
    """The regularisation that a plan is of: β/t after t proximal steps."""
    return reg / n_iter.clamp(min=1) if method == "ipot" else reg


class Transport(torch.autograd.Function):
    """``solve`` with gradients for ``value`` (true), ``value_linear`` (envelope or implicit) and, if implicit,
    the plan."""

    @staticmethod
    def forward(ctx, cost, reg, a, b, row_mask, col_mask, start, solver, grad):
        outputs = torch.ops.optical_rs.solve(cost, reg, a, b, row_mask, col_mask, start, *solver)
        plan, f, g = outputs[:3]
        ctx.save_for_backward(plan, f, g, cost, _final_reg(reg, outputs[7], solver.method))
        ctx.grad, ctx.reg_m = grad, solver.reg_m
        ctx.mark_non_differentiable(*([] if grad == "implicit" else [plan]), f, g, *outputs[5:])
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx, of_plan, _f, _g, of_value, of_linear, *_):
        _refuse_second_derivatives()
        plan, f, g, cost, reg = ctx.saved_tensors
        grad_cost = grad_a = grad_b = None

        def implicit(weights: Tensor) -> Tensor:
            return torch.ops.optical_rs.implicit_gradient(plan, weights, reg, list(ctx.reg_m))

        if ctx.needs_input_grad[0]:
            grad_cost = torch.zeros_like(plan)
            if of_value is not None:
                grad_cost = grad_cost + plan * of_value[:, None, None]
            if of_linear is not None:
                slope = implicit(cost) if ctx.grad == "implicit" else plan
                grad_cost = grad_cost + slope * of_linear[:, None, None]
            if of_plan is not None:
                # That of <T(C), W> for a fixed W: the same projection, of W, and without W's own part.
                grad_cost = grad_cost + implicit(of_plan) - plan
        marginals = any(ctx.needs_input_grad[2:4])
        if marginals and of_plan is not None:
            raise RuntimeError("a plan has no gradient with respect to its marginals: detach one of them")
        if of_value is not None:
            if ctx.needs_input_grad[2]:
                grad_a = _of_marginal(f, ctx.reg_m[0]) * of_value[:, None]
            if ctx.needs_input_grad[3]:
                grad_b = _of_marginal(g, ctx.reg_m[1]) * of_value[:, None]
        return grad_cost, None, grad_a, grad_b, *([None] * 5)


class Alignment(torch.autograd.Function):
    """``align``: the gradient is computed with the loss, so backward is one multiplication."""

    @staticmethod
    def forward(ctx, x, y, x_mask, y_mask, a, b, reg, relative, implicit, solver, grads):
        loss, grad_x, grad_y, error, converged = torch.ops.optical_rs.align(
            x, y, x_mask, y_mask, a, b, reg, relative, implicit, *solver, *grads
        )
        ctx.save_for_backward(grad_x, grad_y)
        ctx.mark_non_differentiable(error, converged)
        return loss, error, converged

    @staticmethod
    def backward(ctx, of_loss, *_):
        _refuse_second_derivatives()
        grad_x, grad_y = ctx.saved_tensors
        scale = of_loss[:, None, None]
        return (
            grad_x * scale if ctx.needs_input_grad[0] else None,
            grad_y * scale if ctx.needs_input_grad[1] else None,
            *([None] * 9),
        )


def _single_or_double(x: Tensor) -> Tensor:
    """float64 stays; float16, bfloat16 and integers are computed in float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _mask(name: str, lengths: Any, mask: Any, like: Tensor, batch: int, size: int) -> Tensor | None:
    if isinstance(mask, Tensor) and lengths is None:
        if mask.shape != (batch, size):
            raise InputError(f"{name}_mask: expected shape {(batch, size)}, got {tuple(mask.shape)}")
        return mask.to(device=like.device, dtype=torch.bool)
    if isinstance(lengths, Tensor):
        lengths = lengths.cpu().numpy()
    side = arguments.side(name, lengths, mask, batch, size)
    if isinstance(side, list):
        return torch.arange(size, device=like.device) < torch.tensor(side, device=like.device)[:, None]
    return None if side is None else torch.from_numpy(side).to(like.device).bool()


def _marginal(name: str, x: Any, like: Tensor, shape: tuple[int, int]) -> Tensor | None:
    if x is None:
        return None
    x = torch.as_tensor(x, dtype=like.dtype, device=like.device)
    if x.shape == shape[1:]:
        x = x.expand(shape)
    if x.shape != shape:
        raise InputError(f"{name}: expected shape {shape} or {shape[1:]}, got {tuple(x.shape)}")
    return x


def _may_warn(x: Tensor) -> bool:
    # Asking a GPU whether all converged would wait for it at every step; a graph cannot ask.
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def solve_batch(
    cost, reg, a, b, *, row_lengths, row_mask, col_lengths, col_mask, solver, potentials, grad
) -> TransportResult:
    """The tensor side of :func:`optical_rs.transport.solve_batch`, which checks the options."""
    cost = cost[None] if cost.ndim == 2 else cost
    arguments.check_ndim("cost", cost, 3, "(batch, n, m) or (n, m)")
    batch, n, m = cost.shape
    given = cost.dtype
    cost = _single_or_double(cost)
    reg = torch.as_tensor(reg, dtype=torch.float64).reshape(-1)
    if reg.numel() not in (1, batch):
        raise InputError(f"reg: expected one value or {batch}, one per problem, got {reg.numel()}")
    start = None if potentials is None else _marginal("potentials", potentials[1], cost, (batch, m))
    inputs = (
        cost.detach() if grad == "detach" else cost,
        reg.to(cost.device),
        _marginal("a", a, cost, (batch, n)),
        _marginal("b", b, cost, (batch, m)),
        _mask("row", row_lengths, row_mask, cost, batch, n),
        _mask("col", col_lengths, col_mask, cost, batch, m),
        start,
    )
    if grad == "detach":
        with torch.no_grad():
            outputs = torch.ops.optical_rs.solve(*inputs, *solver)
    else:
        outputs = Transport.apply(*inputs, solver, grad)
    plan, f, g, value, linear, gap, error, n_iter, converged, codes = outputs
    if given in (torch.float16, torch.bfloat16):
        plan, f, g = (x.to(given) for x in (plan, f, g))
    if _may_warn(cost):
        warn_unless_converged(converged, error, solver)
    if torch.compiler.is_compiling():
        status: Any = codes
    else:
        status = [STATUS[code] for code in codes.tolist()]
    final = _final_reg(inputs[1], n_iter, solver.method).expand(batch)
    return TransportResult(plan, (f, g), value, linear, gap, n_iter, converged, error, status, final)


def alignment_losses(x, y, x_mask, y_mask, reg, a, b, relative, solver, grad) -> Tensor:
    """The tensor side of :func:`optical_rs.transport.alignment_loss`: one loss per pair."""
    if not isinstance(y, Tensor):
        raise InputError(f"y: expected a tensor, as x is, got {type(y).__name__}")
    if x.shape[0] != y.shape[0] or x.shape[2] != y.shape[2]:
        raise InputError(
            f"y: expected {x.shape[0]} texts of dimension {x.shape[2]}, as in x, got {y.shape[0]} of "
            f"dimension {y.shape[2]}"
        )
    x, y = _single_or_double(x), _single_or_double(y)
    dtype = torch.promote_types(x.dtype, y.dtype)
    x, y = x.to(dtype), y.to(device=x.device, dtype=dtype)
    if grad == "detach":
        x, y = x.detach(), y.detach()
    # Inside a Function's forward gradients are off, so what is wanted must be asked here.
    grads = (x.requires_grad, y.requires_grad) if torch.is_grad_enabled() else (False, False)
    losses, error, converged = Alignment.apply(
        x,
        y,
        _mask("x", None, x_mask, x, *x.shape[:2]),
        _mask("y", None, y_mask, x, *y.shape[:2]),
        _marginal("a", a, x, tuple(x.shape[:2])),
        _marginal("b", b, x, tuple(y.shape[:2])),
        float(reg),
        relative,
        grad == "implicit",
        solver,
        grads,
    )
    if _may_warn(x):
        warn_unless_converged(converged, error, solver)
    return losses
