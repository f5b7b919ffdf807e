"""LanceDB (extra ``lancedb``): a table with a multivector column, in a folder or in object storage.

A target is ``"folder/name"`` or ``"s3://bucket/folder/name"`` (``gs://``, ``az://``), whose last part is the table; or an
opened ``lancedb`` table, or ``(lancedb.connect(...), "name")``, for keys and other options.

LanceDB compares multivectors by the cosines of their tokens alone, so that tokens have to have unit length, as those of
this package's models do.
"""

import contextlib
import inspect
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..edge.encoder import Encoder
from ..edge.fields import conditions
from ..errors import InputError, closest, require
from ..lock import NAME as LOCK
from ..lock import folder_lock
from ..similarity import TokenStore
from .common import BATCH, About, Found, Text, batches, best_documents, clear, count, gone, only, read_into

_ABOUT = b"optical_rs"
_TYPES = {"text": "string", "numbers": "float64", "true or false": "bool_"}
#: Folders of a table.
_PARTS = ("data", "_versions", "_transactions", "_indices", "_deletions")
#: By how much the length of a token may differ from 1; bytes and float16 round it.
_UNIT = 0.02


def write(
    store: TokenStore, target: Any, *, dtype: str = "float32", index: Mapping[str, Any] | None = None
) -> None:
    """Write a store's texts, tokens and fields.

    Texts that the table has are replaced, those that the store has deleted are removed, others stay: several stores may
    be written to one table. At most 512 texts are held at a time.

    Parameters
    ----------
    store : TokenStore
    target
        A table's address or an opened table, see above; one that does not exist is made.
    dtype : {"float32", "float16"}
        How LanceDB keeps tokens. A table that exists keeps its own.
    index : dict, optional
        Arguments of ``create_index``, such as ``{"index_type": "IVF_PQ", "num_partitions": 64}``. Without an index all
        texts are compared, exactly.

    Raises
    ------
    InputError
        LanceDB is not installed, the storage does not answer, another process writes the table in its folder, tokens that
        are not of unit length, a field with values of several kinds, unknown settings of the index, or a table that is
        something else, of another model or without one of the fields. The table is then as it was before, unless another
        writer has changed it meanwhile: a table in object storage takes one writer at a time.
    """
    if dtype not in ("float32", "float16"):
        raise InputError(f"dtype: expected float32 or float16, got {dtype!r}")
    about = About.of(store, dtype=dtype)
    _expect_typed(about)
    with _errors(target):
        if index is not None:
            _expect_settings(index)
        table, connection, name = _opened(target)
        with _only_writer(table, connection, name):
            if connection is not None:  # another may have written it before this writer's turn
                table = _open(connection, name)
            if table is None:
                _create(connection, name, store, about, index)
            else:
                _update(table, target, store, about, index)


def _create(
    connection: Any, name: str, store: TokenStore, about: About, index: Mapping[str, Any] | None
) -> None:
    table, folder = None, _folder(None, connection, name)
    if folder and folder.is_dir():
        if not only(folder, {LOCK, *_PARTS}):
            (folder / LOCK).unlink(missing_ok=True)
            raise InputError(f"target: {folder} is something else than a table, and is left alone")
        for part in _PARTS:  # of a writer that was killed
            shutil.rmtree(folder / part, ignore_errors=True)
    try:
        with _rows(store, about) as rows:
            table = connection.create_table(name, data=rows)
        if index is not None:
            _index(table, index)
    except BaseException:
        # What is there by now and was not made above is another writer's.
        if table is not None or not _is_there(connection, name):
            _drop(connection, name)
        raise


