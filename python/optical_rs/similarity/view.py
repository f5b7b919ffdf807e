"""A :class:`~optical_rs.similarity.TokenStore` as it was committed at one moment."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..fingerprint import of_settings
from .columns import DTYPES, Files, State, commit, committed, tidy, write_new

#: Strings that are read together where all are asked for.
_TOGETHER = 1 << 14


class Strings(Sequence[str]):
    """A column of strings, each decoded when it is asked for.

    Examples
    --------
    >>> import numpy as np
    >>> Strings(np.frombuffer("añb".encode(), "u1"), np.array([1, 3, 4]))[:]
    ['a', 'ñ', 'b']
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray):
        self._data, self._ends = data, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), _TOGETHER):
            ends = self._ends[first : first + _TOGETHER].tolist()
            data, base = self._data[start : ends[-1]].tobytes(), start
            for end in ends:
                yield data[start - base : end - base].decode()
                start = end

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each."""
        return np.diff(self._ends, prepend=0)

    def raw(self, i: int) -> bytes:
        """String ``i`` in UTF-8."""
        return self._data[self._ends[i - 1] if i else 0 : self._ends[i]].tobytes()

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"text {i} of {len(self)}")
        return self.raw(int(i) % len(self)).decode("utf-8")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} strings>"


class Ids:
    """The ids of a generation and their numbers; it grows with the store, and views of all moments share it."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}
        #: Numbers that an id had before, of texts that were deleted.
        self._earlier: dict[str, list[int]] = {}
        #: How many texts had been deleted before each that is.
        self._deleted: dict[int, int] = {}
        self._deletions = 0
        self._growing = threading.Lock()

    def grow(self, view: View) -> Ids:
        """Itself, with all that a view has."""
        with self._growing:
            first = len(self.texts)
            names = list(view.strings("id", first)) if first < view.state.texts else []
            deleted = view.deletions[self._deletions :].tolist()
            for number, name in enumerate(names, first):
                if (before := self._numbers.get(name)) is not None:
                    self._earlier.setdefault(name, []).append(before)
                self._numbers[name] = number
            self._deleted.update(zip(deleted, itertools.count(self._deletions)))
            self._deletions += len(deleted)
            self.texts.extend(names)
        return self

    def number(self, name: str, view: View) -> int | None:
        """The number of a text that a view has and that is not deleted there."""
        number, texts = self._numbers.get(name), view.state.texts
        if number is not None and number >= texts:
            number = next((n for n in reversed(self._earlier.get(name, ())) if n < texts), None)
        if number is None or self._deleted.get(number, self._deletions) < len(view.deletions):
            return None
        return number


