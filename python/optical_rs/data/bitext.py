"""Translated sentence pairs from files, the Hugging Face hub or installed packages."""

import csv
import dataclasses
import gzip
import random
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError, closest, require
from ..files import json_lines, lines_of

#: Splits of the built-in sets.
SPLITS = ("train", "dev", "test", "all")
BUILT_IN = ("kolibri", "bible")


@dataclasses.dataclass(frozen=True)
class Bitext:
    """Sentence pairs.

    Attributes
    ----------
    name : str
        What it was loaded from.
    foreign, english : list of str
        The two sides; sentence i of one translates sentence i of the other.
    """

    name: str
    foreign: list[str]
    english: list[str]

    def __len__(self) -> int:
        return len(self.foreign)

    def head(self, count: int | None) -> "Bitext":
        """The first ``count`` pairs (all for None)."""
        return dataclasses.replace(self, foreign=self.foreign[:count], english=self.english[:count])

    def resample(self, count: int, seed: int = 0) -> "Bitext":
        """``count`` random pairs; all of them as often as they fit, then some once more."""
        whole, rest = divmod(count, len(self))
        chosen = [*range(len(self))] * whole + random.Random(seed).sample(range(len(self)), rest)
        return dataclasses.replace(
            self, foreign=[self.foreign[i] for i in chosen], english=[self.english[i] for i in chosen]
        )


def _collect(name: str, rows: Iterable[tuple[str, object, object]]) -> Bitext:
    """Check and gather (where, foreign, english) rows."""
    foreign, english = [], []
    for where, f, e in rows:
        for side, text in (("foreign", f), ("english", e)):
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{where}: the {side} side is empty")
        foreign.append(str(f).strip())
        english.append(str(e).strip())
    if not foreign:
        raise InputError(f"{name}: no sentence pairs")
    return Bitext(name, foreign, english)


def _columns(where: str, available: Iterable[str], wanted: tuple[str, str]) -> None:
    available = list(available)
    for column in wanted:
        if column not in available:
            raise InputError(f"{where}: no column '{column}'{closest(column, available)}")


def _tsv(path: Path, columns: tuple[str, str]):
    header: tuple[int, int] | None = None
    for number, line in lines_of(path):
        fields = line.split("\t")
        if number == 1 and set(columns) <= set(fields):
            header = (fields.index(columns[0]), fields.index(columns[1]))
            continue
        if header is None and len(fields) != 2:
            raise InputError(f"{path}:{number}: expected 2 columns (foreign, english), got {len(fields)}")
        i, j = header or (0, 1)
        if max(i, j) >= len(fields):
            raise InputError(f"{path}:{number}: expected at least {max(i, j) + 1} columns, got {len(fields)}")
        yield f"{path}:{number}", fields[i], fields[j]


def _csv(path: Path, columns: tuple[str, str]):
    reader = csv.DictReader(line for _, line in lines_of(path))
    _columns(f"{path}:1", reader.fieldnames or [], columns)
    for row in reader:
        yield f"{path}:{reader.line_num}", row[columns[0]], row[columns[1]]


def _jsonl(path: Path, columns: tuple[str, str]):
    for where, row in json_lines(path):
        _columns(where, row, columns)
        yield where, row[columns[0]], row[columns[1]]


def _parquet(path: Path, columns: tuple[str, str]):
    parquet = require("pyarrow.parquet", "train")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        file = parquet.ParquetFile(path)
    except Exception as error:  # noqa: BLE001 - pyarrow raises many kinds for a damaged file
        raise InputError(f"{path}: not a Parquet file ({error})") from None
    _columns(str(path), file.schema_arrow.names, columns)
    number = 0
    for batch in file.iter_batches(columns=list(columns)):
        for f, e in zip(*(batch.column(c).to_pylist() for c in columns), strict=True):
            number += 1
            yield f"{path}, row {number}", f, e


def _tmx(path: Path, columns: tuple[str, str]):
    """Translation units of a TMX file, one at a time: English, and the column's language or any other."""
    from xml.etree import ElementTree

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    language = "{http://www.w3.org/XML/1998/namespace}lang"
    wanted = columns[0].lower() if columns[0] != "foreign" else None
    number = 0
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for _, unit in ElementTree.iterparse(file):
                if unit.tag != "tu":
                    continue
                number += 1
                sides: dict[str, str] = {}
                for variant in unit.iter("tuv"):
                    code = (variant.get(language) or variant.get("lang") or "").lower().split("-")[0]
                    seg = variant.find("seg")
                    sides[code] = " ".join("".join(seg.itertext()).split()) if seg is not None else ""
                unit.clear()
                others = [code for code in sides if code != "en" and wanted in (None, code)]
                if "en" not in sides or not others:
                    raise InputError(
                        f"{path}: unit {number}: expected English and {wanted or 'another language'}, "
                        f"got {', '.join(sides) or 'nothing'}"
                    )
                if sides["en"] and sides[others[0]]:
                    yield f"{path}, unit {number}", sides[others[0]], sides["en"]
        except ElementTree.ParseError as error:
            raise InputError(f"{path}: not valid XML ({error})") from None


def _translations(path: Path, columns: tuple[str, str]):
    """Translated messages of PO, XLIFF and what else translate-toolkit reads; the source is English."""
    factory = require("translate.storage.factory", "data")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        store = factory.getobject(str(path))
    except Exception as error:  # noqa: BLE001 - each format has errors of its own
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    for number, unit in enumerate(store.units, 1):
        if unit.istranslatable() and unit.istranslated() and not unit.isfuzzy():
            yield f"{path}, unit {number}", str(unit.target), str(unit.source)


