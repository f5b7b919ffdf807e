"""Tables: ids and values from those of users (pandas, polars, Arrow, numpy, named tuples), and tables for papers."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import InputError

#: Names that columns have in ir_measures, PyTerrier, ranx and TREC's own texts.
TOPIC = ("query_id", "qid", "q_id", "topic", "query")
DOCUMENT = ("doc_id", "docno", "docid", "document", "doc")
VALUE = {"qrels": ("relevance", "label", "rel", "score"), "run": ("score",)}
_VALUE_TYPE = {"qrels": np.int64, "run": np.float64}


def is_table(x: Any) -> bool:
    """Whether ``x`` has named columns: a pandas or polars data frame, or an Arrow table."""
    return hasattr(x, "columns") and hasattr(x, "__getitem__") and hasattr(x, "shape")


def columns(name: str, table: Any) -> tuple[Any, Any, np.ndarray]:
    """Topics, documents and values of a table, as the native core takes them.

    Raises
    ------
    InputError
        A column that is missing, or values that are no numbers (integers for judgments).
    """
    topics, documents, values = named_columns(name, table)
    return (*_ids(name, topics, documents), _values(name, values))


def rows(name: str, given: Sequence[Any]) -> tuple[Any, Any, np.ndarray] | dict[str, Any]:
    """The same of named tuples.

    Raises
    ------
    InputError
        A field that is missing, or values that are no numbers (integers for judgments).
    """
    if not given:
        return {}
    topics, documents, values = named_fields(name, given)
    return (*_ids(name, topics, documents), _values(name, values))


def named_columns(name: str, table: Any) -> tuple[Any, Any, Any]:
    """The same as the table has them.

    Raises
    ------
    InputError
        A column that is missing.
    """
    names = [str(c) for c in getattr(table, "column_names", table.columns)]
    topic, document, value = (table[found] for found in _fields(name, names, "column"))
    return topic, document, value


def named_rows(x: Any) -> list[Any] | None:
    """The rows of an iterable of named tuples, such as ir_measures' ``Qrel`` and ``ScoredDoc``; None for anything else."""
    if is_table(x) or not isinstance(x, Iterable):
        return None
    found = list(x)
    return found if all(hasattr(row, "_fields") for row in found) else None


def named_fields(name: str, given: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Topics, documents and values of named tuples.

    Raises
    ------
    InputError
        A field that is missing, or rows with other fields than the first.
    """
    names = list(given[0]._fields)
    if any(row._fields != given[0]._fields for row in given):
        raise InputError(f"{name}: expected rows with the fields of the first ({', '.join(names)})")
    by_name = dict(zip(names, zip(*given, strict=True), strict=True))
    topic, document, value = (list(by_name[found]) for found in _fields(name, names, "field"))
    return topic, document, value


def _fields(name: str, names: Sequence[str], kind: str) -> list[str]:
    """Which of the names are those of the topic, the document and the value."""
    found = []
    for what, accepted in (("topic", TOPIC), ("document", DOCUMENT), ("value", VALUE[name])):
        known = next((candidate for candidate in accepted if candidate in names), None)
        if known is None:
            raise InputError(
                f"{name}: no {kind} for the {what} (one of {', '.join(accepted)}); got {', '.join(names)}"
            )
        found.append(known)
    return found


def arrays(name: str, x: tuple[Any, Any, Any]) -> tuple[Any, Any, np.ndarray]:
    """The same from three arrays; documents and values may have a row per topic, padded with -1.

    Raises
    ------
    InputError
        Shapes that do not fit, or values that are no numbers.
    """
    topics, documents, values = flat(name, x)
    return (*_ids(name, topics, documents), _values(name, values))


def flat(name: str, x: tuple[Any, Any, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three arrays with a topic, a document and a value in each row.

    Raises
    ------
    InputError
        Shapes that do not fit.
    """
    topics, documents, values = (np.asarray(part) for part in x)
    if documents.ndim == 2 and documents.shape == values.shape and topics.shape == documents.shape[:1]:
        keep = documents != -1 if documents.dtype.kind == "i" else np.ones(documents.shape, bool)
        topics = np.repeat(topics, keep.sum(axis=1))
        documents, values = documents[keep], values[keep]
    if not topics.shape == documents.shape == values.shape or topics.ndim != 1:
        raise InputError(
            f"{name}: expected topics (n,) with documents and values (n,) or (n, k), got "
            f"{', '.join(str(np.shape(part)) for part in x)}"
        )
    return topics, documents, values


def _values(name: str, column: Any) -> np.ndarray:
    wanted = _VALUE_TYPE[name]
    values = np.asarray(column)
    kinds = "iub" if name == "qrels" else "iufb"
    if values.dtype.kind not in kinds:
        expected = "integers" if name == "qrels" else "numbers"
        hint = "; are qrels and run swapped?" if name == "qrels" and values.dtype.kind == "f" else ""
        raise InputError(f"{name}: expected {expected} as values, got {values.dtype}{hint}")
    # The native core reads one value after another, each where its type may lie.
    return np.require(values, wanted, ["C", "A"])


def _ids(name: str, topics: Any, documents: Any) -> tuple[Any, Any]:
    """Numbers where both are integers, else text."""
    both = [_integers(topics), _integers(documents)]
    if all(numbers is not None for numbers in both):
        return both[0], both[1]
    return _text(f"{name}: topics", topics), _text(f"{name}: documents", documents)


def _integers(column: Any) -> np.ndarray | None:
    if str(getattr(column, "dtype", getattr(column, "type", ""))).lower().startswith(("int", "uint")):
        return np.require(np.asarray(column), np.int64, ["C", "A"])
    return None


def _text(what: str, column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ids as one text with offsets; without a copy of each where Arrow is at hand."""
    try:
        import pyarrow as arrow
    except ImportError:
        arrow = None
    if arrow is not None:
        try:
            array = column.to_arrow() if hasattr(column, "to_arrow") else arrow.array(column)
        except arrow.ArrowException:
            raise InputError(f"{what}: expected ids of one type, text or integers") from None
        if isinstance(array, arrow.ChunkedArray):
            array = array.combine_chunks()
        if array.null_count:
            raise InputError(f"{what}: expected an id in every row, got {array.null_count} empty ones")
        array = array.cast(arrow.large_string()).cast(arrow.large_binary())
        _, offsets, data = array.buffers()
        bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        return np.frombuffer(data or b"", np.uint8), np.ascontiguousarray(bounds)
    ids = [i if isinstance(i, bytes) else str(i).encode() for i in column]
    bounds = np.concatenate([[0], np.cumsum([len(i) for i in ids], dtype=np.int64)]).astype(np.int64)
    return np.frombuffer(b"".join(ids), np.uint8), bounds


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(markdown(["measure", "mean"], [["map", "0.5"]]))
    | measure | mean |
    | --- | --- |
    | map | 0.5 |
    """
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def latex(
    head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", text_columns: int = 1
) -> str:
    """A LaTeX ``table`` with ``booktabs`` rules; the first ``text_columns`` are flush left."""
    lines = [
        r"\begin{table}",
        rf"\begin{{tabular}}{{{'l' * text_columns}{'r' * (len(head) - text_columns)}}}",
        r"\toprule",
        " & ".join(map(_escape, head)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_escape, cells)) + r" \\" for cells in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if caption:
        lines.append(rf"\caption{{{_escape(caption)}}}")
    return "\n".join([*lines, r"\end{table}"])


def _escape(cell: str) -> str:
    for char in "\\&%_#":
        cell = cell.replace(char, {"\\": r"\textbackslash{}"}.get(char, f"\\{char}"))
    return cell
