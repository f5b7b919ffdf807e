"""Fields of documents, such as their language or year, beside an index, and filters by them."""

import json
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, closest, texts_only
from ..files import beside, is_number
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
    return beside(path, ".fields")


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

    @property
    def exists(self) -> bool:
        """Whether any document has fields."""
        return self._store is not None

    def write(self, documents: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Add or replace the fields of documents; those without any have no entry.

        Raises
        ------
        InputError
            A value that is neither text, a finite number, true or false, nor a list of them.
        """
        said = {name: as_json(name, fields) for name, fields in documents}
        if self._store is None:
            if not any(said.values()):
                return
            self._store = TokenStore.create(self.path, 1)
        store = self._store
        with store.writing():
            old = {name: store.contents[store.index(name)] for name in said if name in store}
            changed = {name: line for name, line in said.items() if line != old.get(name, "")}
            gone = [name for name in changed if name in old]
            new = {name: line for name, line in changed.items() if line}
            if gone or new:
                store.append([_NONE] * len(new), list(new), list(new.values()), replacing=gone)

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each document that has some, and its own."""
        if self._store is not None:
            gone = self._store.deleted.tolist()
            for name, line, deleted in zip(self._store.ids, self._store.contents, gone, strict=True):
                if not deleted:
                    yield name, json.loads(line)

    def of(self, document: str) -> dict[str, Any]:
        """Those of one document; none if it has no entry."""
        store = self._store
        if store is None or document not in store:
            return {}
        found: dict[str, Any] = json.loads(store.contents[store.index(document)])
        return found


def as_json(document: str, fields: Mapping[str, Any]) -> str:
    """Fields as JSON, without those that are null; nothing for none.

    Raises
    ------
    InputError
        As for :meth:`Fields.write`.

    >>> as_json("d0", {"year": np.int64(1990), "tag": None})
    '{"year": 1990}'
    """
    kept = {str(name): _own(value) for name, value in fields.items() if value is not None}
    for name, value in kept.items():
        texts_only(f"documents: '{document}', fields", [name])
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, str):
                texts_only(f"documents: '{document}', field '{name}'", [part])
        if not all(map(_is_plain, value if isinstance(value, list) else [value])):
            raise InputError(
                f"documents: '{document}', field '{name}': expected text, a number, true, false or a list of them, "
                f"got {value!r}"
            )
    return json.dumps(kept, ensure_ascii=False, sort_keys=True) if kept else ""


def _own(value: Any) -> Any:
    """A value of numpy as one of Python, which JSON has."""
    if isinstance(value, list):
        return list(map(_own, value))
    return value.item() if isinstance(value, np.generic) else value


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, bool | int | float) and is_number(value))


def kind(value: Any) -> str:
    """What a value is, in words."""
    return "true or false" if isinstance(value, bool) else "text" if isinstance(value, str) else "numbers"


class _Column:
    """The values of one field: each once, and of each time that a row has one the row and the value's number."""

    def __init__(self) -> None:
        # 1 and true are one key in Python, and two values here.
        self.numbers: dict[tuple[str, Any], int] = {}
        self.rows, self.values = array("q"), array("q")

    def rows_of(self, wanted: list[Any] | dict[str, Any]) -> np.ndarray:
        """The rows that have one of some values, or one inside some bounds."""
        if isinstance(wanted, dict):
            chosen = [number for (_, value), number in self.numbers.items() if _inside(value, wanted)]
        else:
            keys = {(kind(value), value) for value in wanted}
            chosen = [self.numbers[key] for key in keys if key in self.numbers]
        known = np.zeros(len(self.numbers), dtype=bool)
        known[chosen] = True
        return np.frombuffer(self.rows, "q")[known[np.frombuffer(self.values, "q")]]


