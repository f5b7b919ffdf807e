"""Problems on which solvers have returned a wrong plan that called itself converged, or none at all."""

import signal
import threading
import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import ConvergenceWarning, InputError
from optical_rs.transport import alignment_loss, solve_batch, solve_exact

torch = pytest.importorskip("torch")


def cosine_costs(seed, batch, n, m, dim=16):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(batch, n, dim)), rng.normal(size=(batch, m, dim))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    y /= np.linalg.norm(y, axis=2, keepdims=True)
    return 1 - x @ y.transpose(0, 2, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ipot_with_a_step_far_below_the_costs_is_exact(dtype):
    cost = np.array([[[0, 100.0], [0, 1000.0]]], dtype)
    result = solve_batch(cost, 1.0, method="ipot", max_iter=20_000, tol=1e-6)
    assert result.converged[0]
    assert result.value_linear[0] == pytest.approx(50, rel=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.01, 0.005, 0.001])
def test_what_ipot_calls_converged_is_near_the_exact_value(beta, dtype):
    cost = cosine_costs(0, 4, 30, 30).astype(dtype)
    best = solve_exact(cost).value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = solve_batch(cost, beta, method="ipot", max_iter=20_000, tol=1e-4)
        plain = solve_batch(
            torch.from_numpy(cost.astype(np.float64)), beta, method="ipot", max_iter=200, tol=0
        )
        short = solve_batch(cost, beta, method="ipot", max_iter=200, tol=0)
    assert result.converged.any()
    np.testing.assert_allclose(result.value_linear[result.converged], best[result.converged], rtol=2e-3)
    np.testing.assert_allclose(short.value_linear, plain.value_linear.numpy(), rtol=1e-3)
    # The gap says how far it is at most, whether it converged or not.
    assert (result.value_linear - best <= result.duality_gap + 1e-3 * best).all()


@pytest.mark.parametrize("method", ["auto", "log"])
def test_unbalanced_problems_stop_alike_in_every_domain(method):
    cost = np.random.default_rng(1).random((6, 20, 30))
    result = solve_batch(cost, 0.05, reg_m=1.0, method=method, max_iter=5000)
    assert result.converged.all()
    assert (result.n_iter < 200).all()


def test_a_budget_too_small_for_annealing_still_moves_all_mass():
    cost = 2 * np.random.default_rng(2).random((8, 40, 40)).astype(np.float32)
    for max_iter in (1, 2, 5, 20, 100):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = solve_batch(cost, 0.002, max_iter=max_iter)
        np.testing.assert_allclose(result.plan.sum((1, 2)), 1, atol=1e-4)
        assert (result.n_iter <= max_iter).all()
        assert (result.value_linear > 0.03).all()


