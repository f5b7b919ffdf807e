"""The Triton kernel: by its interpreter on any machine, and on a GPU where there is one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.transport import alignment_loss, solve_batch

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

INTERPRETED = """
import json, sys
import numpy as np, torch
from optical_rs.transport import triton_solver
for name in json.loads(sys.argv[1]):
    p = dict(np.load(name))
    given = {k: torch.from_numpy(p[k]) for k in ("a", "b", "row_mask", "col_mask", "start") if k in p}
    solved = triton_solver.solve(
        torch.from_numpy(p["cost"]), torch.from_numpy(p["reg"]),
        *(given.get(k) for k in ("a", "b", "row_mask", "col_mask", "start")),
        str(p["method"]), int(p["max_iter"]), float(p["tol"]), p["reg_m"].tolist(),
    )
    names = "plan f g value value_linear gap error n_iter converged status".split()
    np.savez(name + ".out.npz", **({} if solved is None else dict(zip(names, solved))))
"""

STATUS = ("linear", "stabilised", "log", "ipot", "empty")
CASES = [
    # n, m, reg, reg_m, method, max_iter, tol, expected status
    (5, 7, 0.1, None, "auto", 40, 0.0, "linear"),
    (20, 33, 0.05, None, "auto", 200, 1e-4, "linear"),
    (33, 20, 0.004, None, "auto", 30, 0.0, "stabilised"),
    (12, 12, 0.001, None, "auto", 40, 0.0, "stabilised"),
    (6, 6, 0.1, None, "log", 25, 0.0, "log"),
    (17, 9, 0.1, 0.5, "auto", 40, 0.0, "log"),
    (1, 1, 1.0, None, "auto", 3, 0.0, "linear"),
]


def problem(n, m, seed):
    """Two problems with a forbidden edge, a row without mass and, if large enough, masks."""
    rng = np.random.default_rng(seed)
    cost = rng.random((2, n, m)).astype(np.float32)
    a, b = (np.full((2, size), 1 / size, dtype=np.float32) for size in (n, m))
    options = {}
    if n > 2:
        cost[0, 0, m - 1] = np.inf
        a[1] = 1 / (n - 1)
        a[1, 2] = 0
    if n > 10:
        options["row_mask"] = np.arange(n) < np.array([[n], [n - 3]])
        options["col_mask"] = np.arange(m) != np.array([[m], [4]])
        a, b = options["row_mask"] * a, options["col_mask"] * b
        a, b = (x / x.sum(1, keepdims=True, dtype=np.float32) for x in (a, b))
        cost[1, -1] = np.nan
    return cost, a, b, options


def interpreted(problems, folder):
    """Solve with Triton's interpreter, in a process of its own; None where it refuses."""
    names = [str(folder / f"{k}.npz") for k in range(len(problems))]
    for name, arrays in zip(names, problems, strict=True):
        np.savez(name, **arrays)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", INTERPRETED, json.dumps(names)], check=True, env=environment)
    outputs = [dict(np.load(name + ".out.npz")) for name in names]
    return [output or None for output in outputs]


