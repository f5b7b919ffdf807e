"""The teacher, and what students start from: checkpoints as they are, or made of an encoder once and kept."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from sentence_transformers import MultiVectorEncoder

from .. import fingerprint
from ..errors import InputError
from ..files import named, write_json
from ..models import (
    PACKAGED,
    RECORD,
    check_path,
    is_late_interaction,
    late_interaction,
    load_model,
    origin,
    write_card,
)
from ..models.packaged import packaged_dimension, packaged_model

#: Raise when the way models are made changes.
_REVISION = 1


def check_models(teacher: str, student: str, dim: int) -> None:
    """Raise for models that cannot be had or do not fit each other, before anything is written."""
    dims: dict[str, int] = {}
    for argument, spec in (("teacher", teacher), ("student", student)):
        if not spec:
            continue
        if spec not in PACKAGED and is_late_interaction(check_path(spec, argument), argument):
            dims[argument] = load_model(spec, argument=argument).get_embedding_dimension()
        else:
            expect_room(spec, dim if argument == "teacher" else 1)
    if "student" in dims:
        expect_dimension(dims["student"], dims.get("teacher", dim))


def expect_room(encoder: str, dim: int) -> None:
    """Refuse a head of more dimensions than the tokens of its encoder have, and a package that is not installed."""
    if encoder in PACKAGED:
        most = packaged_dimension(encoder)
    else:
        try:
            most = transformers.AutoConfig.from_pretrained(encoder).hidden_size
        except (OSError, ValueError, AttributeError):
            return  # a folder of another layout: seen when it is loaded
    if not 1 <= dim <= most:
        raise InputError(f"dim: expected 1..{most}, the dimension of the encoder, got {dim}")


def expect_dimension(student: int, teacher: int) -> None:
    """Refuse a checkpoint to start from that is not in the space of its teacher's tokens."""
    if student != teacher:
        raise InputError(f"student: has dimension {student}, but the teacher has {teacher}")


def prepare_teacher(
    spec: str, dim: int, texts: Sequence[str], folder: Path | None
) -> tuple[MultiVectorEncoder, str]:
    """A teacher, and where it can be loaded from.

    Parameters
    ----------
    spec : str
        A late-interaction checkpoint, which is taken as it is, or any encoder, which gets a closed-form head.
    dim : int
        Of a head.
    texts : sequence of str
        English sentences that a head is fitted on.
    folder : path, optional
        Where a teacher that had to be made is kept: one of the same content is loaded, any other replaced.

    Returns
    -------
    teacher : MultiVectorEncoder
    path : str
        A folder or hub id; empty for one that was made and not kept.
    """
    if is_late_interaction(spec):
        path = str(Path(spec).resolve()) if os.path.isdir(spec) else spec
        return load_model(spec, argument="teacher"), path
    if folder is None:
        return late_interaction(spec, dim, fit_on=texts), ""
    made_of = teacher_identity(spec, dim, texts)
    made = _kept(folder, made_of, lambda: late_interaction(spec, dim, fit_on=texts), spec, "teacher")
    return made, str(folder)


def teacher_identity(spec: str, dim: int, texts: Sequence[str]) -> str:
    """The content hash of what a teacher is made of."""
    encoder = _content(spec)
    return fingerprint.of_settings([_REVISION, encoder, dim, fingerprint.of_texts(texts)])


def prepare_start(
    spec: str, teacher: MultiVectorEncoder, texts: Sequence[str], folder: Path | None
) -> MultiVectorEncoder:
    """What students start from: the teacher itself, a checkpoint, or an encoder that is matched to the teacher."""
    if not spec:
        return teacher
    if is_late_interaction(spec, "student"):
        found = load_model(spec, argument="student")
        expect_dimension(found.get_embedding_dimension(), teacher.get_embedding_dimension())
        return found
    if folder is None:
        return late_interaction(spec, fit_on=texts, match=teacher)
    made_of = start_identity(spec, teacher, texts)
    return _kept(
        folder, made_of, lambda: late_interaction(spec, fit_on=texts, match=teacher), spec, "student"
    )


def start_identity(spec: str, teacher: MultiVectorEncoder, texts: Sequence[str]) -> str:
    """The content hash of what a matched encoder is made of."""
    return fingerprint.of_settings(
        [_REVISION, _content(spec), fingerprint.of_model(teacher), fingerprint.of_texts(texts)]
    )


def _content(spec: str) -> str:
    """The content hash of an encoder."""
    if spec in PACKAGED:
        return fingerprint.of_files(packaged_model(spec))
    if os.path.isdir(spec):
        return fingerprint.of_files(check_path(spec, "teacher"))
    # From a hub: of what was loaded, as its name says nothing.
    model = late_interaction(spec, 1)
    model[1].linear.weight.data.zero_()
    model[1].linear.bias.data.zero_()
    return fingerprint.of_model(model)


def _kept(
    folder: Path, made_of: str, make: Callable[[], MultiVectorEncoder], base: str, argument: str
) -> MultiVectorEncoder:
    """A model that was made of this, or is made now and written whole."""
    folder = named(folder, "output")
    record = folder / RECORD
    try:
        known = json.loads(record.read_text(encoding="utf-8")).get("made_of")
    except (OSError, ValueError):
        known = None
    if known != made_of:
        if folder.is_dir() and any(folder.iterdir()) and not record.exists():
            raise InputError(f"output: {folder} holds files that are not of a run; choose another folder")
        unfinished = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)  # where that cannot be is seen before minutes of work
        model = make()
        model.save_pretrained(str(unfinished))
        content = {"made_of": made_of, **origin(base, ()), "fingerprint": fingerprint.of_model(model)}
        (unfinished / RECORD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        write_card(unfinished, content, name=str(folder))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
    # Loaded even when just made: a fresh and a continued run then start from the same bits.
    return load_model(folder, argument=argument)


def trained_before(folder: Path, identity: str, overwrite: bool) -> MultiVectorEncoder | None:
    """The trained teacher that a folder holds, with its record, if it was made of this; None if nothing is in the way.

    Raises
    ------
    InputError
        A folder that holds something else, unless that is a teacher and may be overwritten.
    """
    if folder.is_file():
        raise InputError(f"output: {folder} is a file")
    record = folder / RECORD
    if record.exists():
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:
            content = {}
        if content.get("made_of") == identity:
            model = load_model(folder)
            model.optical_record = {k: v for k, v in content.items() if k not in ("made_of", "fingerprint")}
            return model
        if not overwrite:
            raise InputError(
                f"output: {folder} holds a model of other settings; choose another folder, or overwrite it"
            )
    # A model whose record was not written yet is our own; anything else stays.
    ours = ("start", "start.tmp")
    unknown = folder.is_dir() and not (folder / "checkpoints").is_dir() and not record.exists()
    if unknown and any(file.name not in ours for file in folder.iterdir()):
        raise InputError(f"output: {folder} is not of a teacher; choose another folder")
    return None


def save_teacher(model: MultiVectorEncoder, folder: Path, identity: str, record: Mapping[str, Any]) -> None:
    """Write a trained teacher, its card and, last, the record of what made it; checkpoints of the training go."""
    model.save_pretrained(str(folder))
    for name in ("checkpoints", "start"):
        shutil.rmtree(folder / name, ignore_errors=True)
    content = {"made_of": identity, "fingerprint": fingerprint.of_model(model), **record}
    write_card(folder, content)
    write_json(folder / RECORD, content)
