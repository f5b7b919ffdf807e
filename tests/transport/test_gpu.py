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
        str(p["method"]), int(p["max_iter"]), float(p["tol"]), p["reg_m"].tolist(), bool(p["accelerate"]),
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
    (12, 9, 0.1, None, "ipot", 15, 0.0, "ipot"),
    (20, 17, 0.2, None, "ipot", 500, 1e-3, "ipot"),
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


def normalised(x, kind):
    """Weights that sum to 1 as exactly as they can."""
    x = x.astype(np.float64)
    return (x / x.sum(1, keepdims=True)).astype(kind)


def interpreted(problems, folder):
    """Solve with Triton's interpreter, in a process of its own; None where it refuses."""
    names = [str(folder / f"{k}.npz") for k in range(len(problems))]
    for name, arrays in zip(names, problems, strict=True):
        np.savez(name, **arrays)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", INTERPRETED, json.dumps(names)], check=True, env=environment)
    outputs = [dict(np.load(name + ".out.npz")) for name in names]
    return [output or None for output in outputs]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_interpreted_kernel_agrees_with_the_native_core(tmp_path, kind):
    problems = []
    # Double precision finds what single precision does, to many more digits.
    digits = 1.0 if kind is np.float32 else 1e-5
    for k, (n, m, reg, reg_m, method, max_iter, tol, _) in enumerate(CASES):
        cost, a, b, masks = problem(n, m, k)
        problems.append(
            {
                "cost": cost.astype(kind), "reg": np.array([reg], kind), **masks,
                **{name: normalised(x, kind) for name, x in (("a", a), ("b", b))},
                "reg_m": np.full(2, reg_m or np.inf), "method": method, "max_iter": max_iter, "tol": tol,
                "accelerate": False,
            }
        )  # fmt: skip
    results = interpreted(problems, tmp_path)
    for k, (n, m, reg, reg_m, method, max_iter, tol, status) in enumerate(CASES):
        cost, a, b, masks = problem(n, m, k)
        out = results[k]
        assert out["plan"].dtype == kind
        for i in range(2):
            masses = [normalised(x, np.float64)[i : i + 1] for x in (a, b)]
            # As many plain iterations of the float64 core as the kernel says it made.
            want = solve_batch(
                cost[i : i + 1].astype(np.float64), reg, *masses, reg_m=reg_m,
                method="ipot" if method == "ipot" else "log",
                max_iter=int(out["n_iter"][i]), tol=0, **{key: x[i : i + 1] for key, x in masks.items()},
            )  # fmt: skip
            # A rounding of potentials is 1 / reg times as large in the exponent.
            np.testing.assert_allclose(out["plan"][i], want.plan[0], atol=digits * max(2e-6, 2e-7 / reg))
            np.testing.assert_allclose(out["value"][i], want.value[0], rtol=1e-4 * digits, atol=1e-5 * digits)
            np.testing.assert_allclose(
                out["value_linear"][i], want.value_linear[0], rtol=1e-4 * digits, atol=1e-5 * digits
            )
            np.testing.assert_allclose(
                out["gap"][i], want.duality_gap[0], atol=digits * max(2e-5, 2e-6 / reg)
            )
            np.testing.assert_allclose(
                out["error"][i], want.marginal_error[0], atol=digits * max(2e-5, 2e-6 / reg)
            )
            assert STATUS[out["status"][i]] == status
            assert (out["n_iter"][i] < max_iter) == (tol > 0)
            assert out["converged"][i] == (out["error"][i] <= tol)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_interpreted_kernel_accelerates_to_the_same_solution(tmp_path, kind):
    problems, tol = [], 1e-4 if kind is np.float32 else 1e-9
    for reg_m, accelerate in ((None, 0), (None, 1), (10.0, 1), ((3.0, None), 1)):
        cost, a, b, _ = problem(9, 10, 3)
        sides = [side or np.inf for side in (reg_m if isinstance(reg_m, tuple) else (reg_m, reg_m))]
        problems.append(
            {
                "cost": cost.astype(kind), "reg": np.array([0.05], kind), "reg_m": np.array(sides),
                **{name: normalised(x, kind) for name, x in (("a", a), ("b", b))},
                "method": "auto", "max_iter": 5000, "tol": tol, "accelerate": accelerate,
            }
        )  # fmt: skip
    results = interpreted(problems, tmp_path)
    plain, fast, *unbalanced = results
    for p, out in zip(problems, results, strict=True):
        assert out["converged"].all()
        want = solve_batch(
            p["cost"].astype(float), 0.05, *(normalised(p[x], np.float64) for x in "ab"),
            reg_m=tuple(p["reg_m"]), method="log", max_iter=100000, tol=1e-13,
        )  # fmt: skip
        np.testing.assert_allclose(out["plan"], want.plan, atol=10 * tol)
        np.testing.assert_allclose(out["value"], want.value, rtol=10 * tol)
    assert fast["n_iter"].sum() < 0.7 * plain["n_iter"].sum()
    # Three to ten times as many without the translation.
    assert all(out["n_iter"].max() < 150 for out in unbalanced)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("fp32", {}), ("fp64", {"UNBALANCED": True, "ONLY_LOG": True}), ("fp64", {"PROXIMAL": True})],
)
def test_the_kernel_compiles_for_a_gpu_that_is_not_here(kind, options):
    source = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from optical_rs.transport.triton_solver import _solve
names = [p.name for p in _solve.params]
chosen = dict.fromkeys("A B ROW_MASK COL_MASK START ACCELERATE".split(), True)
chosen |= dict.fromkeys("ONLY_LOG UNBALANCED PROXIMAL".split(), False) | {options} | dict(ROWS=16, COLS=32)
kinds = dict.fromkeys("rows_at cols_at converged_at refused_at".split(), "*i8")
kinds |= dict.fromkeys("n_iter_at status_at".split(), "*i64") | {{"tol": "fp32"}}
kinds |= dict.fromkeys("n m reg_step max_iter hard_rows hard_cols".split(), "i32")
signature = {{n: "constexpr" if n in chosen else kinds.get(n, "*{kind}") for n in names}}
source = ASTSource(_solve, signature, {{(names.index(n),): value for n, value in chosen.items()}})
made = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={{"num_warps": 1}})
assert made.asm["cubin"]
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_interpreted_kernel_refuses_bad_input(tmp_path):
    good = {
        "cost": np.ones((2, 3, 4), np.float32), "reg": np.ones(1, np.float32),
        "reg_m": np.full(2, np.inf), "method": "auto", "max_iter": 5, "tol": 0.0,
        "accelerate": True,
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

    assert triton_solver.fits(torch.empty(1, 256, 200))
    assert not triton_solver.fits(torch.empty(1, 257, 200))
    assert triton_solver.fits(torch.empty(1, 256, 100, dtype=torch.float64))
    assert not triton_solver.fits(torch.empty(1, 256, 200, dtype=torch.float64))
    assert not triton_solver.fits(torch.empty(1, 8, 8, dtype=torch.float16))


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