class View:
    """A store as it was committed at one moment; nothing that is written later changes it."""

    def __init__(self, folder: Path, state: State, before: View | None = None):
        self.folder, self.state = folder, state
        follows = before is not None and before.state.generation == state.generation
        self.files: Files = before.files if before is not None and follows else Files(folder, state)
        self.files.check_sizes(state)
        #: What searches have made ready, for those that follow: as documents, and as a first stage.
        self.prepared: Any = None
        self.stage: Any = None
        self._before = before.__dict__.get("_ids") if before is not None and follows else None

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        lengths = self.files.checked(self.state, "lengths", "<i8")
        if (lengths < 0).any() or int(lengths.sum()) != self.state.tokens:
            raise InputError(f"path: {self.folder} is damaged: lengths and values disagree")
        return lengths

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        offsets = np.zeros(self.state.texts + 1, dtype=np.int64)
        np.cumsum(self.lengths, out=offsets[1:])
        return offsets

    @functools.cached_property
    def values(self) -> np.ndarray:
        return self.files.map(self.state, "values", DTYPES[self.state.dtype]).reshape(-1, self.state.dim)

    @functools.cached_property
    def scales(self) -> np.ndarray | None:
        return self.files.map(self.state, "scales", "<f4") if self.state.dtype == "int8" else None

    @functools.cached_property
    def deletions(self) -> np.ndarray:
        """Numbers of deleted texts, in the order in which they were deleted."""
        numbers = self.files.checked(self.state, "deleted", "<i8")
        if ((numbers < 0) | (numbers >= self.state.texts)).any():
            raise InputError(f"path: {self.folder} is damaged: texts are deleted that it does not have")
        return numbers

    @functools.cached_property
    def deleted(self) -> np.ndarray:
        """Whether each text is."""
        deleted = np.zeros(self.state.texts, dtype=bool)
        deleted[self.deletions] = True
        return deleted

    def strings(self, column: str, first: int = 0) -> Strings:
        """Of the column ``"id"`` or ``"content"``, from text ``first`` on."""
        ends = self.files.checked(self.state, f"{column}_ends", "<i8")
        data = self.files.checked(self.state, f"{column}s", "u1")
        start = int(ends[first - 1]) if first else 0
        new = ends[first:]
        if (
            start < 0
            or (np.diff(new, prepend=start) < 0).any()
            or (ends[-1] if len(ends) else 0) != len(data)
        ):
            raise InputError(f"path: {self.folder} is damaged: its {column}s contradict each other")
        return Strings(data[start:], new - start)

    @functools.cached_property
    def contents(self) -> Strings:
        return self.strings("content")

    @functools.cached_property
    def _ids(self) -> Ids:
        known, self._before = self._before or Ids(), None
        try:
            return known.grow(self)
        except UnicodeDecodeError as error:
            raise InputError(f"path: {self.folder} is damaged: an id is no UTF-8 ({error})") from None

    @functools.cached_property
    def ids(self) -> list[str]:
        return self._ids.texts[: self.state.texts]

    def number(self, name: str) -> int | None:
        """The number of a text that is not deleted."""
        return self._ids.number(name, self)

    def mark(self, texts: int) -> str:
        """A hash of the first texts: texts that are added later do not change it, compaction does.

        Tokens that are bytes count by their scales, which are quickly read.
        """
        tokens = int(self.offsets[texts])
        ends = {"lengths": 8 * texts}
        for column in ("id", "content"):
            kept = self.files.checked(self.state, f"{column}_ends", "<i8")
            ends[f"{column}s"] = int(kept[texts - 1]) if texts else 0
        if self.state.dtype == "int8":
            ends["scales"] = 4 * tokens
        else:
            ends["values"] = tokens * self.state.dim * np.dtype(DTYPES[self.state.dtype]).itemsize
        sums = {name: self.files.sum_of(self.state, name, end) for name, end in ends.items()}
        return of_settings([self.state.generation, texts, sums])[:32]

    @functools.cached_property
    def places(self) -> np.ndarray:
        names = [name.encode() for name in self.ids]
        places = np.empty(len(names), dtype=np.int64)
        places[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        places[self.deleted] = -1
        return places


def opened(folder: Path) -> View:
    """What is committed, with its files. Where another process has just compacted them away, the next are read."""
    state = committed(folder)
    while True:
        try:
            view = View(folder, state)
        except FileNotFoundError as error:
            again = committed(folder)
            if again.generation == state.generation:
                raise InputError(f"path: {error.filename} is missing: {folder} is damaged") from None
            state = again
        except OSError as error:
            raise InputError(
                f"path: {error.filename or folder} cannot be read ({error.strerror or error})"
            ) from None
        else:
            _ = view.lengths, view.deletions  # whether they are damaged is seen on opening
            return view


def rewrite(view: View) -> State:
    """Write the next generation, without deleted texts, and commit it; on failure nothing is left of it."""
    kept = np.flatnonzero(~view.deleted)
    lengths = view.lengths[kept]

    def rows() -> Iterator[list[int]]:
        return (view.offsets[i : i + 2].tolist() for i in kept.tolist())

    texts = {column: view.strings(column) for column in ("id", "content")}
    columns: dict[str, Iterable[Any]] = {
        "values": (view.values[start:end].tobytes() for start, end in rows()),
        "scales": () if view.scales is None else (view.scales[start:end].tobytes() for start, end in rows()),
        "lengths": [lengths.astype("<i8").tobytes()],
        "deleted": [],
    }
    for column, strings in texts.items():
        ends = np.cumsum(strings.sizes[kept], dtype="<i8")
        columns |= {f"{column}s": map(strings.raw, kept.tolist()), f"{column}_ends": [ends.tobytes()]}
    state = dataclasses.replace(view.state, generation=view.state.generation + 1, sizes={}, sums={})
    try:
        for name, chunks in columns.items():
            file = state.file(view.folder, name)
            state.sizes[name], state.sums[name] = write_new(file, chunks)
        commit(view.folder, state)
    except BaseException:
        with contextlib.suppress(OSError, InputError):
            tidy(view.folder, committed(view.folder))
        raise
    return state
