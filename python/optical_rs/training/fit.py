"""One training run of sentence-transformers' trainer: progress, time, checkpoints that can be trusted."""

import contextlib
import json
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import MultiVectorEncoderTrainer
from sentence_transformers.multi_vector_encoder.data_collator import MultiVectorEncoderDataCollator
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from ..files import write_json
from ..progress import quiet
from . import processes
from .anchor import AnchoredLoss, CountSteps
from .arguments import made
from .dev import RetrievalEvaluator

#: The file of a checkpoint that has the checksums of the others; it is written last.
CHECKSUMS = "checksums.json"
#: The file that says which training the checkpoints in a folder are of.
MARK = "training.json"


def fit(
    loss: torch.nn.Module,
    dataset: Dataset | DatasetDict,
    options: Mapping[str, Any],
    *,
    evaluator: RetrievalEvaluator | None = None,
    label: str = "training",
    collator: type = MultiVectorEncoderDataCollator,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train ``loss.model`` in place; an interrupted run goes on from its last whole checkpoint.

    Several processes share one call of this; checkpoints are those of the main one, and so is the best weights' choice.

    Parameters
    ----------
    loss : module
        One of ours or of sentence-transformers', over a model.
    dataset : Dataset or DatasetDict
    options : dict
        Of :class:`~optical_rs.training.arguments.TrainingArguments`; ``output_dir`` is where checkpoints go.
    evaluator : RetrievalEvaluator, optional
        Chooses the best checkpoint; the last is kept without one.
    label : str
        Of the progress bar.
    collator : type
        Of sentence-transformers' data collator, or one made of it.
    callbacks : sequence of TrainerCallback
        More of the trainer's callbacks.

    Returns
    -------
    dict
        ``train_seconds`` (of this process, with reading and tokenising, without evaluation and saving),
        ``pairs_per_second``, ``steps``, and ``dev_map``, the best one, with an evaluator.
    """
    student: Any = loss.model
    options = dict(options)
    folder = Path(options["output_dir"])
    if evaluator is None:
        options |= {"eval_strategy": "no", "load_best_model_at_end": False, "metric_for_best_model": None}
    elif options.get("eval_strategy") == "no" or options.get("save_strategy") == "no":
        options |= {"load_best_model_at_end": False, "metric_for_best_model": None}
    asked = options.pop("resume_from_checkpoint", None)
    whole = _resumed(asked, folder) if processes.is_main() else None
    resume = processes.copied(None if whole is None else Path(whole), folder)
    args = made(options)

    class Trainer(MultiVectorEncoderTrainer):
        data_collator_class = collator
        aside = 0.0

        def evaluate(self, *args, **kwargs):
            with self._aside():
                # The trainer's own way ends the others when evaluation takes longer than their time-out.
                place = {"epoch": self.state.epoch, "steps": self.state.global_step}
                found = processes.from_main(lambda: evaluator(self.model, **place))
                self.evaluator = lambda *_, **__: dict(found)
                try:
                    return super().evaluate(*args, **kwargs)
                finally:
                    self.evaluator = evaluator

        def _load_best_model(self):
            if processes.is_main():
                super()._load_best_model()

        def _save_rng_state(self, output_dir):
            super()._save_rng_state(output_dir)
            # Each process has random numbers of its own, and goes on with them.
            if args.world_size > 1:
                own = Path(output_dir, f"rng_state_{args.process_index}.pth")
                for name, state in processes.gathered((own.name, own.read_bytes())):
                    if processes.is_main():
                        Path(output_dir, name).write_bytes(state)

        def _save_checkpoint(self, *args, **kwargs):
            with self._aside():
                super()._save_checkpoint(*args, **kwargs)

        @contextlib.contextmanager
        def _aside(self):
            began = time.perf_counter()
            yield
            self.aside += time.perf_counter() - began

    quiet(student)
    steps = Steps()
    if isinstance(loss, AnchoredLoss):
        callbacks = [*callbacks, CountSteps(loss)]
    trainer = Trainer(
        model=student,
        args=args,
        train_dataset=dataset,
        loss=loss,
        evaluator=evaluator,
        callbacks=[steps, Checksums(), *callbacks],
    )
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    if not args.disable_tqdm:
        trainer.add_callback(Progress(label))
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    seconds = time.perf_counter() - began - trainer.aside
    # Training in bfloat16 wraps the model's forward; what is measured afterwards is in full precision.
    trainer.accelerator.unwrap_model(student, keep_fp32_wrapper=False)
    pairs = steps.count * args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    record = {
        "train_seconds": seconds if steps.count else 0.0,
        "pairs_per_second": pairs / seconds if steps.count and seconds else 0.0,
        "steps": trainer.state.global_step,
    }
    if evaluator is not None:
        found = [entry["eval_dev_map"] for entry in trainer.state.log_history if "eval_dev_map" in entry]
        if found:
            record["dev_map"] = float(max(found) if options.get("load_best_model_at_end") else found[-1])
    return record


def _resumed(asked: Any, folder: Path) -> str | None:
    """Where to go on from: what was asked for, by default the last whole checkpoint."""
    if isinstance(asked, str) and asked.lower() in ("true", "false", "yes", "no"):
        asked = asked.lower() in ("true", "yes")
    if asked is False:
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        return None
    if asked in (None, True):
        return last_whole_checkpoint(folder)
    return str(asked)


def claim(folder: Path, identity: str) -> None:
    """Remove checkpoints of another training from a folder; say whose those that follow are."""
    mark = folder / MARK
    try:
        found = json.loads(mark.read_text(encoding="utf-8")).get("made_of")
    except (OSError, ValueError):
        found = None
    if found != identity:
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(mark, {"made_of": identity})


class Steps(TrainerCallback):
    """Steps that this process has done."""

    def __init__(self):
        self.count = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.count += 1


class Checksums(TrainerCallback):
    """A checkpoint is whole when the checksums of its files are there and right."""

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if not state.is_world_process_zero or not folder.is_dir():
            return
        files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
        found = {f.relative_to(folder).as_posix(): _checksum(f) for f in files}
        (folder / CHECKSUMS).write_text(json.dumps(found) + "\n", encoding="utf-8")


def _checksum(file: Path) -> list[int]:
    size = checksum = 0
    with open(file, "rb") as f:
        while piece := f.read(1 << 20):
            size += len(piece)
            checksum = zlib.crc32(piece, checksum)
    return [size, checksum]


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose files are as they were written, or None.

    A process killed while it writes one leaves a folder without checksums; a disk may damage one later. The one before
    it is taken then.
    """
    found = [
        (int(f.name.rpartition("-")[2]), f) for f in folder.glob("checkpoint-*") if f.name[11:].isdigit()
    ]
    for _, candidate in sorted(found, reverse=True):
        try:
            sums = json.loads((candidate / CHECKSUMS).read_text(encoding="utf-8"))
            if all(_checksum(candidate / name) == expected for name, expected in sums.items()):
                return str(candidate)
        except (OSError, ValueError, AttributeError):
            continue
    return None


class Progress(ProgressCallback):
    """The trainer's progress bar with pairs/s, loss and dev MAP."""

    def __init__(self, label: str):
        super().__init__()
        self.label = label
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.began, self.first_step = time.perf_counter(), state.global_step
        if self.training_bar is not None:
            self.training_bar.set_description(self.label)

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        pairs = (state.global_step - self.first_step) * args.train_batch_size * args.world_size
        pairs *= args.gradient_accumulation_steps
        self.shown["pairs/s"] = f"{pairs / (time.perf_counter() - self.began):.0f}"
        self._show()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.shown["loss"] = f"{float(logs['loss']):.4f}"
        if logs and "eval_dev_map" in logs:
            self.shown["dev MAP"] = f"{float(logs['eval_dev_map']):.3f}"
        self._show()

    def on_prediction_step(self, *args, **kwargs):
        pass

    def _show(self):
        if self.training_bar is not None:
            self.training_bar.set_postfix(self.shown, refresh=False)
