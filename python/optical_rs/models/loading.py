"""Models from checkpoints."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sentence_transformers import MultiVectorEncoder
from sentence_transformers.util import load_file_path
from torch import nn

from ..errors import InputError, closest
from ..files import spelled
from ..record import RECORD
from .packaged import PACKAGED


def zero_pooler(module: nn.Module) -> Any:
    """Zeros for weights that late interaction does not use.

    BERT's sentence-level pooler takes no part in late interaction. Checkpoints without it load with random weights
    there; zeros instead make the same training end in the same files.
    """
    for name, parameter in module.named_parameters():
        if ".pooler." in f".{name}":
            nn.init.zeros_(parameter)
            parameter.requires_grad_(False)
    return module


@contextlib.contextmanager
def without_pooler_reports() -> Iterator[None]:
    """Leave out transformers' report of a checkpoint that lacks the pooler alone, which :func:`zero_pooler` takes care of.

    Reports of any other weight are printed.
    """
    reports = logging.getLogger("transformers.modeling_utils")
    reports.addFilter(_is_of_more_than_the_pooler)
    try:
        yield
    finally:
        reports.removeFilter(_is_of_more_than_the_pooler)


def _is_of_more_than_the_pooler(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    rows = [
        line
        for line in text.splitlines()
        if "|" in line and ("MISSING" in line or "UNEXPECTED" in line or "MISMATCH" in line)
    ]
    return "LOAD REPORT" not in text or not rows or any("pooler." not in row for row in rows)


def check_path(path: str, argument: str) -> str:
    """A local folder must hold a model; anything that is no path is left to the model hub."""
    if path in PACKAGED:
        raise InputError(
            f"{argument}: expected a late-interaction model, got the encoder '{path}'; optical-rs teacher trains one of it"
        )
    if path.startswith("packaged:"):
        raise InputError(f"{argument}: unknown packaged model '{path}'{closest(path, PACKAGED)}")
    # Our commands write to runs/, which is nobody's name on the hub.
    looks_local = os.path.isabs(path) or path.startswith((".", "~", "runs/")) or path.count("/") != 1
    if os.path.isdir(path):
        if not any(Path(path, name).exists() for name in ("modules.json", "config.json")):
            raise InputError(f"{argument}: {path} holds no model (neither modules.json nor config.json)")
    elif looks_local and ("/" in path or path.startswith(".")):
        raise InputError(f"{argument}: no such model folder: {path}; optical-rs train or teacher makes one")
    return path


def load_model(path: Any, *, device: str | None = None, argument: str = "model") -> MultiVectorEncoder:
    """A late-interaction model from a checkpoint: sentence-transformers', PyLate's or ColBERT's.

    Raises
    ------
    InputError
        If a folder holds no model, or the hub has none of that name.
    """
    path = check_path(spelled(argument, path, "a path or the name of a model"), argument)
    try:
        with without_pooler_reports():
            return zero_pooler(MultiVectorEncoder(path, device=device))
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{argument}: cannot load '{path}': {reason}") from None


def record_folder(path: str | os.PathLike[str]) -> Path:
    """Where the record of a model is: its folder, or for a hub id the folder of the downloaded file."""
    if not os.path.isdir(path):
        with contextlib.suppress(
            OSError
        ):  # a hub that cannot be reached is reported where the model is loaded
            if file := load_file_path(str(path), RECORD):
                return Path(file).parent
    return Path(path)


def is_late_interaction(spec: str, argument: str = "teacher") -> bool:
    """Whether a folder or hub id is a late-interaction checkpoint rather than a plain encoder.

    Raises
    ------
    InputError
        A hub that cannot be reached; the message names ``argument``.
    """
    if spec in PACKAGED:
        return False
    try:
        file = load_file_path(spec, "config_sentence_transformers.json")
        kind = json.loads(Path(file).read_text(encoding="utf-8")).get("model_type") if file else None
        if kind in ("MultiVectorEncoder", "ColBERT"):
            return True
        file = load_file_path(spec, "config.json")
        return bool(file) and "HF_ColBERT" in (
            json.loads(Path(file).read_text(encoding="utf-8")).get("architectures") or []
        )
    except OSError as error:
        raise InputError(f"{argument}: cannot reach '{spec}': {str(error).splitlines()[0]}") from None
