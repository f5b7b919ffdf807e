"""Runs in every form that :func:`~optical_rs.ranking.evaluate` takes, as dicts."""

import os
from collections.abc import Mapping
from typing import Any

from .. import files
from ..errors import InputError


def as_dict(run: Any) -> dict[str, dict[str, float]]:
    """A run as ``{topic: {document: score}}``, with ids as text.

    Raises
    ------
    InputError
        A file that cannot be read, something that is no run, or a document retrieved twice.
    """
    if isinstance(run, (str, os.PathLike)):
        return files.read_run(run)
    if isinstance(run, Mapping):
        try:
            return {
                str(topic): {d if isinstance(d, str) else str(d): score for d, score in dict(hits).items()}
                for topic, hits in run.items()
            }
        except (TypeError, ValueError):
            raise InputError(
                "run: expected {topic: {document: score}}, got other values than dicts"
            ) from None
    import numpy as np

    from .tables import flat, is_table, named_columns, named_fields, named_rows

    columns: tuple[Any, Any, Any]
    if (rows := named_rows(run)) is not None:
        columns = named_fields("run", rows) if rows else ([], [], [])
    elif is_table(run):
        columns = named_columns("run", run)
    elif isinstance(run, tuple) and len(run) == 3:
        columns = flat("run", run)
    else:
        raise InputError(
            f"run: expected a file name, a dict of dicts, a table, three arrays or named tuples, got "
            f"{type(run).__name__}"
        )
    found: dict[str, dict[str, float]] = {}

    for topic, document, score in zip(*(np.asarray(c).tolist() for c in columns), strict=True):
        hits = found.setdefault(str(topic), {})
        if str(document) in hits:
            raise InputError(f"run: topic '{topic}', document '{document}': retrieved twice")
        hits[str(document)] = float(score)
    return found


def write_run(path: str | os.PathLike[str], run: Any, tag: str) -> None:
    """Write a run as a TREC file; ranks follow the order given (descending scores for dicts).

    Parameters
    ----------
    path : path
    run : dict, table or arrays
        As for :func:`~optical_rs.ranking.evaluate`; a topic's documents may also be pairs of document and
        score, in the order that they are to have.
    tag : str
        The last field of each line.

    Raises
    ------
    InputError
        Ids or a tag with blanks, which separate fields in such files.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from optical_rs.ranking import write_run
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "run.txt"
    >>> write_run(file, {"q1": {"d1": 0.5, "d2": 0.75}}, tag="toy")
    >>> print(file.read_text(), end="")
    q1 Q0 d2 1 0.75 toy
    q1 Q0 d1 2 0.5 toy
    """
    files.write_run(path, run if isinstance(run, Mapping) else as_dict(run), tag)
