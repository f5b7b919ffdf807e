"""``push_to_hub``: a student and its teacher on the Hugging Face hub, with records and cards."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, require
from ..files import write_json
from ..record import RECORD, record_of, teacher_of
from .card import origin, write_card

#: Files of a checkpoint besides the folders of its modules: nothing else leaves this machine.
_FILES = ("modules.json", "*config*.json", "*.safetensors", "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt",
          "*.model", "added_tokens.json")  # fmt: skip
#: What of a record is uploaded: no paths, and nothing of the machine.
_RECORDED = ("teacher_fingerprint", "fingerprint", "made_of", "side", "base", "bitext", "language", "seed", "pairs", "left_out",
             "steps", "train_seconds", "dev_map", "versions")  # fmt: skip


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
        The repository of the teacher. By default ``<repository>-teacher`` where the teacher is a folder, and the hub id
        that the student's record names otherwise.
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
        A folder without a model, a name that is none of a repository, or a teacher that is neither a folder nor on a hub.

    Examples
    --------
    >>> from optical_rs.models import push_to_hub
    >>> push_to_hub("runs/mine/student", "you/swahili-student", language="sw")  # doctest: +SKIP
    """
    folder = Path(folder)
    if not (folder / "modules.json").exists():
        raise InputError(f"folder: {folder} holds no model (no modules.json)")
    hub = require("huggingface_hub", "train")
    _check(hub, "repository", repository)
    if teacher:
        _check(hub, "teacher", teacher)
    api = hub.HfApi(token=token)
    partner = teacher_of(folder) or ""
    if partner and Path(partner).is_dir():
        if Path(partner).resolve() == folder.resolve():
            partner = repository
        else:
            place, partner = Path(partner), teacher or f"{repository}-teacher"
            _upload(api, place, partner, "", private, {"licence": licence})
    elif partner := teacher or partner:
        try:
            _check(hub, "teacher", partner)
        except InputError:
            raise InputError(
                f"folder: its teacher {partner} is no folder, and no name on a hub; give teacher='owner/name'"
            ) from None
    return _upload(api, folder, repository, partner, private, {"language": language, "licence": licence})


def _check(hub: Any, argument: str, name: str) -> None:
    try:
        hub.utils.validate_repo_id(name)
        valid = name.count("/") == 1 and all(name.split("/"))
    except ValueError:
        valid = False
    if not valid:
        raise InputError(f"{argument}: expected owner/name, got {name!r}")


def _upload(
    api: Any, folder: Path, repository: str, teacher: str, private: bool, options: dict[str, Any]
) -> str:
    api.create_repo(repository, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "model"
        copy.mkdir()
        for pattern in _FILES:
            for file in folder.glob(pattern):
                shutil.copy2(file, copy)
        for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
            if module.get("path"):
                shutil.copytree(folder / module["path"], copy / module["path"])
        for file in (folder / "evaluation").glob("**/metrics.json"):
            place = copy / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)
        record = _public(record_of(folder), teacher)
        write_card(copy, record, name=repository, teacher=teacher, **options)
        write_json(copy / RECORD, record)
        commit = api.upload_folder(
            repo_id=repository, folder_path=copy, commit_message="A model of optical_rs"
        )
    return str(commit.commit_url)


def _public(record: Mapping[str, Any], teacher: str) -> dict[str, Any]:
    """What of a record strangers may see: a loss and numbers of its options, no paths."""
    system = record.get("options") or record.get("system")
    given = dict(system) if isinstance(system, Mapping) else {}
    options = {k: v for k, v in given.items() if k == "loss" or isinstance(v, int | float)}
    # Records of older versions have specs as they were given.
    texts = record.get("bitext") or []
    named = origin(str(record.get("base") or ""), [texts] if isinstance(texts, str) else texts)
    found = {k: record[k] for k in _RECORDED if k in record} | named
    return {**found, **({"options": options} if options else {}), **({"teacher": teacher} if teacher else {})}
