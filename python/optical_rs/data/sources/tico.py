"""TICO-19: texts on COVID-19 in English and 37 languages, as zipped translation memories.

The publisher's files are not split. Here whole documents are held out, of every genre.
"""

from collections.abc import Iterator
from pathlib import Path

from ..formats.tmx import units
from .known_item import known_items, normal
from .source import SIDES, Found, Part, Repository, Source, choose_language

_GITHUB = Repository("tico-19", "tico-19/tico-19.github.io", "d97615f9cffa28ec7de571e00fbd513e5a1c7fc7")
#: Documents that are held out; the others are for training.
HELD_OUT = {
    "dev": ("PubMed_9", "Wikipedia_handpicked_7", "wiki_4", "Wikinews_3", "wiki_20"),
    "test": ("PubMed_7", "Wikipedia_handpicked_3", "Wikipedia_handpicked_4", "Wikisource_1", "Wikinews_1"),
}
_PARTS = ("train", "dev", "test")


def languages() -> list[str]:
    """The codes that the publisher's files have."""
    names = (Path(path).name for path in _GITHUB.pinned())
    return [name.removeprefix("all.en-").removesuffix(".tmx.zip") for name in names]


def split_of(unit: str) -> str:
    """``"train"``, ``"dev"`` or ``"test"``, by the document that a unit's ``tuid`` names."""
    document = unit.rpartition(":")[0]
    return next((split for split, documents in HELD_OUT.items() if document in documents), "train")


def _rows(language: str) -> Iterator[tuple[str, str, str]]:
    choose_language("tico", language, languages())
    for unit, sides in units(_GITHUB.file(f"data/TM/all.en-{language}.tmx.zip")):
        foreign = next((text for code, text in sides.items() if code != "en"), "")
        yield unit, foreign, sides.get("en", "")


def _bitext(language: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    for unit, foreign, english in _rows(language):
        if split_of(unit) in splits:
            yield f"tico:{language}, unit {unit}", foreign, english


def _collection(language: str, splits: tuple[str, ...], side: str) -> Found:
    rows = list(_rows(language))
    seen = {normal(english) for unit, _, english in rows if split_of(unit) == "train"}
    asked = {unit for unit, _, _ in rows if split_of(unit) in splits}
    # English of training is a distractor among the documents.
    whole = [row for row in rows if row[1] and row[2]]
    return known_items(whole, asked, side, seen=seen, skipped=len(rows) - len(whole))


SOURCE = Source(
    name="tico",
    spelling="tico:sw",
    title="health (TICO-19), 37 languages; as a collection, sentences over their translations",
    size="3,071 pairs; 2,298 · 217 · 556",
    licence="CC0 1.0",
    repositories=(_GITHUB,),
    bitext=Part(_bitext, _PARTS),
    collection=Part(_collection, ("dev", "test"), SIDES),
)
