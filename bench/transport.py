"""Batched entropic transport on a CPU: against POT's batch solver, geomloss and plain torch.

Same problems, same threads, medians. Speed is given with accuracy: the marginal error of the returned
plan, and its L1 distance to the float64 solution (as many iterations, or converged).
"""

import warnings

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


def solve_rows(shapes, batches, regs, *, limit: float):
    rows = []
    for n, m in shapes:
        for batch in batches if n < 512 else [16]:
            if batch * n * m > LARGEST:
                continue
            array = cosine_costs(batch, n, m)
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
                            entry["giga_element_iterations"] = (
                                array.size * iterations / entry["seconds"] / 1e9
                            )
                            entry["share_of_limit"] = entry["giga_element_iterations"] / limit
                    print(f"\n{batch} x {n}x{m}, reg {reg}, {mode}")
                    for name, e in entries.items():
                        speed = f"{e['giga_element_iterations']:7.2f} G/s" if mode == "fixed" else ""
                        print(
                            f"  {name:22}{e['seconds'] * 1e3:10.2f} ms {speed}  x{e['ours_is_faster_by']:7.1f}"
                            f"   marginal {e['marginal_error']:.1e}  plan {e['plan_distance']:.1e}"
                        )
                    rows.append(
                        {"batch": batch, "n": n, "m": m, "reg": reg, "mode": mode, "entries": entries}
                    )
    return rows


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

    times = {}
    for name, loss in (("optical_rs", ours), ("torch eager", plain), ("torch compiled", half_compiled)):
        times[name] = median_seconds(lambda loss=loss: loss(x, y).backward())
    print("\nalignment_loss, forward and backward, 256 pairs of 32 x 48 tokens, dim 128, 50 iterations")
    for name, seconds in times.items():
        print(f"  {name:22}{seconds * 1e3:10.2f} ms  x{seconds / times['optical_rs']:7.1f}")
    return {name: {"seconds": s, "ours_is_faster_by": s / times["optical_rs"]} for name, s in times.items()}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape and one reg")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    optical_rs.set_num_threads(options.threads)
    limit = fma_limit()
    print(f"limit by fused multiply-adds: {limit:.0f} G element-iterations/s")
    quick = options.quick
    rows = solve_rows(
        [(64, 64)] if quick else SHAPES, [256] if quick else BATCHES, [0.05] if quick else [0.05, 0.01],
        limit=limit,
    )  # fmt: skip
    array = cosine_costs(1024, 64, 64)
    scaling = {}
    for threads in (1, options.threads):
        optical_rs.set_num_threads(threads)
        scaling[threads] = median_seconds(
            lambda: solve_batch(array, 0.05, max_iter=ITERATIONS, tol=0, return_plan=False)
        )
    print(f"\n{options.threads} threads are {scaling[1] / scaling[options.threads]:.2f} times as fast as one")
    results = {
        "what": __doc__,
        "machine": machine(["torch", "POT", "geomloss", "numpy"], options.threads),
        "limit_giga_element_iterations": limit,
        "solve": rows,
        "thread_speedup": scaling[1] / scaling[options.threads],
        "alignment_loss": alignment_rows(),
    }
    write(options.json, results)


if __name__ == "__main__":
    main()
