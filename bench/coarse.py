"""Search in two stages: what a coarse store saves, and what it misses.

For every pooling factor and number of candidates: the time of a query, and the share of the exact search's ten
best documents that are found. Real queries and documents, from stores made by ``optical-rs index``.
"""

import tempfile
from pathlib import Path

import numpy as np
import optical_rs
from common import arguments, machine, median_seconds, write
from optical_rs.data import load_collection
from optical_rs.edge import Encoder
from optical_rs.similarity import TokenStore, pool, search


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--store", type=Path, required=True, help="documents of the collection")
    parser.add_argument("--model", type=Path, required=True, help="exported model of the queries' side")
    parser.add_argument("--collection", default="bible:ny")
    parser.add_argument("--queries", type=int, default=300)
    options = parser.parse_args()
    optical_rs.set_num_threads(options.threads)
    store = TokenStore(options.store)
    texts = load_collection(options.collection, split="test").sample(queries=options.queries).queries
    queries = Encoder(options.model).encode_query(list(texts.values()))
    exact = search(queries, store, 10)
    one = queries[:1]
    base = median_seconds(lambda: search(one, store, 10))
    print(f"{len(store)} documents, exact: {base * 1e3:.1f} ms a query")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for factor in (2, 4, 8):
            coarse = pool(store, Path(folder) / str(factor), factor)
            for candidates in (50, 200, 1000):
                found = search(queries, store, 10, coarse=coarse, candidates=candidates)
                shared = [
                    len({n for n, _ in a} & {n for n, _ in b}) / 10 for a, b in zip(exact, found, strict=True)
                ]
                seconds = median_seconds(
                    lambda c=candidates, pooled=coarse: search(one, store, 10, coarse=pooled, candidates=c)
                )
                rows.append(
                    {
                        "factor": factor,
                        "candidates": candidates,
                        "recall_of_exact_10": float(np.mean(shared)),
                        "seconds": seconds,
                        "faster_by": base / seconds,
                        "tokens": len(coarse.values),
                    }
                )
                print(
                    f"  factor {factor}, {candidates:5} candidates: {np.mean(shared):6.1%} of the exact ten, "
                    f"{seconds * 1e3:6.2f} ms x{base / seconds:.1f}",
                    flush=True,
                )
    write(
        options.json,
        {
            "what": __doc__,
            "machine": machine(["numpy", "scipy"], options.threads),
            "documents": len(store),
            "exact_seconds": base,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