def test_the_interpreted_kernel_agrees_with_the_native_core(tmp_path):
    problems = []
    for k, (n, m, reg, reg_m, method, max_iter, tol, _) in enumerate(CASES):
        cost, a, b, masks = problem(n, m, k)
        problems.append(
            {
                "cost": cost, "reg": np.array([reg], np.float32), "a": a, "b": b, **masks,
                "reg_m": np.full(2, reg_m or np.inf), "method": method, "max_iter": max_iter, "tol": tol,
            }
        )  # fmt: skip
    results = interpreted(problems, tmp_path)
    for k, (n, m, reg, reg_m, _, max_iter, tol, status) in enumerate(CASES):
        cost, a, b, masks = problem(n, m, k)
        out = results[k]
        for i in range(2):
            exact = (x[i : i + 1].astype(np.float64) for x in (a, b))
            masses = [x / x.sum() for x in exact]
            # As many plain iterations of the float64 core as the kernel says it made.
            want = solve_batch(
                cost[i : i + 1].astype(np.float64), reg, *masses, reg_m=reg_m, method="log",
                max_iter=int(out["n_iter"][i]), tol=0, **{key: x[i : i + 1] for key, x in masks.items()},
            )  # fmt: skip
            # A rounding of potentials is 1 / reg times as large in the exponent.
            np.testing.assert_allclose(out["plan"][i], want.plan[0], atol=max(2e-6, 2e-7 / reg))
            np.testing.assert_allclose(out["value"][i], want.value[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(out["value_linear"][i], want.value_linear[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(out["gap"][i], want.duality_gap[0], atol=max(2e-5, 2e-6 / reg))
            np.testing.assert_allclose(out["error"][i], want.marginal_error[0], atol=max(2e-5, 2e-6 / reg))
            assert STATUS[out["status"][i]] == status
            assert (out["n_iter"][i] < max_iter) == (tol > 0)
            assert out["converged"][i] == (out["error"][i] <= tol)


def test_the_interpreted_kernel_refuses_bad_input(tmp_path):
    good = {
        "cost": np.ones((2, 3, 4), np.float32), "reg": np.ones(1, np.float32),
        "reg_m": np.full(2, np.inf), "method": "auto", "max_iter": 5, "tol": 0.0,
    }  # fmt: skip
    nan, blocked, lonely = (good["cost"].copy() for _ in range(3))
    nan[1, 2, 0] = np.nan
    blocked[0, 1] = -np.inf
    lonely[1, :, 3] = np.inf
    problems = [
        good,
        {**good, "row_mask": np.zeros((2, 3), bool)},
        {**good, "cost": lonely, "reg_m": np.full(2, 0.5)},
        {**good, "cost": nan},
        {**good, "cost": blocked},
        {**good, "cost": lonely},
        {**good, "reg": np.zeros(1, np.float32)},
        {**good, "a": np.full((2, 3), 0.5, np.float32)},
        {**good, "a": np.array([[1.0, 1, -1]] * 2, np.float32)},
        {**good, "a": np.zeros((2, 3), np.float32), "b": np.zeros((2, 4), np.float32)},
    ]
    results = interpreted(problems, tmp_path)
    assert [result is None for result in results] == [False] * 3 + [True] * 7
    assert [STATUS[code] for code in results[1]["status"]] == ["empty", "empty"]
    assert not results[1]["plan"].any()
    assert not results[2]["plan"][1, :, 3].any()


def test_what_does_not_fit_is_left_to_torch():
    from optical_rs.transport import triton_solver

    assert triton_solver.fits(torch.empty(1, 256, 200), "auto")
    assert not triton_solver.fits(torch.empty(1, 257, 200), "auto")
    assert not triton_solver.fits(torch.empty(1, 8, 8), "ipot")
    assert not triton_solver.fits(torch.empty(1, 8, 8, dtype=torch.float64), "auto")


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@gpu
@pytest.mark.parametrize(
    "shape", [(1, 1), (5, 7), (32, 48), (64, 64), (64, 180), (128, 128), (200, 256), (300, 300)]
)
@pytest.mark.parametrize("reg", [0.003, 0.05, 1.0])
def test_gpu_agrees_with_cpu(shape, reg):
    cost = torch.rand(3, *shape, generator=torch.manual_seed(0))
    want = solve_batch(cost.double(), reg, method="log", max_iter=60, tol=0)
    got = solve_batch(cost.cuda(), reg, max_iter=60, tol=0)
    assert got.plan.device.type == "cuda"
    assert (got.plan.cpu() - want.plan).abs().sum((1, 2)).max() < 5e-5
    torch.testing.assert_close(got.value_linear.cpu().double(), want.value_linear, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.value.cpu().double(), want.value, atol=1e-4, rtol=1e-4)
    assert got.n_iter.tolist() == [60] * 3


@gpu
def test_gpu_masks_gradients_and_relaxed_marginals():
    generator = torch.manual_seed(1)
    cost = torch.rand(2, 9, 12, generator=generator)
    rows = torch.rand(2, 9, generator=generator) < 0.6
    for options in ({}, {"reg_m": 0.3}, {"grad": "implicit"}, {"method": "ipot"}):
        slopes, values = [], []
        for device in ("cpu", "cuda"):
            c = cost.to(device).requires_grad_()
            result = solve_batch(c, 0.1, row_mask=rows, max_iter=50, tol=0, **options)
            (slope,) = torch.autograd.grad(result.value_linear.sum(), c)
            slopes.append(slope.cpu())
            values.append(result.value.detach().cpu())
        torch.testing.assert_close(slopes[0], slopes[1], atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(values[0], values[1], atol=1e-5, rtol=1e-4)
        assert not slopes[1][~rows].any()


@gpu
def test_gpu_alignment_loss():
    generator = torch.manual_seed(2)
    x, y = (torch.randn(4, size, 16, generator=generator) for size in (20, 30))
    results = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device, copy=True).requires_grad_()
        loss = alignment_loss(leaf, y.to(device), reg=0.1, max_iter=50, tol=0)
        loss.backward()
        results.append((loss.item(), leaf.grad.cpu()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-6, rtol=1e-3)


@gpu
def test_gpu_bad_input_is_named():
    cost = torch.rand(2, 3, 4, device="cuda")
    cost[1, 2, 0] = torch.nan
    with pytest.raises(InputError, match="cost: problem 1 has nan at row 2, column 0"):
        solve_batch(cost, 0.1)