def test_the_residual_that_stops_is_the_one_that_is_reported():
    cost = np.random.default_rng(3).random((6, 24, 30)).astype(np.float32)
    for reg, reg_m in ((0.005, 10.0), (0.05, 10.0), (0.05, 0.02), (0.002, None)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = solve_batch(cost, reg, reg_m=reg_m, max_iter=5000)
        stopped = result.n_iter < 5000
        assert result.converged[stopped].all(), (reg, reg_m, result.marginal_error)
        assert (result.converged == (result.marginal_error <= 1e-4)).all()


@pytest.mark.parametrize("offset", [100.0, 1000.0, -1000.0])
@pytest.mark.parametrize("method", ["auto", "log", "ipot"])
def test_an_offset_of_the_costs_changes_nothing(method, offset):
    # Costs that are numbers of single precision also with the offset.
    cost = np.round(np.random.default_rng(4).random((4, 20, 25)) * 1024).astype(np.float32) / 1024
    options = {"method": method, "max_iter": 20_000}
    plain = solve_batch(cost, 0.05, **options)
    moved = solve_batch(cost + np.float32(offset), 0.05, **options)
    assert moved.converged.all()
    np.testing.assert_allclose(moved.plan, plain.plan, atol=1e-6)
    np.testing.assert_allclose(moved.value_linear - offset, plain.value_linear, atol=1e-4)


def test_unbalanced_marginals_take_few_iterations():
    cost = np.random.default_rng(5).random((8, 30, 40))
    a = np.full((8, 30), 0.5 / 30)
    options = {"reg_m": 10.0, "max_iter": 20_000, "tol": 1e-6}
    fast = solve_batch(cost, 0.05, a, **options)
    plain = solve_batch(cost, 0.05, a, accelerate=False, **options)
    assert fast.converged.all()
    assert plain.converged.all()
    assert fast.n_iter.mean() <= plain.n_iter.mean() / 5
    np.testing.assert_allclose(fast.plan, plain.plan, atol=1e-6)
    for reg_m in ((10.0, None), (None, 3.0)):
        one_sided = {**options, "reg_m": reg_m}
        mass = a if reg_m[1] is None else None
        fast = solve_batch(
            cost, 0.05, mass, None if mass is None else np.full((8, 40), 0.6 / 40), **one_sided
        )
        assert fast.converged.all()
        assert (fast.n_iter < 200).all()


def test_the_implicit_gradient_of_ipot_is_that_of_finite_differences():
    cost = torch.rand(1, 4, 5, dtype=torch.float64, generator=torch.manual_seed(0)).requires_grad_()
    options = {"method": "ipot", "max_iter": 12, "tol": 0}
    # After so many steps the plan is the entropic one of reg / 12, had it converged there.
    solved = solve_batch(cost, 1.2, grad="implicit", **options)
    (slope,) = torch.autograd.grad(solved.value_linear.sum(), cost)
    entropic = solve_batch(cost, 0.1, grad="implicit", max_iter=20_000, tol=1e-12)
    (want,) = torch.autograd.grad(entropic.value_linear.sum(), cost)
    assert solved.reg.tolist() == pytest.approx([0.1])
    assert (slope - want).abs().sum() / want.abs().sum() < 0.05


def test_the_implicit_gradient_of_an_alignment_by_ipot():
    generator = torch.manual_seed(1)
    x, y = (torch.randn(1, n, 6, dtype=torch.float64, generator=generator) for n in (4, 5))
    slopes = []
    for options in ({"reg": 1.2, "method": "ipot", "max_iter": 12, "tol": 0}, {"reg": 0.1, "tol": 1e-12}):
        leaf = x.clone().requires_grad_()
        alignment_loss(leaf, y, grad="implicit", **{"max_iter": 20_000, **options}).backward()
        slopes.append(leaf.grad)
    assert (slopes[0] - slopes[1]).abs().sum() / slopes[1].abs().sum() < 0.05


def test_the_plan_is_differentiable_through_the_implicit_gradient():
    cost = torch.rand(2, 4, 5, dtype=torch.float64, generator=torch.manual_seed(2)).requires_grad_()
    weights = torch.rand(2, 4, 5, dtype=torch.float64, generator=torch.manual_seed(3))

    def moved(c, reg_m=None):
        return (
            solve_batch(c, 0.3, reg_m=reg_m, grad="implicit", max_iter=20_000, tol=1e-13).plan * weights
        ).sum()

    assert torch.autograd.gradcheck(moved, (cost,))
    assert torch.autograd.gradcheck(lambda c: moved(c, 0.5), (cost,))
    # Held fixed, (plan * cost).sum() has the gradient of value_linear, and says so by its name.
    fixed = solve_batch(cost, 0.3)
    (slope,) = torch.autograd.grad((fixed.plan * cost).sum(), cost)
    assert torch.equal(slope, fixed.plan)
    a = torch.full((2, 4), 0.25, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="no gradient with respect to its marginals"):
        solve_batch(cost, 0.3, a, grad="implicit").plan.sum().backward()


def test_any_byte_of_a_mask_that_is_not_zero_is_true():
    cost = np.random.default_rng(6).random((1, 4, 5))
    mask = np.frombuffer(bytes([255, 0, 2, 1]), bool)[None]
    want = solve_batch(cost, 0.1, row_mask=[[True, False, True, True]])
    assert (solve_batch(cost, 0.1, row_mask=mask).plan == want.plan).all()
    assert (solve_batch(torch.from_numpy(cost), 0.1, row_mask=mask).plan.numpy() == want.plan).all()


def test_numbers_may_lie_anywhere_and_have_any_byte_order():
    cost = np.random.default_rng(7).random((2, 4, 5))
    want = solve_batch(cost, 0.1)
    misaligned = (
        np.frombuffer(b"\0" + cost.tobytes(), np.uint8, offset=1).view(np.float64).reshape(cost.shape)
    )
    assert not misaligned.flags.aligned
    assert (solve_batch(misaligned, 0.1).plan == want.plan).all()
    swapped = solve_batch(cost.astype(">f8"), 0.1)
    assert swapped.plan.dtype == np.float64
    assert (swapped.plan == want.plan).all()


def test_the_native_core_refuses_misaligned_arrays():
    from optical_rs import _core
    from optical_rs.transport import arguments

    cost = np.zeros((1, 2, 2))
    misaligned = np.frombuffer(b"\0" + cost.tobytes(), np.uint8, offset=1).view(np.float64).reshape(1, 2, 2)
    solver = arguments.Solver("auto", 10, 0.0, (np.inf, np.inf), True)
    with pytest.raises(InputError, match="aligned"):
        _core.solve_batch(misaligned, [0.1], None, None, None, None, None, solver, True)


def test_a_problem_without_mass_is_empty_and_leaves_the_others_alone():
    cost = np.random.default_rng(8).random((3, 4, 5))
    a, b = np.full((3, 4), 0.25), np.full((3, 5), 0.2)
    a[1], b[1] = 0, 0
    for arrays in ((cost, a, b), tuple(map(torch.from_numpy, (cost, a, b)))):
        result = solve_batch(arrays[0], 0.1, *arrays[1:])
        assert result.status == ["linear", "empty", "linear"]
        assert not np.asarray(result.plan[1]).any()
        assert (np.asarray(result.plan[0]) == solve_batch(cost[:1], 0.1).plan[0]).all()
    # What an unbalanced side has to itself is paid for.
    alone = solve_batch(cost, 0.1, a, np.full((3, 5), 0.2), reg_m=0.5)
    assert alone.value[1] == pytest.approx(0.5)
    assert alone.status[1] == "empty"


def test_a_regularisation_outside_the_precision_is_refused():
    cost = np.random.default_rng(9).random((1, 4, 5))
    with pytest.raises(InputError, match="reg: expected a number in"):
        solve_batch(cost.astype(np.float32), 1e-39)
    assert solve_batch(cost * 1e-39, 1e-40).plan.sum() == pytest.approx(1, abs=1e-3)


def test_costs_too_far_apart_for_their_precision_are_refused():
    with pytest.raises(InputError, match="problem 0 overflows"):
        solve_batch(np.array([[[-3e38, 3e38], [0, 0]]], np.float32), 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", ["auto", "log"])
def test_unbalanced_problems_far_from_zero_move_nothing_or_say_so(dtype, method):
    cost = np.random.default_rng(13).random((1, 5, 6)).astype(dtype)
    far = solve_batch(cost + dtype(1000), 0.05, reg_m=0.5, method=method)
    # Everything stays where it is, and is paid for.
    assert far.converged[0]
    assert far.plan.sum() < 1e-30
    assert far.value[0] == pytest.approx(1.0)
    with pytest.raises(InputError, match="problem 0 has no plan in numbers"):
        solve_batch(cost - dtype(4000), 0.05, reg_m=0.5, method=method)


@given(st.integers(0, 10_000), st.sampled_from([0.003, 0.05, 0.5]), st.sampled_from([None, 0.3, (2.0, None)]))
def test_the_duality_gap_bounds_the_value(seed, reg, reg_m):
    cost = np.random.default_rng(seed).random((1, 6, 9))
    options = {"reg": reg, "reg_m": reg_m, "max_iter": 100_000}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        near, best = solve_batch(cost, tol=1e-3, **options), solve_batch(cost, tol=1e-10, **options)
    if best.converged[0]:
        assert abs(best.duality_gap[0]) < 1e-8
        # value − gap is the dual objective, which is at most the optimum. A plan that did not converge does not have
        # the marginals, and may cost less than the optimum.
        assert near.value[0] - near.duality_gap[0] <= best.value[0] + 1e-8


def test_two_dimensions_are_a_batch_of_one_and_marginals_may_be_shared():
    cost = np.random.default_rng(10).random((3, 4, 5))
    a, b = np.array([0.1, 0.2, 0.3, 0.4]), np.full(5, 0.2)
    want = solve_batch(cost, 0.1, np.tile(a, (3, 1)), np.tile(b, (3, 1)))
    shared = solve_batch(cost, 0.1, a, b)
    assert (shared.plan == want.plan).all()
    assert (solve_batch(cost[0], 0.1, a, b).plan == want.plan[:1]).all()
    tensors = solve_batch(*map(torch.from_numpy, (cost,)), 0.1, torch.from_numpy(a), torch.from_numpy(b))
    assert (tensors.plan.numpy() == want.plan).all()
    assert (solve_exact(cost[0], a, b).plan.sum(2) - a < 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_as_it_went_in(dtype):
    cost = torch.rand(2, 4, 5, generator=torch.manual_seed(4)).to(dtype).requires_grad_()
    result = solve_batch(cost, 0.1)
    assert result.plan.dtype == result.potentials[0].dtype == dtype
    assert result.value.dtype == torch.float32
    result.value.sum().backward()
    assert cost.grad.dtype == dtype
    if dtype == torch.float16:
        plan = solve_batch(cost.detach().numpy(), 0.1).plan
        assert plan.dtype == np.float16
        assert (plan == result.plan.numpy()).all()


def test_arrays_of_other_libraries_come_by_dlpack():
    class Foreign:
        def __init__(self, x):
            self.x = x

        def __dlpack__(self, **options):
            return self.x.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.x.__dlpack_device__()

    cost = np.random.default_rng(11).random((2, 4, 5))
    assert (solve_batch(Foreign(cost), 0.1).plan == solve_batch(cost, 0.1).plan).all()


def test_the_value_in_pots_convention():
    ot = pytest.importorskip("ot")
    cost = np.random.default_rng(12).random((1, 6, 8))
    mine = solve_batch(cost, 0.1, max_iter=10_000, tol=1e-12)
    theirs = ot.solve(cost[0], reg=0.1, reg_type="entropy", max_iter=10_000, tol=1e-12)
    plan = mine.plan[0]
    assert mine.value_pot[0] == pytest.approx((plan * cost[0]).sum() + 0.1 * (plan * np.log(plan)).sum())
    assert mine.value_pot[0] == pytest.approx(mine.value[0] + 0.1)
    assert theirs.value == pytest.approx(mine.value[0], abs=1e-6) or theirs.value == pytest.approx(
        mine.value_pot[0], abs=1e-6
    )


def test_ctrl_c_stops_a_long_gradient():
    from optical_rs import _core

    plan = np.full((256, 380, 380), 1 / 380**2, np.float32)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            _core.implicit_gradient(plan, plan, [0.1], (np.inf, np.inf))
        assert time.monotonic() - began < 1.5
    finally:
        signal.signal(signal.SIGINT, before)
