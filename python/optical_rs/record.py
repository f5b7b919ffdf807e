"""What made a student: the file next to its checkpoint, read without torch."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import InputError

#: The file next to a checkpoint that says how it was made.
RECORD = "optical.json"
#: The description of an exported model, which may name the teacher too.
EXPORTED = "edge.json"


def record_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What made a student's checkpoint, or an empty dict where nothing says it.

    Returns
    -------
    dict
        ``teacher`` (path relative to the checkpoint, or hub id), ``teacher_fingerprint``, ``fingerprint`` (see
        :mod:`optical_rs.fingerprint`), ``side`` and more.

    Raises
    ------
    InputError
        A file that is damaged.
    """
    return _read(Path(path) / RECORD)


def teacher_of(path: str | os.PathLike[str]) -> str | None:
    """Where the teacher of a student is, as the record of its checkpoint or its export says: a path or a hub id."""
    return teacher_in(record_of(path) or _read(Path(path) / EXPORTED), path)


def teacher_in(record: Mapping[str, Any], path: str | os.PathLike[str]) -> str | None:
    """The same, of a record that is at hand and belongs beside ``path``."""
    teacher = record.get("teacher")
    if not isinstance(teacher, str) or not teacher:
        return None
    local = Path(path) / teacher
    return str(local) if local.exists() else teacher


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise InputError(f"model: {file} is damaged ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"model: {file} is damaged (expected a JSON object)")
    return found
