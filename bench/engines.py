"""Exact search against approximate engines, on the same tokens: time, recall, memory, disk.

Each engine runs in a process of its own, and in an environment of its own where its pins ask for that:
``--python fast-plaid=/path/to/bin/python``. Engines without an interpreter are left out. Recall is the share of
the exact search's ten best documents (float32) that are among an engine's ten.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

TOP = 10


def load(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(queries, documents) as (tokens, dim) arrays."""
    found = []
    for side in ("queries", "documents"):
        values = np.load(folder / f"{side}.npy", mmap_mode="r")
        offsets = np.load(folder / f"{side}_offsets.npy")
        found.append([values[a:b] for a, b in itertools.pairwise(offsets)])
    return found[0], found[1]


def fast_plaid(folder: Path, documents: list[np.ndarray], threads: int) -> Callable:
    import torch
    from fast_plaid import search

    torch.set_num_threads(threads)
    engine = search.FastPlaid(index=str(folder / "index"), device="cpu")
    engine.create([torch.from_numpy(np.array(d)) for d in documents])
    return lambda q: [int(i) for i, _ in engine.search(torch.from_numpy(np.array(q))[None], top_k=TOP)[0]]


def lancedb(folder: Path, documents: list[np.ndarray], threads: int) -> Callable:
    import lancedb
    import pyarrow as pa

    vector = pa.list_(pa.list_(pa.float32(), documents[0].shape[1]))
    schema = pa.schema([("id", pa.int64()), ("vector", vector)])
    rows = ({"id": i, "vector": d.tolist()} for i, d in enumerate(documents))
    table = lancedb.connect(str(folder / "index")).create_table("t", schema=schema)
    while batch := [row for _, row in zip(range(5000), rows, strict=False)]:
        table.add(pa.Table.from_pylist(batch, schema=schema))
    table.create_index(metric="cosine", vector_column_name="vector", index_type="IVF_PQ")
    return lambda q: table.search(np.array(q)).limit(TOP).select(["id"]).to_arrow()["id"].to_pylist()


def qdrant(folder: Path, documents: list[np.ndarray], threads: int) -> Callable:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder / "index"))
    late = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    params = models.VectorParams(
        size=documents[0].shape[1], distance=models.Distance.COSINE, multivector_config=late
    )
    client.create_collection("t", vectors_config=params)
    for first in range(0, len(documents), 1000):
        points = [
            models.PointStruct(id=i, vector=documents[i].tolist())
            for i in range(first, min(first + 1000, len(documents)))
        ]
        client.upsert("t", points)
    return lambda q: [p.id for p in client.query_points("t", query=np.array(q).tolist(), limit=TOP).points]


ENGINES = {"fast-plaid": fast_plaid, "lancedb": lancedb, "qdrant (local)": qdrant}


