"""Teachers with fewer layers: how many passages and questions a second they encode, in torch and exported in bytes.

Passages and translated questions are AfriQA's of Hausa, in the order of the collection. Each teacher (``--teachers``) is
exported to a temporary folder. Questions are encoded one at a time, as a search page does.
"""

import tempfile
from pathlib import Path

import torch
from common import arguments, machine, median_seconds, write
from optical_rs.data import load_collection
from optical_rs.edge import Encoder
from optical_rs.edge.export import export
from optical_rs.models import load_model
from optical_rs.progress import quiet


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--teachers", type=Path, nargs="+", required=True, help="checkpoints; the first is the reference"
    )
    parser.add_argument("--passages", type=int, default=256)
    parser.add_argument("--queries", type=int, default=50)
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(options.threads)
    collection = load_collection("afriqa:hau/translated", split="test")
    passages = list(collection.documents.values())[: options.passages]
    queries = list(collection.queries.values())[: options.queries]
    rows = []
    for folder in options.teachers:
        model = load_model(folder, device="cpu")
        encoders = {"torch": (
            lambda texts, model=model: model.encode_document(texts, batch_size=32, show_progress_bar=False),
            lambda text, model=model: model.encode_query([text], show_progress_bar=False),
        )}  # fmt: skip
        with tempfile.TemporaryDirectory() as temporary:
            export(model, Path(temporary) / "model", precisions=["int8"])
            small = Encoder(Path(temporary) / "model", threads=options.threads)
            encoders["int8"] = (small.encode_document, lambda text, small=small: small.encode_query([text]))
            layers = model[0].auto_model.config.num_hidden_layers
            row = {"teacher": folder.name, "layers": layers}
            for name, (document, query) in encoders.items():
                row[f"{name}_passages_per_second"] = len(passages) / median_seconds(
                    lambda document=document: document(passages), runs=3
                )
                seconds = median_seconds(lambda query=query: [query(text) for text in queries], runs=3)
                row[f"{name}_query_milliseconds"] = 1e3 * seconds / len(queries)
        rows.append(row)
        print(
            f"{folder.name}, {layers} layers   "
            + "   ".join(
                f"{name}: {row[f'{name}_passages_per_second']:.1f} passages/s "
                f"({row[f'{name}_passages_per_second'] / rows[0][f'{name}_passages_per_second']:.2f} ×), "
                f"a question {row[f'{name}_query_milliseconds']:.1f} ms"
                for name in encoders
            ),
            flush=True,
        )
    packages = ["torch", "sentence-transformers", "onnxruntime", "numpy"]
    words = sum(len(text.split()) for text in passages) / len(passages)
    about = {"passages": len(passages), "words_of_a_passage": words, "queries": len(queries)}
    write(
        options.json, {"what": __doc__, "machine": machine(packages, options.threads), **about, "rows": rows}
    )


if __name__ == "__main__":
    main()
