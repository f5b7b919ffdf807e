"""Search on a small machine: Chichewa queries against 31,071 English Bible verses, in a process of its own.

Ours without torch: exported int8 model, int8 store. The peers are the usual way: the same student in torch by
sentence-transformers, document tokens in float32 in memory, scored by its ``maxsim``; and the same student in
PyLate with its index of fast-plaid, in an environment of its own (``--pylate_python``, ``--pylate_student`` of
``optical-rs export --format pylate``). The index is made of the same tokens where ``--plaid`` has none yet. Each
does the same queries (the first ten words of a verse), one at a time; MAP says whether they find the same.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import arguments, machine, write
from optical_rs.data import load_collection
from optical_rs.ranking import evaluate
from optical_rs.similarity import TokenStore

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
from optical_rs.edge.search import Index
from optical_rs.similarity import TokenStore
set_num_threads(THREADS)
query_encoder = Encoder(STUDENT, precision=PRECISION, threads=THREADS)
index, store = Index(STORE, query_encoder), TokenStore(STORE)
loaded = time.perf_counter() - began
encode = query_encoder.encode_query
def search(text):
    return [(hit.document, hit.score) for hit in index.search(text, 100)]
def search_all(texts):
    return [[(h.document, h.score) for h in hits] for hits in index.search_batch(texts, 100)]
def stored():
    return {k: v for k, v in store.inspect().items() if k not in ("path", "metadata")}
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
def stored():
    return {k: v for k, v in store.inspect().items() if k not in ("path", "metadata")}
def document_encoder():
    other = load_model(TEACHER, device="cpu")
    return lambda texts: other.encode_document(texts, show_progress_bar=False)
"""

PYLATE = """
import pathlib
import torch
torch.set_num_threads(THREADS)
from pylate import indexes, models
model = models.ColBERT(STUDENT, device="cpu")
index = indexes.PLAID(index_folder=STORE, index_name="plaid", device="cpu", show_progress=False)
loaded = time.perf_counter() - began
def encode(texts):
    return model.encode(texts, is_query=True, prompt_name="query", show_progress_bar=False)
def search_all(texts):
    return [[(hit["id"], float(hit["score"])) for hit in hits] for hits in index(encode(texts), k=100)]
def search(text):
    return search_all([text])[0]
def document_encoder():
    return lambda texts: model.encode(texts, is_query=False, prompt_name="document", show_progress_bar=False)
def stored():
    size = sum(f.stat().st_size for f in pathlib.Path(STORE).rglob("*") if f.is_file())
    return {"bytes": size, "bytes_per_token": round(size / TOKENS, 2)}
"""

PYLATE_INDEX = """
import itertools, json, sys
import numpy as np
import torch
from pylate import indexes
folder, out, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
values, offsets = np.load(folder + "/values.npy", mmap_mode="r"), np.load(folder + "/offsets.npy")
ids = json.load(open(folder + "/ids.json"))
tokens = [np.array(values[a:b]) for a, b in itertools.pairwise(offsets)]
index = indexes.PLAID(index_folder=out, index_name="plaid", override=True, device="cpu", show_progress=False)
index.add_documents(documents_ids=ids, documents_embeddings=tokens)
"""

WORK = """
with open(GIVEN, encoding="utf-8") as file:
    given = json.load(file)
queries, sample = given["queries"], given["sample"]
search("moto")
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
encode_documents = document_encoder()
encode_documents(sample[:50])
start = time.perf_counter()
encode_documents(sample)
documents_per_second = len(sample) / (time.perf_counter() - start)
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
    "store": stored(),
    "run": run,
}))
"""