class Values:
    """The fields of rows, field by field, read through once and ready for any number of filters.

    Parameters
    ----------
    rows : int
    fields : iterable of (int, dict)
        The number of a row and its fields; rows without any may be left out.

    Examples
    --------
    >>> values = Values(3, enumerate([{"year": 1995, "tag": ["a", "b"]}, {"year": 2001, "tag": ["b"]}, {}]))
    >>> values.names, values.select({"tag": "b", "year": {"lt": 2000}}).tolist()
    (['tag', 'year'], [True, False, False])
    """

    def __init__(self, rows: int, fields: Iterable[tuple[int, Mapping[str, Any]]]):
        self._rows = rows
        columns: defaultdict[str, _Column] = defaultdict(_Column)
        for row, said in fields:
            for name, value in said.items():
                column = columns[name]
                for own in values_of(value):
                    column.rows.append(row)
                    column.values.append(column.numbers.setdefault((kind(own), own), len(column.numbers)))
        self._columns = dict(columns)

    @property
    def names(self) -> list[str]:
        """The fields that rows have, sorted."""
        return sorted(self._columns)

    def select(self, filters: Mapping[str, Any]) -> np.ndarray:
        """Which rows satisfy all filters.

        Parameters
        ----------
        filters : dict
            Field → a value that it has, a list of values of which it has one, or a range such as
            ``{"gte": 1990, "lt": 2000}`` (``gt``, ``gte``, ``lt``, ``lte``) of numbers or of texts, which dates such as
            ``"2024-05-31"`` are. A field that is a list has each of its values.

        Returns
        -------
        (rows) bool array

        Raises
        ------
        InputError
            A field that no row has, a value that is of another kind than the field's, or an unknown bound.
        """
        kinds = {name: {own for own, _ in column.numbers} for name, column in self._columns.items()}
        kept = np.ones(self._rows, dtype=bool)
        for name, wanted in conditions(filters, kinds).items():
            satisfied = np.zeros(self._rows, dtype=bool)
            satisfied[self._columns[name].rows_of(wanted)] = True
            kept &= satisfied
        return kept


def conditions(
    filters: Mapping[str, Any], kinds: Mapping[str, Collection[str]]
) -> dict[str, list[Any] | dict[str, Any]]:
    """Filters after checks: of each field the values of which it has one, or its bounds.

    Parameters
    ----------
    filters : dict
        As for :meth:`Values.select`.
    kinds : dict of str to set of str
        Of each field that documents have: ``"text"``, ``"numbers"``, ``"true or false"``.

    Raises
    ------
    InputError
        As for :meth:`Values.select`.

    Examples
    --------
    >>> conditions({"tag": "b", "year": {"lt": 2000}}, {"tag": {"text"}, "year": {"numbers"}})
    {'tag': ['b'], 'year': {'lt': 2000}}
    """
    _expect_filters(filters)
    found: dict[str, list[Any] | dict[str, Any]] = {}
    for name, wanted in filters.items():
        own = set(kinds.get(name, ()))
        if not own:
            others = kinds.keys() - {n for n in filters if not kinds.get(n)}
            raise InputError(f"filters: no document has a field '{name}'{closest(name, others)}")
        if isinstance(wanted, Mapping):
            if not wanted:
                raise InputError(
                    f"filters: '{name}': expected a range with {', '.join(_BOUNDS)}, got an empty one"
                )
            if own == {"true or false"}:
                raise InputError(f"filters: '{name}': expected true or false, got the range {dict(wanted)}")
            for bound, limit in wanted.items():
                if bound not in _BOUNDS:
                    raise InputError(f"filters: '{name}': unknown bound '{bound}'{closest(bound, _BOUNDS)}")
                _expect_kind(name, limit, own - {"true or false"})
            found[name] = {bound: _plain(limit) for bound, limit in wanted.items()}
        else:
            found[name] = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
            for value in found[name]:
                _expect_kind(name, value, own)
            found[name] = list(map(_plain, found[name]))
    return found


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's, which engines can write."""
    return value.item() if isinstance(value, np.generic) else value


def _expect_filters(filters: Any) -> None:
    if not isinstance(filters, Mapping):
        raise InputError(f"filters: expected a dict of field to value, list or range, got {filters!r}")


def values_of(value: Any) -> Sequence[Any]:
    """The values of a field: none, one, or those of a list."""
    return () if value is None else value if isinstance(value, list) else (value,)


def _expect_kind(name: str, value: Any, kinds: set[str]) -> None:
    if not _is_plain(_own(value)) or kind(value) not in kinds:
        raise InputError(f"filters: '{name}': expected {' or '.join(sorted(kinds))}, got {value!r}")


def _inside(value: Any, bounds: Mapping[str, Any]) -> bool:
    return all(kind(value) == kind(limit) and _BOUNDS[bound](value, limit) for bound, limit in bounds.items())
