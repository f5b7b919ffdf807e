"""Relaxed marginals, the Sinkhorn divergence and exact transport: against POT and by their invariants."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.transport import alignment_loss, sinkhorn_divergence, solve_batch, solve_exact
from scipy.optimize import linprog

torch = pytest.importorskip("torch")
ot = pytest.importorskip("ot")
from torch.autograd import gradcheck  # noqa: E402

EXACT = {"max_iter": 50_000, "tol": 1e-12}


def unbalanced_problem(seed, n=7, m=9):
    rng = np.random.default_rng(seed)
    a, b = rng.random((1, n)) + 0.1, 2 * rng.random((1, m)) + 0.1
    return rng.random((1, n, m)), a, b


@pytest.mark.parametrize("reg_m", [0.05, 1.0, (0.2, 3.0), (math.inf, 0.5), (0.5, None)])
@pytest.mark.parametrize("method", ["auto", "log"])
def test_relaxed_marginals_agree_with_pot(reg_m, method):
    cost, a, b = unbalanced_problem(0)
    result = solve_batch(cost, 0.1, a, b, reg_m=reg_m, method=method, **EXACT)
    sides = [math.inf if side is None else side for side in np.broadcast_to(np.array(reg_m, object), 2)]
    want = ot.unbalanced.sinkhorn_unbalanced(
        a[0], b[0], cost[0], 0.1, sides, reg_type="entropy", method="sinkhorn", numItermax=50_000,
        stopThr=1e-14,
    )  # fmt: skip
    np.testing.assert_allclose(result.plan[0], want, atol=1e-8)
    assert result.status == ["linear" if method == "auto" else "log"]
    assert result.converged.all()

    def kl(x, y):
        return (x * np.log(x / y) - x + y).sum()

    plan = result.plan[0]
    value = (plan * cost[0]).sum() + 0.1 * (plan * (np.log(plan) - 1)).sum()
    for side, sums, weights in zip(sides, (plan.sum(1), plan.sum(0)), (a[0], b[0]), strict=True):
        if math.isfinite(side):
            value += side * kl(sums, weights)
        else:
            np.testing.assert_allclose(sums, weights, atol=1e-9)
    assert result.value[0] == pytest.approx(value, abs=1e-9)


@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.3, 5.0]), st.sampled_from([0.002, 0.05, 1.0]))
def test_relaxed_marginals_in_rust_and_torch(seed, reg_m, reg):
    from optical_rs.transport import torch_solver

    cost, a, b = unbalanced_problem(seed)
    sides = (reg_m, 2 * reg_m)
    native = solve_batch(cost, reg, a, b, reg_m=sides, max_iter=80, tol=0)
    tensors = (torch.from_numpy(x) for x in (a, b))
    plain = torch_solver.solve(
        torch.from_numpy(cost), torch.tensor([reg]).double(), *tensors, None, None, None, "log", 80, 0.0,
        sides, True,
    )  # fmt: skip
    mine = (native.plan, native.value, native.value_linear, native.duality_gap, native.marginal_error)
    # 80 iterations do not converge at .002: the steps there are long extrapolations, which multiply what rounding left
    # (of exponents of some 1,000) by up to a million.
    tolerance = 1e-5 if reg == 0.002 else 1e-6
    for one, other in zip(mine, (plain[0], *plain[3:7]), strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=tolerance, rtol=tolerance)


def test_strict_relaxation_tends_to_hard_marginals():
    cost = np.random.default_rng(1).random((1, 6, 8))
    hard = solve_batch(cost, 0.1, **EXACT)
    soft = solve_batch(cost, 0.1, reg_m=1e6, **EXACT)
    np.testing.assert_allclose(soft.plan, hard.plan, atol=1e-6)


def test_a_token_without_a_counterpart_stays_unmatched():
    # Row 2 is far from everything; a plan that may leave mass behind leaves this row's.
    cost = np.array([[[0.0, 1.0], [1.0, 0.0], [9.0, 9.0]]])
    plan = solve_batch(cost, 0.05, reg_m=0.5, **EXACT).plan[0]
    assert plan[2].sum() < 1e-4 < 0.2 < plan[0].sum()


def test_a_row_without_edges_keeps_its_mass():
    cost, a, b = unbalanced_problem(2)
    blocked = cost.copy()
    blocked[0, 3] = np.inf
    for method in ("auto", "log"):
        result = solve_batch(blocked, 0.1, a, b, reg_m=0.5, method=method, **EXACT)
        rest = np.delete(cost, 3, axis=1)
        without = solve_batch(rest, 0.1, np.delete(a, 3, axis=1), b, reg_m=0.5, **EXACT)
        assert not result.plan[0, 3].any()
        np.testing.assert_allclose(np.delete(result.plan, 3, axis=1), without.plan, atol=1e-9)
        assert result.value[0] == pytest.approx(without.value[0] + 0.5 * a[0, 3], abs=1e-9)


@pytest.mark.parametrize("reg_m", [0.4, (math.inf, 0.7)])
def test_gradients_of_relaxed_marginals(reg_m):
    cost = torch.rand(2, 4, 5, dtype=torch.float64, generator=torch.manual_seed(0)).requires_grad_()
    mask = torch.tensor([[True] * 4, [True, True, False, True]])
    a = torch.rand(2, 4, dtype=torch.float64, generator=torch.manual_seed(1)) + 0.2
    options = {"reg_m": reg_m, "row_mask": mask, **EXACT}
    assert gradcheck(lambda c: solve_batch(c, 0.3, **options).value, (cost,))
    assert gradcheck(lambda c: solve_batch(c, 0.3, grad="implicit", **options).value_linear, (cost,))
    if reg_m == 0.4:
        fixed = cost.detach()
        assert gradcheck(
            lambda w: solve_batch(fixed, 0.3, w, reg_m=reg_m, **EXACT).value, (a.requires_grad_(),)
        )


@pytest.mark.parametrize("scale", ["absolute", "spread"])
def test_alignment_with_relaxed_marginals(scale):
    from optical_rs.transport import torch_solver

    generator = torch.manual_seed(3)
    x, y = (torch.randn(2, n, 6, dtype=torch.float64, generator=generator) for n in (4, 5))
    x.requires_grad_()
    options = {"reg": 0.3, "reg_scale": scale, "reg_m": (0.5, 2.0), "reduction": "none", **EXACT}
    for grad in ("envelope", "implicit"):
        losses = alignment_loss(x, y, grad=grad, **options)
        (slope,) = torch.autograd.grad(losses.sum(), x)
        plain = torch_solver.align(
            x.detach(), y, None, None, None, None, 0.3, scale == "spread", grad == "implicit", "log",
            50_000, 1e-12, (0.5, 2.0), True, True, False,
        )  # fmt: skip
        torch.testing.assert_close(losses, plain[0], atol=1e-8, rtol=0)
        torch.testing.assert_close(slope, plain[1], atol=1e-7, rtol=0)
    if scale == "absolute":
        assert gradcheck(lambda t: alignment_loss(t, y, grad="implicit", **options), (x,))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, (1.0, 2.0, 3.0), (1.0, -2.0)])
def test_bad_reg_m(bad):
    with pytest.raises(InputError, match="reg_m: expected"):
        solve_batch(np.zeros((1, 2, 2)), 0.1, reg_m=bad)


def test_ipot_has_hard_marginals():
    with pytest.raises(InputError, match="reg_m: expected None with method='ipot'"):
        solve_batch(np.zeros((1, 2, 2)), 0.1, reg_m=1.0, method="ipot")


def linear_program(cost, a, b):
    n, m = cost.shape
    rows, cols = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    return linprog(cost.ravel(), A_eq=np.vstack([rows, cols]), b_eq=np.concatenate([a, b])).fun


def test_exact_is_the_linear_program():
    rng = np.random.default_rng(4)
    cost = rng.random((3, 6, 8))
    lengths = [6, 4, 0]
    result = solve_exact(cost, row_lengths=lengths)
    assert result.status == ["exact", "exact", "empty"]
    for i in range(2):
        inner = cost[i, : lengths[i]]
        want = linear_program(inner, np.full(lengths[i], 1 / lengths[i]), np.full(8, 1 / 8))
        assert result.value[i] == pytest.approx(want, abs=1e-12)
        f, g = result.potentials[0][i, : lengths[i]], result.potentials[1][i]
        # Duality: no edge is overpaid, and the edges of the plan are paid exactly.
        slack = inner - f[:, None] - g[None]
        assert slack.min() > -1e-9
        assert np.abs(slack[result.plan[i, : lengths[i]] > 0]).max() < 1e-9
    assert (result.marginal_error < 1e-12).all()


def test_exact_avoids_forbidden_edges_or_says_so():
    cost = np.array([[[np.inf, 0.0], [5.0, np.inf]]])
    result = solve_exact(cost)
    assert result.value[0] == pytest.approx(2.5)
    with pytest.raises(InputError, match="problem 0 is infeasible"):
        solve_exact(np.array([[[np.inf, 0.0], [np.inf, 1.0]]]))
    with pytest.raises(InputError, match="masses"):
        solve_exact(cost, np.ones((1, 2)))


@pytest.mark.parametrize("method", ["auto", "ipot"])
def test_entropic_transport_tends_to_the_exact(method):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(4, 12, 8)), rng.normal(size=(4, 15, 8))
    cost = ((x[:, :, None] - y[:, None]) ** 2).sum(3)
    best = solve_exact(cost).value
    gaps = []
    for reg in (1.0, 0.1, 0.01) if method == "auto" else (1.0,):
        result = solve_batch(cost, reg, method=method, max_iter=100_000, tol=1e-8)
        gaps.append((result.value_linear - best).max())
        assert (result.value_linear >= best - 1e-6).all()
    assert gaps[-1] < 0.02
    assert gaps == sorted(gaps, reverse=True)


def clouds(seed, n, m):
    generator = torch.manual_seed(seed)
    return (torch.randn(2, size, 3, dtype=torch.float64, generator=generator) for size in (n, m))


def squared(x, y):
    return (x[:, :, None] - y[:, None]).square().sum(3)


def divergence(x, y, reg=0.5, **options):
    return sinkhorn_divergence(squared(x, y), squared(x, x), squared(y, y), reg, **{**EXACT, **options})


def test_the_divergence_is_a_divergence():
    x, y = clouds(6, 8, 11)
    assert (divergence(x, y) > 0).all()
    torch.testing.assert_close(divergence(x, y), divergence(y, x), atol=1e-9, rtol=0)
    assert divergence(x, x).abs().max() < 1e-12


def test_the_divergence_is_that_of_geomloss():
    x, y = clouds(6, 8, 11)
    geomloss = pytest.importorskip("geomloss")
    want = geomloss.SamplesLoss(
        "sinkhorn", p=2, blur=0.5**0.5, scaling=0.99, debias=True, backend="tensorized"
    )
    # Its cost is half the squared distance, its temperature blur².
    got = sinkhorn_divergence(*(squared(*pair) / 2 for pair in ((x, y), (x, x), (y, y))), 0.5, **EXACT)
    torch.testing.assert_close(got, want(x, y), rtol=1e-3, atol=1e-4)


def test_the_divergence_has_gradients_and_masks():
    x, y = clouds(7, 4, 5)
    x.requires_grad_()
    assert gradcheck(lambda t: divergence(t, y), (x,))
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    masked = divergence(x, y, row_mask=mask)
    alone = divergence(x[1:, :2], y[1:])
    assert masked[1].item() == pytest.approx(alone[0].item(), abs=1e-12)
    # At y = x the divergence is least, where W itself is not.
    z = x.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(divergence(z, x.detach()).sum(), z)
    assert slope.abs().max() < 1e-6