def _update(
    table: Any, target: Any, store: TokenStore, about: About, index: Mapping[str, Any] | None
) -> None:
    old = _about(table, target)
    old.expect_same(about, _shown(target))
    new = [(n, kinds) for n, kinds in about.fields.items() if not set(kinds) <= set(old.fields.get(n, ()))]
    for field, kinds in new:
        raise InputError(
            f"target: the schema of {_shown(target)} differs: field '{field}' is {' and '.join(kinds)} in the store, "
            f"and {' and '.join(old.fields.get(field, ['none']))} in the table"
        )
    made: list[int] = []
    try:
        update = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        with _rows(store, old) as rows:
            made.append(update.execute(rows).version)
        names = gone(store)
        for first in range(0, len(names), BATCH):
            removed = table.delete(f"id IN ({', '.join(map(_quoted, names[first : first + BATCH]))})")
            made.append(removed.version)
        if index is not None:
            _index(table, index)
    except BaseException:
        if made:
            table.checkout_latest()
            # Not where another writer's version is among them.
            if list(range(made[0], table.version + 1)) == made:
                table.restore(made[0] - 1)
        raise


def search(
    target: Any,
    queries: Sequence[Any],
    k: int = 10,
    *,
    filters: Mapping[str, Any] | None = None,
    encoder: Encoder | None = None,
    nprobes: int | None = None,
    refine: int | None = None,
) -> list[list[Found]]:
    """The ``k`` best documents of each query.

    Parameters
    ----------
    target
        A table's address or an opened table, see above.
    queries : sequence of (tokens, dim) arrays, or of str with an encoder
    k : int
    filters : dict, optional
        As for :meth:`optical_rs.Index.search <optical_rs.edge.search.Index.search>`; no ranges of fields that are lists.
    encoder : Encoder, optional
        The exported model that encodes queries.
    nprobes, refine : int, optional
        Of a table with an index: partitions that are looked into, and how many times k texts are compared exactly.

    Returns
    -------
    list of lists of Found
        Best first; none for a query without tokens.

    Raises
    ------
    InputError
        No such table, storage that does not answer, filters by unknown fields or of another kind, queries of another
        dimension, or an encoder with another teacher.
    """
    with _errors(target):
        table, _, name = _opened(target)
        if table is None:
            raise InputError(f"target: there is no table '{name}' at {_shown(target)}")
        about = _about(table, target)
        tokens, k = about.queries(queries, encoder), count("k", k)
        chosen = None if filters is None else _where(conditions(filters, about.kinds), about)

        def found(query: np.ndarray) -> list[Found]:
            def fetch(pieces: int) -> list[tuple[str, float, str, Mapping[str, Any]]]:
                asked = table.search(query, vector_column_name="tokens").distance_type("cosine").limit(pieces)
                asked = asked.select(["id", "text", "fields", "_distance"])
                if chosen:
                    asked = asked.where(chosen, prefilter=True)
                if nprobes is not None:
                    asked = asked.nprobes(count("nprobes", nprobes))
                if refine is not None:
                    asked = asked.refine_factor(count("refine", refine))
                # A distance is the sum of 1 − cosine over the query's tokens.
                return [
                    (row["id"], len(query) - row["_distance"], row["text"], json.loads(row["fields"]))
                    for row in asked.to_arrow().to_pylist()
                ]

            return best_documents(fetch, k, about)

        return [found(query / _lengths(query)) if len(query) else [] for query in tokens]


def read(target: Any, path: str | Path, *, dtype: str = "float32") -> TokenStore:
    """Read the texts back into a new store, with their fields beside it.

    Parameters
    ----------
    target
        A table's address or an opened table, see above.
    path : path
        A new directory.
    dtype
        As for :meth:`~optical_rs.similarity.TokenStore.create`.

    Raises
    ------
    InputError
        As for :func:`search` and :meth:`~optical_rs.similarity.TokenStore.create`. Nothing is then left of the store.
    """
    with _errors(target):
        table, _, name = _opened(target)
        if table is None:
            raise InputError(f"target: there is no table '{name}' at {_shown(target)}")
        about = _about(table, target)

        def texts() -> Iterator[Text]:
            columns = ["id", "text", "fields", "tokens"]
            # A page at a time: a stream of LanceDB reads far ahead.
            for first in range(0, table.count_rows(), BATCH):
                batch = table.search().select(columns).offset(first).limit(BATCH).to_arrow()
                tokens = batch["tokens"].combine_chunks()
                values = tokens.flatten().flatten().to_numpy().astype(np.float32)
                lengths = tokens.value_lengths().fill_null(0).to_numpy()
                parts = np.split(values.reshape(-1, about.dim), np.cumsum(lengths)[:-1])
                ids, said, fields = (batch[column].to_pylist() for column in ("id", "text", "fields"))
                yield from zip(ids, parts, said, map(json.loads, fields), strict=True)

        return read_into(path, about, texts(), dtype, metadata=about.metadata)


