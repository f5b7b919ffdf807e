"""What docs/how-to/cluster.md plans with: CPU time, bytes and memory per passage.

CPU time and not wall time, so that other work on the machine counts little. Encoding is measured on one thread, with an
exported model over AfriQA's English passages; what the machine that writes does is measured with the tokens of one passage
given for all of them.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import machine, write
from optical_rs.data import load_collection
from optical_rs.edge import Encoder
from optical_rs.edge.index import index
from optical_rs.edge.shards import Kept, index_shard
from optical_rs.similarity import Pooling, TokenStore, make_coarse


def own_memory() -> int:
    """KiB of this process that are not files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="an exported model")
    parser.add_argument("--collection", default="afriqa:hau")
    parser.add_argument("--passages", type=int, default=512, help="to encode")
    parser.add_argument("--documents", type=int, default=100_000, help="to write")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    found: dict[str, float] = {}
    encoder = Encoder(options.model, threads=1)
    texts = list(load_collection(options.collection).documents.values())
    texts = list(itertools.islice(itertools.cycle(texts), options.passages))
    encoder.encode_document(texts[:16])
    began = time.process_time()
    shard = index_shard(encoder, texts, "int8")
    seconds = time.process_time() - began
    tokens = len(shard["scales"]) // 4
    found |= {
        "tokens a passage": tokens / len(texts),
        "encoding, CPU seconds a passage": seconds / len(texts),
    }
    print(f"tokens a passage             {tokens / len(texts):.0f}")
    print(
        f"encoding, CPU ms a passage   {1000 * seconds / len(texts):.1f}, {tokens / seconds:.0f} tokens a second"
    )

    with tempfile.TemporaryDirectory() as folder:
        size = sum(map(len, shard.values())) + sum(len(text.encode()) for text in texts)
        found["bytes a passage"] = size / len(texts) + 2 * 8 + 10
        print(f"bytes a passage              {found['bytes a passage']:.0f}, with text and an id of 10 bytes")

        def known(encoder: Encoder, shards: Iterator[list[str]], dtype: str) -> Iterator[dict[str, bytes]]:
            for part in shards:
                Kept.key(encoder, part, dtype)  # as where a cluster encodes
                yield {name: data * len(part) for name, data in one.items()}

        one = index_shard(encoder, texts[:1], "int8")
        store = index(encoder, [(f"first{i}", texts[0]) for i in range(512)], Path(folder, "s"), encode=known)
        before, began, most = own_memory(), time.process_time(), 0

        def watch(*done: int) -> None:
            nonlocal most
            most = max(most, own_memory())

        many = ((f"d{i:09}", texts[i % len(texts)]) for i in range(options.documents))
        store = index(encoder, many, store.path, encode=known, progress=watch)
        seconds = time.process_time() - began
        memory = 1024 * (most - before) / options.documents
        found |= {
            "writing, CPU seconds a passage": seconds / options.documents,
            "memory, bytes a passage": memory,
        }
        print(f"writing, CPU ms a passage    {1000 * seconds / options.documents:.2f}")
        print(f"memory, bytes a passage      {memory:.0f} of the process that writes")
        small = TokenStore.create(Path(folder, "t"), encoder.dim, dtype="int8")
        small.append_columns(shard, [f"d{i}" for i in range(len(texts))], texts)
        Pooling(4).documents([small[0]])  # what is imported at the first call
        began = time.process_time()
        make_coarse(small, Path(folder, "t.coarse"), Pooling(4))
        seconds = time.process_time() - began
        found["pooling by 4, CPU seconds a passage"] = seconds / len(texts)
        print(f"first stage, CPU ms a passage {1000 * seconds / len(texts):.1f}, pooling by 4")
    about = {"collection": options.collection, "passages": options.passages, "documents": options.documents}
    packages = ["onnxruntime", "tokenizers", "numpy", "scipy"]
    write(options.json, {"what": __doc__, "machine": machine(packages, 1), **about, "found": found})


if __name__ == "__main__":
    main()
