"""``TokenStore``: ragged token embeddings in a memory-mapped, appendable directory."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import named
from ..fingerprint import of_settings
from ..lock import folder_lock
from . import columns
from .columns import DTYPES, VERSION, State, utf8
from .view import View, opened, rewrite

#: Texts that a copy of a store commits together.
_PART = 4096


class TokenStore:
    """Token embeddings of many texts, in one directory, read through a memory map.

    The one container of ragged tokens: the teacher's cache in training and the index in search.
    Opening it needs numpy alone, and reads neither the tokens nor the texts.

    The directory holds files that only grow (tokens, their scales if they are bytes, tokens per text, ids,
    contents, deletions) and ``store.json``, which says how much of each is committed and what its checksum
    is. A change writes to the files first and replaces ``store.json`` last: whenever it is interrupted,
    the store is as it was before. Readers see what was committed when they opened it, also while one
    process writes or compacts. Threads take turns to write, through one object or several; a second process
    is refused, or waits (:meth:`writing`). docs/explanation/reliability.md says what is promised and how it was tested.

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
        self.path = named(path)
        self._lock = folder_lock(self.path)
        self._view = opened(self.path)

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
            A directory that does not exist or is empty.
        dim : int
        metadata : dict, optional
            Any JSON object; it is kept as it is.
        dtype : {"float32", "float16", "bfloat16", "int8"}
            How tokens are kept. ``"float16"`` is off by at most 2⁻¹¹ of a number (from 2⁻¹⁴ on),
            ``"bfloat16"`` by 2⁻⁹. ``"int8"`` has one byte a number and a scale a token, so that each number
            is off by at most 1/254 of the token's largest; ``dim`` is up to 133,144 then.

        Raises
        ------
        InputError
            If there is a store or anything else in the directory, it cannot be written to, or for a wrong
            ``dim``, ``dtype`` or ``metadata``.
        """
        path = named(path)
        if not isinstance(dim, (int, np.integer)) or dim < 1:
            raise InputError(f"dim: expected at least 1, got {dim}")
        if dtype not in DTYPES:
            raise InputError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        if dtype == "int8" and dim > columns.MOST_BYTES:
            raise InputError(f"dim: expected at most {columns.MOST_BYTES} with int8, got {dim}")
        try:
            state = State(int(dim), dtype, json.loads(json.dumps(metadata or {})))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"metadata: expected a JSON object ({error})") from None
        if not isinstance(state.metadata, dict):
            raise InputError(f"metadata: expected a JSON object, got {type(metadata).__name__}")
        new = not os.path.lexists(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with folder_lock(path).held():
                _refuse_used(path)
                columns.begin(path, state)
        except (OSError, InputError) as error:
            if new and not columns.holds_store(path):
                with contextlib.suppress(OSError, InputError):
                    columns.remove(path)
            if isinstance(error, InputError):
                raise
            raise InputError(f"path: {path} cannot be written to ({error.strerror or error})") from None
        return cls(path)

    # Reading

    @property
    def dim(self) -> int:
        """Numbers per token."""
        return self._view.state.dim

    @property
    def dtype(self) -> str:
        """How tokens are kept."""
        return self._view.state.dtype

    @property
    def metadata(self) -> dict[str, Any]:
        """What was given to :meth:`create`."""
        return self._view.state.metadata

    @property
    def values(self) -> np.ndarray:
        """(tokens, dim) numbers of all texts, mapped, as they are kept; bfloat16 as uint16."""
        return self._view.values

    @property
    def scales(self) -> np.ndarray | None:
        """(tokens) float32 if tokens are kept as bytes."""
        return self._view.scales

    @property
    def offsets(self) -> np.ndarray:
        """(texts + 1) int64: tokens of text ``i`` are rows ``offsets[i]`` to ``offsets[i + 1]``."""
        return self._view.offsets

    @property
    def ids(self) -> list[str]:
        """The id of each text, those of deleted ones included."""
        return self._view.ids

    @property
    def contents(self) -> Sequence[str]:
        """What each text says, as given to :meth:`append`; empty strings where nothing was given."""
        return self._view.contents

    @property
    def places(self) -> np.ndarray:
        """Place of each text in byte order of the ids, which breaks ties in search; −1 if it is deleted."""
        return self._view.places

    @property
    def deleted(self) -> np.ndarray:
        """(texts) bool: which texts are deleted, and passed over by search, but still take room."""
        return self._view.deleted.copy()

    @property
    def fingerprint(self) -> str:
        """A hash of ids and tokens that all texts have, deleted ones included: it changes when texts are added."""
        state = self._view.state
        kept = {
            name: [state.sizes[name], state.sums[name]] for name in ("values", "scales", "lengths", "ids")
        }
        return of_settings({"dim": state.dim, "dtype": state.dtype, "columns": kept})

    @property
    def view(self) -> View:
        """What the store holds at this moment."""
        return self._view

    def snapshot(self) -> TokenStore:
        """The store as it is now, whatever is written later through this object by another thread."""
        return copy.copy(self)

    def index(self, name: str) -> int:
        """The number of the text with this id.

        Raises
        ------
        KeyError
            If there is none, or it is deleted.
        """
        number = self._view.number(name)
        if number is None:
            raise KeyError(name)
        return number

    def __contains__(self, name: str) -> bool:
        """Whether there is a text with this id that is not deleted."""
        return self._view.number(name) is not None

    def __len__(self) -> int:
        return self._view.state.texts

    def __getitem__(self, i: int) -> np.ndarray:
        view = self._view
        if not -view.state.texts <= i < view.state.texts:
            raise IndexError(f"text {i} of a store of {view.state.texts}")
        i %= view.state.texts
        rows = slice(view.offsets[i], view.offsets[i + 1])
        if view.scales is not None:
            scaled: np.ndarray = view.values[rows].astype(np.float32) * view.scales[rows, None]
            return scaled
        if view.state.dtype == "bfloat16":
            return (view.values[rows].astype("<u4") << 16).view("<f4")
        return view.values[rows].astype(np.float32, copy=False)

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

    def __reduce__(self) -> Any:
        return TokenStore, (str(self.path),)

    def __copy__(self) -> TokenStore:
        same = object.__new__(TokenStore)
        same.path, same._lock, same._view = self.path, self._lock, self._view
        return same

    def verify(self) -> None:
        """Read everything and compare checksums.

        Raises
        ------
        InputError
            If a byte of what was committed has changed.
        """
        view = self._view
        view.files.verify(view.state)

    def inspect(self) -> dict[str, Any]:
        """What the store holds: texts, tokens, bytes, metadata."""
        view = self._view
        tokens, total = view.state.tokens, sum(view.state.sizes.values())
        return {
            "path": str(self.path),
            "version": VERSION,
            "texts": view.state.texts,
            "deleted": int(view.deleted.sum()),
            "tokens": tokens,
            "dim": view.state.dim,
            "dtype": view.state.dtype,
            "bytes": total,
            "bytes_per_token": round(total / tokens, 2) if tokens else 0.0,
            "metadata": view.state.metadata,
        }

    # Writing

    @contextlib.contextmanager
    def writing(self, timeout: float = 0.0) -> Iterator[None]:
        """Stay the only writer for several changes.

        The store is first brought up to what others have committed since it was opened.

        Parameters
        ----------
        timeout : float
            Seconds to wait for another process that writes. Threads of this one wait for each other however
            long it takes.

        Raises
        ------
        InputError
            If another process still writes; the message has its number. Or if the directory cannot be written to.
        """
        with self._lock.held(timeout) as outermost:
            state = columns.committed(self.path)
            if outermost:
                with contextlib.suppress(OSError):
                    columns.tidy(self.path, state)
            if not self._view.files.current(state):
                self._view = opened(self.path)
            elif state != self._view.state:
                self._view = View(self.path, state, self._view)
            yield

    def append(
        self,
        tokens: Iterable[Any],
        ids: Sequence[str],
        contents: Sequence[str] | None = None,
        *,
        replacing: Sequence[str] = (),
    ) -> None:
        """Add texts and commit them together: after a crash either all or none are there.

        Parameters
        ----------
        tokens : iterable of (tokens, dim) arrays or CPU tensors
        ids : sequence of str
            One id per text, not yet in the store. Any string will do.
        contents : sequence of str, optional
            What the texts say, to be shown with results.
        replacing : sequence of str, optional
            Ids of texts that are deleted in the same commit, so that theirs may be used again: readers find the old texts
            or the new ones, and a failure leaves the old ones.

        Raises
        ------
        InputError
            Wrong shapes, numbers that are not finite or too large for the store's ``dtype``, ids that are
            missing or repeated, another process that writes, or a disk that is full. Nothing is added or deleted.
        """
        with np.errstate(over="ignore"):  # what does not fit is infinite, and found below
            try:
                arrays = [
                    np.ascontiguousarray(getattr(t, "detach", lambda t=t: t)(), dtype="<f4") for t in tokens
                ]
            except (TypeError, ValueError) as error:
                raise InputError(f"tokens: expected arrays of numbers ({error})") from None
        for i, array in enumerate(arrays):
            if array.ndim != 2 or array.shape[1] != self.dim:
                raise InputError(f"tokens: expected shape (tokens, {self.dim}) at {i}, got {array.shape}")
        if len(ids) != len(arrays):
            raise InputError(f"ids: expected {len(arrays)} ids, one per text, got {len(ids)}")
        self._append(columns.encoded(arrays, self.dim, self.dtype), ids, contents, replacing)

    def append_columns(
        self,
        encoded: Mapping[str, bytes],
        ids: Sequence[str],
        contents: Sequence[str] | None = None,
        *,
        replacing: Sequence[str] = (),
    ) -> None:
        """As :meth:`append`, of tokens in the form in which the store keeps them: what another machine encoded.

        Parameters
        ----------
        encoded : dict of str to bytes
            ``lengths`` (int64 per text), ``values``, and ``scales`` if tokens are kept as bytes.

        Raises
        ------
        InputError
            As for :meth:`append`, and for columns that contradict each other or are those of another dimension or dtype.
        """
        sizes = {name: len(data) for name, data in encoded.items()}
        lengths = np.frombuffer(encoded["lengths"] if sizes.get("lengths") == 8 * len(ids) else b"", "<i8")
        tokens = int(lengths.sum())
        wanted = {
            "lengths": 8 * len(ids),
            "values": tokens * self.dim * np.dtype(DTYPES[self.dtype]).itemsize,
        }
        if self.dtype == "int8":
            wanted["scales"] = 4 * tokens
        if (lengths < 0).any() or sizes != wanted:
            raise InputError(
                f"encoded: expected the columns of {len(ids)} texts of dimension {self.dim} in {self.dtype}"
            )
        # With one such number in it, a store could not be searched at all.
        if not columns.finite(encoded, self.dtype):
            raise InputError("encoded: expected finite numbers, got others")
        self._append(encoded, ids, contents, replacing)

    def _append(
        self,
        encoded: Mapping[str, bytes],
        ids: Sequence[str],
        contents: Sequence[str] | None,
        replacing: Sequence[str],
    ) -> None:
        """Add and commit columns that were checked."""
        added = dict(encoded)
        if contents is not None and len(contents) != len(ids):
            raise InputError(f"contents: expected {len(ids)}, one per text, got {len(contents)}")
        names, said = utf8("ids", ids), utf8("contents", contents or [""] * len(ids))
        with self.writing():
            view, gone, new = self._view, self._numbers("replacing", replacing), set()
            free = {None, *gone}
            for name in ids:
                if not name:
                    raise InputError("ids: expected non-empty strings, got ''")
                if name in new or view.number(name) not in free:
                    raise InputError(f"ids: {name!r} is in the store already")
                new.add(name)
            for column, parts in (("id", names), ("content", said)):
                start = view.state.sizes[f"{column}s"]
                ends = start + np.cumsum([len(part) for part in parts], dtype="<i8")
                added[f"{column}s"], added[f"{column}_ends"] = b"".join(parts), ends.tobytes()
            if gone:
                added["deleted"] = np.array(gone, dtype="<i8").tobytes()
            self._add(added)

    def delete(self, ids: Sequence[str]) -> None:
        """Leave texts out from now on. They take room until :meth:`compact`; their ids are free again.

        Raises
        ------
        InputError
            An id that is not in the store, or another process that writes. Nothing is deleted.
        """
        with self.writing():
            self._add({"deleted": np.array(self._numbers("ids", ids), dtype="<i8").tobytes()})

    def compact(self) -> None:
        """Write the store anew without deleted texts. Readers that have it open keep what they see.

        Raises
        ------
        InputError
            Another process that writes, or a disk that is full. The store is then as it was.
        """
        with self.writing():
            view = self._view
            with columns.changing(self.path):
                state = rewrite(view)
            self._view = opened(self.path)
            with contextlib.suppress(OSError):
                columns.tidy(self.path, state)

    def convert(self, path: str | os.PathLike[str], dtype: str) -> TokenStore:
        """Write the store to another directory with another ``dtype``, without deleted texts.

        Raises
        ------
        InputError
            As for :meth:`create` and :meth:`append`. Then nothing is left of the other store.
        """
        store = self.snapshot()
        with making(path, store.dim, store.metadata, dtype) as made:
            kept = np.flatnonzero(~store.deleted).tolist()
            for first in range(0, len(kept), _PART):
                part = kept[first : first + _PART]
                made.append(
                    [store[i] for i in part],
                    [store.ids[i] for i in part],
                    [store.contents[i] for i in part],
                )
        return made

    def _numbers(self, argument: str, ids: Sequence[str]) -> list[int]:
        """The numbers of texts that are not deleted, ascending."""
        if isinstance(ids, str) or not isinstance(ids, Iterable):
            what = "the string " if isinstance(ids, str) else ""
            raise InputError(f"{argument}: expected a list of ids, got {what}{ids!r}")
        numbers = {name: self._view.number(name) for name in ids}
        unknown = [name for name, number in numbers.items() if number is None]
        if unknown:
            raise InputError(f"{argument}: {unknown[0]!r} is not in the store")
        return sorted(number for number in numbers.values() if number is not None)

    def _add(self, added: dict[str, bytes]) -> None:
        """Append to columns and commit; on failure the store is as it was."""
        view = self._view
        state = view.state.grown(added)
        try:
            with columns.changing(self.path):
                for name, data in added.items():
                    columns.write_at(state.file(self.path, name), view.state.sizes[name], data)
                columns.commit(self.path, state)
        except BaseException:
            # Room on a full disk is given back. If it was committed all the same, nothing is taken away.
            with contextlib.suppress(OSError, InputError):
                if columns.committed(self.path) == view.state:
                    for name in added:
                        os.truncate(state.file(self.path, name), view.state.sizes[name])
            raise
        self._view = View(self.path, state, view)


@contextlib.contextmanager
def making(
    path: str | os.PathLike[str], dim: int, metadata: dict[str, Any], dtype: str
) -> Iterator[TokenStore]:
    """A new store that is removed again if the block fails."""
    made = TokenStore.create(path, dim, metadata, dtype=dtype)
    try:
        with made.writing():
            yield made
    except BaseException:
        with contextlib.suppress(OSError, InputError):
            columns.remove(made.path)
        raise


def _refuse_used(path: Path) -> None:
    if columns.holds_store(path):
        raise InputError(f"path: {path} already holds a store")
    foreign = sorted({file.name for file in path.iterdir()} - {file.name for file in columns.own(path)})
    if foreign:
        raise InputError(f"path: {path} is not empty and holds no store (it has {foreign[0]!r})")
