"""Training arguments: sentence-transformers' own, with this task's defaults."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoderTrainingArguments

from ..errors import InputError, closest
from .batches import LengthBucketBatchSampler


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


def defaults() -> dict[str, Any]:
    """Values of training arguments where the library's own do not fit this task, or this machine."""
    return {
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
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
    }


#: Names of all arguments.
NAMES = frozenset(f.name for f in dataclasses.fields(TrainingArguments) if f.init)
#: Those that say where, how fast or how audibly training goes, not what comes out: another machine may go on with a run.
_ASIDE = frozenset(
    {
        *("output_dir", "resume_from_checkpoint", "use_cpu", "bf16", "fp16", "tf32", "bf16_full_eval"),
        *(
            "disable_tqdm",
            "report_to",
            "run_name",
            "project",
            "save_total_limit",
            "push_to_hub",
            "hub_model_id",
        ),
        *(
            "logging_dir",
            "logging_steps",
            "logging_strategy",
            "logging_first_step",
            "log_level",
            "log_level_replica",
        ),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor", "torch_compile"),
        *(
            "ddp_backend",
            "ddp_timeout",
            "ddp_find_unused_parameters",
            "seed",
            "include_num_input_tokens_seen",
        ),
        *(
            "hub_token",
            "hub_strategy",
            "hub_private_repo",
            "hub_revision",
            "hub_always_push",
            "trackio_space_id",
        ),
    }
)


def check(training: Mapping[str, Any], where: str) -> None:
    """Raise for a name that is no training argument."""
    for key in training:
        if key not in NAMES:
            raise InputError(f"{where}: unknown key '{key}'{closest(key, NAMES)}")


def what_counts(training: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a student's weights depend on, besides the seed."""
    # YAML reads a plain no as false.
    words = {k: "no" for k in ("eval_strategy", "save_strategy") if training.get(k) is False}
    return {key: value for key, value in sorted({**training, **words}.items()) if key not in _ASIDE}


def made(options: Mapping[str, Any]) -> TrainingArguments:
    """Arguments as an object.

    Raises
    ------
    InputError
        Values that do not fit each other or their types.
    """
    if options.get("push_to_hub"):
        # The trainer would upload what is not interpolated yet, without teacher and record.
        raise InputError(
            "training: push_to_hub: upload the finished student, with optical_rs.models.push_to_hub(folder, name)"
        )
    # YAML reads a plain no as false.
    words = {
        k: "no" for k in ("eval_strategy", "save_strategy", "logging_strategy") if options.get(k) is False
    }
    try:
        return TrainingArguments(**{**options, **words})
    except (ValueError, TypeError) as error:
        raise InputError(f"training: {' '.join(str(error).split())}") from None
