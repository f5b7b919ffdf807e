"""Encoding passages: ours against sentence-transformers' ``encode`` and onnxruntime as it is usually called, on a CPU.

AfriQA's English passages (``afriqa:hau``; $OPTICAL_RS_DATA) by multilingual-e5-small with a head of 128 dimensions. The systems
take turns on a sample of the passages, each as often as ``--rounds`` says, and the best time of each counts: on a machine with
other work, the minimum is nearest to what the system needs. Beside the time on the clock there is that of the
processor, of all threads together, which other work disturbs less; threads that wait sleep, in every system. With
``--all`` each system also encodes all passages and the Hausa questions, for cosines to sentence-transformers' tokens and MAP.
"""

import os

# Before any of the libraries is loaded: a thread that spins while it waits counts as work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, machine, write

DIM = 128
#: Texts of a batch as onnxruntime is usually called.
USUAL = 32


def padded_export(model: Any, file: Path) -> None:
    """The model for onnxruntime as one usually exports it: with a mask, so that texts can be padded."""
    import warnings

    import torch
    from optical_rs.edge.export import parts

    transformer, head, _ = parts(model)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = transformer.auto_model, head.linear

        def forward(self, input_ids, attention_mask):
            found = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
            return torch.nn.functional.normalize(self.head(found.last_hidden_state), dim=-1)

    ids, mask = torch.ones(2, 4, dtype=torch.long), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    shape = {0: "batch", 1: "tokens"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Network().eval(),
            (ids, mask),
            str(file),
            input_names=["input_ids", "attention_mask"],
            dynamic_shapes=(shape, shape),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def usual(model: Any, file: Path, threads: int) -> Callable[[list[str], str], list[np.ndarray]]:
    """onnxruntime with its defaults, batches of 32 in the order of the texts, padded."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def encode(texts: list[str], role: str) -> list[np.ndarray]:
        found = []
        for first in range(0, len(texts), USUAL):
            part = [model.prompts[role] + text for text in texts[first : first + USUAL]]
            made = model.tokenizer(part, padding=True, truncation=True, max_length=512, return_tensors="np")
            inputs = {name: made[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
            out = session.run(None, inputs)[0]
            found += [tokens[mask == 1] for tokens, mask in zip(out, inputs["attention_mask"], strict=True)]
        return found

    return encode


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(threads=2)
    parser.add_argument("--sample", type=int, default=48, help="passages that are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--all", action="store_true", help="also cosines and MAP on everything")
    parser.add_argument("--work", type=Path, help="where models are kept between runs (default: nowhere)")
    parser.add_argument("--prepare", action="store_true", help="only make the models, in --work")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="systems whose name has one of these words")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    from optical_rs import set_num_threads
    from optical_rs.data import load_collection
    from optical_rs.edge import Encoder
    from optical_rs.edge.export import export
    from optical_rs.encoding import encode
    from optical_rs.models import late_interaction, load_model
    from optical_rs.progress import quiet
    from optical_rs.retrieval import evaluate_tokens

    quiet()
    set_num_threads(options.threads)
    collection = load_collection("afriqa:hau")
    passages = list(collection.documents.values())
    temporary = tempfile.TemporaryDirectory()
    work = options.work or Path(temporary.name)
    work.mkdir(parents=True, exist_ok=True)
    base, edge, plain = work / "base", work / "edge", work / "plain.onnx"
    if not base.exists():
        made = late_interaction("packaged:multilingual-e5-small", DIM, fit_on=passages[:300], device="cpu")
        made.save_pretrained(str(base))
    model = load_model(base, device="cpu")
    if not edge.exists():
        export(model, edge, precisions=["float32", "int8"])
    if not plain.exists():
        padded_export(model, plain)
    if options.prepare:
        return

    def theirs(texts: list[str], role: str) -> list[np.ndarray]:
        encoder = model.encode_query if role == "query" else model.encode_document
        return encoder(texts, convert_to_numpy=True, show_progress_bar=False)

    reference = "sentence-transformers, float32"
    made_by: dict[str, Callable[[], Callable[[list[str], str], list[np.ndarray]]]] = {
        reference: lambda: theirs,
        "onnxruntime, float32, padded": lambda: usual(model, plain, options.threads),
        "ours, torch, float32": lambda: lambda texts, role: encode(model, texts, role),
        "ours, torch, bfloat16": lambda: lambda texts, role: encode(model, texts, role, precision="bfloat16"),
        "ours, exported, float32": lambda: Encoder(edge, precision="float32", threads=options.threads).encode,
        "ours, exported, int8": lambda: Encoder(edge, precision="int8", threads=options.threads).encode,
    }
    wanted = options.only or [""]
    systems = {name: make() for name, make in made_by.items() if any(word in name for word in wanted)}
    sample = passages[:: -(-len(passages) // options.sample)]
    tokens = sum(
        len(ids)
        for ids in model.tokenizer([model.prompts["document"] + text for text in sample])["input_ids"]
    )
    rows: dict[str, dict[str, float]] = {name: {} for name in systems}
    for _ in range(options.rounds):
        for name, run in systems.items():
            clock, processor = time.perf_counter(), time.process_time()
            run(sample, "document")
            took = {
                "seconds": time.perf_counter() - clock,
                "processor_seconds": time.process_time() - processor,
            }
            rows[name] = {key: min(value, rows[name].get(key, value)) for key, value in took.items()}
    for row in rows.values():
        row["passages_per_second"] = len(sample) / row["seconds"]
        row["tokens_per_second"] = tokens / row["seconds"]
        row["tokens_per_processor_second"] = tokens / row["processor_seconds"]
    if options.all:
        known = None
        for name, run in systems.items():
            queries = run(list(collection.queries.values()), "query")
            found = run(passages, "document")
            rows[name]["map"] = evaluate_tokens(queries, found, collection, ["map"]).result.mean["map"]
            if known is None:
                known = np.concatenate(found)
            cosine = (known * np.concatenate(found)).sum(axis=1)
            rows[name] |= {"smallest_cosine": float(cosine.min()), "mean_cosine": float(cosine.mean())}
            print(
                f"{name:32} MAP {rows[name]['map']:.4f}   cosine {cosine.min():.5f} / {cosine.mean():.5f}",
                flush=True,
            )
    first = next(iter(rows.values()))
    for name, row in rows.items():
        print(
            f"{name:32} {row['passages_per_second']:7.1f} passages/s {row['tokens_per_second']:7.0f} tokens/s "
            f"(x {first['seconds'] / row['seconds']:.2f})   {row['tokens_per_processor_second']:6.0f} tokens a second of "
            f"one processor (x {first['processor_seconds'] / row['processor_seconds']:.2f})",
            flush=True,
        )
    packages = ["torch", "sentence-transformers", "transformers", "onnxruntime", "tokenizers", "numpy"]
    about = {"passages": len(sample), "tokens": tokens, "rounds": options.rounds}
    write(
        options.json,
        {"what": __doc__, "machine": machine(packages, options.threads), **about, "systems": rows},
    )


if __name__ == "__main__":
    main()
