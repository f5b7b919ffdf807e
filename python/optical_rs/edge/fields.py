"""Fields of documents, such as their language or year, beside an index, and filters by them."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
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

    def read(self) -> dict[str, dict[str, Any]]:
        """All of them."""
        if self._store is None:
            return {}
        gone = self._store.deleted
        texts = zip(self._store.ids, self._store.contents, gone, strict=True)
        return {name: json.loads(line) for name, line, deleted in texts if not deleted}

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
    _expect_filters(filters)
    kinds = {name: {kind(v) for row in rows for v in values_of(row.get(name))} for name in filters}
    if not all(kinds.values()):
        kinds |= {name: set() for row in rows for name in row if name not in kinds}
    kept = np.ones(len(rows), dtype=bool)
    for name, wanted in conditions(filters, kinds).items():
        if isinstance(wanted, dict):
            kept &= [any(_inside(value, wanted) for value in values_of(row.get(name))) for row in rows]
        else:
            # 1 and true are one key in Python, and two values here.
            keys = {(kind(value), value) for value in wanted}
            kept &= [any((kind(v), v) in keys for v in values_of(row.get(name))) for row in rows]
    return kept


def conditions(
    filters: Mapping[str, Any], kinds: Mapping[str, Collection[str]]
) -> dict[str, list[Any] | dict[str, Any]]:
    """Filters after checks: of each field the values of which it has one, or its bounds.

    Parameters
    ----------
    filters : dict
        As for :func:`select`.
    kinds : dict of str to set of str
        Of each field that documents have: ``"text"``, ``"numbers"``, ``"true or false"``.

    Raises
    ------
    InputError
        As for :func:`select`.

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
            found[name] = dict(wanted)
        else:
            found[name] = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
            for value in found[name]:
                _expect_kind(name, value, own)
    return found


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
