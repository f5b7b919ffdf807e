"""The files of a :class:`~optical_rs.similarity.TokenStore`: their format, and what of them is committed.

A store is a folder of columns, files that only grow, and of ``store.json``, which says how many bytes of each are
committed and what their checksums are. Its name carries the generation of the files: compaction writes the
columns of the next one and then replaces ``store.json``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core, lock
from ..errors import InputError, texts_only

FORMAT = "optical-token-store"
VERSION = 2
#: How numbers are kept, and as what numpy reads them: bfloat16 as bits, which it has no numbers for.
DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int8": "i1"}
#: Numbers of a token in bytes at most: the sum of so many products of two bytes fits 32 bits.
MOST_BYTES = (2**31 - 1) // 127**2
COLUMNS = ("values", "scales", "lengths", "ids", "id_ends", "contents", "content_ends", "deleted")
#: The fields of :class:`State` in ``store.json``.
_FIELDS = ("dim", "dtype", "metadata", "generation", "bytes", "crc32")
_DESCRIPTION, _TEMPORARY = "store.json", "store.tmp"
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_PIECE = 1 << 20


@dataclasses.dataclass(frozen=True)
class State:
    """What ``store.json`` says."""

    dim: int
    dtype: str
    metadata: dict[str, Any]
    generation: int = 0
    sizes: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(COLUMNS, 0))
    sums: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(COLUMNS, 0))

    @property
    def texts(self) -> int:
        return self.sizes["lengths"] // 8

    @property
    def tokens(self) -> int:
        return self.sizes["values"] // (self.dim * np.dtype(DTYPES[self.dtype]).itemsize)

    def file(self, folder: Path, name: str) -> Path:
        return folder / f"{name}.{self.generation}"

    def grown(self, added: dict[str, bytes]) -> State:
        """With bytes added to some columns."""
        sizes, sums = dict(self.sizes), dict(self.sums)
        for name, data in added.items():
            sizes[name] += len(data)
            sums[name] = zlib.crc32(data, sums[name])
        return dataclasses.replace(self, sizes=sizes, sums=sums)


def holds_store(folder: Path) -> bool:
    """Whether there is a ``store.json``."""
    return os.path.lexists(folder / _DESCRIPTION)


def committed(folder: Path) -> State:
    """What is committed. The second line of ``store.json`` is the checksum of its first."""
    file = folder / _DESCRIPTION
    try:
        with open(os.open(file, os.O_RDONLY | _NOFOLLOW | _BINARY), "rb") as f:
            data = f.read()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"path: {folder} is no token store (it has no {_DESCRIPTION})") from None
    except OSError as error:
        raise InputError(f"path: {file} cannot be read ({error.strerror or error})") from None
    line, _, checksum = data.partition(b"\n")
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        raw = None
    if isinstance(raw, dict) and raw.get("format") == FORMAT and raw.get("version") != VERSION:
        raise InputError(
            f"path: {folder} has format version {raw.get('version')}, this program reads {VERSION}"
        )
    if checksum != b"%08x\n" % zlib.crc32(line):
        raise InputError(f"path: {file} is damaged: its checksum does not match")
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise InputError(f"path: {file} does not describe a token store")
    if not isinstance(raw.get("dtype"), str) or raw["dtype"] not in DTYPES:
        raise InputError(f"path: {folder} keeps tokens as {raw.get('dtype')}, which this version cannot read")
    fields: list[Any] = [raw.get(name) for name in _FIELDS]
    if not _sound(*fields):
        raise InputError(f"path: {file} is damaged: its numbers contradict each other")
    return State(*fields)


def _sound(dim: Any, dtype: Any, metadata: Any, generation: Any, sizes: Any, sums: Any) -> bool:
    """Whether a description can be that of a store."""

    def whole(*numbers: Any) -> bool:
        return all(type(n) is int and 0 <= n < 1 << 62 for n in numbers)

    if not (whole(dim, generation) and dim > 0 and isinstance(metadata, dict)):
        return False
    for table in (sizes, sums):
        if not isinstance(table, dict) or set(table) != set(COLUMNS) or not whole(*table.values()):
            return False
    width = dim * np.dtype(DTYPES[dtype]).itemsize
    eights = ("lengths", "id_ends", "content_ends", "deleted")
    return (
        sizes["values"] % width == 0
        and sizes["scales"] == (sizes["values"] // width * 4 if dtype == "int8" else 0)
        and all(sizes[name] % 8 == 0 for name in eights)
        and sizes["id_ends"] == sizes["content_ends"] == sizes["lengths"]
    )


def commit(folder: Path, state: State) -> None:
    """Replace ``store.json``, so that it has its old content or the new, never something between."""
    fields = zip(_FIELDS, dataclasses.astuple(state), strict=True)
    line = json.dumps({"format": FORMAT, "version": VERSION, **dict(fields)}).encode()
    temporary = folder / _TEMPORARY
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    with open(temporary, "xb") as f:
        f.write(line + b"\n%08x\n" % zlib.crc32(line))
        flush(f)
    os.replace(temporary, folder / _DESCRIPTION)
    with contextlib.suppress(OSError):  # directories cannot be opened on every system
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def begin(folder: Path, state: State) -> None:
    """The files of an empty store; what was begun and never committed is replaced. On failure none are left."""
    files = [state.file(folder, name) for name in COLUMNS]
    try:
        for file in files:
            file.unlink(missing_ok=True)
            write_new(file, ())
        commit(folder, state)
    except BaseException:
        with contextlib.suppress(OSError):
            for file in (*files, folder / _TEMPORARY):
                file.unlink(missing_ok=True)
        raise


def write_at(file: Path, position: int, data: bytes) -> None:
    """Write at the committed end of a column, over what an interrupted change left there."""
    with open(os.open(file, os.O_RDWR | _NOFOLLOW | _BINARY), "r+b") as f:
        f.truncate(position)
        f.seek(position)
        f.write(data)
        flush(f)


def write_new(file: Path, chunks: Iterable[Any]) -> tuple[int, int]:
    """Write a column anew; its bytes and their checksum."""
    with open(file, "xb") as f:
        checksum = 0
        for chunk in chunks:
            f.write(chunk)
            checksum = zlib.crc32(chunk, checksum)
        flush(f)
        return f.tell(), checksum


def flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Tell a failure of the disk in one line. What is not committed does not count, so the store is as it was."""
    try:
        yield
    except OSError as error:
        raise InputError(f"path: {folder} could not be written ({error}); the store is as it was") from error


