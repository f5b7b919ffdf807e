"""Search on a small machine: Chichewa queries against 31,071 English Bible verses, in a process of its own.

Ours without torch: exported int8 model, int8 store. The peer is the usual way: the same student in torch by
sentence-transformers, document tokens in float32 in memory, scored by its ``maxsim``. Each does the same
queries (the first ten words of a verse), one at a time; MAP says whether they find the same.
"""

import json
import subprocess
import sys
from pathlib import Path

from common import arguments, machine, write

COMMON = """
import json, os, resource, statistics, sys, time
began = time.perf_counter()
def resident():
    with open("/proc/self/status") as f:
        rows = dict(line.split(":", 1) for line in f)
    return {k: int(rows[k].split()[0]) / 1024 for k in ("VmRSS", "RssAnon", "RssFile") if k in rows}
"""

OURS = """
from optical_rs import set_num_threads
from optical_rs.edge import Encoder
from optical_rs.edge.search import search_texts
from optical_rs.similarity import TokenStore
set_num_threads(THREADS)
query_encoder = Encoder(STUDENT, precision=PRECISION, threads=THREADS)
store = TokenStore(STORE)
loaded = time.perf_counter() - began
encode = query_encoder.encode_query
def search(text):
    return [(hit.document, hit.score) for hit in search_texts(query_encoder, store, [text], 100)[0]]
def search_all(texts):
    return [[(h.document, h.score) for h in hits] for hits in search_texts(query_encoder, store, texts, 100)]
def document_encoder():
    return Encoder(TEACHER, precision=PRECISION, threads=THREADS).encode_document
"""

TORCH = """
import warnings
warnings.simplefilter("ignore")
import numpy as np
import torch
torch.set_num_threads(THREADS)
from optical_rs.models import load_model
from optical_rs.similarity import TokenStore
from sentence_transformers.util import maxsim
model = load_model(STUDENT, device="cpu")
store = TokenStore(STORE)
documents = [torch.from_numpy(np.array(store[i])) for i in range(len(store))]
ids = store.ids
loaded = time.perf_counter() - began
def encode(texts):
    return model.encode_query(texts, convert_to_numpy=False, show_progress_bar=False)
def search_all(texts):
    scores = maxsim([torch.as_tensor(x) for x in encode(texts)], documents)
    best = scores.topk(100)
    return [[(ids[i], s) for i, s in zip(*row)] for row in zip(best.indices.tolist(), best.values.tolist())]
def search(text):
    return search_all([text])[0]
def document_encoder():
    other = load_model(TEACHER, device="cpu")
    return lambda texts: other.encode_document(texts, show_progress_bar=False)
"""

WORK = """
from optical_rs.data import load_collection
after_load = resident()
first = search("moto")
before = resident()
collection = load_collection("bible:ny", split="test").sample(queries=QUERIES)
queries = collection.queries
for text in list(queries.values())[:5]:
    search(text)
times, run = [], {}
for name, text in queries.items():
    start = time.perf_counter()
    run[name] = dict(search(text))
    times.append(time.perf_counter() - start)
searching = resident()
texts = list(queries.values())
start = time.perf_counter()
encode(texts)
queries_per_second = len(texts) / (time.perf_counter() - start)
start = time.perf_counter()
search_all(texts)
batch_per_second = len(texts) / (time.perf_counter() - start)
sample = list(collection.documents.values())[:1000]
encode_documents = document_encoder()
encode_documents(sample[:50])
start = time.perf_counter()
encode_documents(sample)
documents_per_second = len(sample) / (time.perf_counter() - start)
from optical_rs.ranking import evaluate
mean = evaluate(collection.qrels, run, ["map", "ndcg_cut_10"], complete=True).mean
times.sort()
print(json.dumps({
    "import_and_load_seconds": loaded,
    "torch_imported": "torch" in sys.modules,
    "p50_seconds": times[len(times) // 2],
    "p99_seconds": times[int(len(times) * .99)],
    "queries_per_second_one_by_one": len(times) / sum(times),
    "queries_per_second_batch": batch_per_second,
    "encode_queries_per_second": queries_per_second,
    "encode_documents_per_second": documents_per_second,
    "resident_mebibytes": searching,
    "store": store.inspect(),
    **mean,
}))
"""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--student", type=Path, required=True, help="checkpoint of the queries' side")
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint of the documents' side")
    parser.add_argument("--edge_student", type=Path, required=True, help="the same, exported")
    parser.add_argument("--edge_teacher", type=Path, required=True, help="the same, exported")
    parser.add_argument("--store", type=Path, required=True, help="bible:ny indexed in int8")
    parser.add_argument("--store_f32", type=Path, required=True, help="bible:ny indexed in float32")
    parser.add_argument("--queries", type=int, default=300)
    options = parser.parse_args()
    threads = options.threads
    cases = {
        "optical_rs, int8": (OURS, options.edge_student, options.edge_teacher, options.store, "int8"),
        "optical_rs, float32 model, int8 store": (
            OURS, options.edge_student, options.edge_teacher, options.store, "float32",
        ),
        "torch, sentence-transformers": (TORCH, options.student, options.teacher, options.store_f32, None),
    }  # fmt: skip
    found = {}
    for name, (code, student, teacher, store, precision) in cases.items():
        head = (
            f"STUDENT, TEACHER, STORE = {str(student)!r}, {str(teacher)!r}, {str(store)!r}\n"
            f"PRECISION, THREADS, QUERIES = {precision!r}, {threads}, {options.queries}\n"
        )
        out = subprocess.run(
            [sys.executable, "-c", COMMON + head + code + WORK], check=True, capture_output=True, text=True
        ).stdout
        row = found[name] = json.loads(out.splitlines()[-1])
        row["store"].pop("path")
        row["store"].pop("metadata")
        print(
            f"{name}\n  load {row['import_and_load_seconds']:.2f} s   p50 {row['p50_seconds'] * 1e3:.1f} ms   "
            f"p99 {row['p99_seconds'] * 1e3:.1f} ms   {row['queries_per_second_one_by_one']:.1f} queries/s, "
            f"in a batch {row['queries_per_second_batch']:.1f}   encode {row['encode_queries_per_second']:.0f} "
            f"queries/s, {row['encode_documents_per_second']:.0f} documents/s\n  resident "
            f"{row['resident_mebibytes']['VmRSS']:.0f} MiB (of it mapped files "
            f"{row['resident_mebibytes'].get('RssFile', 0):.0f})   "
            f"{row['store']['bytes_per_token']:.0f} bytes a token   MAP {row['map']:.3f}",
            flush=True,
        )
    ours, theirs = found["optical_rs, int8"], found["torch, sentence-transformers"]
    ratios = {
        "p50": theirs["p50_seconds"] / ours["p50_seconds"],
        "resident": theirs["resident_mebibytes"]["VmRSS"] / ours["resident_mebibytes"]["VmRSS"],
        "load": theirs["import_and_load_seconds"] / ours["import_and_load_seconds"],
        "encode_documents": ours["encode_documents_per_second"] / theirs["encode_documents_per_second"],
    }
    print("torch / ours: " + ", ".join(f"{name} {ratio:.1f}" for name, ratio in ratios.items()))
    packages = ["torch", "sentence-transformers", "onnxruntime", "tokenizers", "numpy"]
    write(
        options.json,
        {"what": __doc__, "machine": machine(packages, threads), "cases": found, "ratios": ratios},
    )


if __name__ == "__main__":
    main()
