"""Training on many sentence pairs: throughput, and memory as it goes.

Half a million synthetic pairs in a Parquet file, a one-layer encoder made on the spot (so that what is measured is
the way of the data, not the model): the teacher's tokens to their store, then steps of training. Memory that grew
with the pairs would show between the marks.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import optical_rs
import torch
import transformers
from common import arguments, machine, write
from optical_rs.data import load_bitext
from optical_rs.losses import OpticalLoss
from optical_rs.models import freeze_word_embeddings, late_interaction, student_of
from optical_rs.train import TRAINING_DEFAULTS, teacher_store, train_student
from transformers.trainer_callback import TrainerCallback


def resident_mib() -> float:
    """Of this process, without files that are mapped."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def tiny(folder: Path, words: int) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {w: i for i, w in enumerate([*special, *(f"w{i}" for i in range(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def pairs(file: Path, count: int, words: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("foreign", pa.string()), ("english", pa.string())])
    draw = np.random.default_rng(0)
    with pq.ParquetWriter(file, schema) as writer:
        for first in range(0, count, 10_000):
            rows = min(10_000, count - first)
            sides = {}
            for name in schema.names:
                lengths = draw.integers(4, 24, rows)
                numbers = draw.integers(0, words, int(lengths.sum()))
                ends = np.cumsum(lengths)
                sides[name] = [
                    " ".join(f"w{n}" for n in part) for part in np.split(numbers, ends[:-1].tolist())
                ]
            writer.write_table(pa.table(sides, schema=schema))


class Marks(TrainerCallback):
    """Memory now and then."""

    def __init__(self, every: int):
        self.every, self.seen = every, []

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0:
            self.seen.append({"step": state.global_step, "resident_mib": resident_mib()})
            print(f"  step {state.global_step}: {self.seen[-1]['resident_mib']:.0f} MiB", flush=True)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=500_000)
    parser.add_argument("--batch_size", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    optical_rs.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    results: dict = {"pairs": options.pairs}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs(folder / "pairs.parquet", options.pairs, 2000)
        results["start_mib"] = resident_mib()
        began = time.perf_counter()
        bitext = load_bitext(str(folder / "pairs.parquet"))
        results |= {"read_seconds": time.perf_counter() - began, "with_text_mib": resident_mib()}
        teacher = late_interaction(tiny(folder / "encoder", 2000), 16, fit_on=bitext.english[:1000])
        began = time.perf_counter()
        store = teacher_store(teacher, bitext, ["query"], folder / "tokens")
        seconds = time.perf_counter() - began
        results |= {"store_seconds": seconds, "store_sentences_per_second": options.pairs / seconds}
        results |= {"store_tokens": int(store.offsets[-1]), "with_store_mib": resident_mib()}
        print(
            f"{options.pairs} pairs: read in {results['read_seconds']:.1f} s ({results['with_text_mib']:.0f} MiB), "
            f"teacher {options.pairs / seconds:.0f} sentences/s ({results['with_store_mib']:.0f} MiB)"
        )
        student = student_of(teacher)
        freeze_word_embeddings(student)
        marks = Marks(max(1, options.pairs // options.batch_size // 8))
        training = {
            **TRAINING_DEFAULTS,
            "num_train_epochs": 1,
            "per_device_train_batch_size": options.batch_size,
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
            "bf16": False,
        }
        record = train_student(
            OpticalLoss(student, store), bitext, ["query"], training, folder / "out", callbacks=[marks]
        )
        results |= {"training": record, "marks": marks.seen}
        print(f"training: {record['pairs_per_second']:.0f} pairs/s")
    write(options.json, {"what": __doc__, "machine": machine(["torch"], options.threads), **results})


if __name__ == "__main__":
    main()