def own(folder: Path) -> list[Path]:
    """The files in a folder that a store may have made: columns of any generation, description, lock."""
    found = []
    for file in folder.iterdir():
        column, _, generation = file.name.partition(".")
        if file.name in (_DESCRIPTION, _TEMPORARY, lock.NAME) or (
            column in COLUMNS and generation.isascii() and generation.isdigit()
        ):
            found.append(file)
    return found


def tidy(folder: Path, state: State) -> None:
    """Remove what killed writers left: columns of another generation, a description that was not committed."""
    kept = {f"{name}.{state.generation}" for name in COLUMNS} | {_DESCRIPTION, lock.NAME}
    for file in own(folder):
        # Where open files cannot be removed, they stay until the next time.
        if file.name not in kept:
            with contextlib.suppress(OSError):
                file.unlink()


def remove(folder: Path) -> None:
    """Remove a store: its own files and then the folder.

    Raises
    ------
    InputError
        A symbolic link, or a folder with anything else in it; nothing is removed then.
    """
    mine = own(folder)
    if folder.is_symlink() or len(mine) < sum(1 for _ in folder.iterdir()):
        what = "is a symbolic link" if folder.is_symlink() else "has files that are not of a store"
        raise InputError(f"path: {folder} {what}, and is left alone; move it away")
    # The description goes first: what is left of an interrupted removal is no store.
    for file in sorted(mine, key=lambda file: file.name != _DESCRIPTION):
        file.unlink()
    folder.rmdir()


