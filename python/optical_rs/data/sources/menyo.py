"""MENYO-20k: Yoruba and English in several domains."""

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from ...files import lines_of
from .known_item import known_items, normal
from .source import SIDES, Found, Part, Repository, Source, choose_language

_GITHUB = Repository("menyo-20k_MT", "uds-lsv/menyo-20k_MT", "0f2b019c2264a90813559c2e1cd7143054a4c36c")
_PARTS = ("train", "dev", "test")


@functools.lru_cache(maxsize=1)
def _splits() -> dict[str, list[str]]:
    """Domain (``""``: all) → splits; the training set is not divided by domain."""
    found: dict[str, list[str]] = {}
    for path in _GITHUB.pinned():
        split, _, domain = Path(path).stem.partition("_")
        found.setdefault(domain, []).append(split)
    return found


def _domain(rest: str) -> str:
    return choose_language("menyo", rest, _splits(), "domain") if rest else ""


def splits(rest: str) -> tuple[str, ...]:
    """The splits of a domain."""
    return tuple(s for s in _PARTS if s in _splits()[_domain(rest)])


def _bitext(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    for split in splits:
        path = _GITHUB.file(f"data/{split}_{rest}.tsv" if rest else f"data/{split}.tsv")
        for number, line in lines_of(path):
            fields = next(csv.reader([line], delimiter="\t"))
            if len(fields) != 2:
                raise InputError(f"{path}:{number}: expected English and Yoruba, got {len(fields)} columns")
            english, yoruba = fields
            # Two of the files have no first line of names; English is on the left in all of them.
            if number > 1 or english.lower() != "english":
                yield f"{path}:{number}", yoruba, english


def _collection(rest: str, splits: tuple[str, ...], side: str) -> Found:
    seen = {normal(english) for _, _, english in _bitext("", ("train",))}
    rows = [
        (f"{split}-{number}", foreign, english)
        for split in ("dev", "test")
        for number, (_, foreign, english) in enumerate(_bitext(rest, (split,)))
    ]
    asked = {key for key, _, _ in rows if key.partition("-")[0] in splits}
    return known_items(rows, asked, side, seen=seen)


SOURCE = Source(
    name="menyo",
    spelling="menyo:news",
    title=(
        "Yoruba (MENYO-20k), all of it (`menyo`) or dev and test of a domain: book, digital, news, proverbs, "
        "tedTalks; as a collection, sentences over their translations"
    ),
    size="10,070 · 3,397 · 6,633 pairs",
    licence="CC BY-NC 4.0",
    repositories=(_GITHUB,),
    bitext=Part(_bitext, splits),
    collection=Part(_collection, ("dev", "test"), SIDES),
)