@contextlib.contextmanager
def _rows(store: TokenStore, about: About) -> Iterator[Any]:
    """A store's texts as a stream of Arrow's batches. What stops it is raised as it is, and not as Arrow's error."""
    arrow = require("pyarrow", "lancedb")
    number = getattr(arrow, about.options["dtype"])()
    columns = [
        ("id", arrow.string()),
        ("tokens", arrow.list_(arrow.list_(number, about.dim))),
        ("text", arrow.string()),
        # As they are, and beside it what filters need: columns have one type.
        ("fields", arrow.string()),
    ]
    typed = {}
    for name, kinds in about.fields.items():
        (own,) = set(kinds) - {"list"}
        single = getattr(arrow, _TYPES[own])()
        typed[name] = arrow.list_(single) if "list" in kinds else single
    if typed:
        columns.append(("filters", arrow.struct(list(typed.items()))))
    schema = arrow.schema(columns, metadata={_ABOUT: about.text().encode()})

    def batch(part: list[Text]) -> Any:
        ids, tokens, texts, fields = zip(*part, strict=True)
        for name, own in zip(ids, tokens, strict=True):
            if len(own) and (far := abs(_lengths(own) - 1).max()) > _UNIT:
                raise InputError(
                    f"store: text '{name}' has a token whose length differs from 1 by {far:.2g}; LanceDB compares tokens "
                    "by their cosines alone"
                )
        flat = np.concatenate(tokens).astype(about.options["dtype"]).ravel()
        offsets = arrow.array(np.cumsum([0, *map(len, tokens)]), arrow.int32())
        arrays = [
            arrow.array(ids, arrow.string()),
            arrow.ListArray.from_arrays(
                offsets, arrow.FixedSizeListArray.from_arrays(arrow.array(flat, number), about.dim)
            ),
            arrow.array(texts, arrow.string()),
            arrow.array([json.dumps(own, ensure_ascii=False) for own in fields], arrow.string()),
        ]
        if typed:
            rows = [
                {
                    n: [v] if "list" in about.fields[n] and not isinstance(v, list) else v
                    for n, v in own.items()
                }
                for own in fields
            ]
            arrays.append(arrow.array(rows, arrow.struct(list(typed.items()))))
        return arrow.RecordBatch.from_arrays(arrays, schema=schema)

    stopped: list[BaseException] = []

    def stream() -> Iterator[Any]:
        try:
            yield from map(batch, batches(store))
        except BaseException as error:
            stopped.append(error)
            raise

    try:
        yield arrow.RecordBatchReader.from_batches(schema, stream())
    except Exception:
        if stopped:
            raise stopped[0] from None
        raise


