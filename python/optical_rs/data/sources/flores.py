"""FLORES-200: sentences of Wikimedia in English and 200 languages. Never for training."""

from collections.abc import Iterator

from ..formats.moses import read_moses
from .known_item import known_items
from .source import SIDES, Found, Part, Repository, Source

_ARCHIVE = Repository(
    "flores200_dataset",
    "https://dl.fbaipublicfiles.com/nllb/flores200_dataset.tar.gz",
    revision="",
    host="",
)
_FOLDERS = {"dev": "dev", "test": "devtest"}


def _bitext(language: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    for split in splits:
        folder = _FOLDERS[split]
        sides = (_ARCHIVE.file(f"{folder}/{code}.{folder}") for code in (language, "eng_Latn"))
        yield from read_moses(*sides)


def _collection(language: str, splits: tuple[str, ...], side: str) -> Found:
    rows = [
        (f"{split}-{number}", foreign, english)
        for split in _FOLDERS
        for number, (_, foreign, english) in enumerate(_bitext(language, (split,)))
    ]
    return known_items(rows, {key for key, _, _ in rows if key.partition("-")[0] in splits}, side)


SOURCE = Source(
    name="flores",
    spelling="flores:hau_Latn",
    title="Wikimedia (FLORES-200), 200 languages, for tests alone; as a collection, sentences over their translations",
    size="997 · 1,012 pairs (dev · devtest, here test)",
    licence="CC BY-SA 4.0",
    repositories=(_ARCHIVE,),
    bitext=Part(_bitext, tuple(_FOLDERS)),
    collection=Part(_collection, tuple(_FOLDERS), SIDES),
)
