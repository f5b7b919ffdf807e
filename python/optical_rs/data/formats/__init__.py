"""Formats of bitext, a file each. Every reader yields ``(where, foreign, english)``, a row at a time.

A side that is empty or missing is yielded as it is: :func:`~optical_rs.data.load_bitext` counts such rows.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError
from . import delimited, localisation, moses, tmx

#: Where a row stands, its foreign side, and its English side.
Row = tuple[str, Any, Any]
Reader = Callable[[Path, tuple[str, str]], Iterator[Row]]

#: Readers by what a file's name ends in, ``.gz`` apart.
READERS: dict[str, Reader] = {
    ".tsv": delimited.read_tsv,
    ".csv": delimited.read_csv,
    ".jsonl": delimited.read_jsonl,
    ".json": delimited.read_jsonl,
    ".parquet": delimited.read_parquet,
    ".tmx": tmx.read_tmx,
    ".po": localisation.read_messages,
    ".xlf": localisation.read_messages,
    ".xliff": localisation.read_messages,
    ".zip": moses.read_archive,
}


def ending(path: Path) -> str:
    """What a file's name ends in, ``.gz`` and the ``.tmx`` of a ``.tmx.zip`` apart."""
    name = Path(path.stem) if path.suffix == ".gz" else path
    return ".tmx" if name.name.endswith(".tmx.zip") else name.suffix


def read_pairs(path: Path, columns: tuple[str, str]) -> Iterator[Row]:
    """The rows of a file of any of these formats."""
    suffix = ending(path)
    if suffix not in READERS:
        raise InputError(f"bitext: cannot tell the format of '{path}'; expected {', '.join(READERS)}")
    return READERS[suffix](path, columns)
