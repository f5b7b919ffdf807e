"""Text files: lines, JSON lines, texts with ids, and TREC's formats; ``.gz`` is unpacked everywhere."""

import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import _core
from .errors import InputError


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory, expected a file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: broken gzip file ({error})") from None


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a file, unpacked if its name ends in ``.gz``."""
    path = Path(path)
    with _reading(path):
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw


def byte_lines(path: str | os.PathLike) -> Iterator[bytes]:
    """The lines of a file without their ends, one at a time, unpacked if its name ends in ``.gz``."""
    path = Path(path)
    with _reading(path), (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        for line in file:
            yield line.removesuffix(b"\n")


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 text file (``.gz`` too), without line ends, one at a time."""
    for number, raw in enumerate(byte_lines(path), 1):
        try:
            yield number, raw.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}:{number}: not valid UTF-8 ({error.reason})") from None


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of a file of JSON objects, one a line (``.gz`` too); blank lines are passed over.

    Raises
    ------
    InputError
        With file and line, for a line that is no JSON object.
    """
    for number, line in lines_of(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number}: not valid JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: expected a JSON object")
        yield f"{path}:{number}", row


def _json_texts(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in lines_of(path):
        try:
            row = json.loads(line)
            key, text = str(row["_id"]), row["text"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f'{path}:{number}: expected {{"_id": …, "text": …}} ({error})') from None
        yield key, f"{row.get('title') or ''} {text}".strip()


def _tab_texts(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in lines_of(path):
        key, tab, text = line.partition("\t")
        if not tab or not key:
            raise InputError(f"{path}:{number}: expected 'id<TAB>text'")
        yield key, text


def iter_texts(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of a file, one line at a time: lines of ``id<TAB>text``, or in a ``.jsonl`` file of BEIR's
    ``{"_id": …, "text": …}``.

    Raises
    ------
    InputError
        With file and line, for a line that is neither, or an id that was there before; an empty file.
    """
    known = set()
    lines = _json_texts if path.suffix == ".jsonl" or path.name.endswith(".jsonl.gz") else _tab_texts
    for number, (key, text) in enumerate(lines(path), 1):
        if key in known:
            raise InputError(f"{path}:{number}: id '{key}' is repeated")
        known.add(key)
        yield key, text
    if not known:
        raise InputError(f"{path}: expected lines of 'id<TAB>text' or of JSON, got an empty file")


def read_texts(path: Path) -> dict[str, str]:
    """As :func:`iter_texts`, all of them by id."""
    return dict(iter_texts(path))


def rows(path: str | os.PathLike, fields: int, what: str) -> Iterator[tuple[int, list[str]]]:
    """Lines of blank-separated fields with their numbers; blank lines are skipped.

    Raises
    ------
    InputError
        With file and line, for a line with another number of fields or that is no UTF-8.
    """
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        try:
            parts = line.decode("utf-8").split()
        except UnicodeDecodeError:
            raise InputError(f"{path}:{number}: not valid UTF-8") from None
        if parts and len(parts) != fields:
            raise InputError(f"{path}:{number}: expected {fields} fields ({what}), got {len(parts)}")
        if parts:
            yield number, parts


def trec_file(path: str | os.PathLike) -> str | tuple[str, bytes]:
    """A file of runs or judgments as the native core reads it: by name, or unpacked."""
    name = os.fspath(path)
    return name if os.path.isfile(name) and not name.endswith(".gz") else (name, read_bytes(path))


def read_qrels(path: str | os.PathLike) -> dict[str, dict[str, int]]:
    """Judgments ``{topic: {document: relevance}}`` from a TREC qrels file (``.gz`` too).

    Ids that are no UTF-8 come as Python's ``surrogateescape`` makes them.

    Raises
    ------
    InputError
        With file and line, for a line that is no judgment, or a document judged twice.
    """
    return _core.read_qrels(trec_file(path))


def read_run(path: str | os.PathLike) -> dict[str, dict[str, float]]:
    """A run ``{topic: {document: score}}`` from a TREC run file (``.gz`` too).

    Ids that are no UTF-8 come as Python's ``surrogateescape`` makes them.

    Raises
    ------
    InputError
        With file and line, for a line that is no result, or a document retrieved twice.
    """
    return _core.read_run(trec_file(path))


def rank_key(hit: tuple[str, float]) -> tuple[float, bytes]:
    """What ranks a document: its score, then its id as bytes."""
    return hit[1], hit[0].encode("utf-8", "surrogateescape")


def write_run(
    path: str | os.PathLike, run: Mapping[str, Sequence[tuple[str, float]] | Mapping[str, float]], tag: str
) -> None:
    """Write a run as a TREC file; ranks follow the order given (descending scores for mappings).

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from optical_rs.ranking import write_run
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "run.txt"
    >>> write_run(file, {"q1": {"d1": 0.5, "d2": 0.75}}, tag="toy")
    >>> print(file.read_text(), end="")
    q1 Q0 d2 1 0.75 toy
    q1 Q0 d1 2 0.5 toy
    """
    for name, value in (("tag", tag), *(("topic", t) for t in run)):
        if not value or any(c.isspace() for c in value):
            raise InputError(f"{name}: TREC files separate by blanks, got {value!r}")
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as f:
        for topic, hits in run.items():
            pairs: Any = hits
            if isinstance(hits, Mapping):
                pairs = sorted(hits.items(), key=rank_key, reverse=True)
            for rank, (document, score) in enumerate(pairs, 1):
                if len(document.split()) != 1:
                    raise InputError(f"document: TREC files separate by blanks, got {document!r}")
                f.write(f"{topic} Q0 {document} {rank} {score!r} {tag}\n")
