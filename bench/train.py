"""A training step of the demo recipe: where its time goes, and what the loss would cost in plain torch.

One student (multilingual-e5-small from the installed package) on the demo's bitext. The peer is the
same loss by log-domain Sinkhorn in eager torch with its (batch, n, m) tensors and autograd.
"""

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import optical_rs
import torch
import transformers
from common import arguments, machine, write
from datasets import Dataset
from optical_rs.data import load_bitext
from optical_rs.losses import BitextLoss, OpticalLoss
from optical_rs.models import E5_SMALL, freeze_word_embeddings, set_dropout, student_of, use_plain_attention
from optical_rs.token_cache import TokenCache
from optical_rs.training.arguments import bf16_is_fast
from optical_rs.training.batches import LengthBucketBatchSampler
from optical_rs.training.teacher import prepare_teacher
from transport import torch_log


class PlainTorchLoss(BitextLoss):
    """The same loss as a user would write it."""

    def compare(self, features, labels, x, x_mask, y, y_mask):
        x, y = x.float(), y.float()
        cost = 1 - x @ y.mT
        edges = x_mask[:, :, None] & y_mask[:, None, :]
        with torch.no_grad():
            plan = torch_log(torch.where(edges, cost, 1e4), 0.03, 200)
            plan = plan / plan.sum((1, 2), keepdim=True)
        return (plan * torch.where(edges, cost, 0.0)).sum((1, 2)).mean()


def split(loss: BitextLoss, batches, foreign, bf16: bool) -> dict[str, float]:
    """Seconds per part, summed over batches."""
    student = loss.model
    student.train()
    optimiser = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], 1e-6, fused=True)
    spent = dict.fromkeys(("tokenise", "encode", "loss", "backward", "optimiser"), 0.0)
    for number, batch in enumerate(batches):
        marks = [time.perf_counter()]
        prompt = student.prompts.get("query")
        features = student.preprocess([foreign[i] for i in batch], prompt=prompt, task="query")
        marks.append(time.perf_counter())
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            x, x_mask = loss.student_tokens(features | {"task": "query"})
        marks.append(time.perf_counter())
        # The loss's own forward and backward, up to the student's tokens.
        leaf = x.detach().float().requires_grad_()
        y, y_mask = loss.teacher_tokens([features], torch.tensor(batch), x.device)
        (slope,) = torch.autograd.grad(loss.compare(features, None, leaf, x_mask, y, y_mask), leaf)
        marks.append(time.perf_counter())
        x.backward(slope.to(x.dtype))
        marks.append(time.perf_counter())
        optimiser.step()
        optimiser.zero_grad()
        marks.append(time.perf_counter())
        if number >= 2:  # the first two warm up
            for part, seconds in zip(spent, np.diff(marks), strict=True):
                spent[part] += float(seconds)
    return spent


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    optical_rs.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    bf16 = bf16_is_fast()
    bitext = load_bitext("kolibri:ny")
    results = {
        "what": __doc__,
        "machine": machine(["torch", "transformers", "sentence-transformers"], options.threads),
    }
    with tempfile.TemporaryDirectory() as folder:
        teacher, _ = prepare_teacher(E5_SMALL, 128, bitext.english, Path(folder) / "teacher")
        store = TokenCache(teacher, Path(folder) / "tokens").tokens(bitext.english, "query")
        sampler = LengthBucketBatchSampler(
            Dataset.from_dict({"foreign": bitext.foreign, "label": list(range(len(bitext)))}),
            16,
            True,
            valid_label_columns=["label"],
            seed=0,
        )
        batches = [b for _, b in zip(range(options.steps + 2), sampler, strict=False)]
        for name, kind in (("optical_rs", OpticalLoss), ("plain torch", PlainTorchLoss)):
            student = student_of(teacher)
            freeze_word_embeddings(student)
            set_dropout(student, 0.0)
            use_plain_attention(student)
            loss = kind(student, store, reg=0.03) if kind is OpticalLoss else kind(student, store)
            spent = split(loss, batches, bitext.foreign, bf16)
            total = sum(spent.values())
            pairs = sum(len(b) for b in batches[2:])
            results[name] = {
                "seconds": spent,
                "share_of_loss": spent["loss"] / total,
                "pairs_per_second": pairs / total,
                "bf16": bf16,
            }
            shares = "  ".join(f"{part} {100 * s / total:.1f} %" for part, s in spent.items())
            print(f"{name:12} {pairs / total:6.1f} pairs/s   {shares}")
    ratio = results["plain torch"]["seconds"]["loss"] / results["optical_rs"]["seconds"]["loss"]
    results["loss_is_faster_by"] = ratio
    print(f"the loss alone is {ratio:.1f} times as fast as in plain torch")
    write(options.json, results)


if __name__ == "__main__":
    main()
