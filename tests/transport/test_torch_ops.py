"""Gradients, operators and compilation of the torch front end."""

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.transport import alignment_loss, solve_batch

torch = pytest.importorskip("torch")
from optical_rs.transport import torch_ops, torch_solver  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402

HARD = [float("inf")] * 2
EXACT = {"max_iter": 20_000, "tol": 1e-13}


@pytest.fixture
def cost():
    return torch.rand(2, 4, 5, dtype=torch.float64, generator=torch.manual_seed(0)).requires_grad_()


@pytest.fixture
def tokens():
    generator = torch.manual_seed(1)
    x, y = (torch.randn(2, n, 6, dtype=torch.float64, generator=generator) for n in (4, 5))
    return x.requires_grad_(), y.requires_grad_()


def test_value_has_its_true_gradient(cost):
    mask = torch.tensor([[True] * 4, [True, True, False, True]])
    assert gradcheck(lambda c: solve_batch(c, 0.3, row_mask=mask, **EXACT).value, (cost,))


def test_value_has_its_true_gradient_in_the_marginals(cost):
    a = torch.full((2, 4), 0.25, dtype=torch.float64, requires_grad=True)
    value = solve_batch(cost.detach(), 0.3, a, **EXACT).value.sum()
    (slope,) = torch.autograd.grad(value, a)
    # Only directions that keep the mass are feasible.
    step = 1e-5 * torch.tensor([1.0, -1.0, 0.5, -0.5], dtype=torch.float64)
    up, down = (solve_batch(cost.detach(), 0.3, a.detach() + s, **EXACT).value.sum() for s in (step, -step))
    assert ((up - down) / 2).item() == pytest.approx((slope @ step).sum().item(), rel=1e-6)


def test_implicit_is_the_true_gradient_of_value_linear(cost):
    assert gradcheck(lambda c: solve_batch(c, 0.3, grad="implicit", **EXACT).value_linear, (cost,))


def test_envelope_gradient_is_the_plan(cost):
    result = solve_batch(cost, 0.3)
    (slope,) = torch.autograd.grad(result.value_linear.sum(), cost)
    assert torch.equal(slope, result.plan)
    assert not result.plan.requires_grad


def test_implicit_gradient_has_the_marginals_of_the_plan(cost):
    result = solve_batch(cost, 0.3, grad="implicit", **EXACT)
    (slope,) = torch.autograd.grad(result.value_linear.sum(), cost)
    torch.testing.assert_close(slope.sum(2), result.plan.sum(2), atol=1e-9, rtol=0)
    torch.testing.assert_close(slope.sum(1), result.plan.sum(1), atol=1e-9, rtol=0)


def test_detach_has_no_gradient(cost):
    assert not solve_batch(cost, 0.3, grad="detach").value.requires_grad


def test_second_derivatives_are_refused(cost):
    with pytest.raises(RuntimeError, match="no second derivatives"):
        gradgradcheck(lambda c: solve_batch(c, 0.3).value, (cost,))


def test_alignment_gradients(tokens):
    def loss(x, y):
        return alignment_loss(x, y, reg=0.3, grad="implicit", reduction="none", **EXACT)

    assert gradcheck(loss, tokens)


@pytest.mark.parametrize("grad", ["envelope", "implicit"])
@pytest.mark.parametrize("scale", ["absolute", "spread"])
def test_fused_alignment_equals_its_parts(tokens, grad, scale):
    x, y = tokens
    x_mask = torch.tensor([[True] * 4, [True, False, True, False]])
    y_mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    reg = 0.2 if scale == "absolute" else 0.7
    a = x_mask / x_mask.sum(1, keepdim=True).double()
    fused = alignment_loss(
        x, y, x_mask, y_mask, reg, a=a, reg_scale=scale, grad=grad, reduction="none", max_iter=500, tol=1e-10
    )
    fused_slopes = torch.autograd.grad(fused.sum(), (x, y))
    plain = torch_solver.align(
        x.detach(), y.detach(), x_mask, y_mask, a, None, reg, scale == "spread", grad == "implicit", "log",
        500, 1e-10, HARD, True, True, True,
    )  # fmt: skip
    torch.testing.assert_close(fused, plain[0], atol=1e-8, rtol=0)
    torch.testing.assert_close(fused_slopes[0], plain[1], atol=1e-7, rtol=0)
    torch.testing.assert_close(fused_slopes[1], plain[2], atol=1e-7, rtol=0)
    assert not fused_slopes[0][1, 1].any(), "padding has no gradient"


