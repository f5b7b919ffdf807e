"""Distil students by a recipe: ``python -m optical_rs.train --config recipes/x.yaml [--any_hf_flag …]``.

A recipe names a teacher, bitext, a collection to evaluate on, and *systems*: a loss with its options
each. Every system trains a student of its own with sentence-transformers' trainer, and all are
evaluated alike. Without arguments the demo recipe runs.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers
import yaml
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from sentence_transformers import (
    MultiVectorEncoder,
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
)
from sentence_transformers.multi_vector_encoder.data_collator import MultiVectorEncoderDataCollator
from transformers import HfArgumentParser
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from . import build_info
from .data import Bitext, load_bitext, load_collection
from .data.collection import Collection
from .errors import InputError, closest
from .losses import LOSSES, BitextLoss
from .models import (
    PACKAGED,
    check_path,
    freeze_word_embeddings,
    is_late_interaction,
    late_interaction,
    load_model,
    set_dropout,
    student_of,
    use_plain_attention,
)
from .record import RECORD
from .retrieval import describe, encode, evaluate_tokens, table, write_evaluation
from .similarity import TokenStore
from .training.batches import LengthBucketBatchSampler
from .training.dev import RetrievalEvaluator

SIDES = ("query", "document", "both")
#: The recipe that runs without --config.
DEMO = Path(__file__).parent / "recipes" / "demo.yaml"
REPORT = "report.json"
CONFIG = "config.json"
#: Sentences that the teacher encodes and stores together.
PART = 8192


@dataclasses.dataclass
class Recipe:
    """What is trained on what; every field is a key of a recipe and a flag."""

    bitext: str = dataclasses.field(
        default="kolibri:ny", metadata={"help": "sentence pairs; see load_bitext"}
    )
    collection: str = dataclasses.field(
        default="",
        metadata={"help": "test collection; see load_collection. Nothing is evaluated without one"},
    )
    dev_collection: str = dataclasses.field(
        default="",
        metadata={"help": "where the best checkpoint is chosen (default: dev split of the collection)"},
    )
    teacher: str = dataclasses.field(
        default=PACKAGED,
        metadata={"help": "late-interaction checkpoint, or any encoder, which gets a closed-form head"},
    )
    student: str = dataclasses.field(
        default="", metadata={"help": "as teacher (default: a copy of the teacher)"}
    )
    dim: int = dataclasses.field(default=128, metadata={"help": "token dimension of closed-form heads"})
    side: str = dataclasses.field(default="query", metadata={"help": "foreign side: query, document or both"})
    max_pairs: int | None = dataclasses.field(default=None, metadata={"help": "use only the first pairs"})
    freeze_embeddings: bool = dataclasses.field(
        default=True, metadata={"help": "keep the word embedding table fixed"}
    )
    dropout: float | None = dataclasses.field(
        default=0.0, metadata={"help": "of the student in training; null for the encoder's own"}
    )
    foreign_column: str = dataclasses.field(default="foreign", metadata={"help": "column of bitext files"})
    english_column: str = dataclasses.field(default="english", metadata={"help": "column of bitext files"})


@dataclasses.dataclass
class TrainingArguments(MultiVectorEncoderTrainingArguments):
    """sentence-transformers' arguments, with fields that a command line can express."""

    max_length: int | None = dataclasses.field(default=None, metadata={"help": "longest input in training"})
    prompts: str | None = dataclasses.field(
        default=None, metadata={"help": "JSON; default: the student's own"}
    )
    router_mapping: str | None = dataclasses.field(default=None, metadata={"help": "JSON; set by side"})
    learning_rate_mapping: str | None = dataclasses.field(
        default=None, metadata={"help": "JSON: regular expression of parameter names to learning rate"}
    )
    batch_sampler: str = dataclasses.field(
        default="length_bucket",
        metadata={
            "help": "length_bucket, or a name of sentence-transformers' (batch_sampler, no_duplicates)"
        },
    )
    multi_dataset_batch_sampler: str = dataclasses.field(
        default="proportional", metadata={"help": "with side=both: proportional or round_robin"}
    )

    def __post_init__(self):
        if self.batch_sampler == "length_bucket":
            self.batch_sampler = LengthBucketBatchSampler
        super().__post_init__()


