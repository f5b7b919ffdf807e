"""MaxSim by late-interaction-kernels: forward in Triton's interpreter on any machine, all of it on a GPU where there is one."""

import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
pytest.importorskip("late_interaction_kernels")

from optical_rs.similarity.torch_ops import maxsim_kd_scores, maxsim_scores  # noqa: E402

INTERPRETED = """
import sys
import numpy as np, torch
from triton.runtime.autotuner import Autotuner
# Tuning needs a GPU: the first configuration is as good.
Autotuner.do_bench = property(lambda self: lambda call, quantiles: [0.0, 0.0, 0.0])
from optical_rs.similarity import gpu
p = {name: torch.from_numpy(x) for name, x in np.load(sys.argv[1]).items()}
found = {
    f"{kind}{own}": gpu.scores(p["q"], p["d"], p["q_mask"] if masked else None, p["d_mask"] if masked else None, own or None)
    for kind, masked in (("all", False), ("masked", True)) for own in (0, 2)
}
np.savez(sys.argv[2], **found)
"""


def problem():
    rng = np.random.default_rng(0)
    q, d = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 7, 32), (6, 9, 32)))
    q, d = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, d))
    q_mask, d_mask = rng.random((3, 7)) < 0.7, rng.random((6, 9)) < 0.7
    q_mask[1] = False
    d_mask[[2, 3]] = False
    return {"q": q, "d": d, "q_mask": q_mask, "d_mask": d_mask}


def wanted(p, masked, own):
    """In double precision, by torch."""
    q, d, q_mask, d_mask = (torch.from_numpy(p[name]) for name in ("q", "d", "q_mask", "d_mask"))
    groups, mask = d.double().view(-1, own or 1, 9, 32), d_mask.view(-1, own or 1, 9)
    score = maxsim_kd_scores if own else maxsim_scores
    return score(q.double(), groups, *((q_mask, mask) if masked else ()))


def test_the_kernels_compute_our_scores(tmp_path):
    p = problem()
    np.savez(tmp_path / "in.npz", **p)
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", INTERPRETED, str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npz")
    for kind in ("all", "masked"):
        for own in (0, 2):
            want = wanted(p, kind == "masked", own).numpy()
            # Products are in half precision.
            np.testing.assert_allclose(found[f"{kind}{own}"], want, atol=0.01)
    assert np.isneginf(found["masked0"]).any()
    assert (found["masked0"][1] == 0).all(), "a query without tokens"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_and_gradients_on_a_gpu(dtype):
    p = {name: torch.from_numpy(x) for name, x in problem().items()}
    weights = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))

    def slopes(device, kind):
        leaves = [p[name].to(device, kind).requires_grad_() for name in ("q", "d")]
        masks = [p[name].to(device) for name in ("q_mask", "d_mask")]
        scores = maxsim_scores(leaves[0], leaves[1][:, None], masks[0], masks[1][:, None])
        kept = torch.where(torch.isfinite(scores), scores * weights.to(scores), 0.0)
        return scores.detach(), *torch.autograd.grad(kept.sum(), leaves)

    for one, other in zip(slopes("cuda", dtype), slopes("cpu", torch.float64), strict=True):
        torch.testing.assert_close(one.cpu().double(), other, atol=0.05, rtol=0.02)
