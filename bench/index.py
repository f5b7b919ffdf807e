"""An index of a million texts: memory and time to make it, to change it and to search it, and what first stages miss.

The texts are those of ``bench/texts.py``; the queries are AfriQA's, half of them as people asked them in African
languages, half in their English translations. Three parts, of which ``--only`` chooses some; results of the others stay
in the file of ``--json``::

    python bench/texts.py --folder packages --output texts.jsonl --json texts.json
    python bench/index.py --model teacher --documents texts.jsonl --texts texts.json --store texts --json index.json

``index`` runs ``optical-rs index`` and looks at its memory twice a second: what is its own (``RssAnon``), beside files that
are mapped. ``search`` makes every first stage, and compares it with exhaustive search over the same bytes: the share of
its ten best that are found, and the times of single queries. ``change`` deletes 10,000 texts, searches, adds them again,
brings the first stage up to date, and searches.

Where encoding takes too long, ``--fill COUNT`` measures times, bytes and memory on a copy of the store that has its texts
several times, under other ids. Its recall means nothing: measure that on the store itself.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optical_rs
from common import arguments, machine, write
from optical_rs.data import load_collection
from optical_rs.edge import Encoder
from optical_rs.edge.index import BATCH
from optical_rs.similarity import Mean, Muvera, Pooling, TokenStore, columns, make_coarse, search

LANGUAGES = "hau+ibo+swa+twi+yor+zul"
TOP = 10
CHANGED = 10_000
STAGES = {
    repr(method): method for method in (Mean(), Pooling(16), Pooling(8), Muvera(2, 8, 10), Muvera(3, 16, 10))
}
CANDIDATES = (200, 500, 1000, 4000)


def memory(pid: int, field: str) -> float:
    """MiB of a process."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields.get(field, "0").split()[0]) / 1024


def indexed(options: Any) -> dict[str, Any]:
    """Run ``optical-rs index`` on what the store does not have yet."""
    known = TokenStore(options.store).inspect() if options.store.exists() else {"texts": 0, "tokens": 0}
    command = [sys.executable, "-m", "optical_rs.cli", "index", "--model", str(options.model)]
    command += ["--documents", str(options.documents), "--output", str(options.store)]
    command += ["--threads", str(options.threads)]
    began, most = time.perf_counter(), 0.0
    running = subprocess.Popen(command)
    while running.poll() is None:
        with contextlib.suppress(OSError):
            most = max(most, memory(running.pid, "RssAnon"))
        time.sleep(0.5)
    if running.returncode:
        sys.exit(running.returncode)
    found = TokenStore(options.store).inspect()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "texts_before": known["texts"],
        "texts": found["texts"],
        "tokens": found["tokens"],
        "seconds": time.perf_counter() - began,
        "tokens_encoded": found["tokens"] - known["tokens"],
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_anonymous_mib": most,
    }


