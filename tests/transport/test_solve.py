"""solve_batch: against a plain float64 solver, and by its invariants."""

import warnings

import numpy as np
import optical_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import ConvergenceWarning, InputError
from optical_rs.transport import solve_batch
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

torch = pytest.importorskip("torch")

HARD = (np.inf, np.inf)


def oracle(cost, reg, a, b, iterations):
    """The plan of one problem after so many log-domain steps, by scipy in float64."""
    cost = np.asarray(cost, dtype=np.float64)
    f, g = np.zeros(len(a)), np.zeros(len(b))
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(iterations):
            f = reg * (np.log(a) - logsumexp((g[None] - cost) / reg, axis=1))
            f[a == 0] = -np.inf
            g = reg * (np.log(b) - logsumexp((f[:, None] - cost) / reg, axis=0))
            g[b == 0] = -np.inf
        return np.nan_to_num(np.exp((f[:, None] + g[None] - cost) / reg))


@st.composite
def batches(draw, marginals=True):
    """Ragged batches with masks, duplicate points, constant and one-sided problems."""
    batch = draw(st.integers(1, 4))
    n, m = draw(st.integers(1, 24)), draw(st.integers(1, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    kind = draw(st.sampled_from(["uniform", "cosine", "duplicates", "constant"]))
    if kind == "cosine":
        x, y = rng.normal(size=(batch, n, 6)), rng.normal(size=(batch, m, 6))
        x /= np.linalg.norm(x, axis=2, keepdims=True)
        y /= np.linalg.norm(y, axis=2, keepdims=True)
        cost = 1 - x @ y.transpose(0, 2, 1)
    elif kind == "duplicates":
        cost = rng.integers(0, 3, size=(batch, n, m)) / 2
    elif kind == "constant":
        cost = np.full((batch, n, m), rng.random())
    else:
        cost = rng.random((batch, n, m)) * 2
    rows = rng.random((batch, n)) < draw(st.sampled_from([0.4, 1.0]))
    cols = rng.random((batch, m)) < draw(st.sampled_from([0.4, 1.0]))
    a = b = None
    if marginals and draw(st.booleans()):
        a, b = rng.random((batch, n)) + 0.05, rng.random((batch, m)) + 0.05
        if n > 1:
            a[:, rng.integers(n)] = 0.0
        for i in range(batch):
            a[i, ~rows[i]] = 0
            b[i, ~cols[i]] = 0
            if a[i].sum() == 0:
                a[i, rows[i]] = 1
            if a[i].any() and b[i].any():
                a[i] /= a[i].sum()
                b[i] /= b[i].sum()
    return cost, rows, cols, a, b


def sides(rows, cols, a, b, i):
    """Marginals of the compacted problem i."""
    r, c = rows[i], cols[i]
    pa = np.full(r.sum(), 1 / max(r.sum(), 1)) if a is None else a[i][r]
    pb = np.full(c.sum(), 1 / max(c.sum(), 1)) if b is None else b[i][c]
    return r, c, pa, pb


@given(batches(), st.sampled_from([0.05, 0.2, 1.0]), st.sampled_from(["auto", "log"]))
def test_agrees_with_scipy_on_masked_ragged_batches(problem, reg, method):
    cost, rows, cols, a, b = problem
    result = solve_batch(cost, reg, a, b, row_mask=rows, col_mask=cols, method=method, max_iter=50, tol=0)
    single = solve_batch(
        cost.astype(np.float32), reg, a, b, row_mask=rows, col_mask=cols, method=method, max_iter=50, tol=0
    )
    for i in range(len(cost)):
        r, c, pa, pb = sides(rows, cols, a, b, i)
        outside = result.plan[i].copy()
        outside[np.ix_(r, c)] = 0
        assert not outside.any()
        if not (r.any() and c.any()):
            assert result.status[i] == "empty"
            assert result.value[i] == 0
            assert result.converged[i]
            continue
        want = oracle(cost[i][np.ix_(r, c)], reg, pa, pb, 50)
        np.testing.assert_allclose(result.plan[i][np.ix_(r, c)], want, atol=1e-12)
        np.testing.assert_allclose(single.plan[i][np.ix_(r, c)], want, atol=2e-5)
        inner = cost[i][np.ix_(r, c)]
        assert result.value_linear[i] == pytest.approx((want * inner).sum(), abs=1e-10)
        positive = want[want > 0]
        entropic = (want * inner).sum() + reg * (positive * (np.log(positive) - 1)).sum()
        assert result.value[i] == pytest.approx(entropic, abs=1e-9)


@given(batches(), st.sampled_from([0.02, 0.3]))
def test_marginals_hold_at_convergence(problem, reg):
    cost, rows, cols, a, b = problem
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = solve_batch(cost, reg, a, b, row_mask=rows, col_mask=cols, max_iter=5000, tol=1e-9)
    for i in range(len(cost)):
        r, c, pa, pb = sides(rows, cols, a, b, i)
        if not (r.any() and c.any()):
            continue
        if result.converged[i]:
            np.testing.assert_allclose(result.plan[i].sum(1)[r], pa, atol=2e-9)
            np.testing.assert_allclose(result.plan[i].sum(0)[c], pb, atol=2e-9)
        assert (result.plan[i] >= 0).all()
        f, g = result.potentials[0][i][r], result.potentials[1][i][c]
        with np.errstate(invalid="ignore"):
            rebuilt = np.exp((f[:, None] + g[None] - cost[i][np.ix_(r, c)]) / reg)
        np.testing.assert_allclose(np.nan_to_num(rebuilt), result.plan[i][np.ix_(r, c)], atol=1e-9)


@given(batches(marginals=False), st.integers(0, 7), st.integers(0, 7))
def test_padding_and_batch_do_not_change_a_bit(problem, extra_rows, extra_cols):
    cost, _, _, _, _ = problem
    batch, n, m = cost.shape
    cost = cost.astype(np.float32)
    whole = solve_batch(cost, 0.1)
    padded = np.full((batch, n + extra_rows, m + extra_cols), np.nan, dtype=np.float32)
    padded[:, :n, :m] = cost
    result = solve_batch(padded, 0.1, row_lengths=[n] * batch, col_lengths=[m] * batch)
    assert (result.plan[:, :n, :m] == whole.plan).all()
    assert (result.potentials[0][:, :n] == whole.potentials[0]).all()
    assert (result.value == whole.value).all()
    for i in range(batch):
        alone = solve_batch(cost[i : i + 1], 0.1)
        assert (alone.plan[0] == whole.plan[i]).all()
        assert alone.value_linear[0] == whole.value_linear[i]


@given(batches(marginals=False), st.sampled_from([0.01, 0.1]))
def test_torch_solver_agrees(problem, reg):
    from optical_rs.transport import torch_solver

    cost, rows, cols, _, _ = problem
    native = solve_batch(cost, reg, row_mask=rows, col_mask=cols, max_iter=40, tol=0)
    plain = torch_solver.solve(
        torch.from_numpy(cost),
        torch.tensor([reg], dtype=torch.float64),
        None,
        None,
        torch.from_numpy(rows),
        torch.from_numpy(cols),
        None,
        "log",
        40,
        0.0,
        HARD,
        True,
    )
    for mine, other, tolerance in ((native.plan, plain[0], 1e-9), (native.value, plain[3], 1e-7)):
        np.testing.assert_allclose(mine, other.numpy(), atol=tolerance)
    assert (native.n_iter == plain[7].numpy()).all()


def test_ipot_is_the_same_in_rust_and_torch():
    from optical_rs.transport import torch_solver

    cost = np.random.default_rng(0).random((3, 10, 14))
    native = solve_batch(cost, 0.3, method="ipot", max_iter=60, tol=0)
    plain = torch_solver.solve(
        torch.from_numpy(cost),
        torch.tensor([0.3]).double(),
        None,
        None,
        None,
        None,
        None,
        "ipot",
        60,
        0.0,
        HARD,
        True,
    )
    np.testing.assert_allclose(native.plan, plain[0].numpy(), atol=1e-9)


@pytest.mark.parametrize("n", [2, 7, 20])
def test_ipot_and_small_reg_reach_the_assignment(n):
    cost = np.random.default_rng(n).random((1, n, n))
    best = cost[0][linear_sum_assignment(cost[0])].sum() / n
    result = solve_batch(cost, 0.5, method="ipot", max_iter=4000, tol=1e-7)
    assert result.value_linear[0] == pytest.approx(best, abs=1e-3)
    result = solve_batch(cost, 1e-3, max_iter=200_000, tol=1e-4)
    assert result.value_linear[0] == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("reg", [1e-3, 1e-2, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_nan_from_small_to_large_reg(reg, dtype):
    x = np.random.default_rng(3).normal(size=(4, 33, 16))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    cost = (1 - x @ x[::-1].transpose(0, 2, 1)).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = solve_batch(cost, reg)
    for array in (result.plan, result.value, result.value_linear, result.marginal_error):
        assert np.isfinite(array).all()
    # Costs of unit vectors spread over nearly 2: exp(-2 / .01) is 0 in float32, not in float64.
    safe = reg >= 1 or (reg == 1e-2 and dtype == np.float64)
    assert set(result.status) == {"linear" if safe else "stabilised"}
    assert (result.marginal_error < 0.1).all()


def test_cost_shift_and_scale():
    cost = np.random.default_rng(5).random((2, 9, 12))
    base = solve_batch(cost, 0.1, max_iter=100, tol=0)
    shifted = solve_batch(cost + 3, 0.1, max_iter=100, tol=0)
    scaled = solve_batch(cost * 7, 0.7, max_iter=100, tol=0)
    np.testing.assert_allclose(shifted.plan, base.plan, atol=1e-12)
    np.testing.assert_allclose(shifted.value_linear, base.value_linear + 3, atol=1e-9)
    np.testing.assert_allclose(scaled.plan, base.plan, atol=1e-12)
    np.testing.assert_allclose(scaled.value, 7 * base.value, atol=1e-9)


def test_permutation_equivariance():
    rng = np.random.default_rng(6)
    cost, rows, cols = rng.random((1, 9, 12)), rng.permutation(9), rng.permutation(12)
    base = solve_batch(cost, 0.1).plan[0]
    moved = solve_batch(cost[:, rows][:, :, cols], 0.1).plan[0]
    np.testing.assert_allclose(moved, base[rows][:, cols], atol=1e-7)


def test_a_dirac_takes_the_other_marginal():
    b = np.array([[0.2, 0.5, 0.3]])
    result = solve_batch(np.array([[[1.0, 2.0, 3.0]]]), 0.1, np.array([[1.0]]), b)
    np.testing.assert_allclose(result.plan[0], b, atol=1e-12)
    assert result.value_linear[0] == pytest.approx(0.2 + 1.0 + 0.9)


def test_warm_restart_takes_one_more_look():
    cost = np.random.default_rng(7).random((2, 20, 20))
    cold = solve_batch(cost, 0.05)
    warm = solve_batch(cost, 0.05, potentials=cold.potentials)
    assert (warm.n_iter <= 2).all()
    assert (cold.n_iter > 5).all()


def test_one_and_two_threads_give_the_same_bits():
    cost = np.random.default_rng(8).random((64, 31, 45)).astype(np.float32)
    results = []
    for threads in (1, 2, 0):
        optical_rs.set_num_threads(threads)
        results.append(solve_batch(cost, 0.03).plan)
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()


@pytest.mark.parametrize("level", optical_rs.build_info()["simd_supported"])
def test_simd_levels_agree(level):
    cost = np.random.default_rng(9).random((8, 50, 70)).astype(np.float32)
    used = optical_rs.build_info()["simd"]
    try:
        optical_rs.set_simd_level(level)
        plan = solve_batch(cost, 0.05, max_iter=50, tol=0).plan
    finally:
        optical_rs.set_simd_level(used)
    exact = solve_batch(cost.astype(np.float64), 0.05, max_iter=50, tol=0).plan
    # The stated bound: 5e-5 in L1 per problem of mass 1.
    assert np.abs(plan - exact).sum((1, 2)).max() < 5e-5


def test_stopping_is_per_problem():
    cost = np.random.default_rng(10).random((3, 15, 15))
    cost[1] = 0.5
    result = solve_batch(cost, 0.02)
    assert result.n_iter[1] <= 2 < result.n_iter[0]
    assert solve_batch(cost, 0.02, max_iter=7, tol=0).n_iter.tolist() == [7, 7, 7]


def test_non_convergence_is_a_status_and_one_warning():
    cost = np.random.default_rng(11).random((3, 15, 15))
    with pytest.warns(ConvergenceWarning, match="3 of 3") as caught:
        result = solve_batch(cost, 0.01, max_iter=3)
    assert len(caught) == 1
    assert not result.converged.any()


def test_shapes_without_problems():
    assert solve_batch(np.zeros((0, 3, 4)), 0.1).plan.shape == (0, 3, 4)
    result = solve_batch(np.zeros((2, 0, 4)), 0.1)
    assert result.status == ["empty", "empty"]
    assert result.value.tolist() == [0, 0]


def test_without_the_plan():
    cost = np.random.default_rng(12).random((2, 5, 6))
    result = solve_batch(cost, 0.1, return_plan=False)
    assert result.plan is None
    assert (result.value == solve_batch(cost, 0.1).value).all()


BAD = {
    "cost with NaN": (
        lambda solve, c: solve(np.where(c == c[1, 2, 0], np.nan, c), 0.1),
        "cost: problem 1 has NaN at row 2, column 0",
    ),
    "cost with -inf": (
        lambda solve, c: solve(np.where(c == c[1, 2, 0], -np.inf, c), 0.1),
        "cost: problem 1 has -inf",
    ),
    "unequal masses": (
        lambda solve, c: solve(c, 0.1, np.full((2, 3), 0.5)),
        "a, b: problem 0 has masses 1.5 and 1",
    ),
    "negative marginal": (
        lambda solve, c: solve(c, 0.1, np.array([[1.0, 1, -1]] * 2)),
        "a: problem 0 has -1 at 2",
    ),
    "mass on one side": (
        lambda solve, c: solve(c, 0.1, np.zeros((2, 3))),
        "a, b: problem 0 has masses 0",
    ),
    "infeasible row": (
        lambda solve, c: solve(np.where(np.arange(3)[:, None] == 1, np.inf, c), 0.1),
        "row 1 has mass but only",
    ),
    "infeasible column": (
        lambda solve, c: solve(np.where(np.arange(4) == 2, np.inf, c), 0.1),
        "column 2 has mass but only",
    ),
    "reg 0": (lambda solve, c: solve(c, 0.0), "reg: expected a finite number > 0"),
    "too many regs": (lambda solve, c: solve(c, [0.1, 0.2, 0.3]), "reg: expected one value or 2"),
    "1-d cost": (lambda solve, c: solve(c[0, 0], 0.1), r"cost: expected an array of shape \(batch, n, m\)"),
    "text cost": (lambda solve, c: solve(c.astype(str), 0.1), "cost: expected numbers"),
    "marginal shape": (lambda solve, c: solve(c, 0.1, np.ones((2, 4)) / 4), r"a: expected shape \(2, 3\)"),
    "lengths beyond": (
        lambda solve, c: solve(c, 0.1, row_lengths=[1, 4]),
        r"row_lengths: expected lengths in 0\.\.3",
    ),
    "mask shape": (
        lambda solve, c: solve(c, 0.1, col_mask=np.ones((2, 3), bool)),
        "col_mask: expected shape",
    ),
    "both": (
        lambda solve, c: solve(c, 0.1, col_mask=np.ones((2, 4), bool), col_lengths=[1, 1]),
        "at most one",
    ),
    "method": (lambda solve, c: solve(c, 0.1, method="exact"), "method: expected one of"),
    "grad": (lambda solve, c: solve(c, 0.1, grad="autodiff"), "grad: expected one of"),
    "tol": (lambda solve, c: solve(c, 0.1, tol=-1), "tol: expected"),
    "max_iter": (lambda solve, c: solve(c, 0.1, max_iter=1.5), "max_iter: expected"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_bad_input_is_one_clear_error(name, kind):
    call, message = BAD[name]
    cost = np.random.default_rng(13).random((2, 3, 4))

    def solve(c, *args, **options):
        if kind == "torch" and c.dtype.kind == "f":
            c = torch.from_numpy(c)
        return solve_batch(c, *args, **options)

    with pytest.raises(InputError, match=message) as caught:
        call(solve, cost)
    assert "\n" not in str(caught.value)


@st.composite
def hard_problems(draw):
    """Forbidden edges around a permutation, zero masses, and any scale of costs and reg."""
    n = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-3, 6))
    cost = rng.random((1, n, n)) * scale
    cost[rng.random((1, n, n)) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = np.inf
    order = rng.permutation(n)
    cost[0, np.arange(n), order] = rng.random(n) * scale
    a = rng.random(n) + 0.01
    a[rng.random(n) < 0.2] = 0
    a[0] += 0.1
    b = np.empty(n)
    b[order] = a
    return cost, draw(st.sampled_from([1e-4, 1e-2, 1.0, 10.0])) * scale, a[None], b[None]


@given(hard_problems(), st.sampled_from(["auto", "log", "ipot"]), st.sampled_from([np.float32, np.float64]))
def test_no_feasible_problem_breaks_a_solver(problem, method, dtype):
    cost, reg, a, b = problem
    arrays = [x.astype(dtype) for x in (cost, a, b)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = solve_batch(arrays[0], reg, *arrays[1:], method=method, max_iter=300)
    plan = result.plan[0]
    assert np.isfinite(plan).all()
    assert (plan >= 0).all()
    assert not plan[np.isinf(cost[0])].any()
    assert not plan[a[0] == 0].any()
    assert not plan[:, b[0] == 0].any()
    for x in (result.value, result.value_linear, result.marginal_error):
        assert np.isfinite(x).all()
    if result.converged[0]:
        off = np.abs(plan.sum(1) - a[0]).sum() / a.sum()
        assert off <= 2e-4


@given(batches(marginals=False), st.sampled_from([0.05, 0.5]))
def test_the_transposed_problem_has_the_transposed_plan(problem, reg):
    cost = problem[0]
    options = {"max_iter": 20_000, "tol": 1e-10}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        one = solve_batch(cost, reg, **options)
        other = solve_batch(cost.transpose(0, 2, 1), reg, **options)
    both = one.converged & other.converged
    np.testing.assert_allclose(one.plan[both], other.plan[both].transpose(0, 2, 1), atol=1e-8)
    np.testing.assert_allclose(one.value[both], other.value[both], atol=1e-8)


@given(st.integers(0, 1000), st.floats(0, 1))
def test_the_value_is_concave_in_the_cost(seed, share):
    rng = np.random.default_rng(seed)
    c, d = rng.random((2, 1, 5, 7))
    options = {"reg": 0.2, "max_iter": 10_000, "tol": 1e-11}
    between = solve_batch(share * c + (1 - share) * d, **options).value
    ends = share * solve_batch(c, **options).value + (1 - share) * solve_batch(d, **options).value
    assert (between >= ends - 1e-9).all()


def test_a_symmetric_problem_has_a_symmetric_plan():
    x = np.random.default_rng(20).normal(size=(1, 12, 3))
    cost = ((x[:, :, None] - x[:, None]) ** 2).sum(3)
    plan = solve_batch(cost, 1.0, max_iter=20_000, tol=1e-11).plan
    np.testing.assert_allclose(plan, plan.transpose(0, 2, 1), atol=1e-9)


@pytest.mark.parametrize("reg", [0.05, 0.01, 0.002])
def test_acceleration_stops_within_the_tolerance_at_the_same_plan(reg):
    rng = np.random.default_rng(21)
    x, y = rng.normal(size=(2, 6, 24, 16))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    y /= np.linalg.norm(y, axis=2, keepdims=True)
    cost = (1 - x @ y.transpose(0, 2, 1)).astype(np.float32)
    fast = solve_batch(cost, reg, max_iter=50_000)
    assert fast.converged.all()
    exact = solve_batch(cost.astype(np.float64), reg, max_iter=200_000, tol=1e-9, accelerate=False)
    assert (fast.n_iter < exact.n_iter).all()
    # The value is flat at the optimum: it is far more exact than the marginals.
    np.testing.assert_allclose(fast.value_linear, exact.value_linear, rtol=5e-3)


def test_more_threads_than_problems_share_the_blocks_of_a_large_one():
    cost = np.random.default_rng(22).random((1, 520, 300)).astype(np.float32)
    plans = []
    for threads in (1, 2, 0):
        optical_rs.set_num_threads(threads)
        plans.append(solve_batch(cost, 0.05, max_iter=20, tol=0).plan)
    assert (plans[0] == plans[1]).all()
    assert (plans[0] == plans[2]).all()
    exact = solve_batch(cost.astype(np.float64), 0.05, method="log", max_iter=20, tol=0).plan
    assert np.abs(plans[0] - exact).sum() < 5e-5