def child(name: str, folder: Path, threads: int) -> None:
    """Index and search in this process; prints one line of JSON."""
    queries, documents = load(folder)
    with tempfile.TemporaryDirectory() as own:
        began = time.perf_counter()
        search = ENGINES[name](Path(own), documents, threads)
        built = time.perf_counter() - began
        search(queries[0])
        found, times = [], []
        for query in queries:
            began = time.perf_counter()
            found.append(search(query))
            times.append(time.perf_counter() - began)
        size = sum(f.stat().st_size for f in Path(own).rglob("*") if f.is_file())
    print(
        json.dumps(
            {
                "index_seconds": built,
                "median_seconds": statistics.median(times),
                "disk_mb": size / 1e6,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "found": found,
            }
        )
    )


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        return
    import optical_rs
    from common import arguments, machine, write
    from optical_rs.data import load_collection
    from optical_rs.edge import Encoder
    from optical_rs.similarity import TokenStore, pool, search

    parser = arguments(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="documents in float32, of optical-rs index")
    parser.add_argument("--model", type=Path, required=True, help="exported model of the queries' side")
    parser.add_argument("--collection", default="bible:ny")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--python", action="append", default=[], metavar="ENGINE=INTERPRETER")
    options = parser.parse_args()
    pythons = dict(entry.split("=", 1) for entry in options.python)
    if unknown := pythons.keys() - ENGINES.keys():
        raise argparse.ArgumentTypeError(f"unknown engine {unknown}; have {', '.join(ENGINES)}")
    optical_rs.set_num_threads(options.threads)
    store = TokenStore(options.store)
    texts = load_collection(options.collection, split="test").sample(queries=options.queries).queries
    queries = Encoder(options.model).encode_query(list(texts.values()))
    names = {name: i for i, name in enumerate(store.ids)}
    exact = [{names[n] for n, _ in hits} for hits in search(queries, store, TOP)]
    rows = []

    def add(name: str, row: dict) -> None:
        shared = [len(want & set(got[:TOP])) / TOP for want, got in zip(exact, row.pop("found"), strict=True)]
        rows.append({"engine": name, "recall_of_exact_10": float(np.mean(shared)), **row})
        print(
            f"{name:34} {np.mean(shared):6.1%} of the exact ten {row['median_seconds'] * 1e3:8.1f} ms a query"
            + f" {row['index_seconds']:7.1f} s to index {row['disk_mb']:7.0f} MB",
            flush=True,
        )

    def ours(name: str, build: Callable[[Path], Callable]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            find = build(Path(folder))
            built = time.perf_counter() - began
            find(queries[0])
            found, times = [], []
            for query in queries:
                began = time.perf_counter()
                hits = find(query)
                times.append(time.perf_counter() - began)
                found.append([names[n] for n, _ in hits])
            size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
            seconds = statistics.median(times)
            add(
                name,
                {"index_seconds": built, "median_seconds": seconds, "disk_mb": size / 1e6, "found": found},
            )

    def exact_int8(folder: Path) -> Callable:
        kept = store.convert(folder / "int8", "int8")
        return lambda q: search([q], kept, TOP)[0]

    def two_stages(folder: Path) -> Callable:
        kept = store.convert(folder / "int8", "int8")
        coarse = pool(kept, folder / "coarse", 4)
        return lambda q: search([q], kept, TOP, coarse=coarse, candidates=200)[0]

    ours("optical_rs, exact, float32", lambda _: lambda q: search([q], store, TOP)[0])
    ours("optical_rs, exhaustive, int8", exact_int8)
    ours("optical_rs, pooled by 4, then int8", two_stages)
    with tempfile.TemporaryDirectory() as folder:
        for side, values in (
            ("queries", queries),
            ("documents", [np.asarray(store[i]) for i in range(len(store))]),
        ):
            np.save(Path(folder) / f"{side}.npy", np.concatenate(values).astype(np.float32))
            np.save(Path(folder) / f"{side}_offsets.npy", np.cumsum([0, *map(len, values)]))
        for name, python in pythons.items():
            limit = {
                **os.environ,
                **dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(options.threads)),
            }
            command = [python, __file__, "--child", name, folder, str(options.threads)]
            done = subprocess.run(command, capture_output=True, text=True, env=limit)
            if done.returncode:
                print(f"{name}: failed: {done.stderr.strip().splitlines()[-1:]}")
                rows.append({"engine": name, "failed": done.stderr.strip().splitlines()[-1:]})
                continue
            version = [python, "-c", f"import importlib.metadata as m; print(m.version('{PACKAGES[name]}'))"]
            row = json.loads(done.stdout.strip().splitlines()[-1])
            row["version"] = subprocess.run(version, capture_output=True, text=True).stdout.strip()
            add(name, row)
    write(
        options.json,
        {
            "what": __doc__,
            "machine": machine(["numpy", "onnxruntime"], options.threads),
            "documents": len(store),
            "tokens": int(store.offsets[-1]),
            "queries": len(queries),
            "rows": rows,
        },
    )


PACKAGES = {"fast-plaid": "fast-plaid", "lancedb": "lancedb", "qdrant (local)": "qdrant-client"}

if __name__ == "__main__":
    main()
