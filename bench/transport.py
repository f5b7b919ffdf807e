"""Batched entropic transport on a CPU: against POT's batch solver, geomloss and plain torch.

Same problems, same threads, medians. Speed is given with accuracy: the marginal error of the returned
plan, and its L1 distance to the float64 solution (as many iterations, or converged).
"""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import optical_rs
import torch
from common import arguments, machine, median_seconds, write
from optical_rs.transport import alignment_loss, solve_batch

ITERATIONS = 100
TOL = 1e-4
#: Elements of a batch beyond which a shape is left out, and beyond which log-domain peers are left
#: out of the runs to tolerance: they would take minutes each.
LARGEST = 4_500_000
LARGEST_FOR_LOG = 150_000
SHAPES = [(32, 32), (64, 64), (64, 180), (128, 128), (512, 512)]
BATCHES = [32, 256, 1024]
#: Batches as training has them.
TRAINING_SHAPES = [(256, 32, 48), (1024, 64, 64)]
#: Of costs between the demo collection's tokens.
REAL_SHAPES = [(32, 32), (64, 64), (64, 180)]


def cosine_tokens(batch: int, n: int, m: int, dim: int = 128, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit tokens of paired sentences: the m are noisy copies of the n, as translations are."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, n, dim)).astype(np.float32)
    pick = rng.integers(n, size=(batch, m))
    y = np.take_along_axis(x, pick[:, :, None], axis=1)
    y = y + rng.normal(size=y.shape).astype(np.float32) * 1.5
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    y /= np.linalg.norm(y, axis=2, keepdims=True)
    return x, y


def cosine_costs(batch: int, n: int, m: int) -> np.ndarray:
    """Costs between the tokens of :func:`cosine_tokens`."""
    x, y = cosine_tokens(batch, n, m)
    return 1 - x @ y.transpose(0, 2, 1)


@cache
def demo_tokens(limit: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Chichewa and English tokens of the demo's interface strings, one string after the other, as its
    multilingual teacher embeds them."""
    from optical_rs.data.bitext import load_bitext
    from optical_rs.models import late_interaction

    bitext = load_bitext("kolibri:ny").head(limit)
    model = late_interaction("packaged:multilingual-e5-small", dim=128, fit_on=bitext.english)

    def tokens(texts: list[str]) -> np.ndarray:
        found = model.encode(texts, convert_to_numpy=True, show_progress_bar=False)
        return np.concatenate([np.asarray(t, dtype=np.float32) for t in found])

    return tokens(bitext.foreign), tokens(bitext.english)


def demo_costs(batch: int, n: int, m: int) -> np.ndarray:
    """Costs between stretches of n Chichewa and m English tokens from about the same strings."""
    x, y = demo_tokens()
    rng = np.random.default_rng(0)
    share = rng.random(batch)
    starts = ((share * (len(t) - size)).astype(int) for t, size in ((x, n), (y, m)))
    a, b = (
        t[start[:, None] + np.arange(size)] for t, start, size in zip((x, y), starts, (n, m), strict=True)
    )
    return np.maximum(1 - a @ b.transpose(0, 2, 1), 0)


COSTS = {"synthetic": cosine_costs, "demo tokens": demo_costs}


def log_step(scaled: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One Sinkhorn iteration in the log domain, with uniform marginals."""
    f = -np.log(scaled.shape[1]) - torch.logsumexp(scaled + g[:, None, :], 2)
    return f, -np.log(scaled.shape[2]) - torch.logsumexp(scaled + f[:, :, None], 1)


def torch_log(
    cost: torch.Tensor, reg: float, iterations: int, tol: float = 0.0, step=log_step
) -> torch.Tensor:
    """The textbook: log-domain Sinkhorn on a batch."""
    n = cost.shape[1]
    scaled = -cost / reg
    g = torch.zeros_like(cost[:, 0, :])
    for i in range(iterations):
        f, g = step(scaled, g)
        if tol and i % 10 == 9:
            rows = torch.logsumexp(scaled + g[:, None, :] + f[:, :, None], 2).exp()
            if (rows - 1 / n).abs().sum(1).max() < tol:
                break
    return (scaled + f[:, :, None] + g[:, None, :]).exp()


compiled_step = torch.compile(log_step, dynamic=True)


def torch_linear(cost: torch.Tensor, reg: float, iterations: int, tol: float = 0.0) -> torch.Tensor:
    """Linear-domain Sinkhorn by batched matrix-vector products."""
    _, n, m = cost.shape
    kernel = (-(cost - cost.amin((1, 2), keepdim=True)) / reg).exp()
    v = torch.ones_like(cost[:, 0, :])
    u = v
    for i in range(iterations):
        sums = torch.bmm(kernel, v[:, :, None]).squeeze(2)
        if tol and i % 10 == 9 and (u * sums - 1 / n).abs().sum(1).max() < tol:
            break
        u = 1 / n / sums
        v = 1 / m / torch.bmm(u[:, None, :], kernel).squeeze(1)
    return u[:, :, None] * kernel * v[:, None, :]


def peers(reg: float, iterations: int, tol: float, size: int):
    """name → function of (cost array, cost tensor) that returns the plan."""
    import ot.batch
    from geomloss import ot as geomloss

    def ours(array, _):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return solve_batch(array, reg, max_iter=iterations, tol=tol).plan

    def pot(method):
        return lambda _, cost: (
            ot.batch.solve_batch(cost, reg, max_iter=iterations, tol=tol, method=method, grad="detach").plan
        )

    found = {
        "optical_rs": ours,
        "POT batch, linear": pot("sinkhorn"),
        "torch linear (bmm)": lambda _, c: torch_linear(c, reg, iterations, tol),
    }
    if tol and size > LARGEST_FOR_LOG:
        return found  # minutes each: they are some hundred times slower
    return found | {
        "POT batch, log": pot("log_sinkhorn"),
        "torch log, eager": lambda _, c: torch_log(c, reg, iterations, tol),
        "torch log, compiled": lambda _, c: torch_log(c, reg, iterations, tol, compiled_step),
        # geomloss has no stopping by tolerance.
        **(
            {}
            if tol
            else {"geomloss": lambda _, c: geomloss.solve_batch(c, reg=reg, max_iter=iterations).plan}
        ),
    }


def quality(plan, exact: np.ndarray) -> dict[str, float]:
    plan = np.asarray(plan, dtype=np.float64)[: len(exact)]
    if not np.isfinite(plan).all():
        return {"marginal_error": float("nan"), "plan_distance": float("nan")}
    n, m = plan.shape[1:]
    off = np.abs(plan.sum(2) - 1 / n).sum(1), np.abs(plan.sum(1) - 1 / m).sum(1)
    return {
        "marginal_error": float(max(o.max() for o in off)),
        "plan_distance": float(np.abs(plan - exact).sum((1, 2)).max()),
    }


def fma_limit() -> float:
    """Giga element-iterations/s that the machine's multiply-adds allow: one iteration needs two per element."""
    return optical_rs._core.multiply_adds_per_second() / 2 / 1e9


def cases(kinds, shapes, batches):
    """(costs, n, m, batch) of all problems."""
    for kind in kinds:
        for n, m in shapes if kind == "synthetic" else REAL_SHAPES:
            for batch in batches if n < 512 else [16]:
                if batch * n * m <= LARGEST:
                    yield kind, n, m, batch


def solve_rows(kinds, shapes, batches, regs):
    rows = []
    for kind, n, m, batch in cases(kinds, shapes, batches):
        array = COSTS[kind](batch, n, m)
        cost = torch.from_numpy(array)
        for reg in regs:
            for mode, iterations, tol in (("fixed", ITERATIONS, 0.0), ("tol", 1000, TOL)):
                sample = min(batch, 4)
                exact = solve_batch(
                    array[:sample].astype(np.float64),
                    reg,
                    max_iter=iterations if mode == "fixed" else 20_000,
                    tol=tol and 1e-9,
                ).plan
                entries = {}
                for name, run in peers(reg, iterations, tol, array.size).items():
                    seconds = median_seconds(
                        lambda run=run, array=array, cost=cost: run(array, cost), least=0.2, runs=3
                    )
                    entries[name] = {"seconds": seconds, **quality(run(array, cost), exact)}
                mine = entries["optical_rs"]["seconds"]
                for entry in entries.values():
                    entry["ours_is_faster_by"] = entry["seconds"] / mine
                    if mode == "fixed":
                        entry["giga_element_iterations"] = array.size * iterations / entry["seconds"] / 1e9
                print(f"\n{kind}, {batch} x {n}x{m}, reg {reg}, {mode}")
                for name, e in entries.items():
                    speed = f"{e['giga_element_iterations']:7.2f} G/s" if mode == "fixed" else ""
                    print(
                        f"  {name:22}{e['seconds'] * 1e3:10.2f} ms {speed}  x{e['ours_is_faster_by']:7.1f}"
                        f"   marginal {e['marginal_error']:.1e}  plan {e['plan_distance']:.1e}",
                        flush=True,
                    )
                rows.append(
                    {
                        "costs": kind, "batch": batch, "n": n, "m": m, "reg": reg, "mode": mode,
                        "entries": entries,
                    }
                )  # fmt: skip
    return rows


def acceleration_rows():
    """What over-relaxation, annealing and a warm start save: iterations and time to tolerance."""
    rows = []
    options = {"tol": TOL, "max_iter": 20_000}
    print(f"\nto tolerance {TOL:g} (at most 20,000 iterations), 64 x 64x64")
    for kind, make in COSTS.items():
        array = make(64, 64, 64)
        nearby = array + 0.01 * np.random.default_rng(1).random(array.shape).astype(np.float32)
        for reg in (0.1, 0.05, 0.02, 0.01, 0.001, 0.0001):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                start = solve_batch(nearby, reg, **options).potentials
                ways = {
                    "plain": {"accelerate": False},
                    "accelerated": {},
                    "accelerated, warm": {"potentials": start},
                }
                row = {"costs": kind, "reg": reg}
                for name, way in ways.items():
                    result = solve_batch(array, reg, **options, **way)
                    row[name] = {
                        "iterations": float(result.n_iter.mean()),
                        "converged": float(result.converged.mean()),
                        "seconds": median_seconds(
                            lambda array=array, reg=reg, way=way: solve_batch(array, reg, **options, **way),
                            least=0.2, runs=3,
                        ),
                    }  # fmt: skip
            rows.append(row)
            text = "   ".join(
                f"{name}: {row[name]['iterations']:7.0f} it, {row[name]['seconds'] * 1e3:7.2f} ms, "
                f"{row[name]['converged']:4.0%}"
                for name in ways
            )
            print(f"  {kind:12} reg {reg:<7} {text}", flush=True)
    return rows


MEMORY = """
import json, sys
import numpy as np
from optical_rs.transport import solve_batch
def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
cost = np.random.default_rng(0).random((int(sys.argv[1]), 64, 64), dtype=np.float32)
solve_batch(cost[:8], 0.05, return_plan=False)
before = peak()
solve_batch(cost, 0.05, return_plan=False)
print(json.dumps(peak() - before))
"""


def memory_rows():
    """Peak memory that a solve without the plan adds, by batch size (in a process of its own).

    Potentials and scalars of the result are part of it: 0.6 KiB per problem of 64x64.
    """
    found = {}
    print("\npeak extra memory of a solve of 64x64 without the plan")
    for batch in (64, 1024, 16384):
        out = subprocess.run(
            [sys.executable, "-c", MEMORY, str(batch)], capture_output=True, text=True, check=True
        )
        found[batch] = json.loads(out.stdout)
        print(f"  batch {batch:6}: {found[batch]:6.1f} MiB (costs: {batch * 64 * 64 * 4 / 2**20:.0f} MiB)")
    return found


def alignment_rows():
    """Loss and gradient from embeddings: 256 pairs, 32 x 48 tokens, dimension 128."""
    generator = torch.manual_seed(0)
    x = torch.randn(256, 32, 128, generator=generator).requires_grad_()
    y = torch.randn(256, 48, 128, generator=generator)

    def plain(x, y, step=log_step):
        a, b = (torch.nn.functional.normalize(t, dim=2) for t in (x, y))
        cost = 1 - a @ b.mT
        with torch.no_grad():
            plan = torch_log(cost, 0.1, 50, step=step)
        return (plan * cost).sum((1, 2)).mean()

    def ours(x, y):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return alignment_loss(x, y, reg=0.1, max_iter=50, tol=0.0)

    def half_compiled(x, y):
        return plain(x, y, compiled_step)

    def step(loss):
        # As after zero_grad: the gradient is written, not added.
        x.grad = None
        loss(x, y).backward()

    times = {}
    for name, loss in (("optical_rs", ours), ("torch eager", plain), ("torch compiled", half_compiled)):
        times[name] = median_seconds(lambda loss=loss: step(loss))
    print("\nalignment_loss, forward and backward, 256 pairs of 32 x 48 tokens, dim 128, 50 iterations")
    for name, seconds in times.items():
        print(f"  {name:22}{seconds * 1e3:10.2f} ms  x{seconds / times['optical_rs']:7.1f}")
    return {name: {"seconds": s, "ours_is_faster_by": s / times["optical_rs"]} for name, s in times.items()}


TRAINING = """
import json, sys, warnings
import numpy as np
import optical_rs
from common import median_seconds
from optical_rs.transport import solve_batch
warnings.simplefilter("ignore")
optical_rs.set_num_threads(int(sys.argv[1]))
found, plans = {}, []
for name in sys.argv[3:]:
    cost = np.load(name)
    shape = "x".join(map(str, cost.shape))
    for what, options in (
        ("tol 1e-3", {"reg": 0.1, "tol": 1e-3, "max_iter": 200}),
        ("100 iterations", {"reg": 0.1, "tol": 0, "max_iter": 100}),
        ("unbalanced, tol 1e-3", {"reg": 0.05, "reg_m": 10.0, "tol": 1e-3, "max_iter": 20_000}),
    ):
        cost_here = cost[:64] if "unbalanced" in what else cost
        run = lambda: solve_batch(cost_here, **options)
        result = run()
        plans.append(result.plan[:8].ravel())
        found[f"{shape}, {what}"] = {
            "seconds": median_seconds(run, least=1), "iterations": float(result.n_iter.mean()),
            "converged": float(result.converged.mean()),
        }
np.save(sys.argv[2], np.concatenate(plans))
print(json.dumps(found))
"""


def before_rows(before: Path | None, threads: int) -> dict:
    """Solves as training makes them, by this version and by one in another folder, each in a process of its own."""
    folders = {"now": None} | ({} if before is None else {"before": before})
    found, plans = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/{batch}x{n}x{m}.npy" for batch, n, m in TRAINING_SHAPES]
        for name, shape in zip(names, TRAINING_SHAPES, strict=True):
            np.save(name, cosine_costs(*shape))
        # By turns, and the best of each: what else the machine does must not decide.
        for which, where in [*folders.items()] * 3:
            paths = [str(Path(__file__).parent)] + ([] if where is None else [str(where)])
            given = os.environ.get("PYTHONPATH")
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *([given] if given else [])])}
            command = [sys.executable, "-c", TRAINING, str(threads), f"{folder}/{which}.npy", *names]
            out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            plans[which] = np.load(f"{folder}/{which}.npy")
            rows = found.setdefault(which, {})
            for case, row in json.loads(out.stdout).items():
                rows[case] = min(row, rows.get(case, row), key=lambda r: r["seconds"])
    print("\nas training solves them, reg .1")
    for case, now in found["now"].items():
        old = found.get("before", {}).get(case)
        text = f"  {case:36} {now['seconds'] * 1e3:8.2f} ms, {now['iterations']:7.1f} iterations"
        if old:
            text += f"; before {old['seconds'] * 1e3:8.2f} ms, {old['iterations']:7.1f}: x{old['seconds'] / now['seconds']:.2f}"
        print(text)
    if before is not None:
        # Per problem, of mass 1: both are within the tolerance, each on its own side.
        distance = np.abs(plans["now"] - plans["before"]).sum() / (8 * len(found["now"]))
        print(f"  mean L1 distance of the plans: {distance:.1e}")
        found["plan_distance"] = float(distance)
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape and one reg")
    parser.add_argument("--before", type=Path, help="folder with another version's package, to compare with")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    optical_rs.set_num_threads(options.threads)
    limit = fma_limit()
    print(f"limit by fused multiply-adds: {limit:.0f} G element-iterations/s")
    quick = options.quick
    rows = solve_rows(
        ["synthetic"] if quick else list(COSTS),
        [(64, 64)] if quick else SHAPES,
        [1024] if quick else BATCHES,
        [0.05] if quick else [0.05, 0.01],
    )
    # Again, and the better of both: a passing disturbance must not make us look better.
    limit = max(limit, fma_limit())
    for row in rows:
        for entry in row["entries"].values():
            if row["mode"] == "fixed":
                entry["share_of_limit"] = entry["giga_element_iterations"] / limit
    array = cosine_costs(1024, 64, 64)
    scaling = {}
    for threads in (1, options.threads):
        optical_rs.set_num_threads(threads)
        scaling[threads] = median_seconds(
            lambda: solve_batch(array, 0.05, max_iter=ITERATIONS, tol=0, return_plan=False), least=2
        )
    print(
        f"\nlimit {limit:.0f} G/s; {options.threads} threads are {scaling[1] / scaling[options.threads]:.2f} times as fast as one"
    )
    optical_rs.set_num_threads(options.threads)
    results = {
        "what": __doc__,
        "machine": machine(["torch", "POT", "geomloss", "numpy"], options.threads),
        "limit_giga_element_iterations": limit,
        "solve": rows,
        "acceleration": acceleration_rows(),
        "peak_extra_mebibytes": memory_rows(),
        "thread_speedup": scaling[1] / scaling[options.threads],
        "alignment_loss": alignment_rows(),
        "training": before_rows(options.before, options.threads),
    }
    write(options.json, results)


if __name__ == "__main__":
    main()
