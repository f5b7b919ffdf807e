"""MaxSim of queries (32 tokens of 128 numbers) against ragged documents, on a CPU with equal threads.

One query, and a batch of 64, against documents of 20 to 180 random unit tokens; ``--store`` adds real ones.
Peers get documents in the form that they want, made before the clock starts: torch with padded documents
(einsum) and with all tokens in one product and a segmented maximum, sentence-transformers' ``maxsim``,
maxsim-cpu, and numkong (whose call takes one query and one document, and loses some precision).
"""

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optical_rs
import torch
from common import arguments, machine, median_seconds, write
from optical_rs import _core
from optical_rs.similarity import TokenStore, maxsim, search

DIM, QUERY = 128, 32


def unit(generator: np.random.Generator, tokens: int) -> np.ndarray:
    x = generator.standard_normal((tokens, DIM), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def made(documents: int, queries: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    generator = np.random.default_rng(0)
    return (
        [unit(generator, QUERY) for _ in range(queries)],
        [unit(generator, n) for n in generator.integers(20, 181, documents)],
    )


def torch_padded(queries, documents) -> Callable[[], np.ndarray]:
    q = torch.from_numpy(np.stack(queries))
    lengths = torch.tensor([len(d) for d in documents])
    padded = torch.zeros(len(documents), int(lengths.max()), DIM)
    for i, d in enumerate(documents):
        padded[i, : len(d)] = torch.from_numpy(d)
    outside = torch.arange(padded.shape[1])[None] >= lengths[:, None]

    def work():
        scores = []
        # Pieces, as the whole similarity tensor of a batch would not fit into memory.
        for part, mask in zip(padded.split(512), outside.split(512), strict=True):
            s = torch.einsum("qnd,pmd->qpnm", q, part).masked_fill(mask[None, :, None], -torch.inf)
            scores.append(s.amax(-1).sum(-1))
        return torch.cat(scores, 1).numpy()

    return work


def torch_flat(queries, documents) -> Callable[[], np.ndarray]:
    q = torch.from_numpy(np.concatenate(queries))
    lengths = np.array([len(d) for d in documents])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    flat = torch.from_numpy(np.concatenate(documents))
    pieces = list(itertools.pairwise([*range(0, len(documents), 512), len(documents)]))
    owners = [torch.from_numpy(np.repeat(np.arange(b - a), lengths[a:b])) for a, b in pieces]

    def work():
        scores = []
        for (a, b), owner in zip(pieces, owners, strict=True):
            products = flat[bounds[a] : bounds[b]] @ q.T
            best = torch.full((b - a, len(q)), -torch.inf)
            best.index_reduce_(0, owner, products, "amax")
            scores.append(best.view(b - a, len(queries), QUERY).sum(-1).T)
        return torch.cat(scores, 1).numpy()

    return work


def sentence_transformers(queries, documents) -> Callable[[], np.ndarray]:
    from sentence_transformers.util import maxsim as theirs

    q, d = torch.from_numpy(np.stack(queries)), [torch.from_numpy(d) for d in documents]
    return lambda: theirs(q, d).numpy()


def maxsim_cpu(queries, documents) -> Callable[[], np.ndarray]:
    import maxsim_cpu as theirs

    return lambda: np.stack([theirs.maxsim_scores_variable(q, documents) for q in queries])


def numkong(queries, documents) -> Callable[[], np.ndarray]:
    import numkong as theirs

    q = [theirs.maxsim_pack(x, dtype="f32") for x in queries]
    d = [theirs.maxsim_pack(x, dtype="f32") for x in documents]
    # Their sum is of angular distances, 1 - similarity.
    return lambda: np.array([[QUERY - theirs.maxsim_packed(x, y) for y in d] for x in q])


PEERS = {
    "torch, padded": torch_padded,
    "torch, flat": torch_flat,
    "sentence-transformers": sentence_transformers,
    "maxsim-cpu": maxsim_cpu,
    "numkong (1 thread)": numkong,
}


def ours(queries, documents, dtype: str) -> Callable[[], np.ndarray]:
    if dtype == "list":
        return lambda: maxsim(queries, documents)
    texts = _core.Texts("queries", queries, None)
    values, lengths = np.concatenate(documents), [len(d) for d in documents]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    kept = {
        "f32": lambda: values,
        "f16": lambda: values.astype(np.float16),
        "bf16": lambda: torch.from_numpy(values).bfloat16().view(torch.uint16).numpy(),
        "int8": lambda: _core.quantise(values),
    }[dtype]()
    store = _core.Texts("documents", kept, offsets)
    return lambda: _core.maxsim(texts, store)


#: Documents as they are kept: one after the other in some form, or a list of float32 arrays.
KEPT = ("f32", "list", "f16", "bf16", "int8")


def levels(documents: int) -> list[dict]:
    """Every form on every instruction set that the machine has: one query, and a batch of eight."""
    used, rows = optical_rs.build_info()["simd"], []
    queries, texts = made(documents, 8)
    print(f"\nby instruction set, {documents:,} documents (times as fast as f32)")
    try:
        for level in optical_rs.build_info()["simd_supported"]:
            optical_rs.set_simd_level(level)
            for count in (1, 8):
                seconds = {}
                for dtype in KEPT:
                    seconds[dtype] = median_seconds(ours(queries[:count], texts, dtype), least=0.5, runs=3)
                rows.append({"level": level, "queries": count, "documents": documents, "seconds": seconds})
                text = "  ".join(
                    f"{d} {t * 1e3:.1f} ms ({seconds['f32'] / t:.2f})" for d, t in seconds.items()
                )
                print(f"  {level:9} {count} {text}", flush=True)
    finally:
        optical_rs.set_simd_level(used)
    return rows


def reference(queries, documents, some: int = 200) -> np.ndarray:
    """In doubles, for some documents."""
    return np.array(
        [
            [(q.astype(np.float64) @ d.astype(np.float64).T).max(1).sum() for d in documents[:some]]
            for q in queries
        ]
    )


def case(label: str, queries, documents, peers, limit: float) -> dict:
    tokens = sum(map(len, documents))
    work = sum(map(len, queries)) * tokens * DIM
    wanted = reference(queries, documents)
    print(f"\n{label}: {len(queries)} x {len(documents)}, {tokens} document tokens")
    entries: dict[str, dict] = {}
    jobs = {f"optical_rs, {dtype}": (ours, (dtype,)) for dtype in KEPT}
    for name, (make, more) in {**jobs, **{n: (m, ()) for n, m in peers.items()}}.items():
        try:
            job = make(queries, documents, *more)
            found = job()[:, : wanted.shape[1]]
            seconds = median_seconds(job, least=1.0, runs=5)
        except (MemoryError, RuntimeError) as error:
            entries[name] = {"failed": f"{type(error).__name__}: {error}"}
            continue
        finally:
            job = None
        entry = {
            "seconds": seconds,
            "multiply_adds_per_second": work / seconds,
            "share_of_limit": work / seconds / limit,
            "largest_relative_error": float((np.abs(found - wanted) / np.abs(wanted)).max()),
        }
        entry["ours_is_faster_by"] = seconds / entries.get("optical_rs, f32", entry)["seconds"]
        entries[name] = entry
        print(
            f"  {name:22} {seconds * 1e3:9.2f} ms  {work / seconds / 1e9:7.1f} G multiply-adds/s "
            f"({entry['share_of_limit']:4.0%})  x{entry['ours_is_faster_by']:6.2f}  "
            f"error {entry['largest_relative_error']:.0e}",
            flush=True,
        )
    values = np.concatenate(documents)
    return {
        "what": label,
        "queries": len(queries),
        "documents": len(documents),
        "tokens": tokens,
        "bytes_f32": values.nbytes,
        "entries": entries,
    }


def top_k(queries, documents) -> dict:
    """Search for ten, against all scores and a sort."""
    q_ids = [str(i) for i in range(len(documents))]
    found = search(queries, documents, 10, document_ids=q_ids)
    seconds = median_seconds(lambda: search(queries, documents, 10, document_ids=q_ids))
    scores = maxsim(queries, documents)
    assert all(hits[0][1] == row.max() for hits, row in zip(found, scores, strict=True))
    return {"seconds": seconds, "queries": len(queries), "documents": len(documents)}


def main() -> None:
    warnings.simplefilter("ignore")
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 documents alone")
    parser.add_argument("--store", type=Path, action="append", default=[], help="a real store to score")
    parser.add_argument("--only", nargs="+", help="cases whose name holds one of these")
    parser.add_argument("--peers", nargs="+", choices=tuple(PEERS), default=tuple(PEERS), help="only these")
    options = parser.parse_args()
    optical_rs.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    limit = _core.multiply_adds_per_second()
    cases = []

    def wanted(label: str) -> bool:
        return options.only is None or any(part in label for part in options.only)

    for n in (10_000,) if options.quick else (10_000, 100_000):
        queries, documents = made(n, 64)
        for count in (1, 64):
            # Left out where they take minutes or more memory than there is.
            slow = {"numkong (1 thread)"} if count > 1 else set()
            if n > 10_000:
                slow |= {"torch, padded", "numkong (1 thread)"}
                slow |= {"sentence-transformers"} if count > 1 else set()
            peers = {name: PEERS[name] for name in options.peers if name not in slow}
            label = f"{'one query' if count == 1 else 'a batch'}, {n:,} documents"
            if wanted(label):
                cases.append(case(label, queries[:count], documents, peers, limit))
        del documents
    for path in options.store:
        store = TokenStore(path)
        documents = [np.ascontiguousarray(store[i]) for i in range(len(store))]
        queries = [unit(np.random.default_rng(1), QUERY) for _ in range(64)]
        peers = {n: PEERS[n] for n in ("torch, flat", "maxsim-cpu") if n in options.peers}
        for count in (1, 64):
            label = f"{'one query' if count == 1 else 'a batch'}, {path.name}"
            if wanted(label):
                cases.append(case(label, queries[:count], documents, peers, limit))
    by_level = levels(10_000) if options.only is None else []
    limit = max(limit, _core.multiply_adds_per_second())
    for found in cases:
        for entry in found["entries"].values():
            if "seconds" in entry:
                entry["share_of_limit"] = entry["multiply_adds_per_second"] / limit
    packages = ["torch", "sentence-transformers", "maxsim-cpu", "numkong", "numpy"]
    print(f"\nlimit: {limit / 1e9:.0f} G multiply-adds/s")
    write(
        options.json,
        {
            "what": __doc__,
            "machine": machine(packages, options.threads),
            "limit_multiply_adds_per_second": limit,
            "levels": by_level,
            "cases": cases,
        },
    )


if __name__ == "__main__":
    main()