def test_alignment_of_an_empty_pair_is_zero(tokens):
    x, y = tokens
    mask = torch.tensor([[True] * 4, [False] * 4])
    losses = alignment_loss(x, y, mask, reduction="none")
    assert losses[1] == 0
    (slope,) = torch.autograd.grad(losses.sum(), x)
    assert not slope[1].any()
    assert slope[0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_embeddings(dtype):
    generator = torch.manual_seed(2)
    x = torch.randn(3, 7, 16, generator=generator).to(dtype).requires_grad_()
    y = torch.randn(3, 9, 16, generator=generator).to(dtype)
    loss = alignment_loss(x, y)
    loss.backward()
    exact = alignment_loss(x.detach().float(), y.float())
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    assert x.grad.dtype == dtype


def test_numpy_and_torch_agree(tokens):
    x, y = (t.detach() for t in tokens)
    assert alignment_loss(x.numpy(), y.numpy()) == pytest.approx(alignment_loss(x, y).item(), abs=1e-12)


def test_views_that_are_not_contiguous(cost):
    wide = torch.rand(2, 5, 8, dtype=torch.float64)
    view = wide.transpose(1, 2)[:, ::2].requires_grad_()
    copy = view.detach().contiguous()
    assert torch.equal(solve_batch(view, 0.1).plan, solve_batch(copy, 0.1).plan)


def test_operators_pass_opcheck(cost, tokens):
    c, (x, y) = cost.detach(), (t.detach() for t in tokens)
    reg = torch.tensor([0.3], dtype=torch.float64)
    mask = torch.ones(2, 4, dtype=torch.bool)
    ops = torch.ops.optical_rs
    torch.library.opcheck(
        ops.solve.default, (c, reg, None, None, mask, None, None, "auto", 50, 1e-4, HARD, True)
    )
    torch.library.opcheck(ops.implicit_gradient.default, (c, c, reg, HARD))
    for wanted in ((True, True), (True, False), (False, False)):
        arguments = (x, y, mask, None, None, None, 0.3, False, False, "auto", 50, 1e-4, HARD, True, *wanted)
        torch.library.opcheck(ops.align.default, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("grad", ["envelope", "implicit"])
def test_compiles_as_one_graph(cost, tokens, grad):
    x, y = (t.detach().requires_grad_() for t in tokens)

    def loss(c, x, y):
        return solve_batch(c, 0.3, grad=grad).value_linear.sum() + alignment_loss(x, y, grad=grad)

    eager = torch.autograd.grad(loss(cost, x, y), (cost, x, y))
    compiled = torch.autograd.grad(
        torch.compile(loss, fullgraph=True, backend="aot_eager")(cost, x, y), (cost, x, y)
    )
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(one, other)


def test_the_device_chooses_the_implementation():
    # The meta device has neither the native core nor data; reaching the fake shows the dispatch.
    out = torch.ops.optical_rs.implicit_gradient(
        torch.empty(2, 3, 4, device="meta"),
        torch.empty(2, 3, 4, device="meta"),
        torch.empty(1, device="meta"),
        HARD,
    )
    assert out.shape == (2, 3, 4)
    cpu = torch._C._dispatch_has_kernel_for_dispatch_key("optical_rs::solve", "CPU")
    rest = torch._C._dispatch_has_kernel_for_dispatch_key("optical_rs::solve", "CompositeExplicitAutograd")
    assert cpu
    assert rest


def test_bad_alignment_input(tokens):
    x, y = (t.detach() for t in tokens)
    for call, message in (
        (lambda: alignment_loss(x, y[:1]), "y: expected 2 texts"),
        (lambda: alignment_loss(x, y[:, :, :3]), "y: expected 2 texts of dimension 6"),
        (lambda: alignment_loss(x, y.numpy()), "y: expected a tensor"),
        (lambda: alignment_loss(x, y, torch.ones(2, 3)), "x_mask: expected shape"),
        (lambda: alignment_loss(x[0], y), "x: expected an array of shape"),
        (lambda: alignment_loss(x, y, reg=-1.0), "reg: expected a finite number > 0"),
        (lambda: alignment_loss(x * np.nan, y), "cost: problem 0 has NaN"),
        (lambda: alignment_loss(x, y, reduction="max"), "reduction: expected one of"),
        (lambda: alignment_loss(x, y, reg_scale="std"), "reg_scale: expected one of"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert torch_ops.STATUS[4] == "empty"
