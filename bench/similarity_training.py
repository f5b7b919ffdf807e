"""MaxSim with gradients, as contrastive training calls it: scores of a batch, forward and backward.

Every query of a batch (32 tokens of 128 numbers) against every document (up to 180 tokens, padded), on a CPU with
equal threads; peers: sentence-transformers' ``colbert_scores`` and torch's einsum over the padded batch.
"""

import numpy as np
import optical_rs
import torch
from common import arguments, machine, median_seconds, write
from optical_rs.similarity.torch_ops import maxsim_scores
from sentence_transformers.multi_vector_encoder.scoring import colbert_scores

DIM, QUERY = 128, 32


def batch(queries: int, n: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.from_numpy(np.random.default_rng(0).integers(20, 181, (queries, n, 1)))
    q = torch.randn(queries, QUERY, DIM, generator=generator)
    d = torch.randn(queries, n, 180, DIM, generator=generator)
    q, d = (torch.nn.functional.normalize(x, dim=-1) for x in (q, d))
    return q, d, torch.ones(queries, QUERY, dtype=torch.bool), torch.arange(180) < lengths


def einsum(q, d, q_mask, d_mask):
    documents, mask = d.flatten(0, 1), d_mask.flatten(0, 1)
    products = torch.einsum("qid,pjd->qpij", q, documents).masked_fill(~mask[None, :, None], -torch.inf)
    return torch.where(q_mask[:, None], products.amax(3), 0.0).sum(2)


def main() -> None:
    parser = arguments(__doc__)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    optical_rs.set_num_threads(options.threads)
    rows = []
    for queries, n in ((16, 1), (32, 2), (64, 2)):
        q, d, *masks = batch(queries, n)
        q.requires_grad_()
        d.requires_grad_()

        def step(scores, q=q, d=d, masks=masks):
            q.grad = d.grad = None
            found = scores(q, d, *masks)
            torch.nn.functional.cross_entropy(found, torch.arange(0, found.shape[1], d.shape[1])).backward()
            return found.detach(), q.grad, d.grad

        jobs = {"optical_rs": maxsim_scores, "sentence-transformers": colbert_scores, "torch, einsum": einsum}
        answers = {name: step(job) for name, job in jobs.items()}
        seconds = {name: median_seconds(lambda job=job, step=step: step(job)) for name, job in jobs.items()}
        for name in jobs:
            pairs = zip(answers["optical_rs"], answers[name], strict=True)
            error = max(float((x - y).abs().max()) for x, y in pairs)
            ratio = seconds[name] / seconds["optical_rs"]
            rows.append(
                {"queries": queries, "documents": queries * n, "name": name, "seconds": seconds[name]}
                | {"ratio": ratio, "largest_difference": error}
            )
            print(
                f"{queries:3} x {queries * n:3} {name:22} {seconds[name] * 1e3:8.1f} ms  x{ratio:.1f}  {error:.0e}"
            )
    packages = ["torch", "sentence-transformers", "numpy"]
    write(options.json, {"what": __doc__, "machine": machine(packages, options.threads), "rows": rows})


if __name__ == "__main__":
    main()
