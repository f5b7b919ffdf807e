"""``TokenStore``: ragged token embeddings in a memory-mapped, appendable directory."""

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError

FORMAT = "optical-token-store"
VERSION = 1
_FILES = ("values.f32", "lengths.i64", "ids.txt")


class TokenStore:
    """Token embeddings of many texts, in one directory, read through a memory map.

    The one container of ragged tokens: the teacher's cache in training and the index in search.
    Opening it needs numpy alone. The directory holds ``values.f32`` (tokens × dim, little-endian
    float32), ``lengths.i64`` (tokens per text), ``ids.txt`` (one id a line) and ``store.json``, which
    says how much of the others is committed. :meth:`append` writes data first and replaces
    ``store.json`` last, so an interrupted append leaves the store as it was.

    Texts are numbered from 0 in the order in which they were added; ``store[i]`` is a (tokens, dim)
    float32 view.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from optical_rs.similarity import TokenStore
    >>> folder = tempfile.mkdtemp() + "/store"
    >>> store = TokenStore.create(folder, dim=2, metadata={"model": "toy"})
    >>> store.append([np.eye(2), np.ones((3, 2))], ids=["a", "b"])
    >>> TokenStore(folder)[1].shape, len(store), store.ids
    ((3, 2), 2, ['a', 'b'])
    """

    def __init__(self, path: str | os.PathLike):
        """Open an existing store.

        Raises
        ------
        InputError
            If ``path`` is no store, of a newer format, or shorter than what was committed.
        """
        self.path = Path(path)
        self._load()

    @classmethod
    def create(
        cls, path: str | os.PathLike, dim: int, metadata: dict[str, Any] | None = None
    ) -> "TokenStore":
        """Make an empty store for vectors of ``dim`` numbers.

        ``metadata`` is any JSON object; it is kept as it is.

        Raises
        ------
        InputError
            If there is a store already.
        """
        path = Path(path)
        if dim < 1:
            raise InputError(f"dim: expected at least 1, got {dim}")
        if (path / "store.json").exists():
            raise InputError(f"path: {path} already holds a store")
        path.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (path / name).write_bytes(b"")
        state = {
            "format": FORMAT,
            "version": VERSION,
            "dim": dim,
            "metadata": metadata or {},
            "texts": 0,
            "bytes": dict.fromkeys(_FILES, 0),
            "crc32": dict.fromkeys(_FILES, 0),
        }
        _replace(path / "store.json", json.dumps(state, indent=1))
        return cls(path)

    def _load(self) -> None:
        file = self.path / "store.json"
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"path: {self.path} is no token store (it has no store.json)") from None
        except ValueError as error:
            raise InputError(f"path: {file} is damaged ({error})") from None
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise InputError(f"path: {file} does not describe a token store")
        if state["version"] > VERSION:
            raise InputError(
                f"path: {self.path} has format version {state['version']}, this program reads {VERSION}"
            )
        for name in _FILES:
            size = (self.path / name).stat().st_size if (self.path / name).exists() else 0
            if size < state["bytes"][name]:
                raise InputError(
                    f"path: {self.path / name} is truncated: {size} bytes, {state['bytes'][name]} committed"
                )
        self._state = state
        self.dim: int = state["dim"]
        self.metadata: dict[str, Any] = state["metadata"]
        lengths = np.fromfile(self.path / "lengths.i64", dtype="<i8", count=state["texts"])
        self.offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=self.offsets[1:])
        tokens = int(self.offsets[-1])
        if tokens * self.dim * 4 != state["bytes"]["values.f32"]:
            raise InputError(f"path: {self.path} is damaged: lengths and values disagree")
        # An empty file cannot be mapped.
        self.values: np.ndarray = (
            np.memmap(self.path / "values.f32", dtype="<f4", mode="r", shape=(tokens, self.dim))
            if tokens
            else np.zeros((0, self.dim), dtype=np.float32)
        )
        with open(self.path / "ids.txt", "rb") as f:
            committed = f.read(state["bytes"]["ids.txt"])
        self.ids: list[str] = committed.decode("utf-8").splitlines()
        self._index: dict[str, int] | None = None

    def append(self, texts: Iterable[Any], ids: Sequence[str]) -> None:
        """Add texts and commit them together: after a crash either all or none are there.

        Parameters
        ----------
        texts : iterable of (tokens, dim) arrays or CPU tensors
        ids : sequence of str
            One id per text, without line breaks, not yet in the store.

        Raises
        ------
        InputError
            Wrong shapes, or ids that are missing, repeated or contain line breaks. Nothing is added.
        """
        arrays = [np.ascontiguousarray(getattr(t, "detach", lambda t=t: t)(), dtype="<f4") for t in texts]
        for i, array in enumerate(arrays):
            if array.ndim != 2 or array.shape[1] != self.dim:
                raise InputError(f"texts: expected shape (tokens, {self.dim}) at {i}, got {array.shape}")
        if len(ids) != len(arrays):
            raise InputError(f"ids: expected {len(arrays)} ids, one per text, got {len(ids)}")
        known = set(self.ids)
        for name in ids:
            if not isinstance(name, str) or len(name.splitlines()) != 1:
                raise InputError(f"ids: expected non-empty strings without line breaks, got {name!r}")
            if name in known:
                raise InputError(f"ids: {name!r} is in the store already")
            known.add(name)
        lengths = np.array([len(a) for a in arrays], dtype="<i8")
        state = json.loads(json.dumps(self._state))
        data: dict[str, list[Any]] = {
            "values.f32": [a.data for a in arrays if a.size],
            "lengths.i64": [lengths.data] if len(lengths) else [],
            "ids.txt": ["".join(f"{name}\n" for name in ids).encode()],
        }
        for name, chunks in data.items():
            with open(self.path / name, "r+b") as f:
                # What an interrupted append left beyond the committed end is overwritten.
                f.truncate(state["bytes"][name])
                f.seek(0, os.SEEK_END)
                for chunk in chunks:
                    f.write(chunk)
                    state["crc32"][name] = zlib.crc32(chunk, state["crc32"][name])
                state["bytes"][name] = f.tell()
                f.flush()
                os.fsync(f.fileno())
        state["texts"] += len(arrays)
        _replace(self.path / "store.json", json.dumps(state, indent=1))
        self._load()

    def verify(self) -> None:
        """Read everything and compare checksums.

        Raises
        ------
        InputError
            If a byte of what was committed has changed.
        """
        for name in _FILES:
            left, checksum = self._state["bytes"][name], 0
            with open(self.path / name, "rb") as f:
                while left and (chunk := f.read(min(left, 1 << 20))):
                    checksum = zlib.crc32(chunk, checksum)
                    left -= len(chunk)
            if left or checksum != self._state["crc32"][name]:
                raise InputError(f"path: {self.path / name} is damaged: its checksum does not match")

    def index(self, name: str) -> int:
        """The number of the text with this id.

        Raises
        ------
        KeyError
            If there is none.
        """
        if self._index is None:
            self._index = {name: i for i, name in enumerate(self.ids)}
        return self._index[name]

    def __len__(self) -> int:
        return self._state["texts"]

    def __getitem__(self, i: int) -> np.ndarray:
        if not -len(self) <= i < len(self):
            raise IndexError(f"text {i} of a store of {len(self)}")
        i %= len(self)
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def __repr__(self) -> str:
        return f"TokenStore({str(self.path)!r}, texts={len(self)}, tokens={len(self.values)}, dim={self.dim})"


def _replace(path: Path, text: str) -> None:
    """Write a file so that it has its old content or the new, never something between."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # directories cannot be opened on every system
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