class Files:
    """The columns of one generation, opened together: they can be read also when they have been removed."""

    def __init__(self, folder: Path, state: State):
        self.folder = folder
        self._open: dict[str, int] = {}
        self._checked: dict[str, tuple[int, int]] = {}
        self._begun: dict[str, tuple[int, int]] = {}
        for name in COLUMNS:
            self._open[name] = os.open(state.file(folder, name), os.O_RDONLY | _NOFOLLOW | _BINARY)

    def __del__(self) -> None:
        for file in self._open.values():
            os.close(file)

    def current(self, state: State) -> bool:
        """Whether these are the files that are in the folder now, and not those of a store that was there before."""
        try:
            return all(
                os.path.samestat(os.fstat(file), os.lstat(state.file(self.folder, name)))
                for name, file in self._open.items()
            )
        except FileNotFoundError:
            return False

    def check_sizes(self, state: State) -> None:
        """A map beyond the end of a file would end the process; so no file may be shorter than committed."""
        for name in COLUMNS:
            size, wanted = os.fstat(self._open[name]).st_size, state.sizes[name]
            if size < wanted:
                file = state.file(self.folder, name)
                raise InputError(f"path: {file} is truncated: {size} bytes, {wanted} committed")

    def map(self, state: State, name: str, kind: str) -> np.ndarray:
        """A column as numbers, mapped."""
        size = state.sizes[name]
        if not size:  # an empty file cannot be mapped
            return np.zeros(0, dtype=kind)
        mapped = mmap.mmap(self._open[name], size, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, dtype=kind)

    def checked(self, state: State, name: str, kind: str) -> np.ndarray:
        """As :meth:`map`, once its checksum has been compared; what was compared before is not read again."""
        column = self.map(state, name, kind)
        done, checksum = self._checked.get(name, (0, 0))
        if done < state.sizes[name]:
            checksum = zlib.crc32(column.view("u1")[done:].data, checksum)
            self._compare(state, name, checksum)
            self._checked[name] = (state.sizes[name], checksum)
        return column

    def verify(self, state: State) -> None:
        """Read all of the columns and compare checksums."""
        for name in COLUMNS:
            self._compare(state, name, _sum(self.map(state, name, "u1")))

    def sum_of(self, state: State, name: str, end: int) -> int:
        """The checksum of a column's first bytes; that of all of them is known, and the last one asked for goes on."""
        if end == state.sizes[name]:
            return state.sums[name]
        start, checksum = self._begun.get(name, (0, 0))
        if start > end:
            start, checksum = 0, 0
        checksum = _sum(self.map(state, name, "u1")[start:end], checksum)
        self._begun[name] = end, checksum
        return checksum

    def _compare(self, state: State, name: str, checksum: int) -> None:
        if checksum != state.sums[name]:
            file = state.file(self.folder, name)
            raise InputError(f"path: {file} is damaged: its checksum does not match")


def _sum(column: np.ndarray, checksum: int = 0) -> int:
    for first in range(0, len(column), _PIECE):
        checksum = zlib.crc32(column[first : first + _PIECE].data, checksum)
    return checksum


def encoded(arrays: list[np.ndarray], dim: int, dtype: str) -> dict[str, bytes]:
    """What columns get for the tokens of texts."""
    # Of texts of one token numpy may make columns.
    packed = np.ascontiguousarray(np.concatenate(arrays)) if arrays else np.zeros((0, dim), np.float32)
    added = {"lengths": np.array([len(a) for a in arrays], dtype="<i8").tobytes()}
    if not np.isfinite(packed).all():
        bad = next(i for i, array in enumerate(arrays) if not np.isfinite(array).all())
        raise InputError(f"tokens: expected finite numbers, got others at {bad}")
    if dtype == "int8":
        codes, scales = _core.quantise(packed)
        return {**added, "values": codes.tobytes(), "scales": scales.astype("<f4").tobytes()}
    if dtype == "bfloat16":
        bits = packed.view("<u4")
        # To the nearest upper half, and of two to the even one.
        kept = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    else:
        with np.errstate(over="ignore"):
            kept = packed.astype(DTYPES[dtype])
    fit = _finite(kept, dtype)
    if not fit.all():
        row = int(np.flatnonzero(~fit.all(axis=1))[0])
        at = int(np.searchsorted(np.cumsum([len(a) for a in arrays]), row, side="right"))
        raise InputError(
            f"tokens: expected numbers that fit {dtype}, got {packed[row][~fit[row]][0]:g} at {at}"
        )
    return {**added, "values": kept.tobytes()}


def _finite(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Which numbers, as they are kept, are finite."""
    found: np.ndarray = (numbers & 0x7F80) != 0x7F80 if dtype == "bfloat16" else np.isfinite(numbers)
    return found


def finite(encoded: Mapping[str, bytes], dtype: str) -> bool:
    """Whether columns have finite numbers alone."""
    name, kind = ("scales", "float32") if dtype == "int8" else ("values", dtype)
    return bool(_finite(np.frombuffer(encoded[name], DTYPES[kind]), kind).all())


def utf8(argument: str, texts: Sequence[str]) -> list[bytes]:
    """Texts as bytes, after :func:`~optical_rs.errors.texts_only`."""
    texts_only(argument, texts)
    return [text.encode() for text in texts]