def _lengths(tokens: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(tokens, axis=1, keepdims=True)
    return lengths


def _expect_typed(about: About) -> None:
    for name, kinds in about.fields.items():
        if len(own := set(kinds) - {"list"}) > 1:
            raise InputError(
                f"store: field '{name}' has {' and '.join(sorted(own))}, but a column of LanceDB has one type"
            )
        if "`" in name:
            raise InputError(f"store: field {name!r}: LanceDB takes no backquote in a field's name")


def _expect_settings(settings: Mapping[str, Any]) -> None:
    function = require("lancedb.table", "lancedb").LanceTable.create_index
    known = set(inspect.signature(function).parameters) - {"self", "metric", "vector_column_name"}
    for name in settings:
        if name not in known:
            raise InputError(f"index: create_index of LanceDB takes no '{name}' here{closest(name, known)}")


def _index(table: Any, settings: Mapping[str, Any]) -> None:
    try:
        table.create_index(metric="cosine", vector_column_name="tokens", **settings)
    except TypeError as error:
        raise InputError(f"index: {error}") from None


def _quoted(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


_SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def _where(wanted: Mapping[str, Any], about: About) -> str:
    """Conditions in LanceDB's SQL."""
    said = []
    for name, condition in wanted.items():
        column, several = f"filters.`{name}`", "list" in about.fields[name]
        if isinstance(condition, dict):
            if several:
                raise InputError(f"filters: '{name}': LanceDB has no ranges of a field that is a list")
            said += [f"{column} {_SIGNS[bound]} {_quoted(limit)}" for bound, limit in condition.items()]
        elif not condition:
            said.append("false")
        elif several:
            said.append(f"array_has_any({column}, [{', '.join(map(_quoted, condition))}])")
        else:
            said.append(f"{column} IN ({', '.join(map(_quoted, condition))})")
    return " AND ".join(f"({part})" for part in said)


def _about(table: Any, target: Any) -> About:
    return About.read((table.schema.metadata or {}).get(_ABOUT), _shown(target))


def _shown(target: Any) -> str:
    return str(target) if isinstance(target, str | os.PathLike) else f"table '{_name(target)}'"


def _name(target: Any) -> str:
    return target[1] if isinstance(target, tuple) else target.name


def _opened(target: Any) -> tuple[Any, Any, str]:
    """The table, or None if there is none; the database; the table's name."""
    library = require("lancedb", "lancedb")
    if hasattr(target, "merge_insert"):
        return target, None, target.name
    if isinstance(target, tuple) and len(target) == 2:
        connection, name = target
    elif isinstance(target, str | os.PathLike):
        base, _, name = os.fspath(target).replace(os.sep, "/").rstrip("/").rpartition("/")
        if not name:
            raise InputError(f"target: expected a folder or URL and a table's name, got {str(target)!r}")
        connection = library.connect(base or ".")
    else:
        raise InputError(
            f"target: expected 'folder/name', a URL, a table or (connection, name), got {type(target).__name__}"
        )
    return _open(connection, name), connection, name


def _open(connection: Any, name: str) -> Any:
    """The table, or None if there is none."""
    try:
        return connection.open_table(name)
    except ValueError as error:
        if "not found" not in str(error):
            raise
        return None


def _is_there(connection: Any, name: str) -> bool:
    """Whether there is a table; also if it cannot be told."""
    try:
        return _open(connection, name) is not None
    except (RuntimeError, OSError, ValueError):
        return True


def _folder(table: Any, connection: Any, name: str) -> Path | None:
    """The table's own folder, if it is kept in one."""
    base = str(getattr(table if connection is None else connection, "uri", "") or "")
    if not base or "://" in base:
        return None
    return Path(base) if connection is None else Path(base) / f"{name}.lance"


@contextlib.contextmanager
def _only_writer(table: Any, connection: Any, name: str) -> Iterator[None]:
    """One writer at a time for a table in a folder; object storage has no locks."""
    folder = _folder(table, connection, name)
    if folder is None:
        yield
    else:
        with folder_lock(folder).held(make=True):
            yield


def _drop(connection: Any, name: str) -> None:
    """Remove a table that was not written to its end."""
    if folder := _folder(None, connection, name):
        clear(folder)
    else:
        with contextlib.suppress(Exception):
            connection.drop_table(name)


@contextlib.contextmanager
def _errors(target: Any) -> Iterator[None]:
    """LanceDB's errors as InputError; what our rows raised on their way through Arrow as it was."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(
            f"target: {_shown(target)} cannot be used ({' '.join(str(error).split())[:300]})"
        ) from error
