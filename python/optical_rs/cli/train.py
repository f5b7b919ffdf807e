"""``optical-rs train``, which is ``python -m optical_rs.train``: distil students by a recipe."""

import argparse
from collections.abc import Sequence

from ..errors import require
from .options import Parser, rename

#: Options are named as in the fields that take them, which the trainer below has, too.
OLD = {"--output": "--output_dir", "--overwrite_output": "--overwrite_output_dir"}
#: What this package adds to the trainer's options; they are the keys of a recipe, too.
OWN = {
    "config": "recipe, a YAML file (default: the demo recipe)",
    "systems": "train only these systems of the recipe",
    "output": "folder of students and report (default: runs/RECIPE)",
    "bitext": "sentence pairs; see docs/data.md",
    "collection": "test collection; nothing is evaluated without one",
    "dev_collection": "where the best checkpoint is chosen (default: the dev split of the collection)",
    "teacher": "late-interaction checkpoint, or any encoder, which gets a closed-form head",
    "student": "as teacher (default: a copy of the teacher)",
    "dim": "token dimension of closed-form heads",
    "side": "foreign side: query, document or both",
    "max_pairs": "use only the first pairs",
    "freeze_embeddings": "keep the word embedding table fixed: true or false",
    "dropout": "of the student in training",
    "foreign_column": "column of bitext files",
    "english_column": "column of bitext files",
    "max_length": "longest input in training, in tokens",
}
#: The most used of the trainer's.
TRAINER = {
    "num_train_epochs": "passes over the pairs",
    "max_steps": "stop after so many steps",
    "per_device_train_batch_size": "pairs of a step on each device",
    "gradient_accumulation_steps": "steps whose gradients are summed",
    "learning_rate": "the highest",
    "warmup_steps": "steps, or the share of all, until the learning rate is highest",
    "seed": "of batches and initial weights",
    "bf16": "compute in bfloat16: true or false",
    "use_cpu": "train on the CPU: true or false",
    "eval_strategy": "when the dev collection is searched: no, steps or epoch",
    "save_strategy": "when a checkpoint is written: no, steps or epoch",
    "save_steps": "steps between checkpoints",
    "resume_from_checkpoint": "a checkpoint (default: the newest of an interrupted run)",
}


def build_parser() -> argparse.ArgumentParser:
    """What ``--help`` shows; the options themselves are read by the trainer, which has many more."""
    parser = Parser(
        "train",
        "Distil students by a recipe, and evaluate them. Options given here win over the recipe's. "
        "Without options the demo recipe runs.",
    )
    parser.usage = "optical-rs train [--config RECIPE] [--option VALUE ...]"
    for name, what in OWN.items():
        parser.add_argument(f"--{name}", help=what, metavar=name.rpartition("_")[2].upper())
    parser.add_argument("--overwrite_output", action="store_true", help="replace an earlier run there")
    more = parser.add_argument_group(
        "training",
        "Every option of sentence-transformers' MultiVectorEncoderTrainingArguments is accepted, also in a recipe "
        "under 'training'. The most used:",
    )
    for name, what in TRAINER.items():
        more.add_argument(f"--{name}", help=what, metavar=name.rpartition("_")[2].upper())
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs train``."""
    if {"-h", "--help"} & set(arguments):
        build_parser().print_help()
        return
    require("sentence_transformers", "train")
    from ..train import main as train

    train(rename(arguments, OLD))
