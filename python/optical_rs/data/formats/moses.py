"""Moses: two files, line by line, and OPUS's zip archives of them."""

import contextlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from ...errors import InputError
from ...files import decoded_lines, lines_of, unpacked


def _aligned(foreign: str, english: str, f: Iterator, e: Iterator) -> Iterator[tuple]:
    for one, other in zip_longest(f, e):
        if one is None or other is None:
            short, longer = (foreign, english) if one is None else (english, foreign)
            rest = sum(1 for _ in (e if one is None else f))
            number = (one or other)[0]
            raise InputError(
                f"{short}:{number - 1}: ends after {number - 1} lines, but {longer} has {number + rest}"
            )
        yield f"{english}:{other[0]}", one[1], other[1]


def read_moses(foreign: Path, english: Path) -> Iterator[tuple]:
    """Line i of one file translates line i of the other.

    Raises
    ------
    InputError
        For files of unequal length.
    """
    yield from _aligned(str(foreign), str(english), lines_of(foreign), lines_of(english))


#: What the library raises for archives that are damaged or of kinds that it cannot unpack.
_BROKEN = (
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    OSError,
)


@contextlib.contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Tell what is wrong with an archive that is read in the block."""
    try:
        yield
    except _BROKEN as error:
        raise InputError(f"{path}: broken archive ({error or type(error).__name__})") from None


def open_archive(path: Path) -> zipfile.ZipFile:
    """A zip archive.

    Raises
    ------
    InputError
        If it is missing, cannot be read, or is none.
    """
    try:
        return zipfile.ZipFile(path)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except zipfile.BadZipFile:
        raise InputError(f"{path}: not a zip archive") from None
    except NotImplementedError as error:
        raise InputError(f"{path}: broken archive ({error})") from None


def member(archive: zipfile.ZipFile, name: str) -> io.BufferedIOBase:
    """A file of an archive, unpacked as it is read, and refused if it unpacks to far too much."""
    packed = archive.getinfo(name).compress_size
    try:
        return unpacked(archive.open(name), f"{archive.filename}, {name}", packed)  # type: ignore[return-value]
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError(f"{archive.filename}, {name}: cannot be unpacked ({error})") from None


def read_archive(path: Path, columns: tuple[str, str] = ("foreign", "english")) -> Iterator[tuple]:
    """A Moses archive, as OPUS gives them out: two line-aligned files, one of which ends in ``.en``."""
    with open_archive(path) as archive, unpacking(path):
        names = [n for n in archive.namelist() if "." in n and "-" in n.rpartition(".")[0]]
        english = [n for n in names if n.endswith(".en")]
        stem = english[0].removesuffix(".en") if english else ""
        foreign = [n for n in names if n.startswith(stem + ".") and n not in english] if english else []
        if columns[0] != "foreign" and f"{stem}.{columns[0]}" in foreign:
            foreign = [f"{stem}.{columns[0]}"]
        if len(english) != 1 or not foreign:
            raise InputError(
                f"{path}: expected two files NAME.en and NAME.xx, got {', '.join(archive.namelist())}"
            )
        with member(archive, foreign[0]) as one, member(archive, english[0]) as other:
            left, right = f"{path}, {foreign[0]}", f"{path}, {english[0]}"
            yield from _aligned(left, right, decoded_lines(left, one), decoded_lines(right, other))
