"""Search in this package and in existing engines, on the same tokens: recall, time and bytes.

Recall is the share of the ten best documents, by exact scores of the store's tokens in float32, that are among an
engine's ten; time is the median of a query after a warm-up, one query at a time; bytes are those on disk for a passage,
texts included. Each engine is searched with several settings, and the last table has the fastest of each that reaches a
recall.

Engines run in processes of their own, and in environments of their own where their pins ask for that:
``--python fast-plaid=/path/to/bin/python``. Those whose package is missing are left out. Make the store once::

    optical-rs index --model teacher --documents afriqa:hau+ibo+swa+twi+yor+zul --dtype float32 --output passages
    python bench/engines.py --store passages --model student
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from optical_rs.similarity import Mean, Muvera, Pooling, TokenStore, make_coarse, maxsim, search

TOP = 10
#: Documents that are read together.
PART = 10_000
LEVELS = (0.9, 0.95, 0.99, 1.0)
#: What finds a query's ten best, by the settings of a search.
Finders = dict[str, Callable[[np.ndarray], list[str]]]


def ours(store: TokenStore, folder: Path, how: str) -> Finders:
    """Exhaustive search, and two stages: what ``Index.search`` does after it has encoded a query."""
    kept = store.convert(folder / "store", "float32" if how == "float32" else "int8")
    if how in ("float32", "int8"):
        return {"all": lambda q: [name for name, _ in search([q], kept, TOP)[0]]}
    coarse = make_coarse(kept, folder / "coarse", Mean() if how == "mean" else Pooling(int(how)))

    def two(candidates: int) -> Callable[[np.ndarray], list[str]]:
        return lambda q: [name for name, _ in search([q], kept, TOP, coarse=coarse, candidates=candidates)[0]]

    return {f"{n} candidates": two(n) for n in (50, 200, 1000)}


def qdrant_edge(store: TokenStore, folder: Path, how: str) -> Finders:
    from optical_rs.engines import qdrant
    from qdrant_edge import EdgeShard

    methods = {"mean": Mean(), "muvera": Muvera(3, 16, 10), "pooling": Pooling(8)}
    dtype, _, staged = how.partition(", ")
    qdrant.write(store, folder / "shard", dtype=dtype, first_stage=methods.get(staged))
    shard = EdgeShard.load(str(folder / "shard"))

    def find(candidates: int | None) -> Callable[[np.ndarray], list[str]]:
        return lambda q: [hit.id for hit in qdrant.search(shard, [q], TOP, candidates=candidates)[0]]

    return {f"{n} candidates": find(n) for n in (50, 200, 1000, 4000)} if staged else {"all": find(None)}


def lance(store: TokenStore, folder: Path, how: str) -> Finders:
    import lancedb as library
    from optical_rs.engines import lancedb

    dtype, _, index = how.partition(", ")
    lancedb.write(store, folder / "texts", dtype=dtype, index={"index_type": index} if index else None)
    table = library.connect(str(folder)).open_table("texts")

    def find(**options: int) -> Callable[[np.ndarray], list[str]]:
        return lambda q: [hit.id for hit in lancedb.search(table, [q], TOP, **options)[0]]

    if not index:
        return {"all": find()}
    return {
        f"nprobes {n}, refine {r}": find(nprobes=n, refine=r) for n in (8, 32, 128) for r in (1, 10, 50, 500)
    }


def plaid(store: TokenStore, folder: Path, how: str) -> Finders:
    from optical_rs.engines import fast_plaid

    bits, _, samples = how.partition(", ")
    fast_plaid.write(
        store,
        folder / "plaid",
        nbits=int(bits.split()[0]),
        n_samples_kmeans=int(samples.split()[0]) if samples else None,
    )
    index = fast_plaid.opened(folder / "plaid")

    def find(**options: int) -> Callable[[np.ndarray], list[str]]:
        return lambda q: [hit.id for hit in fast_plaid.search(index, [q], TOP, **options)[0]]

    return {
        f"{n} probes, {full} scored": find(n_ivf_probe=n, n_full_scores=full)
        for full in (4096, 32768)
        for n in (4, 8, 16, 32, 64)
    }


#: What builds an engine's finders, its package, and how it keeps the tokens.
ENGINES: dict[str, tuple[Callable[[TokenStore, Path, str], Finders], str, tuple[str, ...]]] = {
    "optical_rs": (ours, "optical_rs", ("float32", "int8", "mean", "8", "32")),
    "qdrant-edge": (
        qdrant_edge,
        "qdrant-edge-py",
        ("float32", "float16", "float32, mean", "float16, mean", "float32, muvera", "float32, pooling"),
    ),
    "lancedb": (lance, "lancedb", ("float32", "float16", "float32, IVF_PQ", "float32, IVF_FLAT")),
    "fast-plaid": (plaid, "fast-plaid", ("4 bits", "2 bits", "4 bits, 150 samples", "8 bits, 150 samples")),
}


def child(name: str, how: str, folder: Path, threads: int) -> None:
    """Write and search in this process; prints a line of JSON for each setting."""
    import optical_rs

    if hasattr(os, "sched_setaffinity"):  # not every engine can be asked for a number of threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    optical_rs.set_num_threads(threads)
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(threads)
    queries = TokenStore(folder / "queries")
    store = TokenStore(folder / "documents")
    asked = [np.array(queries[i]) for i in range(len(queries))]
    with tempfile.TemporaryDirectory() as own:
        began = time.perf_counter()
        finders = ENGINES[name][0](store, Path(own), how)
        built = time.perf_counter() - began
        size = sum(on_disk(f) for f in Path(own).rglob("*") if f.is_file())
        for settings, find in finders.items():
            find(asked[0])
            found, times = [], []
            for query in asked:
                began = time.perf_counter()
                found.append(find(query))
                times.append(time.perf_counter() - began)
            row = {
                "kept": how,
                "settings": settings,
                "write_seconds": built,
                "median_seconds": statistics.median(times),
                "bytes_per_passage": size / len(store),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "found": found,
            }
            print(json.dumps(row), flush=True)


def on_disk(file: Path) -> int:
    """Bytes that a file takes: some are made large, and filled later."""
    found = file.stat()
    return found.st_blocks * 512 if hasattr(found, "st_blocks") else found.st_size


def measured(name: str, ways: list[str], python: str, folder: Path, threads: int) -> Iterator[dict[str, Any]]:
    """The rows of an engine, for each of the ways in which it keeps the tokens."""
    package = ENGINES[name][1]
    ask = [python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]
    version = subprocess.run(ask, capture_output=True, text=True).stdout.strip()
    if not version and name != "optical_rs":
        print(f"{name}: {package} is not installed in {python}")
        return
    limits = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "LANCE_CPU_THREADS"), str(threads))
    for how in ways:
        command = [python, __file__, "--child", name, how, str(folder), str(threads)]
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **limits}
            ) as process,
        ):
            assert process.stdout
            for line in process.stdout:
                yield {"engine": name, "version": version, **json.loads(line)}
            if process.wait():
                errors.seek(0)
                said = errors.read().strip().splitlines()[-1:]
                print(f"{name}, {how}: failed: {said}")
                yield {"engine": name, "version": version, "kept": how, "failed": said}


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        child(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
        return
    import optical_rs
    from common import arguments, machine, write

    parser = arguments(__doc__)
    parser.add_argument(
        "--store", type=Path, required=True, help="the documents: a store made by optical-rs index"
    )
    parser.add_argument("--model", type=Path, required=True, help="exported model of the queries' side")
    parser.add_argument("--collection", default="afriqa:hau+ibo+swa+twi+yor+zul", help="of the queries")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--documents", type=int, help="no more than so many")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--kept", nargs="+", metavar="WAY", help="only these ways to keep the tokens")
    parser.add_argument("--python", action="append", default=[], metavar="ENGINE=INTERPRETER")
    options = parser.parse_args()
    pythons = dict(entry.split("=", 1) for entry in options.python)
    if unknown := pythons.keys() - ENGINES.keys():
        raise argparse.ArgumentTypeError(f"unknown engine {unknown}; have {', '.join(ENGINES)}")
    ways = {e: [w for w in ENGINES[e][2] if w in (options.kept or (w,))] for e in options.engines}
    if unknown := set(options.kept or ()) - {way for names in ways.values() for way in names}:
        raise argparse.ArgumentTypeError(f"unknown ways {unknown}")
    optical_rs.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, queries = copied(options, folder)
        exact = best(queries, store)
        rows = []
        for engine in options.engines:
            python = pythons.get(engine, sys.executable)
            for row in measured(engine, ways[engine], python, folder, options.threads):
                if "found" in row:
                    shares = [
                        len(want & set(got)) / len(want)
                        for want, got in zip(exact, row.pop("found"), strict=True)
                    ]
                    row["recall_of_exact_10"] = float(np.mean(shares))
                    print(
                        f"{engine:12} {row['kept']:20} {row['settings']:22} {np.mean(shares):7.1%} "
                        f"{row['median_seconds'] * 1e3:8.2f} ms {row['bytes_per_passage']:8,.0f} B a passage "
                        f"{row['write_seconds']:7.1f} s to write",
                        flush=True,
                    )
                rows.append(row)
        fastest(rows)
        write(
            options.json,
            {
                "what": __doc__,
                "machine": machine(["numpy"], options.threads),
                "documents": len(store),
                "tokens": int(store.offsets[-1]),
                "queries": len(queries),
                "rows": rows,
            },
        )


def copied(options: argparse.Namespace, folder: Path) -> tuple[TokenStore, list[np.ndarray]]:
    """The documents, in their store's dtype, and the tokens of the queries, where every engine's process reads them."""
    from optical_rs.data import load_collection
    from optical_rs.edge import Encoder

    whole = TokenStore(options.store)
    store = TokenStore.create(folder / "documents", whole.dim, whole.metadata, dtype=whole.dtype)
    numbers = np.flatnonzero(~whole.deleted).tolist()[: options.documents]
    for first in range(0, len(numbers), PART):
        part = numbers[first : first + PART]
        store.append(
            [whole[i] for i in part], [whole.ids[i] for i in part], [whole.contents[i] for i in part]
        )
    texts = load_collection(options.collection, split="test").sample(queries=options.queries).queries
    queries = Encoder(options.model).encode_query(list(texts.values()))
    TokenStore.create(folder / "queries", whole.dim).append(queries, list(texts))
    return store, queries


def best(queries: list[np.ndarray], store: TokenStore) -> list[set[str]]:
    """The ids of each query's best documents, by exact scores of the tokens in float32."""
    scores = np.concatenate(
        [
            maxsim(queries, [store[i] for i in range(first, min(first + PART, len(store)))])
            for first in range(0, len(store), PART)
        ],
        axis=1,
    )
    return [{store.ids[i] for i in row} for row in np.argsort(-scores, axis=1, kind="stable")[:, :TOP]]


def fastest(rows: list[dict[str, Any]]) -> None:
    """Print the fastest settings of each engine that reach a recall."""
    print("\nfastest at a recall of at least")
    for level in LEVELS:
        for engine in dict.fromkeys(row["engine"] for row in rows):
            good = [r for r in rows if r["engine"] == engine and r.get("recall_of_exact_10", -1) >= level]
            if good:
                best = min(good, key=lambda row: row["median_seconds"])
                print(
                    f"{level:5.0%} {engine:12} {best['median_seconds'] * 1e3:8.2f} ms "
                    f"{best['bytes_per_passage']:8,.0f} B a passage   {best['kept']}, {best['settings']}"
                )
            else:
                print(f"{level:5.0%} {engine:12} not reached")


if __name__ == "__main__":
    main()
