"""Text files: lines, JSON lines, texts with ids, and TREC's formats; ``.gz`` is unpacked everywhere."""

import codecs
import contextlib
import gzip
import io
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from . import _core
from .errors import InputError


def spelled(argument: str, value: Any, expected: str = "a path") -> str:
    """A path, or a name that may be one, as text.

    Raises
    ------
    InputError
        Something else, or a name that no file can have.

    >>> spelled("bitext", "kolibri:ny"), spelled("out", Path("a/passages"))
    ('kolibri:ny', 'a/passages')
    """
    found = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not isinstance(found, str) or not found or "\0" in found:
        raise InputError(f"{argument}: expected {expected}, got {value!r:.100}")
    return found


def path_of(argument: str, value: Any) -> Path:
    """As :func:`spelled`, a path."""
    return Path(spelled(argument, value))


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory, expected a file") from None
    except (OSError, ValueError) as error:  # such as a name with a zero byte
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: broken gzip file ({error})") from None


#: Text packs to between a third and a thirtieth; what unpacks to more than this many times its size, and to
#: more than :data:`UNPACKED_FREELY` bytes, was made to fill memory or a disk.
UNPACKED_RATIO = 200
UNPACKED_FREELY = 64 << 20


class _Unpacked(io.RawIOBase):
    """A packed file, read up to the limits above."""

    def __init__(self, file: Any, name: str, packed: int):
        self._file, self._name = file, name
        self._left = max(UNPACKED_FREELY, UNPACKED_RATIO * packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise InputError(
                f"{self._name}: unpacks to more than {UNPACKED_RATIO} times its size; unpack it yourself if it is sound"
            )
        return count


def unpacked(file: Any, name: str, packed: int) -> BinaryIO:
    """A binary file that unpacks (of gzip or zipfile), and is refused when it unpacks to far too much.

    Parameters
    ----------
    file : binary file
    name : str
        For the message.
    packed : int
        Its packed size in bytes.
    """
    return io.BufferedReader(_Unpacked(file, name, packed), 1 << 20)  # type: ignore[return-value]


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file, unpacked as it is read if its name ends in ``.gz``.

    Raises
    ------
    InputError
        A missing, unreadable or broken file, or one that unpacks to far too much.
    """
    path = path_of("path", path)
    with _reading(path), contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(_open(path))
        if path.suffix == ".gz":
            size = os.fstat(file.fileno()).st_size
            packed = stack.enter_context(gzip.GzipFile(fileobj=file))
            file = stack.enter_context(unpacked(packed, str(path), size))
        yield file


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a file, unpacked if its name ends in ``.gz``."""
    with opened(path) as file:
        return file.read()


def byte_lines(path: str | os.PathLike) -> Iterator[bytes]:
    """The lines of a file without their ends, one at a time, unpacked if its name ends in ``.gz``."""
    with opened(path) as file:
        for line in file:
            yield line.removesuffix(b"\n")


def _no_utf8(where: str, number: int, error: UnicodeDecodeError) -> InputError:
    """What is wrong with a line that is no UTF-8, and how the file is converted."""
    if number == 1 and error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return InputError(f"{where}: expected UTF-8, got UTF-16; convert it: iconv -f UTF-16 -t UTF-8")
    return InputError(
        f"{where}: not valid UTF-8: byte {error.start + 1} of the line is 0x{error.object[error.start]:02x}; "
        "convert the file, for example from Windows-1252: iconv -f CP1252 -t UTF-8"
    )


def decoded_lines(name: str, lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Numbered lines of UTF-8 without line ends and byte-order mark; ``name`` is the file's, for messages."""
    for number, raw in enumerate(lines, 1):
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            yield number, raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise _no_utf8(f"{name}:{number}", number, error) from None


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 text file (``.gz`` too), without line ends and byte-order mark, one at a time."""
    yield from decoded_lines(str(path), byte_lines(path))


def _halves(value: Any) -> bool:
    """Whether a text in a JSON value has a surrogate that is alone."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


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
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not valid JSON ({getattr(error, 'msg', error)})") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: expected a JSON object")
        # Escapes can write half of a character, which is no text for tokenizers and stores.
        if "\\ud" in line.lower() and _halves(row):
            raise InputError(f"{path}:{number}: not valid Unicode: an escape of half a character")
        yield f"{path}:{number}", row


def _json_texts(path: Path) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    for where, row in json_lines(path):
        if not {"_id", "text"} <= row.keys():
            got = ", ".join(row)[:100] or "none"
            raise InputError(f'{where}: expected {{"_id": …, "text": …}}, got the keys: {got}')
        key, text, title, fields = (row.get(name) for name in ("_id", "text", "title", "metadata"))
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise InputError(f"{where}: _id: expected a text or an integer, got {key!r}")
        if not isinstance(text, str):
            raise InputError(f"{where}: text: expected a text, got {text!r}")
        if not isinstance(title, str | None):
            raise InputError(f"{where}: title: expected a text, got {title!r}")
        if not isinstance(fields or {}, dict):
            raise InputError(f"{where}: metadata: expected an object, got {fields!r}")
        yield where, str(key), f"{title or ''} {text}".strip(), fields or {}


def check_id(where: str, key: str) -> str:
    """An id that TREC's files can hold, which separate their fields by blanks.

    Raises
    ------
    InputError
        With ``where``, for an empty id or one with a blank in it.
    """
    if key.split() != [key]:
        raise InputError(
            f"{where}: id: expected one without blanks, as TREC's files separate by them, got {key!r}"
        )
    return key


def _tab_texts(path: Path) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    for number, line in lines_of(path):
        key, tab, text = line.partition("\t")
        if not tab or not key:
            raise InputError(f"{path}:{number}: expected 'id<TAB>text'")
        yield f"{path}:{number}", key, text, {}


def iter_documents(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(id, text, fields) of a file, one line at a time: lines of ``id<TAB>text``, or in a ``.jsonl`` file of BEIR's
    ``{"_id": …, "text": …}``, whose ``metadata`` are the fields.

    Raises
    ------
    InputError
        With file and line, for a line that is neither, or an id that was there before; an empty file.
    """
    known = set()
    lines = _json_texts if path.suffix == ".jsonl" or path.name.endswith(".jsonl.gz") else _tab_texts
    for where, key, text, fields in lines(path):
        if key in known:
            raise InputError(f"{where}: id '{key}' is repeated")
        known.add(check_id(where, key))
        yield key, text, fields
    if not known:
        raise InputError(f"{path}: expected lines of 'id<TAB>text' or of JSON, got an empty file")


def iter_texts(path: Path) -> Iterator[tuple[str, str]]:
    """As :func:`iter_documents`, without their fields."""
    for key, text, _ in iter_documents(path):
        yield key, text


def read_texts(path: Path) -> dict[str, str]:
    """As :func:`iter_texts`, all of them by id."""
    return dict(iter_texts(path))


class Texts:
    """(id, text) pairs that are read anew in every pass and never held together.

    Parameters
    ----------
    read : callable
        Returns an iterator over them, or over (id, text, fields).
    count : int, optional
        Their number; by default they are counted when it is asked for, which reads them once.
    """

    def __init__(self, read: Callable[[], Iterator[tuple]], count: int | None = None):
        self._read, self._count = read, count

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for key, text, *_ in self._read():
            yield key, text

    def with_fields(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(id, text, fields) of each; the fields are empty where there are none."""
        for key, text, *fields in self._read():
            yield key, text, fields[0] if fields else {}

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in self)
        return self._count


def rows(path: str | os.PathLike, fields: int, what: str) -> Iterator[tuple[int, list[str]]]:
    """Lines of blank-separated fields with their numbers; blank lines are skipped.

    Raises
    ------
    InputError
        With file and line, for a line with another number of fields or that is no UTF-8.
    """
    for number, line in enumerate(read_bytes(path).removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        try:
            parts = line.decode("utf-8").split()
        except UnicodeDecodeError as error:
            raise _no_utf8(f"{path}:{number}", number, error) from None
        if parts and len(parts) != fields:
            raise InputError(f"{path}:{number}: expected {fields} fields ({what}), got {len(parts)}")
        if parts:
            yield number, parts


def trec_file(path: str | os.PathLike) -> str | tuple[str, bytes]:
    """A file of runs or judgments as the native core reads it: by name, or unpacked."""
    name = spelled("path", path)
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

    Raises
    ------
    InputError
        An id or a tag with blanks, which separate fields in such files, a score that is not a number, a document
        that comes twice, or a place that cannot be written to. Nothing is written before all is checked.
    """
    path = path_of("path", path)
    tag = _field("tag", tag)
    lines: list[str] = []
    topics: set[str] = set()
    for topic, hits in run.items():
        topic = _field("topic", topic)
        if topic in topics:
            raise InputError(f"run: topic '{topic}' comes twice, as text and as a number")
        topics.add(topic)
        try:
            given = [
                (document, score) for document, score in (hits.items() if isinstance(hits, Mapping) else hits)
            ]
        except (TypeError, ValueError):
            raise InputError(f"run: topic '{topic}': expected documents with scores, got {hits!r}") from None
        pairs = [(_field("document", document), _score(topic, document, score)) for document, score in given]
        if len(dict(pairs)) < len(pairs):
            raise InputError(f"run: topic '{topic}': a document is retrieved twice")
        if isinstance(hits, Mapping):
            pairs.sort(key=rank_key, reverse=True)
        lines += [
            f"{topic} Q0 {name} {rank} {score!r} {tag}\n" for rank, (name, score) in enumerate(pairs, 1)
        ]
    # The same bytes on every system and on every day.
    content = "".join(lines).encode("utf-8", "surrogateescape")
    if os.fspath(path).endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    temporary = f"{os.fspath(path)}.tmp"
    try:
        # The file has its old content or the new.
        Path(temporary).write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def _field(name: str, value: Any) -> str:
    """A field of a line: bytes without those that C takes for blanks; a no-break space is none of them."""
    if value is None or isinstance(value, bytes):
        raise InputError(f"{name}: expected text or a number, got {value!r}")
    text = str(value)
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InputError(f"{name}: no text that has bytes: {text!r}") from None
    if raw.split() != [raw]:
        raise InputError(f"{name}: TREC files separate by blanks, got {text!r}")
    if text.startswith("\ufeff"):
        # At the head of a file it would be taken for a byte order mark.
        raise InputError(f"{name}: expected no byte order mark, got {text!r}")
    return text


def is_number(value: Any, *, finite: bool = True) -> bool:
    """Whether a value is a number that a float can hold; text is none, even where Python would read it as one."""
    try:
        return not isinstance(value, str | bytes) and (
            math.isfinite(value) if finite else not math.isnan(value)
        )
    except (TypeError, ValueError, OverflowError):
        return False


def _score(topic: str, document: Any, score: Any) -> float:
    """A score as Python's own number: numpy's are written in other ways."""
    if is_number(score, finite=False):
        return float(score)
    raise InputError(
        f"run: topic '{topic}', document '{document}': expected a number as score, got {score!r}"
    )


def named(path: str | os.PathLike, argument: str = "path") -> Path:
    """A path that ends in the name of what is there, as "." and ".." do not, without symbolic links.

    A link is followed once, here: what is opened stays the same place when the link is pointed elsewhere, what lies
    beside a folder is found by each of its names, and a lock is that of the folder itself.

    >>> named("a/passages"), named("/a/passages/..")
    (PosixPath('a/passages'), PosixPath('/a'))
    """
    path = path_of(argument, path)
    real = os.path.realpath(path)
    # As it was given where that is the place itself: messages then name it as the user does.
    return Path(real) if path.name in ("", "..") or real != os.path.abspath(path) else path


def beside(path: str | os.PathLike, ending: str) -> Path:
    """A path next to another, with an ending to its name.

    >>> beside("passages", ".coarse")
    PosixPath('passages.coarse')
    """
    path = named(path)
    return path.with_name(path.name + ending)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write a value as JSON: the file has its old content or the new, never something between."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, path)
