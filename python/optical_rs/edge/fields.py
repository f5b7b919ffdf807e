"""Fields of documents, such as their language or year, beside an index, and filters by them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, closest
from ..files import is_number
from ..similarity import TokenStore, columns

#: Bounds of a range, as in Qdrant's filters.
_BOUNDS = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}
_NONE = np.zeros((0, 1), np.float32)


def fields_of(path: str | Path) -> Path:
    """Where the fields of an index's documents are, if it has some."""
    path = Path(path)
    return path.with_name(path.name + ".fields")


class Fields:
    """The fields of an index's documents, by id: a store of texts without tokens, that say them as JSON.

    They are written before the documents, so that no document is ever without its fields.

    Parameters
    ----------
    index : path
        The index's.
    """

    def __init__(self, index: str | Path):
        self.path = fields_of(index)
        self._store = TokenStore(self.path) if columns.holds_store(self.path) else None

    def write(self, documents: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Add or replace the fields of documents; those without any have no entry.

        Raises
        ------
        InputError
            A value that is neither text, a finite number, true or false, nor a list of them.
        """
        said = {name: _said(name, fields) for name, fields in documents}
        if self._store is None:
            if not any(said.values()):
                return
            self._store = TokenStore.create(self.path, 1)
        store = self._store
        with store.writing():
            old = {name: store.contents[store.index(name)] for name in said if name in store}
            changed = {name: line for name, line in said.items() if line != old.get(name, "")}
            if gone := [name for name in changed if name in old]:
                store.delete(gone)
            if new := {name: line for name, line in changed.items() if line}:
                store.append([_NONE] * len(new), list(new), list(new.values()))

    def read(self) -> dict[str, dict[str, Any]]:
        """All of them."""
        if self._store is None:
            return {}
        gone = self._store.deleted
        texts = zip(self._store.ids, self._store.contents, gone, strict=True)
        return {name: json.loads(line) for name, line, deleted in texts if not deleted}


def _said(document: str, fields: Mapping[str, Any]) -> str:
    """Fields as JSON, without those that are null; nothing for none."""
    kept = {str(name): value for name, value in fields.items() if value is not None}
    for name, value in kept.items():
        if not all(map(_is_plain, value if isinstance(value, list) else [value])):
            raise InputError(
                f"documents: '{document}', field '{name}': expected text, a number, true, false or a list of them, "
                f"got {value!r}"
            )
    return json.dumps(kept, ensure_ascii=False, sort_keys=True) if kept else ""


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool) or is_number(value)


def _kind(value: Any) -> str:
    return "true or false" if isinstance(value, bool) else "text" if isinstance(value, str) else "numbers"


def select(filters: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Which rows satisfy all filters.

    Parameters
    ----------
    filters : dict
        Field → a value that it has, a list of values of which it has one, or a range such as
        ``{"gte": 1990, "lt": 2000}`` (``gt``, ``gte``, ``lt``, ``lte``) of numbers or of texts, which dates such as
        ``"2024-05-31"`` are. A field that is a list has each of its values.
    rows : sequence of dict
        The fields of each document.

    Returns
    -------
    (rows) bool array

    Raises
    ------
    InputError
        A field that no row has, a value that is of another kind than the field's, or an unknown bound.

    Examples
    --------
    >>> rows = [{"year": 1995, "tag": ["a", "b"]}, {"year": 2001, "tag": ["b"]}, {}]
    >>> select({"tag": "b", "year": {"lt": 2000}}, rows).tolist()
    [True, False, False]
    """
    if not isinstance(filters, Mapping):
        raise InputError(f"filters: expected a dict of field to value, list or range, got {filters!r}")
    kept = np.ones(len(rows), dtype=bool)
    for name, wanted in filters.items():
        values = [_values(row.get(name)) for row in rows]
        kinds = {_kind(value) for row in values for value in row}
        if not kinds:
            raise InputError(
                f"filters: no document has a field '{name}'{closest(name, {key for row in rows for key in row})}"
            )
        if isinstance(wanted, Mapping):
            kept &= _within(name, wanted, values, kinds)
        else:
            kept &= _among(name, wanted, values, kinds)
    return kept


def _values(value: Any) -> Sequence[Any]:
    return () if value is None else value if isinstance(value, list) else (value,)


def _expect_kind(name: str, value: Any, kinds: set[str]) -> None:
    if not _is_plain(value) or _kind(value) not in kinds:
        raise InputError(f"filters: '{name}': expected {' or '.join(sorted(kinds))}, got {value!r}")


def _within(name: str, bounds: Mapping[str, Any], values: list[Sequence[Any]], kinds: set[str]) -> np.ndarray:
    if not bounds:
        raise InputError(f"filters: '{name}': expected a range with {', '.join(_BOUNDS)}, got an empty one")
    for bound, limit in bounds.items():
        if bound not in _BOUNDS:
            raise InputError(f"filters: '{name}': unknown bound '{bound}'{closest(bound, _BOUNDS)}")
        _expect_kind(name, limit, kinds - {"true or false"})

    def inside(value: Any) -> bool:
        return all(
            _kind(value) == _kind(limit) and _BOUNDS[bound](value, limit) for bound, limit in bounds.items()
        )

    return np.array([any(map(inside, row)) for row in values], dtype=bool)


def _among(name: str, wanted: Any, values: list[Sequence[Any]], kinds: set[str]) -> np.ndarray:
    allowed = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
    for value in allowed:
        _expect_kind(name, value, kinds)
    # 1 and true are one key in Python, and two values here.
    keys = {(_kind(value), value) for value in allowed}
    return np.array([any((_kind(value), value) in keys for value in row) for row in values], dtype=bool)
