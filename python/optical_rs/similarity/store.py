"""``TokenStore``: ragged token embeddings in a memory-mapped, appendable directory."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core
from ..errors import InputError

FORMAT = "optical-token-store"
VERSION = 2
#: How numbers are kept, and as what numpy reads them: bfloat16 as bits, which it has no numbers for.
DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int8": "i1"}
#: The columns of a store; each is a file that only grows.
_COLUMNS = ("values", "scales", "lengths", "ids", "id_ends", "contents", "content_ends", "deleted")
_PIECE = 1 << 20


class TokenStore:
    """Token embeddings of many texts, in one directory, read through a memory map.

    The one container of ragged tokens: the teacher's cache in training and the index in search.
    Opening it needs numpy alone, and reads neither the tokens nor the texts.

    The directory holds files that only grow (tokens, their scales if they are bytes, tokens per text, ids,
    contents, deletions) and ``store.json``, which says how much of each is committed and what its checksum
    is. A change writes to the files first and replaces ``store.json`` last: whenever it is interrupted,
    the store is as it was before. Readers see what was committed when they opened it, also while one
    process writes; a second writer is refused.

    Texts are numbered from 0 in the order in which they were added; ``store[i]`` is a (tokens, dim)
    float32 array.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from optical_rs.similarity import TokenStore
    >>> folder = tempfile.mkdtemp() + "/store"
    >>> store = TokenStore.create(folder, dim=2, dtype="float16", metadata={"model": "toy"})
    >>> store.append([np.eye(2), np.ones((3, 2))], ids=["a", "b"])
    >>> TokenStore(folder)[1].shape, len(store), store.ids
    ((3, 2), 2, ['a', 'b'])
    >>> store.delete(["a"])
    >>> store.compact()
    >>> store.ids
    ['b']
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Open an existing store.

        Raises
        ------
        InputError
            If ``path`` is no store, of another format version, damaged, or shorter than what was committed.
        """
        self.path = Path(path)
        self._lock = _Lock(self.path / "writer.lock")
        self._load()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        dim: int,
        metadata: dict[str, Any] | None = None,
        *,
        dtype: str = "float32",
    ) -> TokenStore:
        """Make an empty store for vectors of ``dim`` numbers.

        Parameters
        ----------
        path : path
            A directory, made if it does not exist.
        dim : int
        metadata : dict, optional
            Any JSON object; it is kept as it is.
        dtype : {"float32", "float16", "bfloat16", "int8"}
            How tokens are kept. ``"float16"`` is off by at most 2⁻¹¹ of a number (from 2⁻¹⁴ on),
            ``"bfloat16"`` by 2⁻⁹. ``"int8"`` has one byte a number and a scale a token, so that each number
            is off by at most 1/254 of the token's largest.

        Raises
        ------
        InputError
            If there is a store already, or a wrong ``dim`` or ``dtype``.
        """
        path = Path(path)
        if dim < 1:
            raise InputError(f"dim: expected at least 1, got {dim}")
        if dtype not in DTYPES:
            raise InputError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        if (path / "store.json").exists():
            raise InputError(f"path: {path} already holds a store")
        path.mkdir(parents=True, exist_ok=True)
        for name in _COLUMNS:
            (path / f"{name}.0").write_bytes(b"")
        _commit(
            path,
            {
                "format": FORMAT,
                "version": VERSION,
                "dim": dim,
                "dtype": dtype,
                "metadata": metadata or {},
                "generation": 0,
                "bytes": dict.fromkeys(_COLUMNS, 0),
                "crc32": dict.fromkeys(_COLUMNS, 0),
            },
        )
        return cls(path)

    # Reading

    def _load(self) -> None:
        state = _committed(self.path)
        for name in _COLUMNS:
            file = self.path / f"{name}.{state['generation']}"
            size = file.stat().st_size if file.exists() else 0
            if size < state["bytes"][name]:
                raise InputError(f"path: {file} is truncated: {size} bytes, {state['bytes'][name]} committed")
        self._state = state
        self.dim: int = state["dim"]
        self.dtype: str = state["dtype"]
        if self.dtype not in DTYPES:
            raise InputError(
                f"path: {self.path} keeps tokens as {self.dtype}, which this version cannot read"
            )
        self.metadata: dict[str, Any] = state["metadata"]
        for cached in ("ids", "contents", "places", "_numbers"):
            self.__dict__.pop(cached, None)
        lengths = self._small("lengths", "<i8")
        self.offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=self.offsets[1:])
        tokens = int(self.offsets[-1])
        kind = np.dtype(DTYPES[self.dtype])
        wanted = tokens * self.dim * kind.itemsize
        if (lengths < 0).any() or wanted != state["bytes"]["values"]:
            raise InputError(f"path: {self.path} is damaged: lengths and values disagree")
        self.values: np.ndarray = self._map("values", kind).reshape(tokens, self.dim)
        self.scales: np.ndarray | None = (
            self._map("scales", np.dtype("<f4")) if self.dtype == "int8" else None
        )
        deleted = self._small("deleted", "<i8")
        self._deleted = np.zeros(len(lengths), dtype=bool)
        self._deleted[deleted] = True

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.{self._state['generation']}"

    def _map(self, name: str, kind: np.dtype) -> np.ndarray:
        count = self._state["bytes"][name] // kind.itemsize
        # An empty file cannot be mapped.
        if not count:
            return np.zeros(0, dtype=kind)
        return np.memmap(self._file(name), dtype=kind, mode="r", shape=(count,))

    def _small(self, name: str, kind: str) -> np.ndarray:
        """A column that is read whole, with its checksum."""
        with open(self._file(name), "rb") as f:
            data = f.read(self._state["bytes"][name])
        if zlib.crc32(data) != self._state["crc32"][name]:
            raise InputError(f"path: {self._file(name)} is damaged: its checksum does not match")
        return np.frombuffer(data, dtype=kind)

    def _strings(self, name: str) -> list[str]:
        ends = self._small(f"{name}_ends", "<i8").tolist()
        text = self._small(f"{name}s", "u1").tobytes()
        return [text[start:end].decode("utf-8") for start, end in zip([0, *ends], ends, strict=False)]

    @functools.cached_property
    def ids(self) -> list[str]:
        """The id of each text, those of deleted ones included."""
        return self._strings("id")

    @functools.cached_property
    def contents(self) -> list[str]:
        """What each text says, as given to :meth:`append`; empty strings where nothing was given."""
        return self._strings("content")

    @functools.cached_property
    def places(self) -> np.ndarray:
        """Place of each text in byte order of the ids, which breaks ties in search; −1 if it is deleted."""
        places = np.empty(len(self), dtype=np.int64)
        places[sorted(range(len(self)), key=lambda i: self.ids[i].encode())] = np.arange(len(self))
        places[self._deleted] = -1
        return places

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.ids) if not self._deleted[i]}

    @property
    def deleted(self) -> np.ndarray:
        """(texts) bool: which texts are deleted, and passed over by search, but still take room."""
        return self._deleted.copy()

    def index(self, name: str) -> int:
        """The number of the text with this id.

        Raises
        ------
        KeyError
            If there is none, or it is deleted.
        """
        return self._numbers[name]

    def __contains__(self, name: str) -> bool:
        """Whether there is a text with this id that is not deleted."""
        return name in self._numbers

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        if not -len(self) <= i < len(self):
            raise IndexError(f"text {i} of a store of {len(self)}")
        i %= len(self)
        rows = slice(self.offsets[i], self.offsets[i + 1])
        if self.scales is not None:
            scaled: np.ndarray = self.values[rows].astype(np.float32) * self.scales[rows, None]
            return scaled
        if self.dtype == "bfloat16":
            return (self.values[rows].astype("<u4") << 16).view("<f4")
        return self.values[rows].astype(np.float32, copy=False)

    def __repr__(self) -> str:
        return (
            f"TokenStore({str(self.path)!r}, texts={len(self)}, tokens={len(self.values)}, dim={self.dim}, "
            f"dtype={self.dtype!r})"
        )

    def _repr_html_(self) -> str:
        from ..display import table

        shown = self.inspect()
        rows = [
            [key, shown[key]] for key in ("texts", "deleted", "tokens", "dim", "dtype", "bytes", "metadata")
        ]
        return table(["", ""], rows, str(self.path))

    def verify(self) -> None:
        """Read everything and compare checksums.

        Raises
        ------
        InputError
            If a byte of what was committed has changed.
        """
        for name in _COLUMNS:
            left, checksum = self._state["bytes"][name], 0
            with open(self._file(name), "rb") as f:
                while left and (chunk := f.read(min(left, _PIECE))):
                    checksum = zlib.crc32(chunk, checksum)
                    left -= len(chunk)
            if left or checksum != self._state["crc32"][name]:
                raise InputError(f"path: {self._file(name)} is damaged: its checksum does not match")

    def inspect(self) -> dict[str, Any]:
        """What the store holds: texts, tokens, bytes, metadata."""
        tokens, total = len(self.values), sum(self._state["bytes"].values())
        return {
            "path": str(self.path),
            "version": self._state["version"],
            "texts": len(self),
            "deleted": int(self._deleted.sum()),
            "tokens": tokens,
            "dim": self.dim,
            "dtype": self.dtype,
            "bytes": total,
            "bytes_per_token": round(total / tokens, 2) if tokens else 0.0,
            "metadata": self.metadata,
        }

    # Writing

    @contextlib.contextmanager
    def writing(self, timeout: float = 0.0) -> Iterator[None]:
        """Stay the only writer for several changes, after waiting up to ``timeout`` seconds for another one.

        Raises
        ------
        InputError
            If another process writes; the message has its number.
        """
        with self._lock:
            current = _committed(self.path)
            if current["generation"] != self._state["generation"] or current["bytes"] != self._state["bytes"]:
                self._load()  # somebody else has written since this was opened
            yield

    def append(
        self, tokens: Iterable[Any], ids: Sequence[str], contents: Sequence[str] | None = None
    ) -> None:
        """Add texts and commit them together: after a crash either all or none are there.

        Parameters
        ----------
        tokens : iterable of (tokens, dim) arrays or CPU tensors
        ids : sequence of str
            One id per text, not yet in the store. Any string will do.
        contents : sequence of str, optional
            What the texts say, to be shown with results.

        Raises
        ------
        InputError
            Wrong shapes, numbers that are not finite, ids that are missing or repeated, another writer, or
            a disk that is full. Nothing is added.
        """
        arrays = [np.ascontiguousarray(getattr(t, "detach", lambda t=t: t)(), dtype="<f4") for t in tokens]
        for i, array in enumerate(arrays):
            if array.ndim != 2 or array.shape[1] != self.dim:
                raise InputError(f"tokens: expected shape (tokens, {self.dim}) at {i}, got {array.shape}")
        packed = np.concatenate(arrays) if arrays else np.zeros((0, self.dim), dtype=np.float32)
        if not np.isfinite(packed).all():
            bad = next(i for i, array in enumerate(arrays) if not np.isfinite(array).all())
            raise InputError(f"tokens: expected finite numbers, got others at {bad}")
        if len(ids) != len(arrays):
            raise InputError(f"ids: expected {len(arrays)} ids, one per text, got {len(ids)}")
        if contents is not None and len(contents) != len(arrays):
            raise InputError(f"contents: expected {len(arrays)}, one per text, got {len(contents)}")
        with self.writing():
            names, numbers, new = self.ids, self._numbers, set()
            for name in ids:
                if not isinstance(name, str) or not name:
                    raise InputError(f"ids: expected non-empty strings, got {name!r}")
                if name in numbers or name in new:
                    raise InputError(f"ids: {name!r} is in the store already")
                new.add(name)
            added = self._encoded(packed)
            added["lengths"] = np.array([len(a) for a in arrays], dtype="<i8").tobytes()
            for column, strings in (("id", ids), ("content", contents or [""] * len(arrays))):
                parts = [s.encode("utf-8") for s in strings]
                start = self._state["bytes"][f"{column}s"]
                ends = start + np.cumsum([len(part) for part in parts], dtype="<i8")
                added[f"{column}s"], added[f"{column}_ends"] = b"".join(parts), ends.tobytes()
            self._add(added)
            # Reading all of them again with every commit would take ever longer.
            self.ids = [*names, *ids]
            numbers.update(zip(ids, range(len(names), len(self.ids)), strict=True))
            self._numbers = numbers

    def _encoded(self, packed: np.ndarray) -> dict[str, bytes]:
        if self.dtype == "int8":
            codes, scales = _core.quantise(packed)
            return {"values": codes.tobytes(), "scales": scales.astype("<f4").tobytes()}
        if self.dtype == "bfloat16":
            bits = packed.view("<u4")
            # To the nearest upper half, and of two to the even one.
            nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            return {"values": nearest.astype("<u2").tobytes()}
        return {"values": packed.astype(DTYPES[self.dtype]).tobytes()}

    def delete(self, ids: Sequence[str]) -> None:
        """Leave texts out from now on. They take room until :meth:`compact`; their ids are free again.

        Raises
        ------
        InputError
            An id that is not in the store, or another writer. Nothing is deleted.
        """
        with self.writing():
            unknown = [name for name in ids if name not in self._numbers]
            if unknown:
                raise InputError(f"ids: {unknown[0]!r} is not in the store")
            numbers = sorted({self._numbers[name] for name in ids})
            self._add({"deleted": np.array(numbers, dtype="<i8").tobytes()})

    def compact(self) -> None:
        """Write the store anew without deleted texts. Readers that have it open keep what they see."""
        with self.writing():
            self._rewrite()
            self._load()

    def convert(self, path: str | os.PathLike[str], dtype: str) -> TokenStore:
        """Write the store to another directory with another ``dtype``, without deleted texts.

        Raises
        ------
        InputError
            As for :meth:`create`.
        """
        made = TokenStore.create(path, self.dim, self.metadata, dtype=dtype)
        with made.writing():
            for first in range(0, len(self), 4096):
                kept = [i for i in range(first, min(first + 4096, len(self))) if not self._deleted[i]]
                made.append(
                    [self[i] for i in kept],
                    [self.ids[i] for i in kept],
                    [self.contents[i] for i in kept],
                )
        return made

    def _rewrite(self) -> None:
        path = self.path
        kept = np.flatnonzero(~self._deleted)
        generation = self._state["generation"] + 1
        state = {**self._state, "generation": generation, "bytes": {}, "crc32": {}}
        rows = [slice(self.offsets[i], self.offsets[i + 1]) for i in kept]
        ids, contents = ([of[i].encode() for i in kept] for of in (self.ids, self.contents))

        def ends(parts: list[bytes]) -> bytes:
            return np.cumsum([len(part) for part in parts], dtype="<i8").tobytes()

        columns: dict[str, Iterable[bytes]] = {
            "values": (self.values[r].tobytes() for r in rows),
            "scales": () if self.scales is None else (self.scales[r].tobytes() for r in rows),
            "lengths": [np.diff(self.offsets)[kept].astype("<i8").tobytes()],
            "ids": ids,
            "id_ends": [ends(ids)],
            "contents": contents,
            "content_ends": [ends(contents)],
            "deleted": [],
        }
        old = [self._file(name) for name in _COLUMNS]
        made = [path / f"{name}.{generation}" for name in _COLUMNS]
        try:
            for name, chunks in columns.items():
                with open(path / f"{name}.{generation}", "wb") as f:
                    checksum = 0
                    for chunk in chunks:
                        f.write(chunk)
                        checksum = zlib.crc32(chunk, checksum)
                    state["bytes"][name], state["crc32"][name] = f.tell(), checksum
                    _flush(f)
            _commit(path, state)
        except OSError as error:
            for file in made:
                file.unlink(missing_ok=True)
            raise InputError(
                f"path: {path} could not be written ({error}); the store is as it was"
            ) from error
        for file in old:
            # Where open files cannot be removed, they stay until the next time.
            with contextlib.suppress(OSError):
                file.unlink()

    def _add(self, added: dict[str, bytes]) -> None:
        """Append to columns and commit; on failure the store is as it was."""
        state = json.loads(json.dumps(self._state))
        try:
            for name, data in added.items():
                with open(self._file(name), "r+b") as f:
                    # What an interrupted change left beyond the committed end is overwritten.
                    f.truncate(state["bytes"][name])
                    f.seek(0, os.SEEK_END)
                    f.write(data)
                    _flush(f)
                state["bytes"][name] += len(data)
                state["crc32"][name] = zlib.crc32(data, state["crc32"][name])
            _commit(self.path, state)
        except OSError as error:
            with contextlib.suppress(OSError):
                for name in added:
                    os.truncate(self._file(name), self._state["bytes"][name])
            raise InputError(
                f"path: {self.path} could not be written ({error}); the store is as it was"
            ) from error
        self._load()


class _Lock:
    """One writer at a time, by a lock that the system takes back when its holder ends, however it does."""

    def __init__(self, path: Path):
        self.path, self.depth = path, 0
        self.file: Any = None

    def __enter__(self) -> None:
        if self.depth == 0:
            file = open(self.path, "a+b")
            try:
                _lock_file(file)
            except OSError:
                file.seek(0)
                holder = file.read().decode("ascii", "replace").strip() or "unknown"
                file.close()
                raise InputError(f"path: {self.path.parent} is being written by process {holder}") from None
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
            self.file = file
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if self.depth == 0 and self.file is not None:
            self.file.truncate(0)
            self.file.close()
            self.file = None


def _lock_file(file: Any) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(1 << 20)  # beyond what is read, as a locked byte cannot be
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _committed(path: Path) -> dict[str, Any]:
    """What ``store.json`` says, whose second line is the checksum of its first."""
    file = path / "store.json"
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"path: {path} is no token store (it has no store.json)") from None
    line, _, checksum = data.partition(b"\n")
    try:
        state = json.loads(line)
    except ValueError:
        state = None
    if isinstance(state, dict) and state.get("format") == FORMAT and state.get("version") != VERSION:
        raise InputError(
            f"path: {path} has format version {state.get('version')}, this program reads {VERSION}"
        )
    if checksum != b"%08x\n" % zlib.crc32(line):
        raise InputError(f"path: {file} is damaged: its checksum does not match")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"path: {file} does not describe a token store")
    return state


def _commit(path: Path, state: dict[str, Any]) -> None:
    """Replace ``store.json``, so that it has its old content or the new, never something between."""
    line = json.dumps(state).encode()
    temporary = path / "store.tmp"
    with open(temporary, "wb") as f:
        f.write(line + b"\n%08x\n" % zlib.crc32(line))
        _flush(f)
    os.replace(temporary, path / "store.json")
    with contextlib.suppress(OSError):  # directories cannot be opened on every system
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
