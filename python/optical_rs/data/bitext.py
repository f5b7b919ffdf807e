"""Translated sentence pairs from files, the Hugging Face hub, or published sources."""

import dataclasses
import html
import os
import random
import warnings
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError, closest
from ..files import spelled
from .formats import READERS, Row, ending, read_pairs
from .formats.delimited import COLUMNS
from .formats.hub import read_hub
from .formats.moses import read_moses
from .sources import SOURCES, SPLITS, find

#: The places of as many rows without text are said.
_SHOWN = 5


@dataclasses.dataclass(frozen=True, repr=False)
class Bitext:
    """Sentence pairs.

    Attributes
    ----------
    name : str
        What it was loaded from.
    foreign, english : list of str
        The two sides; sentence i of one translates sentence i of the other.
    skipped : int
        Rows that were left out because a side is empty.
    """

    name: str
    foreign: list[str]
    english: list[str]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.foreign)

    def __repr__(self) -> str:
        skipped = f", {self.skipped:,} rows skipped" if self.skipped else ""
        return f"Bitext({self.name!r}, {len(self):,} pairs{skipped})"

    def _repr_html_(self) -> str:
        return examples(repr(self), ("foreign", "english"), zip(self.foreign, self.english, strict=True))

    def head(self, count: int | None) -> "Bitext":
        """The first ``count`` pairs (all for None)."""
        return dataclasses.replace(self, foreign=self.foreign[:count], english=self.english[:count])

    def resample(self, count: int, seed: int = 0) -> "Bitext":
        """``count`` random pairs; all of them as often as they fit, then some once more."""
        whole, rest = divmod(count, len(self))
        chosen = [*range(len(self))] * whole + random.Random(seed).sample(range(len(self)), rest)
        return self.choose(chosen)

    def choose(self, places: Iterable[int]) -> "Bitext":
        """The pairs at these places, in this order."""
        places = list(places)
        return dataclasses.replace(
            self, foreign=[self.foreign[i] for i in places], english=[self.english[i] for i in places]
        )


def examples(caption: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]], count: int = 5) -> str:
    """An HTML table of the first rows, texts cut short."""

    def cell(text: str, tag: str = "td") -> str:
        cut = text if len(text) <= 120 else text[:119] + "…"
        return f"<{tag}>{html.escape(cut)}</{tag}>"

    lines = ["".join(cell(name, "th") for name in head)]
    for _, row in zip(range(count), rows, strict=False):
        lines.append("".join(cell(text) for text in row))
    table = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><caption>{html.escape(caption)}</caption>{table}</table>"


def _collect(name: str, rows: Iterable[Row]) -> Bitext:
    """Gather rows; those without text on a side are counted, and the caller is warned once."""
    foreign: list[str] = []
    english: list[str] = []
    skipped = 0
    places: list[str] = []
    for where, *pair in rows:
        for side, text in zip(("foreign", "english"), pair, strict=True):
            if text is not None and not isinstance(text, str):
                raise InputError(f"{where}: the {side} side: expected text, got {text!r}")
        # A byte-order mark inside a file is left over from files that were joined.
        f, e = ((text or "").replace("\ufeff", "").strip() for text in pair)
        if not f or not e:
            skipped += 1
            if len(places) < _SHOWN:
                places.append(f"{where.removeprefix(name).lstrip(':, ')} ({'english' if f else 'foreign'})")
            continue
        # A sentence is one line, in files that are written and for models alike.
        foreign.append(" ".join(f.split()) if "\n" in f or "\r" in f or "\t" in f else f)
        english.append(" ".join(e.split()) if "\n" in e or "\r" in e or "\t" in e else e)
    shown = ", ".join(places) + (", …" if skipped > len(places) else "")
    if not foreign:
        raise InputError(f"{name}: no sentence pairs" + (f": a side is empty at {shown}" if skipped else ""))
    if skipped:
        noun = "row was" if skipped == 1 else "rows were"
        warnings.warn(f"{name}: {skipped:,} {noun} skipped, as a side is empty: {shown}", stacklevel=3)
    return Bitext(name, foreign, english, skipped)


def load_bitext(
    spec: str | os.PathLike,
    *,
    split: str = "train",
    columns: tuple[str, str] = COLUMNS,
) -> Bitext:
    """Load translated sentence pairs.

    Parameters
    ----------
    spec : str or path
        * a ``.tsv`` file: foreign and English, or a first line with the columns' names (where one of two is
          ``english``, ``en`` or ``eng``, the other is the foreign one);
        * a ``.csv``, ``.jsonl`` or ``.parquet`` file with the columns' names, or with both languages in an
          object called ``translation``;
        * a ``.tmx``, ``.tmx.gz`` or ``.tmx.zip`` file with English and one other language (or that which
          ``columns`` names first);
        * a ``.po``, ``.xlf`` or ``.xliff`` file of messages in English (extra ``data``): what is
          translated and not marked as fuzzy;
        * a ``.zip`` of two line-aligned files, as OPUS has them;
        * two line-aligned text files (Moses), ``"text.sw,text.en"``, the foreign one first;
        * ``"hf:name"``, ``"hf:name:split"`` or ``"hf:name:config:split"`` from the Hugging Face hub;
        * a published source, such as ``"mafand:hau"``, ``"menyo"``, ``"tico:sw"``, ``"kolibri:ny"`` or
          ``"bible:ny"``; docs/reference/sources.md has their table.

        Text files may be gzipped (``.gz``) and must be UTF-8.
    split : {"train", "dev", "test", "all"}
        Part of a published source. Files are taken whole.
    columns : pair of str
        Names of the foreign and the English column.

    Returns
    -------
    Bitext
        Rows with an empty side are left out and counted; a warning names the first of them.

    Raises
    ------
    InputError
        Missing columns, broken UTF-8, files of unequal length (with file and line); an unknown source or
        language (with the nearest valid name); a split that a source does not have.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from optical_rs.data import load_bitext
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "pairs.tsv"
    >>> _ = file.write_text("Habari ya asubuhi\\tGood morning\\n", encoding="utf-8")
    >>> load_bitext(file).english
    ['Good morning']
    """
    spec = spelled("bitext", spec, "a path or the name of a source")
    if split not in SPLITS:
        raise InputError(f"split: unknown split '{split}'{closest(split, SPLITS)}")
    found = find(spec)
    if found:
        source, rest = found
        return _collect(spec, source.read_bitext(spec, rest, split))
    if spec.startswith("hf:"):
        return _collect(spec, read_hub(spec, columns))
    if "," in spec and not Path(spec).exists():
        files = spec.split(",")
        if len(files) != 2:
            raise InputError(f"bitext: expected two files 'FOREIGN,ENGLISH', got {spec!r}")
        return _collect(spec, read_moses(Path(files[0]), Path(files[1])))
    if ending(Path(spec)) not in READERS:
        sources = [source.spelling for source in SOURCES.values() if source.bitext]
        known = [*READERS, "FOREIGN,ENGLISH", "hf:<name>", *sources]
        hint = closest(spec, sources) if ":" in spec else f"; expected {', '.join(known)}"
        raise InputError(f"bitext: cannot tell what '{spec}' is{hint}")
    return _collect(spec, read_pairs(Path(spec), columns))