def _archive(path: Path):
    """A Moses archive, as OPUS gives them out: two line-aligned files, one of which ends in ``.en``."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise InputError(f"{path}: not a zip archive") from None
    with archive, tempfile.TemporaryDirectory() as folder:
        names = [n for n in archive.namelist() if "." in n and "-" in n.rpartition(".")[0]]
        english = [n for n in names if n.endswith(".en")]
        stem = english[0].removesuffix(".en") if english else ""
        foreign = [n for n in names if n.startswith(stem + ".") and n not in english] if english else []
        if len(english) != 1 or not foreign:
            raise InputError(
                f"{path}: expected two files NAME.en and NAME.xx, got {', '.join(archive.namelist())}"
            )
        files = []
        for i, name in enumerate((foreign[0], english[0])):
            files.append(Path(folder) / str(i))
            with archive.open(name) as source, files[i].open("wb") as target:
                shutil.copyfileobj(source, target)
        yield from _moses(*files)


READERS = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl, ".json": _jsonl, ".parquet": _parquet, ".tmx": _tmx}
#: What translate-toolkit reads.
TRANSLATIONS = (".po", ".xlf", ".xliff")


def _moses(foreign: Path, english: Path):
    f, e = list(lines_of(foreign)), list(lines_of(english))
    if len(f) != len(e):
        raise InputError(f"{english}:{len(e)}: ends after {len(e)} lines, but {foreign} has {len(f)}")
    for (number, text), (_, translation) in zip(f, e, strict=True):
        if not text.strip():
            raise InputError(f"{foreign}:{number}: the foreign side is empty")
        yield f"{english}:{number}", text, translation


def _hub(spec: str, columns: tuple[str, str]):
    datasets = require("datasets", "train")
    name, *rest = spec.removeprefix("hf:").split(":")
    split = rest.pop() if rest else "train"
    rows = datasets.load_dataset(name, *rest, split=split)
    _columns(spec, rows.column_names, columns)
    for i, row in enumerate(rows):
        yield f"{spec}, row {i}", row[columns[0]], row[columns[1]]


def _built_in(spec: str, split: str):
    from .sources import bible, kolibri

    source, _, language = spec.partition(":")
    if source == "kolibri":
        # Of a pool of languages (see load_collection), those that are translations.
        names = [name for name in language.split("+") if name != "en" or name == language]
        for name in names:
            for english, foreign in kolibri.pairs(name).items():
                if split in ("all", kolibri.split_of(english)):
                    yield spec, foreign, english
    elif language != "ny":
        raise InputError(f"bible: no language '{language}'; did you mean 'ny'?")
    else:
        for key, (foreign, english) in bible.aligned().items():
            if split in ("all", bible.split_of(key[0])):
                yield spec, foreign, english


def load_bitext(
    spec: str,
    *,
    split: str = "train",
    columns: tuple[str, str] = ("foreign", "english"),
) -> Bitext:
    """Load translated sentence pairs.

    Parameters
    ----------
    spec : str
        * a ``.tsv`` file: foreign and English, or a header with the columns' names;
        * a ``.csv``, ``.jsonl`` or ``.parquet`` file with the columns' names;
        * a ``.tmx`` file with English and one other language (or that which ``columns`` names first);
        * a ``.po``, ``.xlf`` or ``.xliff`` file of messages in English (extra ``data``): what is
          translated and not marked as fuzzy;
        * a ``.zip`` of two line-aligned files, as OPUS has them;
        * two line-aligned text files (Moses), ``"text.sw,text.en"``, the foreign one first;
        * ``"hf:name"``, ``"hf:name:split"`` or ``"hf:name:config:split"`` from the Hugging Face hub;
        * ``"kolibri:<language>"``, ``"kolibri:<language>+<language>"`` or ``"bible:ny"``, from installed
          packages (extra ``demo``).

        Text files may be gzipped (``.gz``) and must be UTF-8.
    split : {"train", "dev", "test", "all"}
        Part of a built-in set. Files are taken whole.
    columns : pair of str
        Names of the foreign and the English column.

    Returns
    -------
    Bitext

    Raises
    ------
    InputError
        Missing columns, empty sides, broken UTF-8, files of unequal length (with file and line);
        an unknown set or language (with the nearest valid name).

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from optical_rs.data import load_bitext
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "pairs.tsv"
    >>> _ = file.write_text("Habari ya asubuhi\\tGood morning\\n", encoding="utf-8")
    >>> load_bitext(str(file)).english
    ['Good morning']
    """
    if split not in SPLITS:
        raise InputError(f"split: unknown split '{split}'{closest(split, SPLITS)}")
    source = spec.partition(":")[0]
    if source in BUILT_IN:
        return _collect(spec, _built_in(spec, split))
    if source == "hf":
        return _collect(spec, _hub(spec, columns))
    if "," in spec:
        files = spec.split(",")
        if len(files) != 2:
            raise InputError(f"bitext: expected two files 'FOREIGN,ENGLISH', got {spec!r}")
        return _collect(spec, _moses(Path(files[0]), Path(files[1])))
    path = Path(spec)
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix in TRANSLATIONS:
        return _collect(spec, _translations(path, columns))
    if suffix == ".zip":
        return _collect(spec, _archive(path))
    if suffix not in READERS:
        known = [
            *READERS,
            *TRANSLATIONS,
            ".zip",
            "FOREIGN,ENGLISH",
            "hf:<name>",
            "kolibri:<language>",
            "bible:ny",
        ]
        hint = closest(spec, ["kolibri:ny", "bible:ny"]) if ":" in spec else f"; expected {', '.join(known)}"
        raise InputError(f"bitext: cannot tell what '{spec}' is{hint}")
    return _collect(spec, READERS[suffix](path, columns))