def asked(options: Any) -> list[str]:
    """Questions of people in African languages, and as many in English."""
    halves = []
    for kind in ("", "/translated"):
        collection = load_collection(f"afriqa:{LANGUAGES}{kind}", split="test")
        halves += collection.sample(queries=options.queries // 2).queries.values()
    return halves


def timed(job: Any, queries: list[Any]) -> dict[str, float]:
    """Of one query at a time, after a first one."""
    job(queries[0])
    times = []
    for query in queries:
        began = time.perf_counter()
        job(query)
        times.append(time.perf_counter() - began)
    return {"p50_seconds": float(np.median(times)), "p95_seconds": float(np.quantile(times, 0.95))}


def searched(options: Any) -> dict[str, Any]:
    """Recall, time and bytes of each first stage."""
    began = time.perf_counter()
    store = TokenStore(options.store)
    opened = time.perf_counter() - began
    encoder = Encoder(options.model, threads=options.threads)
    texts = asked(options)
    queries = encoder.encode_query(texts)
    began = time.perf_counter()
    search(queries[:1], store, TOP)
    first = time.perf_counter() - began
    exact = search(queries, store, TOP)
    live = int(np.count_nonzero(~store.deleted))
    found: dict[str, Any] = {
        "texts": live,
        "tokens": len(store.values),
        "queries": len(queries),
        "query_tokens": float(np.mean([len(query) for query in queries])),
        "open_seconds": opened,
        "first_search_seconds": first,
        "encode_query": timed(lambda text: encoder.encode_query([text]), texts),
        "bytes_per_text": store.inspect()["bytes"] / live,
        "exhaustive": timed(
            lambda query: search([query], store, TOP), queries[:: max(len(queries) // 20, 1)]
        ),
        "rows": [],
    }
    print({key: value for key, value in found.items() if key != "rows"}, flush=True)
    for method in options.stages:
        path = options.store.with_name(f"{options.store.name}.{method}")
        had, began, used = (
            len(TokenStore(path)) if path.exists() else 0,
            time.perf_counter(),
            time.process_time(),
        )
        coarse = make_coarse(store, path, method)
        row: dict[str, Any] = {"stage": repr(method), "texts_made": len(coarse) - had}
        row |= {
            "make_seconds": time.perf_counter() - began,
            "make_processor_seconds": time.process_time() - used,
        }
        row["bytes_per_text"] = coarse.inspect()["bytes"] / live
        row["vectors_per_text"] = len(coarse.values) / live
        row["settings"] = []
        print(row, flush=True)
        for candidates in CANDIDATES:

            def two(query: np.ndarray, coarse=coarse, candidates=candidates) -> list[tuple[str, float]]:
                return search([query], store, TOP, coarse=coarse, candidates=candidates)[0]

            hits = [two(query) for query in queries]
            shares = [len(dict(a).keys() & dict(b).keys()) / TOP for a, b in zip(exact, hits, strict=True)]
            setting = {"candidates": candidates, "recall": float(np.mean(shares)), **timed(two, queries)}
            half = len(queries) // 2
            setting["recall_foreign"], setting["recall_english"] = map(
                np.mean, (shares[:half], shares[half:])
            )
            row["settings"].append(setting)
            print(f"  {candidates:6} candidates: {setting}", flush=True)
        found["rows"].append(row)
    found["anonymous_mib"] = memory(os.getpid(), "RssAnon")
    return found


def changed(options: Any) -> list[dict[str, Any]]:
    """Seconds to delete texts and to add them again, with their first stage."""
    store, rows = TokenStore(options.store), []
    query = Encoder(options.model, threads=options.threads).encode_query(asked(options)[-1:])
    for method in options.stages:
        coarse = make_coarse(store, options.store.with_name(f"{options.store.name}.{method}"), method)
        live = np.flatnonzero(~store.deleted)
        numbers = live[:: max(len(live) // CHANGED, 1)][:CHANGED].tolist()
        ids, contents = ([column[i] for i in numbers] for column in (store.ids, store.contents))
        tokens = [store[i] for i in numbers]
        seconds = {}

        def step(name: str, job: Any, seconds: dict[str, float] = seconds) -> Any:
            began = time.perf_counter()
            result = job()
            seconds[name] = time.perf_counter() - began
            return result

        def look(coarse: TokenStore = coarse) -> Any:
            return search(query, store, TOP, coarse=coarse)

        look()
        step("delete", lambda ids=ids: store.delete(ids))
        step("first_search_after", look)
        # In the form that other machines' tokens come in, as often committed as by ``optical-rs index``.
        parts = [slice(first, first + BATCH) for first in range(0, len(numbers), BATCH)]
        shards = [(columns.encoded(tokens[p], store.dim, store.dtype), ids[p], contents[p]) for p in parts]
        step("add", lambda shards=shards: [store.append_columns(*shard) for shard in shards])
        coarse = step("first_stage", lambda method=method, path=coarse.path: make_coarse(store, path, method))
        step("first_search_after_adding", lambda coarse=coarse: look(coarse))
        rows.append({"stage": repr(method), "texts": len(numbers), "seconds": seconds})
        print(rows[-1], flush=True)
    return rows


def filled(store: TokenStore, count: int) -> Path:
    """A copy of a store with its texts several times, so that there are ``count``."""
    path = store.path.with_name(f"{store.path.name}.{count}")
    made = (
        TokenStore(path)
        if path.exists()
        else TokenStore.create(path, store.dim, store.metadata, dtype=store.dtype)
    )
    live = np.flatnonzero(~store.deleted).tolist()
    while (have := len(made)) < count:
        start = have % len(live)
        part = live[start : start + min(4096, count - have)]
        tokens = [slice(*store.offsets[i : i + 2].tolist()) for i in part]
        encoded = {"lengths": np.diff(store.offsets)[part].astype("<i8").tobytes()}
        encoded["values"] = b"".join(store.values[rows].tobytes() for rows in tokens)
        if store.scales is not None:
            encoded["scales"] = b"".join(store.scales[rows].tobytes() for rows in tokens)
        ids = [f"{store.ids[i]}~{have // len(live)}" for i in part]
        made.append_columns(encoded, ids, [store.contents[i] for i in part])
    return path


PARTS = {"index": indexed, "search": searched, "change": changed}


def main() -> None:
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", type=Path, required=True, help="exported; it encodes both sides")
    parser.add_argument("--documents", type=Path, required=True, help="what bench/texts.py wrote")
    parser.add_argument("--texts", type=Path, help="its --json, to be kept with the results")
    parser.add_argument("--store", type=Path, required=True, help="the index; one that exists is added to")
    parser.add_argument("--fill", type=int, metavar="COUNT", help="of texts; see above")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    options = parser.parse_args()
    options.stages = [STAGES[name] for name in options.stages]
    optical_rs.set_num_threads(options.threads)
    results = {"what": __doc__}
    if options.json and options.json.exists():
        results = json.loads(options.json.read_text())
    if options.texts:
        results["texts"] = json.loads(options.texts.read_text())
    if options.fill:
        options.store = filled(TokenStore(options.store), options.fill)
    for part in options.only:
        results[part] = PARTS[part](options)
        results["machine"] = machine(["numpy", "scipy", "onnxruntime"], options.threads)
        write(options.json, results)


if __name__ == "__main__":
    main()
