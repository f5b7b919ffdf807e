"""What bytes cost in accuracy: MAP of an exported model in int8 and in float32, on AfriQA's test questions.

The packaged multilingual-e5-small with a head fitted on the passages that are searched, for the questions and for their human
translations into English. The difference has a 95 % interval over questions. How activations become bytes was chosen on the
Hausa questions (``afriqa:hau``), so only the others confirm it. Needs AfriQA, see docs/reference/sources.md.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from common import arguments, machine, write
from optical_rs.data import load_collection
from optical_rs.edge import Encoder
from optical_rs.edge.export import export
from optical_rs.models import E5_SMALL, late_interaction
from optical_rs.ranking import compare
from optical_rs.retrieval import evaluate_tokens

PRECISIONS = ("int8", "float32")


def measure(name: str, threads: int) -> dict[str, Any]:
    """MAP of both precisions on a collection and, where it has them, on its translated questions."""
    asked = {"questions": load_collection(name), "translated": load_collection(f"{name}/translated")}
    documents = asked["questions"].documents
    if asked["translated"].documents != documents:
        raise SystemExit(f"{name}: the translated questions have other passages")
    runs: dict[str, dict[str, Any]] = {kind: {} for kind in asked}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        about = export(
            late_interaction(E5_SMALL, fit_on=list(documents.values())), folder, precisions=PRECISIONS
        )
        for precision in PRECISIONS:
            encoder = Encoder(folder, precision=precision, threads=threads)
            tokens = encoder.encode_document(list(documents.values()))
            for kind, collection in asked.items():
                queries = encoder.encode_query(list(collection.queries.values()))
                hits = evaluate_tokens(queries, tokens, collection).run
                runs[kind][precision] = {query: dict(found) for query, found in hits.items()}
    results: dict[str, Any] = {"passages": len(documents), "agreement": about["agreement"]}
    for kind, collection in asked.items():
        row = compare(collection.qrels, runs[kind], ["map"], complete=True).rows[0]
        results[kind] = {
            "queries": row.n,
            row.first: row.mean_first,
            row.second: row.mean_second,
            "difference": row.difference,
            "interval": (row.low, row.high),
        }
        print(
            f"{name} {kind}: {row.n} over {len(documents)}, int8 {row.mean_first:.4f}, "
            f"float32 {row.mean_second:.4f}, difference {row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}]",
            flush=True,
        )
    return results


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--collection",
        nargs="+",
        default=["afriqa:ibo", "afriqa:yor", "afriqa:zul"],
        metavar="NAME",
        help="AfriQA's collections (default: %(default)s)",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {
        "what": __doc__,
        "machine": machine(["torch", "onnxruntime", "onnx"], options.threads),
        "collections": {name: measure(name, options.threads) for name in options.collection},
    }
    write(options.json, results)


if __name__ == "__main__":
    main()
