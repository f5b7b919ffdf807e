"""Batched entropic transport on a GPU: the Triton kernel against POT, geomloss, flash-sinkhorn and torch.

Same problems, medians of device time with the device waited for. The accuracy of every plan is given
beside its speed, as in ``bench/transport.py``.
"""

import statistics
import time
import warnings

import numpy as np
import optical_rs
import torch
from common import arguments, machine, write
from optical_rs.transport import alignment_loss, solve_batch
from transport import cosine_tokens, log_step, quality, torch_linear, torch_log

ITERATIONS = 100
SHAPES = [(32, 32), (64, 64), (64, 180), (128, 128), (256, 256)]
BATCHES = [32, 256, 1024]
LARGEST = 17_000_000


def median_seconds(job, *, runs: int = 15) -> float:
    """Median with the device's queue empty before and after; of one run if that takes over a second."""
    job()
    torch.cuda.synchronize()
    times: list[float] = []
    for _ in range(runs):
        torch.cuda.synchronize()
        began = time.perf_counter()
        job()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        if sum(times) > 1:
            break
    return statistics.median(times)


compiled_step = torch.compile(log_step, dynamic=True)


def flash(x: torch.Tensor, y: torch.Tensor, reg: float):
    """flash-sinkhorn on unit vectors: half their squared distance is 1 − cosine. Loops over the batch."""
    from flash_sinkhorn import SamplesLoss

    loss = SamplesLoss(
        loss="sinkhorn", eps=reg, half_cost=True, n_iters=ITERATIONS, use_epsilon_scaling=False,
        potentials=True, debias=False, autotune=False,
    )  # fmt: skip
    return lambda: loss(x, y)


def solvers(x, y, cost, reg):
    """name → function that solves the batch; those that return a plan first."""
    import ot.batch
    from geomloss import ot as geomloss

    def pot(method):
        return lambda: (
            ot.batch.solve_batch(cost, reg, max_iter=ITERATIONS, tol=0.0, method=method, grad="detach").plan
        )

    found = {
        "optical_rs": lambda: solve_batch(cost, reg, max_iter=ITERATIONS, tol=0).plan,
        "torch linear (bmm)": lambda: torch_linear(cost, reg, ITERATIONS),
        "torch log, eager": lambda: torch_log(cost, reg, ITERATIONS),
        "torch log, compiled": lambda: torch_log(cost, reg, ITERATIONS, step=compiled_step),
        "POT batch, linear": pot("sinkhorn"),
        "POT batch, log": pot("log_sinkhorn"),
        "geomloss": lambda: geomloss.solve_batch(cost, reg=reg, max_iter=ITERATIONS).plan,
    }
    if len(cost) <= 32:
        found["flash-sinkhorn (from points, no plan)"] = flash(x, y, reg)
    return found


def solve_rows(shapes, batches):
    rows = []
    for n, m in shapes:
        for batch in batches:
            if batch * n * m > LARGEST:
                continue
            tokens = cosine_tokens(batch, n, m)
            cost = torch.from_numpy(1 - tokens[0] @ tokens[1].transpose(0, 2, 1)).cuda()
            x, y = (torch.from_numpy(t).cuda() for t in tokens)
            for reg in (0.05, 0.01):
                sample = min(batch, 4)
                exact = solve_batch(
                    cost[:sample].cpu().numpy().astype(np.float64), reg, max_iter=ITERATIONS, tol=0
                ).plan
                entries = {}
                for name, run in solvers(x, y, cost, reg).items():
                    try:
                        with warnings.catch_warnings():
                            warnings.simplefilter("ignore")
                            entry = {"seconds": median_seconds(run)}
                            if "no plan" not in name:
                                entry |= quality(run()[:sample].cpu().numpy(), exact)
                    except Exception as error:  # noqa: BLE001
                        # A peer that cannot run a shape is part of the result.
                        entries[name] = {"failed": f"{type(error).__name__}: {error}"[:200]}
                        continue
                    entries[name] = entry
                mine = entries["optical_rs"]["seconds"]
                print(f"\n{batch} x {n}x{m}, reg {reg}, {ITERATIONS} iterations", flush=True)
                for name, entry in entries.items():
                    if "failed" in entry:
                        print(f"  {name:40}{entry['failed'][:80]}")
                        continue
                    entry["ours_is_faster_by"] = entry["seconds"] / mine
                    entry["giga_element_iterations"] = cost.numel() * ITERATIONS / entry["seconds"] / 1e9
                    accuracy = (
                        f"marginal {entry['marginal_error']:.1e}  plan {entry['plan_distance']:.1e}"
                        if "plan_distance" in entry
                        else ""
                    )
                    print(
                        f"  {name:40}{entry['seconds'] * 1e3:9.3f} ms {entry['giga_element_iterations']:8.0f} G/s"
                        f"  x{entry['ours_is_faster_by']:6.1f}   {accuracy}",
                        flush=True,
                    )
                rows.append({"batch": batch, "n": n, "m": m, "reg": reg, "entries": entries})
    return rows


def alignment_rows():
    """Loss and gradient from embeddings: 256 pairs, 32 x 48 tokens, dimension 128, 50 iterations."""
    generator = torch.manual_seed(0)
    x = torch.randn(256, 32, 128, generator=generator).cuda().requires_grad_()
    y = torch.randn(256, 48, 128, generator=generator).cuda()

    def plain(step=log_step):
        x.grad = None
        a, b = (torch.nn.functional.normalize(t, dim=2) for t in (x, y))
        cost = 1 - a @ b.mT
        with torch.no_grad():
            plan = torch_log(cost, 0.1, 50, step=step)
        (plan * cost).sum((1, 2)).mean().backward()

    def ours():
        x.grad = None
        alignment_loss(x, y, reg=0.1, max_iter=50, tol=0.0).backward()

    jobs = {"optical_rs": ours, "torch eager": plain, "torch compiled": lambda: plain(compiled_step)}
    times = {name: median_seconds(job) for name, job in jobs.items()}
    print("\nalignment_loss, forward and backward, 256 pairs of 32 x 48 tokens, dim 128, 50 iterations")
    for name, seconds in times.items():
        print(f"  {name:22}{seconds * 1e3:9.3f} ms  x{seconds / times['optical_rs']:6.1f}")
    return {name: {"seconds": s, "ours_is_faster_by": s / times["optical_rs"]} for name, s in times.items()}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("transport_gpu.py needs a GPU")
    optical_rs.set_num_threads(options.threads)
    rows = solve_rows([(64, 64)] if options.quick else SHAPES, [1024] if options.quick else BATCHES)
    versions = machine(["torch", "triton", "POT", "geomloss", "flash-sinkhorn", "numpy"], options.threads)
    results = {
        "what": __doc__,
        "machine": versions | {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda},
        "solve": rows,
        "alignment_loss": alignment_rows(),
    }
    write(options.json, results)


if __name__ == "__main__":
    main()