def plaid_index(python: str, store: TokenStore, out: Path, threads: int) -> float:
    """PyLate's index over the tokens of a store, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "values.npy", store.values)
        np.save(Path(folder) / "offsets.npy", store.offsets)
        (Path(folder) / "ids.json").write_text(json.dumps(store.ids), encoding="utf-8")
        began = time.perf_counter()
        subprocess.run([python, "-c", PYLATE_INDEX, folder, str(out), str(threads)], check=True)
        return time.perf_counter() - began


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--student", type=Path, required=True, help="checkpoint of the queries' side")
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint of the documents' side")
    parser.add_argument("--edge_student", type=Path, required=True, help="the same, exported")
    parser.add_argument("--edge_teacher", type=Path, required=True, help="the same, exported")
    parser.add_argument("--store", type=Path, required=True, help="bible:ny indexed in int8")
    parser.add_argument("--store_f32", type=Path, required=True, help="bible:ny indexed in float32")
    parser.add_argument("--pylate_python", help="interpreter of an environment with PyLate")
    parser.add_argument("--pylate_student", type=Path, help="the student, exported for PyLate")
    parser.add_argument("--plaid", type=Path, help="PyLate's index, made where there is none")
    parser.add_argument("--queries", type=int, default=300)
    options = parser.parse_args()
    threads = options.threads
    collection = load_collection("bible:ny", split="test").sample(queries=options.queries)
    full = TokenStore(options.store_f32)
    cases = {
        "optical_rs, int8": (OURS, options.edge_student, options.edge_teacher, options.store, "int8"),
        "optical_rs, float32 model, int8 store": (
            OURS, options.edge_student, options.edge_teacher, options.store, "float32",
        ),
        "torch, sentence-transformers": (TORCH, options.student, options.teacher, options.store_f32, None),
    }  # fmt: skip
    if options.pylate_python:
        if options.pylate_student is None or options.plaid is None:
            parser.error("--pylate_python needs --pylate_student and --plaid")
        if not (options.plaid / "plaid").exists():
            took = plaid_index(options.pylate_python, full, options.plaid, threads)
            print(f"PyLate's index: {took:.0f} s", flush=True)
        cases["PyLate, fast-plaid"] = (PYLATE, options.pylate_student, "", options.plaid, None)
    found = {}
    folder = tempfile.TemporaryDirectory()  # until the process ends
    work = Path(folder.name) / "given.json"
    sample = list(collection.documents.values())[:1000]
    work.write_text(json.dumps({"queries": collection.queries, "sample": sample}), encoding="utf-8")
    limit = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))}
    for name, (code, student, teacher, store, precision) in cases.items():
        head = (
            f"STUDENT, TEACHER, STORE = {str(student)!r}, {str(teacher)!r}, {str(store)!r}\n"
            f"PRECISION, THREADS, GIVEN = {precision!r}, {threads}, {str(work)!r}\n"
            f"TOKENS = {int(full.offsets[-1])}\n"
        )
        python = options.pylate_python if code is PYLATE else sys.executable
        out = subprocess.run(
            [python, "-c", COMMON + head + code + WORK],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=limit,
        ).stdout
        row = found[name] = json.loads(out.splitlines()[-1])
        row |= evaluate(collection.qrels, row.pop("run"), ["map", "ndcg_cut_10"], complete=True).mean
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
    ours = found["optical_rs, int8"]
    ratios = {
        name: {
            "p50": theirs["p50_seconds"] / ours["p50_seconds"],
            "resident": theirs["resident_mebibytes"]["VmRSS"] / ours["resident_mebibytes"]["VmRSS"],
            "load": theirs["import_and_load_seconds"] / ours["import_and_load_seconds"],
            "encode_documents": ours["encode_documents_per_second"] / theirs["encode_documents_per_second"],
        }
        for name, theirs in found.items()
        if not name.startswith("optical_rs")
    }
    for name, against in ratios.items():
        print(f"{name} / ours: " + ", ".join(f"{what} {ratio:.1f}" for what, ratio in against.items()))
    packages = ["torch", "sentence-transformers", "onnxruntime", "tokenizers", "numpy"]
    content = {"what": __doc__, "machine": machine(packages, threads), "cases": found, "ratios": ratios}
    if options.pylate_python:
        names = ("pylate", "fast-plaid", "torch", "sentence-transformers", "transformers")
        ask = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {names}}}))"
        content["pylate_environment"] = json.loads(
            subprocess.run([options.pylate_python, "-c", ask], check=True, capture_output=True).stdout
        )
    write(options.json, content)


if __name__ == "__main__":
    main()
