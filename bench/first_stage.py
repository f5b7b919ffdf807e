"""First stages of search: what means, pooling and MUVERA miss, by bytes per passage and time.

For every method and number of candidates: the share of the exact search's ten best passages that are found, bytes per
passage beside the tokens, the time to make them and the time of a query. Passages are those of AfriQA in all its
languages, and then the others that the model's cache of tokens holds; questions are AfriQA's.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import optical_rs
from common import arguments, machine, median_seconds, write
from optical_rs.data import load_collection
from optical_rs.models import load_model
from optical_rs.similarity import Mean, Muvera, Pooling, TokenStore, make_coarse, search
from optical_rs.token_cache import TokenCache

LANGUAGES = "hau+ibo+swa+twi+yor+zul"
METHODS = [
    Mean(),
    *(Pooling(factor) for factor in (4, 8, 16, 32)),
    *(Muvera(k_sim, 16, r_reps) for k_sim, r_reps in ((3, 10), (4, 10), (4, 20), (5, 20), (5, 40))),
]
CANDIDATES = (50, 200, 1000)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint that encodes both sides")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 4000, 16000], help="passages")
    options = parser.parse_args()
    optical_rs.set_num_threads(options.threads)
    cache = TokenCache(load_model(options.model, device="cpu"))
    collection = load_collection(f"afriqa:{LANGUAGES}", split="test")
    passages = cache.tokens(list(collection.documents.values()), "document")
    asked = collection.sample(queries=options.queries).queries
    queries = list(cache.tokens(list(asked.values()), "query"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            store = stored(passages, size, Path(folder) / str(size))
            rows += measured(store, queries, Path(folder))
    write(
        options.json,
        {"what": __doc__, "machine": machine(["numpy", "scipy"], options.threads), "rows": rows},
    )


def stored(passages, size: int, path: Path) -> TokenStore:
    """So many passages as bytes: those given, and then others of the same cache."""
    cache = passages.store
    own = list(dict.fromkeys(passages.places.tolist()))
    known = set(own)
    others = [i for i, name in enumerate(cache.ids) if name.startswith("document:") and i not in known]
    store = TokenStore.create(path, cache.dim, dtype="int8")
    chosen = (own + others)[:size]
    for first in range(0, len(chosen), 1000):
        part = chosen[first : first + 1000]
        store.append([cache[i] for i in part], [str(i) for i in part])
    return store


def measured(store: TokenStore, queries: list[np.ndarray], folder: Path) -> list[dict]:
    exact = search(queries, store, 10)
    base = median_seconds(lambda: search(queries[:1], store, 10), runs=5, least=0.2)
    tokens = len(store.values) / len(store)
    print(f"{len(store)} passages of {tokens:.0f} tokens, exact: {base * 1e3:.1f} ms a query", flush=True)
    rows = [{"passages": len(store), "method": "exact", "bytes": tokens * (store.dim + 4), "seconds": base}]
    for method in METHODS:
        began = time.perf_counter()
        coarse = make_coarse(store, folder / f"{len(store)}-{method}", method)
        making = (time.perf_counter() - began) / len(store)
        size = len(coarse.values) * (coarse.dim + 4) / len(store)
        for candidates in CANDIDATES:
            if candidates >= len(store):
                continue
            found = search(queries, store, 10, coarse=coarse, candidates=candidates)
            shared = [
                len({n for n, _ in a} & {n for n, _ in b}) / 10 for a, b in zip(exact, found, strict=True)
            ]
            seconds = median_seconds(
                lambda c=candidates, first=coarse: search(queries[:1], store, 10, coarse=first, candidates=c),
                runs=5,
                least=0.2,
            )
            rows.append(
                {
                    "passages": len(store),
                    "method": repr(method),
                    "bytes": size,
                    "making_seconds": making,
                    "candidates": candidates,
                    "recall_of_exact_10": float(np.mean(shared)),
                    "seconds": seconds,
                }
            )
            print(
                f"  {method!r:52} {size:7.0f} bytes, made in {making * 1e3:6.2f} ms, {candidates:5} candidates: "
                f"{np.mean(shared):6.1%}, {seconds * 1e3:7.2f} ms",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    main()