def bf16_is_fast() -> bool:
    """Whether this machine multiplies bfloat16 natively."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


#: Values of training arguments where the library's own defaults do not fit this task.
TRAINING_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "num_train_epochs": 6,
    "learning_rate": 3e-4,
    "bf16": bf16_is_fast(),
    "warmup_steps": 0.1,
    "logging_steps": 10,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_dev_map",
    "seed": 0,
    "report_to": "none",
    "use_cpu": not torch.cuda.is_available(),
}


@dataclasses.dataclass
class Job:
    """A parsed command line."""

    recipe: Recipe
    systems: dict[str, dict[str, Any]]
    training: dict[str, Any]
    output_dir: Path
    overwrite: bool
    #: What must be equal for an interrupted run to be continued.
    resolved: dict[str, Any]


def parse(arguments: Sequence[str] | None) -> Job:
    """Read a recipe and flags; flags win.

    Raises
    ------
    InputError
        An unknown key, loss or option, with the nearest valid name.
    """
    parser = HfArgumentParser([Recipe, TrainingArguments], prog="optical-rs train")
    parser.add_argument("--config", default=str(DEMO), help="recipe (YAML)")
    parser.add_argument("--systems", nargs="+", help="train only these systems of the recipe")
    parser.add_argument("--overwrite_output_dir", action="store_true", help="replace an earlier run")
    known, _ = parser.parse_known_args(arguments)
    raw = read_recipe(Path(known.config), "config")
    systems, training = raw.pop("systems"), raw.pop("training", None) or {}
    recipe_keys = {f.name for f in dataclasses.fields(Recipe)}
    training_keys = {f.name for f in dataclasses.fields(TrainingArguments) if f.init}
    for where, keys, valid in (
        (known.config, raw, recipe_keys | {"systems", "training"}),
        (f"{known.config}: training", training, training_keys),
    ):
        for key in keys:
            if key not in valid:
                raise InputError(f"{where}: unknown key '{key}'{closest(key, valid)}")
    default_output = f"runs/{Path(known.config).stem}"
    parser.set_defaults(**{"output_dir": default_output, **TRAINING_DEFAULTS, **raw, **training})
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = {f"--{name}" for name in recipe_keys | training_keys} | {"--config", "--systems"}
        raise InputError(f"unknown argument '{unknown[0]}'{closest(unknown[0], flags)}")
    values = vars(namespace)
    recipe = Recipe(**{k: values[k] for k in recipe_keys})
    _check_recipe(recipe, systems, known.config)
    if known.systems:
        for name in known.systems:
            if name not in systems:
                raise InputError(f"systems: the recipe has no system '{name}'{closest(name, systems)}")
        systems = {name: options for name, options in systems.items() if name in known.systems}
    chosen = {k: values[k] for k in training_keys if k in values}
    resolved = {
        "recipe": dataclasses.asdict(recipe),
        "systems": systems,
        "training": {
            k: v for k, v in sorted(chosen.items()) if k not in ("output_dir", "resume_from_checkpoint")
        },
    }
    return Job(
        recipe,
        systems,
        chosen,
        Path(namespace.output_dir),
        known.overwrite_output_dir,
        json.loads(json.dumps(resolved, default=str)),
    )


def read_recipe(path: Path, argument: str, mappings: Sequence[str] = ("systems",)) -> dict[str, Any]:
    """The keys of a recipe, some of which must be mappings that are not empty.

    Raises
    ------
    InputError
        No such file, no YAML, or another structure; the message names ``argument``.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{argument}: no such file: {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{argument}: {path}: not valid YAML ({' '.join(str(error).split())})") from None
    for key in mappings:
        if not isinstance(raw, dict) or not isinstance(raw.get(key), dict) or not raw[key]:
            raise InputError(f"{argument}: {path}: expected a mapping with a mapping '{key}'")
    return raw


def _check_recipe(recipe: Recipe, systems: dict[str, Any], where: str) -> None:
    if recipe.side not in SIDES:
        raise InputError(f"side: unknown side '{recipe.side}'{closest(recipe.side, SIDES)}")
    for name, options in systems.items():
        if not isinstance(options, dict | None):
            raise InputError(f"{where}: system '{name}': expected options as a mapping, got {options!r}")
        systems[name] = options = options or {}
        loss = options.get("loss")
        if loss is not None and loss not in LOSSES:
            raise InputError(f"{where}: system '{name}': unknown loss '{loss}'{closest(loss, LOSSES)}")
        own = {"model", "teacher", "student_idf", "teacher_idf"}
        valid = set(inspect.signature(LOSSES[loss]).parameters) - own if loss else set()
        for key in options.keys() - valid - {"loss"}:
            raise InputError(f"{where}: system '{name}' has no option '{key}'{closest(key, valid)}")
        if name in ("teacher", "cache") or not name or "/" in name or name.startswith("."):
            raise InputError(f"{where}: system '{name}': not usable as the name of a folder")


def check_models(recipe: Recipe) -> None:
    """Raise for models that cannot be had or do not fit each other, before anything is written."""
    dims: dict[str, int | None] = {}
    for argument, spec in (("teacher", recipe.teacher), ("student", recipe.student)):
        if not spec or spec == PACKAGED:
            continue
        if is_late_interaction(check_path(spec, argument)):
            dims[argument] = load_model(spec, argument=argument).get_embedding_dimension()
    if "student" in dims:
        dim = dims.get("teacher", recipe.dim)
        if dims["student"] != dim:
            raise InputError(f"student: has dimension {dims['student']}, but the teacher has {dim}")


def prepare_teacher(recipe: Recipe, bitext: Bitext, folder: Path) -> tuple[MultiVectorEncoder, str]:
    """The teacher, and where it can be loaded from: made teachers are saved in ``folder`` once."""
    if is_late_interaction(recipe.teacher):
        spec = recipe.teacher
        return load_model(spec, argument="teacher"), str(Path(spec).resolve()) if os.path.isdir(
            spec
        ) else spec
    if not (folder / "modules.json").exists():
        teacher = late_interaction(recipe.teacher, recipe.dim, fit_on=bitext.english)
        teacher.save_pretrained(str(folder) + ".tmp")
        os.replace(str(folder) + ".tmp", folder)
    # Loaded even when just made: a fresh and a continued run then start from the same bits.
    return load_model(folder, argument="teacher"), str(folder)


def prepare_student(recipe: Recipe, teacher: MultiVectorEncoder, bitext: Bitext) -> MultiVectorEncoder:
    """An untrained student: a copy of the teacher, a checkpoint, or an encoder matched to the teacher."""
    if not recipe.student or recipe.student == recipe.teacher:
        return student_of(teacher)
    if is_late_interaction(recipe.student):
        return load_model(recipe.student, argument="student")
    return late_interaction(recipe.student, fit_on=bitext.english, match=teacher)


def teacher_store(
    teacher: MultiVectorEncoder, bitext: Bitext, sides: Sequence[str], folder: Path
) -> TokenStore:
    """The teacher's tokens of the English sentences, in each role asked for; computed once per folder.

    Text i in role ``sides[s]`` is number ``s · len(bitext) + i``. Query expansion tokens are left out.
    """
    content = hashlib.sha256("\0".join([*sides, *bitext.english]).encode())
    weights = teacher.state_dict()
    for name in list(weights)[-4:]:
        content.update(weights[name].detach().cpu().float().numpy().tobytes())
    key = content.hexdigest()
    if (folder / "store.json").exists():
        # One that cannot be read, or is of another format, is made again.
        with contextlib.suppress(InputError):
            store = TokenStore(folder)
            if store.metadata.get("content") == key and len(store) == len(sides) * len(bitext):
                return store
        shutil.rmtree(folder)
    # Written under another name until it is whole; a part at a time, so that memory does not grow with it.
    unfinished = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    made = TokenStore.create(unfinished, teacher.get_embedding_dimension(), {"content": key})
    with made.writing():
        for side in sides:
            encoder = teacher.encode_query if side == "query" else teacher.encode_document
            for first in range(0, len(bitext), PART):
                part = bitext.english[first : first + PART]
                texts = []
                for item in encoder(part, batch_size=64, output_value=None, show_progress_bar=False):
                    mask = item["attention_mask"].bool()
                    expansion = item.get("query_expansion_positions")
                    if isinstance(expansion, torch.Tensor):
                        mask = mask & ~expansion.bool()
                    texts.append(item["token_embeddings"][mask].float().cpu().numpy())
                made.append(texts, [f"{side}:{i}" for i in range(first, first + len(part))])
    os.replace(unfinished, folder)
    return TokenStore(folder)


def bitext_dataset(
    bitext: Bitext, sides: Sequence[str], places: Sequence[int] | None = None
) -> Dataset | DatasetDict:
    """Foreign texts with the position of their translation in the teacher's store; one set per side.

    ``places`` says where a store for one side has each pair's translation, if not in the pairs' order.
    """
    if places is not None:
        return Dataset.from_dict({"foreign": bitext.foreign, "label": list(places)})
    sets = {
        side: Dataset.from_dict(
            {"foreign": bitext.foreign, "label": list(range(s * len(bitext), (s + 1) * len(bitext)))}
        )
        for s, side in enumerate(sides)
    }
    return sets[sides[0]] if len(sides) == 1 else DatasetDict(sets)


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


class Stopwatch(TrainerCallback):
    """Seconds spent in training, without evaluation and saving."""

    def __init__(self):
        self.seconds = 0.0
        self.steps = 0

    def on_step_begin(self, args, state, control, **kwargs):
        self._since = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds += time.perf_counter() - self._since
        self.steps += 1


def last_complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end, or None.

    The trainer's state is the last file of a checkpoint; a process killed while it writes one leaves
    a folder without it, or with half of it.
    """
    found = []
    for candidate in folder.glob("checkpoint-*"):
        try:
            state = json.loads((candidate / "trainer_state.json").read_text(encoding="utf-8"))
            found.append((int(state["global_step"]), str(candidate)))
        except (OSError, ValueError, KeyError):
            continue
    return max(found)[1] if found else None


def make_loss(
    options: dict[str, Any], student: MultiVectorEncoder, store: TokenStore, **idf: Any
) -> BitextLoss:
    """The loss of a system, whose options :func:`parse` has checked."""
    options = dict(options)
    kind = LOSSES[options.pop("loss")]
    if options.get("marginals") == "idf":
        options |= idf
    return kind(student, store, **options)


def idf_weights(
    teacher: MultiVectorEncoder,
    student: MultiVectorEncoder,
    bitext: Bitext,
    sides: Sequence[str],
    folder: Path,
) -> dict[str, Any]:
    """IDF of the student's token ids over the foreign side, and of each teacher token over the English.

    ``log((1 + N) / (1 + df)) + 1``, with sentences as documents.
    """

    def idf(model: MultiVectorEncoder, texts: list[str]) -> np.ndarray:
        frequency = np.zeros(model[0].auto_model.get_input_embeddings().num_embeddings)
        for ids in model.tokenizer(texts)["input_ids"]:
            frequency[np.unique(ids)] += 1
        return np.log((1 + len(texts)) / (1 + frequency)) + 1

    english = idf(teacher, bitext.english)
    if folder.exists():
        shutil.rmtree(folder)
    store = TokenStore.create(folder, 1)
    weights = []
    for side in sides:
        for text in bitext.english:
            features = teacher.preprocess([text], prompt=teacher.prompts.get(side), task=side)
            mask = features["attention_mask"][0].bool()
            expansion = features.get("query_expansion_positions")
            if expansion is not None:
                mask = mask & ~expansion[0].bool()
            weights.append(english[features["input_ids"][0][mask].numpy()][:, None])
    store.append(weights, [str(i) for i in range(len(weights))])
    return {"student_idf": idf(student, bitext.foreign), "teacher_idf": store}


def train_student(
    loss: BitextLoss,
    bitext: Bitext,
    sides: Sequence[str],
    training: dict[str, Any],
    folder: Path,
    *,
    evaluator: RetrievalEvaluator | None = None,
    label: str = "training",
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train ``loss.model`` and save the best student in ``folder``; continues an interrupted run.

    Returns
    -------
    dict
        ``train_seconds`` (steps alone, of this process), ``pairs_per_second``, ``steps``.
    """
    student = loss.model
    task = {side: student.prompts.get(side) or "" for side in sides}
    options = {
        **training,
        "output_dir": str(folder),
        "remove_unused_columns": False,
    }
    if len(sides) == 1:
        options |= {"prompts": {"foreign": task[sides[0]]}, "router_mapping": {"foreign": sides[0]}}
    else:
        options |= {
            "prompts": {side: {"foreign": task[side]} for side in sides},
            "router_mapping": {side: {"foreign": side} for side in sides},
        }
    return fit(
        loss,
        bitext_dataset(bitext, sides),
        options,
        evaluator=evaluator,
        label=label,
        callbacks=callbacks,
    )


def fit(
    loss: torch.nn.Module,
    dataset: Dataset | DatasetDict,
    options: dict[str, Any],
    *,
    evaluator: RetrievalEvaluator | None = None,
    label: str = "training",
    collator: type = MultiVectorEncoderDataCollator,
    save: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train ``loss.model`` with sentence-transformers' trainer, in ``options["output_dir"]``.

    Parameters
    ----------
    loss : module
        One of ours or of sentence-transformers', over a model.
    dataset : Dataset or DatasetDict
    options : dict
        Of :class:`TrainingArguments`.
    evaluator : RetrievalEvaluator, optional
        Chooses the best checkpoint; the last is kept without one.
    label : str
        Of the progress bar.
    collator : type
        Of sentence-transformers' data collator, or one made of it.
    save : bool
        Write the student to the folder.
    callbacks : sequence of TrainerCallback
        More of the trainer's callbacks.

    Returns
    -------
    dict
        As of :func:`train_student`.
    """
    student: Any = loss.model
    options = dict(options)
    folder = Path(options["output_dir"])
    if evaluator is None:
        options |= {"eval_strategy": "no", "load_best_model_at_end": False, "metric_for_best_model": None}
    if not save:
        options["save_strategy"] = "no"
    resume = options.pop("resume_from_checkpoint", None)
    if resume in (None, True, "True", "true"):
        resume = last_complete_checkpoint(folder)
    try:
        args = TrainingArguments(**options)
    except ValueError as error:
        raise InputError(f"training: {' '.join(str(error).split())}") from None

    class Trainer(MultiVectorEncoderTrainer):
        data_collator_class = collator

    watch = Stopwatch()
    trainer = Trainer(
        model=student,
        args=args,
        train_dataset=dataset,
        loss=loss,
        evaluator=evaluator,
        callbacks=[watch, *callbacks],
    )
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    if not args.disable_tqdm:
        trainer.add_callback(Progress(label))
    trainer.train(resume_from_checkpoint=resume)
    # Training in bfloat16 wraps the model's forward; what is measured afterwards is in full precision.
    trainer.accelerator.unwrap_model(student, keep_fp32_wrapper=False)
    if save:
        trainer.save_model(str(folder))
    if args.push_to_hub:
        trainer.push_to_hub()
    pairs = watch.steps * args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    return {
        "train_seconds": watch.seconds,
        "pairs_per_second": pairs / watch.seconds if watch.seconds else 0.0,
        "steps": trainer.state.global_step,
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "numpy": np.__version__,
    }


def open_output(job: Job) -> None:
    """Make the output folder, or refuse one that holds something else."""
    folder = job.output_dir
    ours = [REPORT, "report.txt", CONFIG, "teacher", "teacher.tmp", "cache", *job.systems]
    if job.overwrite and folder.is_dir():
        for name in ours:
            target = folder / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
    elif (folder / REPORT).exists():
        raise InputError(
            f"output_dir: {folder} holds a finished run; choose another or pass --overwrite_output_dir"
        )
    elif (folder / CONFIG).exists():
        before = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        changed = [
            key
            for part, now in job.resolved.items()
            for key in sorted(now.keys() | before[part].keys())
            if now.get(key) != before[part].get(key)
        ]
        if changed:
            raise InputError(
                f"output_dir: {folder} holds an unfinished run with other settings ({', '.join(changed[:4])}); "
                "choose another or pass --overwrite_output_dir"
            )
    elif folder.is_dir() and any((folder / name).exists() for name in ours):
        raise InputError(f"output_dir: {folder} holds files that are not of a run; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "teacher.tmp", ignore_errors=True)
    (folder / CONFIG).write_text(json.dumps(job.resolved, indent=1) + "\n", encoding="utf-8")


def _dev_collection(recipe: Recipe, collection_side: str) -> Collection | None:
    spec = recipe.dev_collection or recipe.collection
    if not spec:
        return None
    split = "dev" if not recipe.dev_collection or spec.partition(":")[0] in ("kolibri", "bible") else "test"
    try:
        dev = load_collection(spec, split=split, side=collection_side)
    except InputError:
        if recipe.dev_collection:
            raise
        return None  # a collection of the user's without a dev split: train to the end
    return dev.sample(queries=500, documents=5000)


def run(job: Job) -> dict[str, Any]:
    """Train and evaluate the systems of a job; returns (and writes) the report."""
    recipe, folder = job.recipe, job.output_dir
    state = PartialState(cpu=bool(job.training.get("use_cpu")))
    sides = ("query", "document") if recipe.side == "both" else (recipe.side,)
    search_side = sides[0]
    bitext = load_bitext(recipe.bitext, columns=(recipe.foreign_column, recipe.english_column))
    bitext = bitext.head(recipe.max_pairs)
    collection = load_collection(recipe.collection, side=search_side) if recipe.collection else None
    dev = _dev_collection(recipe, search_side)
    check_models(recipe)
    if state.is_main_process:
        open_output(job)
    state.wait_for_everyone()
    say = print if state.is_main_process else (lambda *_: None)
    say(f"{len(bitext)} sentence pairs of {bitext.name}; teacher {recipe.teacher}")
    with state.main_process_first():
        teacher, teacher_path = prepare_teacher(recipe, bitext, folder / "teacher")
        store = teacher_store(teacher, bitext, sides, folder / "cache" / "teacher-tokens")
    other = "document" if search_side == "query" else "query"
    fixed = encode(teacher, _role(collection, other), other) if collection else None
    evaluator = None
    if dev:
        # Test and dev queries of one collection search the same documents: encoded once.
        shared = collection is not None and _role(dev, other) == _role(collection, other)
        evaluator = RetrievalEvaluator(dev, teacher, search_side, fixed=fixed if shared else None)
    summaries: dict[str, Any] = {}
    for name, options in job.systems.items():
        target = folder / name
        record: dict[str, Any] = {}
        if (target / RECORD).exists():
            student = load_model(target)
            record = json.loads((target / RECORD).read_text(encoding="utf-8"))
            say(f"{name}: trained already")
        else:
            # Each system starts from the same random state, whatever ran before it.
            transformers.set_seed(int(job.training.get("seed") or 0))
            student = prepare_student(recipe, teacher, bitext)
            if options.get("loss"):
                if recipe.freeze_embeddings:
                    freeze_word_embeddings(student)
                if job.training.get("use_cpu"):
                    use_plain_attention(student)
                if recipe.dropout is not None:
                    set_dropout(student, recipe.dropout)
                idf = {}
                if options.get("marginals") == "idf":
                    idf = idf_weights(teacher, student, bitext, sides, folder / "cache" / "teacher-idf")
                loss = make_loss(options, student, store, **idf)
                record = train_student(
                    loss, bitext, sides, job.training, target, evaluator=evaluator, label=name
                )
            elif state.is_main_process:
                target.mkdir(parents=True, exist_ok=True)
                record = {"train_seconds": 0.0, "pairs_per_second": 0.0, "steps": 0}
            if state.is_main_process and options.get("loss"):
                _write_record(target, teacher_path, job, name, record)
        if collection and state.is_main_process:
            moving = encode(student, _role(collection, search_side), search_side)
            queries, documents = (moving, fixed) if search_side == "query" else (fixed, moving)
            done = evaluate_tokens(queries, documents, collection)
            write_evaluation(target / "evaluation", done, tag=name)
            summaries[name] = describe(done.result, "map")
        else:
            summaries[name] = {}
        summaries[name] |= {k: record.get(k, 0) for k in ("train_seconds", "pairs_per_second", "steps")}
    state.wait_for_everyone()
    trained = [s for s in summaries.values() if s["train_seconds"]]
    seconds = sum(s["train_seconds"] for s in trained)
    report = {
        "collection": recipe.collection,
        "queries": len(collection.queries) if collection else 0,
        "documents": len(collection.documents) if collection else 0,
        "pairs": len(bitext),
        "systems": summaries,
        "train_seconds": seconds,
        "pairs_per_second": sum(s["pairs_per_second"] * s["train_seconds"] for s in trained) / (seconds or 1),
        "build": build_info(),
        "versions": versions(),
        "config": job.resolved,
    }
    if state.is_main_process:
        temporary = folder / (REPORT + ".tmp")
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (folder / "report.txt").write_text(show(report) + "\n", encoding="utf-8")
        os.replace(temporary, folder / REPORT)
    return report


def _role(collection: Collection, role: str) -> list[str]:
    return list((collection.queries if role == "query" else collection.documents).values())


def _write_record(target: Path, teacher: str, job: Job, name: str, record: dict[str, Any]) -> None:
    """What made a checkpoint, next to it; its presence says that training ended."""
    relative = os.path.relpath(teacher, target) if os.path.isdir(teacher) else teacher
    content = {
        "teacher": relative,
        "side": job.recipe.side,
        "system": name,
        "loss": job.systems[name],
        "recipe": dataclasses.asdict(job.recipe),
        "training": job.resolved["training"],
        "build": build_info(),
        "versions": versions(),
        **record,
    }
    temporary = target / (RECORD + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, target / RECORD)


def show(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = []
    if report["collection"]:
        lines += [
            f"{report['collection']}, test: {report['queries']} queries, {report['documents']} documents, "
            f"{report['pairs']} training pairs",
            "",
            table(report["systems"]),
        ]
    lines.append(f"\ntraining: {report['train_seconds']:.0f} s, {report['pairs_per_second']:.0f} pairs/s")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``optical-rs train``."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()  # of loading and saving; training has its own
    job = parse(arguments)
    report = run(job)
    if PartialState().is_main_process:
        print("\n" + show(report))
        print(f"report and students: {job.output_dir}")


if __name__ == "__main__":
    from .cli import run_command
    from .cli.train import main as command

    run_command(command)
