"""What text a closed-form head is fitted on: MAP on AfriQA's Hausa questions, and on their human translations.

The packaged multilingual-e5-small without training. The plain encoder (one pooled vector a text) stands beside the heads.
Needs AfriQA, MAFAND, QED and XQuAD, see docs/reference/sources.md.
"""

from collections.abc import Sequence

import numpy as np
import torch
from common import arguments, machine, write
from optical_rs.data import load_bitext, load_collection, load_pairs
from optical_rs.models import E5_SMALL, late_interaction
from optical_rs.models.head import whitening
from optical_rs.retrieval import evaluate_tokens

BATCH = 32


def tokens_of(model, texts: Sequence[str], role: str) -> list[np.ndarray]:
    """The encoder's token vectors, before any head."""
    found: list = [None] * len(texts)
    order = np.argsort([len(text) for text in texts])
    for start in range(0, len(texts), BATCH):
        batch = order[start : start + BATCH]
        features = model.preprocess([texts[i] for i in batch], prompt=model.prompts[role], task=role)
        with torch.inference_mode():
            out = model[0](features)
        for i, vectors, mask in zip(
            batch, out["token_embeddings"], out["attention_mask"].bool(), strict=True
        ):
            found[i] = vectors[mask].numpy()
    return found


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    model = late_interaction(E5_SMALL)
    asked = {"hausa": load_collection("afriqa:hau"), "english": load_collection("afriqa:hau/translated")}
    passages = list(asked["hausa"].documents.values())
    documents = tokens_of(model, passages, "document")
    queries = {name: tokens_of(model, list(c.queries.values()), "query") for name, c in asked.items()}
    xquad, qed = load_pairs("xquad"), load_pairs("qed")
    texts = {
        "the passages that are searched": passages,
        "400 other passages (QED)": list(dict.fromkeys(qed.passages))[:400],
        "240 other passages (XQuAD)": list(dict.fromkeys(xquad.passages)),
        "400 questions (XQuAD)": list(xquad.questions[:400]),
        "2,000 news sentences (MAFAND)": load_bitext("mafand:hau").english[:2000],
    }
    results: dict = {
        "what": __doc__,
        "machine": machine(["torch", "transformers"], options.threads),
        "map": {},
    }

    def measure(name: str, project) -> None:
        found = [project(x) for x in documents]
        row = {
            key: evaluate_tokens([project(x) for x in queries[key]], found, asked[key]).result.mean["map"]
            for key in asked
        }
        results["map"][name] = row
        print(f"{name:32} Hausa {row['hausa']:.3f}  English {row['english']:.3f}", flush=True)

    measure("the plain encoder, pooled", lambda x: unit(x.mean(axis=0))[None])
    for name, given in texts.items():
        weight, bias = whitening(model, 128, given)
        measure(name, lambda x, w=weight, b=bias: unit(x @ w.T + b))
    write(options.json, results)


if __name__ == "__main__":
    main()
