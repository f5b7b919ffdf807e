"""One content hash for models, texts, files and settings: what is cached, reused or called done is keyed by it.

Never a path or a name: an edited file is another file, and a model that was copied is the same model.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import InputError

#: What says which model this is and which it learnt from; see :func:`identity_of`.
IDENTITY: tuple[str, ...] = ("fingerprint", "teacher_fingerprint")
_PIECE = 1 << 20


def of_settings(settings: Any) -> str:
    """SHA-256 of numbers, strings, lists and dicts, whatever the order of keys.

    Examples
    --------
    >>> of_settings({"a": 1, "b": [2.0]}) == of_settings({"b": [2], "a": 1.0})
    True
    """
    text = json.dumps(_numbers(settings), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _numbers(value: Any) -> Any:
    """A value in which 6 and 6.0 are the same number."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def of_texts(texts: Iterable[str]) -> str:
    """SHA-256 of a sequence of texts; where one ends and the next begins counts.

    Examples
    --------
    >>> of_texts(["ab", "c"]) == of_texts(["a", "bc"])
    False
    """
    content = hashlib.sha256()
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        content.update(len(raw).to_bytes(8, "little"))
        content.update(raw)
    return content.hexdigest()


def of_files(*paths: str | os.PathLike[str]) -> str:
    """SHA-256 of the contents of files, in the order given; of a folder, all of its files with their names in it."""
    content = hashlib.sha256()
    for path in map(Path, paths):
        parts = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        for part in parts:
            name = part.relative_to(path).as_posix() if path.is_dir() else ""
            content.update(f"{len(name)}:{name}{part.stat().st_size}:".encode())
            with open(part, "rb") as file:
                while piece := file.read(_PIECE):
                    content.update(piece)
    return content.hexdigest()


def of_model(model: Any) -> str:
    """SHA-256 of all that a model's embeddings depend on.

    Parameters
    ----------
    model : MultiVectorEncoder or SentenceTransformer
        Its weights (names, shapes and every byte), its modules' settings, prompts, longest input and tokenizer.

    Returns
    -------
    str
        64 hexadecimal digits; the same wherever the model is loaded from, and whatever device it is on.
    """
    content = hashlib.sha256()
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Calls leave their padding and truncation in it.
        state = json.loads(backend.to_str())
        words: Any = {k: v for k, v in state.items() if k not in ("padding", "truncation")}
    else:
        words = sorted(tokenizer.get_vocab().items())
    settings = {
        "modules": [_settings_of(module) for module in model.children()],
        "prompts": {k: v for k, v in model.prompts.items() if v},
        "longest": model.get_max_seq_length(),
        "tokenizer": of_settings(words),
    }
    content.update(of_settings(settings).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if ".pooler." in f".{name}":
            continue  # takes no part in token embeddings
        data = tensor.detach().cpu().contiguous()
        content.update(f"{name}{tuple(data.shape)}{data.dtype}".encode())
        content.update(data.view(-1).view(dtype=_byte()).numpy().data if data.numel() else b"")
    return content.hexdigest()


def _byte() -> Any:
    import torch

    return torch.uint8


def _settings_of(module: Any) -> Any:
    """The kind of a module of sentence-transformers and what it saves as its configuration."""
    keys = getattr(module, "config_keys", None) or []
    found = {key: getattr(module, key, None) for key in keys}
    return [type(module).__name__, {k: str(v) for k, v in found.items() if k != "max_seq_length"}]


def identity_of(model: Any, record: Mapping[str, Any]) -> dict[str, str | None]:
    """Which model this is and which it learnt from, for :func:`expect_related`.

    Parameters
    ----------
    model : MultiVectorEncoder
    record : dict
        What its checkpoint says of how it was made, or an empty dict.

    Returns
    -------
    dict
        ``fingerprint``, and ``teacher_fingerprint`` (None if it has no teacher) unless the record names a teacher
        without one, as older records do.
    """
    found: dict[str, str | None] = {"fingerprint": of_model(model)}
    if "teacher_fingerprint" in record or "teacher" not in record:
        found["teacher_fingerprint"] = record.get("teacher_fingerprint")
    return found


def expect_related(one: Mapping[str, Any], other: Mapping[str, Any], problem: str) -> None:
    """Refuse two models whose embeddings mean different things.

    They belong together if they are the same model, if one is the other's teacher, or if both have the same one.
    Where a fingerprint is missing, as in older files, a warning says that this was not checked.

    Parameters
    ----------
    one, other : mapping
        With the fields :data:`IDENTITY`, see :func:`identity_of`.
    problem : str
        What the error begins with: the argument, and what it holds.

    Raises
    ------
    InputError

    Examples
    --------
    >>> student = {"fingerprint": "b", "teacher_fingerprint": "a"}
    >>> expect_related(student, {"fingerprint": "a", "teacher_fingerprint": None}, "index: of this model")
    >>> expect_related(student, {"fingerprint": "x", "teacher_fingerprint": "y"}, "index: of this model")
    Traceback (most recent call last):
        ...
    optical_rs.errors.InputError: index: of this model is of another teacher: the embeddings cannot be compared
    """
    if {one.get(key) for key in IDENTITY} & {other.get(key) for key in IDENTITY} - {None}:
        return
    if any(key not in found for key in IDENTITY for found in (one, other)):
        warnings.warn(
            f"{problem}: cannot be checked to have the same teacher, as one side carries no fingerprint",
            stacklevel=3,
        )
        return
    raise InputError(f"{problem} is of another teacher: the embeddings cannot be compared")
