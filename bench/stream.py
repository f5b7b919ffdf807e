"""Large bitext and large collections on the way that users run: throughput, and memory as it goes.

An encoder of one layer, made on the spot, so that what is measured is the way of the data, not the model: a head fitted on
half a million English sentences, a student distilled from as many pairs, and an evaluation over two hundred thousand
passages. Memory that grew with the text would show between the marks. Each part runs in a process of its own; memory is
that of the process without mapped files, and before anything was read it is given as the start.
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

WORDS = 2000


def resident_mib(peak: bool = False) -> float:
    """Of this process: now, without files that are mapped; or the peak, with them."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM" if peak else "RssAnon"].split()[0]) / 1024


def tiny(folder: Path) -> str:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {w: i for i, w in enumerate([*special, *(f"w{i}" for i in range(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=160
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=160,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def sentences(count: int, shortest: int, longest: int, seed: int):
    draw = np.random.default_rng(seed)
    for first in range(0, count, 10_000):
        lengths = draw.integers(shortest, longest, min(10_000, count - first))
        numbers = draw.integers(0, WORDS, int(lengths.sum()))
        for part in np.split(numbers, np.cumsum(lengths)[:-1].tolist()):
            yield " ".join(f"w{n}" for n in part)


def head(options) -> dict:
    """Fit the closed-form head of a teacher."""
    from optical_rs.models import late_interaction

    texts = list(sentences(options.pairs, 4, 24, 0))
    found = {"with_text_mib": resident_mib()}
    began = time.perf_counter()
    late_interaction(str(options.folder / "encoder"), 16, fit_on=texts)
    return {
        **found,
        "seconds": time.perf_counter() - began,
        "end_mib": resident_mib(),
        "peak_mib": resident_mib(True),
    }


def train(options) -> dict:
    """``optical_rs.distil`` of a Parquet file of pairs."""
    import optical_rs
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = options.folder / "pairs.parquet"
    sides = {
        name: list(sentences(options.pairs, 4, 24, seed)) for seed, name in enumerate(("foreign", "english"))
    }
    pq.write_table(pa.table(sides), file)
    del sides
    found = {"start_mib": resident_mib()}
    began = time.perf_counter()
    student = optical_rs.distil(
        file,
        str(options.folder / "encoder"),
        dim=16,
        loss="optical",
        interpolate=1.0,
        dev=False,
        cache=options.folder / "cache",
        training={"num_train_epochs": 1, "per_device_train_batch_size": 256, "bf16": False},
    )
    seconds = time.perf_counter() - began
    return {
        **found,
        **student.optical_record,
        "teacher": None,
        "seconds": seconds,
        "pairs_per_second_of_all": options.pairs / seconds,
        "end_mib": resident_mib(),
        "peak_mib": resident_mib(True),
    }


def evaluate(options) -> dict:
    """``optical-rs evaluate`` over a folder of passages of some 100 words."""
    from optical_rs.cli.evaluate import main
    from optical_rs.models import late_interaction

    folder = options.folder / "collection"
    folder.mkdir()
    with open(folder / "documents.tsv", "w", encoding="utf-8") as file:
        for i, text in enumerate(sentences(options.passages, 80, 120, 2)):
            file.write(f"d{i}\t{text}\n")
    asked = [
        f"q{i}\t{' '.join(text.split()[:12])}\n"
        for i, text in enumerate(sentences(options.passages, 80, 120, 2))
        if i < 300
    ]
    (folder / "queries.tsv").write_text("".join(asked), encoding="utf-8")
    (folder / "qrels.txt").write_text("".join(f"q{i} 0 d{i} 1\n" for i in range(len(asked))))
    model = late_interaction(str(options.folder / "encoder"), 16, fit_on=list(sentences(2000, 4, 24, 3)))
    model.save_pretrained(str(options.folder / "model"))
    os.environ["XDG_CACHE_HOME"] = str(options.folder / "cache")
    found = {"start_mib": resident_mib()}
    began = time.perf_counter()
    main(["--model", str(options.folder / "model"), "--collection", str(folder), "--device", "cpu"])
    return {
        **found,
        "seconds": time.perf_counter() - began,
        "end_mib": resident_mib(),
        "peak_mib": resident_mib(True),
    }


PARTS = {"head": head, "train": train, "evaluate": evaluate}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=500_000)
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--part", choices=PARTS, help="run one part in this process, and print what it found")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.part:
        import optical_rs
        import torch

        torch.set_num_threads(options.threads)
        optical_rs.set_num_threads(options.threads)
        found = PARTS[options.part](options)
        print("\n" + json.dumps(found, default=str))
        return
    results: dict = {"pairs": options.pairs, "passages": options.passages}
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            tiny(Path(folder) / "encoder")
            command = [
                sys.executable,
                __file__,
                "--part",
                name,
                "--folder",
                folder,
                "--threads",
                str(options.threads),
            ]
            command += ["--pairs", str(options.pairs), "--passages", str(options.passages)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            results[name] = json.loads(done.stdout.splitlines()[-1])
            print(
                name,
                {k: round(v, 1) if isinstance(v, float) else v for k, v in results[name].items()},
                flush=True,
            )
    write(options.json, {"what": __doc__, "machine": machine(["torch"], options.threads), **results})


if __name__ == "__main__":
    main()
