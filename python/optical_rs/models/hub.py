"""``push_to_hub``: a student and its teacher on the Hugging Face hub, with records and cards."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..errors import InputError, require
from ..record import RECORD, record_of, teacher_of
from .card import write_card

#: What a run leaves beside a checkpoint: not the model, or larger than it.
_LEFT_OUT = shutil.ignore_patterns(
    "checkpoints", "checkpoint-*", "teacher", "start", "*.trec", "per_query.tsv", "eval"
)


def push_to_hub(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    teacher: str = "",
    language: str = "",
    licence: str = "",
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a student that training saved, its teacher, the records of both, and a card for each.

    A student is of no use without its teacher. A teacher that is a folder goes to a repository of its own; one that is
    on the hub already stays where it is. The student's record names it by its hub id, so that
    ``optical_rs.evaluate_student("you/student", …)`` finds it. Cards are written anew each time; what only you can know
    of a model belongs in its card after that, in the repository.

    Parameters
    ----------
    folder : path
        What :func:`optical_rs.distil` or ``optical-rs train`` wrote, or a late-interaction teacher.
    repository : str
        ``owner/name``; it is made if it does not exist, and files in it are replaced.
    teacher : str
        The repository of the teacher; ``<repository>-teacher`` by default.
    language, licence : str
        As for :func:`~optical_rs.models.card.write_card`.
    private : bool
        Of repositories that are made.
    token : str, optional
        As in huggingface_hub.

    Returns
    -------
    str
        The address of the student's commit.

    Raises
    ------
    InputError
        A folder without a model, or a name that is none of a repository.

    Examples
    --------
    >>> from optical_rs.models import push_to_hub
    >>> push_to_hub("runs/mine/student", "you/swahili-student", language="sw")  # doctest: +SKIP
    """
    folder = Path(folder)
    if not (folder / "modules.json").exists():
        raise InputError(f"folder: {folder} holds no model (no modules.json)")
    for argument, name in (("repository", repository), ("teacher", teacher)):
        if name and name.count("/") != 1:
            raise InputError(f"{argument}: expected owner/name, got {name!r}")
    api = require("huggingface_hub", "train").HfApi(token=token)
    options: dict[str, Any] = {"language": language, "licence": licence}
    partner = teacher_of(folder) or ""
    if partner and Path(partner).is_dir():
        if Path(partner).resolve() == folder.resolve():
            partner = repository
        else:
            place, partner = partner, teacher or f"{repository}-teacher"
            _upload(api, Path(place), partner, "", private, {"licence": licence})
    return _upload(api, folder, repository, partner, private, options)


def _upload(
    api: Any, folder: Path, repository: str, teacher: str, private: bool, options: dict[str, Any]
) -> str:
    api.create_repo(repository, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "model"
        shutil.copytree(folder, copy, ignore=_LEFT_OUT)
        record = record_of(copy)
        if teacher:
            (copy / RECORD).write_text(
                json.dumps({**record, "teacher": teacher}, indent=1) + "\n", encoding="utf-8"
            )
        write_card(copy, name=repository, teacher=teacher, **options)
        commit = api.upload_folder(
            repo_id=repository, folder_path=copy, commit_message="A model of optical_rs"
        )
    return str(commit.commit_url)
