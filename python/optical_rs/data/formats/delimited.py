"""Tables of sentence pairs: TSV, CSV, JSON lines and Parquet."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError, closest, require
from ...files import json_lines, lines_of

#: Names of columns where the caller gives none.
COLUMNS = ("foreign", "english")
#: Names that the English column goes by, alone or before a script or region (``eng_Latn``, ``en-GB``).
ENGLISH = ("english", "en", "eng")
#: Names that columns have without saying which is English.
VAGUE = ("source", "target", "src", "tgt", "sentence", "translation", "text", "text1", "text2", *COLUMNS)
#: Names that are no language's.
NO_TEXT = ("id", "index", "number", "score")
#: A column of {"en": …, "sw": …}, as data sets for translation have it.
NESTED = "translation"


def _is_english(name: str) -> bool:
    return re.split("[-_]", name.strip().lower())[0] in ENGLISH


def choose_columns(where: str, names: Sequence[str], wanted: tuple[str, str]) -> tuple[str, str]:
    """The names of the foreign and the English column.

    The default names may be missing: beside one that is called English, the only other column of text is the
    foreign one.

    Raises
    ------
    InputError
        If a column is missing.
    """
    if set(wanted) <= set(names):
        return wanted
    english = [name for name in names if _is_english(name)]
    foreign = [name for name in names if not _is_english(name) and name.strip().lower() not in NO_TEXT]
    if wanted == COLUMNS and len(english) == len(foreign) == 1:
        return foreign[0], english[0]
    missing = next(name for name in wanted if name not in names)
    raise InputError(f"{where}: no column '{missing}'{closest(missing, names)}")


def _pair(where: str, row: Mapping[str, Any], wanted: tuple[str, str]) -> tuple[str, Any, Any]:
    """The two sides of a row with names, nested or not."""
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: {NESTED}: expected an object of languages, got {row!r}")
    if isinstance(row.get(NESTED), Mapping) and not set(wanted) <= set(row):
        row = row[NESTED]
    foreign, english = wanted if set(wanted) <= row.keys() else choose_columns(where, list(row), wanted)
    return where, row[foreign], row[english]


def _header(path: Path, fields: list[str], columns: tuple[str, str]) -> tuple[int, int] | None:
    """The places of the two columns, if the first line names them; None if it is a pair."""
    if columns == COLUMNS and not set(columns) <= set(fields) and not any(map(_is_english, fields)):
        if all(field.strip().lower() in VAGUE for field in fields):
            raise InputError(f"{path}:1: {', '.join(fields)} are names of columns; say which one is English")
        if len(fields) != 2:
            raise InputError(f"{path}:1: expected 2 columns (foreign, english), got {len(fields)}")
        return None
    foreign, english = choose_columns(f"{path}:1", fields, columns)
    return fields.index(foreign), fields.index(english)


def read_tsv(path: Path, columns: tuple[str, str] = COLUMNS) -> Iterator[tuple]:
    """Lines of ``foreign<TAB>english``, or a table whose first line names its columns.

    A line of two fields of which one is ``english``, ``en`` or ``eng`` is such a first line. Blank lines are
    passed over. Quotation marks are text.

    Raises
    ------
    InputError
        With file and line, for a line with too few or too many columns.
    """
    places: tuple[int, int] | None = None
    for number, line in lines_of(path):
        if not line.strip():
            continue
        fields = line.split("\t")
        if number == 1:
            places = _header(path, fields, columns)
            if places:
                continue
        if places is None and len(fields) != 2:
            raise InputError(f"{path}:{number}: expected 2 columns (foreign, english), got {len(fields)}")
        i, j = places or (0, 1)
        if max(i, j) >= len(fields):
            raise InputError(f"{path}:{number}: expected at least {max(i, j) + 1} columns, got {len(fields)}")
        yield f"{path}:{number}", fields[i], fields[j]


def quoted_fields(where: str, line: str) -> list[str]:
    """The fields of a line of a file of tabs whose fields may be quoted as in CSV.

    Raises
    ------
    InputError
        A line that is none.
    """
    try:
        return next(csv.reader([line], delimiter="\t"))
    except csv.Error as error:  # such as a field of more than 128 kB
        raise InputError(f"{where}: cannot be divided into columns ({error})") from None


def read_csv(path: Path, columns: tuple[str, str] = COLUMNS) -> Iterator[tuple]:
    """A table with its columns' names in the first line; quoted fields may hold line breaks."""
    reader = csv.DictReader(line + "\n" for _, line in lines_of(path))
    try:
        foreign, english = choose_columns(f"{path}:1", list(reader.fieldnames or []), columns)
        for row in reader:
            yield f"{path}:{reader.line_num}", row[foreign], row[english]
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not valid CSV ({error})") from None


def read_jsonl(path: Path, columns: tuple[str, str] = COLUMNS) -> Iterator[tuple]:
    """Objects with the two columns, or with both languages under ``translation``."""
    for where, row in json_lines(path):
        yield _pair(where, row, columns)


def read_parquet(path: Path, columns: tuple[str, str] = COLUMNS) -> Iterator[tuple]:
    """The two columns of a Parquet file, or both languages of its column ``translation``."""
    parquet = require("pyarrow.parquet", "train")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        file = parquet.ParquetFile(path)
    except Exception as error:  # noqa: BLE001 - pyarrow raises many kinds for a damaged file
        raise InputError(f"{path}: not a Parquet file ({error})") from None
    names = list(file.schema_arrow.names)
    nested = NESTED in names and not set(columns) <= set(names)
    read = [NESTED] if nested else list(choose_columns(str(path), names, columns))
    number = 0
    for batch in _batches(path, file, read):
        for values in zip(*(batch.column(c).to_pylist() for c in read), strict=True):
            number += 1
            where = f"{path}, row {number}"
            yield _pair(where, values[0] or {}, columns) if nested else (where, *values)


def _batches(path: Path, file: Any, columns: list[str]) -> Iterator[Any]:
    try:
        yield from file.iter_batches(columns=columns)
    except Exception as error:  # noqa: BLE001 - as above
        raise InputError(f"{path}: cannot be read ({error})") from None


def read_rows(where: str, rows: Any, columns: tuple[str, str]) -> Iterator[tuple]:
    """Rows of a data set: mappings, as the ``datasets`` library has them."""
    for number, row in enumerate(rows):
        yield _pair(f"{where}, row {number}", row, columns)
