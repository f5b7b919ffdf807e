"""The interface strings of Kolibri (an offline learning platform) in some 30 languages.

Read from the installed package ``kolibri`` (MIT). Every message has an id; the English text of a
message and its translation make a pair. One split serves all languages, by a hash of the English
text, so that no English document of one language's test set is in another's training set.
"""

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError, closest
from ..packages import package_folder
from .source import SIDES, Found, Part, Source

#: A pair's split by the last decimal digit of the SHA-256 of its English text.
SPLITS = {"test": range(3), "dev": range(3, 4), "train": range(4, 10)}
#: Holds English placeholders, not a translation.
PLACEHOLDER = "ach_UG"


def _locale() -> Path:
    return package_folder("kolibri", "kolibri") / "locale"


def languages() -> list[str]:
    """Languages that Kolibri is translated into, as it names them (``ny``, ``sw_TZ``, ``fr_FR``, …)."""
    folders = (p.name for p in _locale().iterdir() if (p / "LC_MESSAGES").is_dir())
    return sorted(set(folders) - {"en", PLACEHOLDER})


def _resolve(language: str) -> str:
    known = languages()
    matches = [n for n in known if n == language] or [n for n in known if n.split("_")[0] == language]
    if len(matches) == 1:
        return matches[0]
    hint = f"; expected one of: {', '.join(matches)}" if matches else closest(language, known)
    raise InputError(f"kolibri: no language '{language}'{hint}")


@functools.lru_cache(maxsize=8)
def _messages(language: str) -> dict[str, str]:
    folder = _locale() / language / "LC_MESSAGES"
    merged: dict[str, str] = {}
    for file in sorted(folder.glob("*-messages.json")):
        merged.update(json.loads(file.read_text(encoding="utf-8")))
    return {key: text.strip() for key, text in merged.items() if isinstance(text, str)}


def documents() -> list[str]:
    """Distinct English messages of at least three words, without placeholders or markup."""
    texts = (t for t in _messages("en").values() if len(t.split()) >= 3 and "{" not in t and "<" not in t)
    return list(dict.fromkeys(texts))


def split_of(english: str) -> str:
    """``"train"``, ``"dev"`` or ``"test"``, by a hash of the English text."""
    digit = int(hashlib.sha256(english.encode()).hexdigest(), 16) % 10
    return next(name for name, digits in SPLITS.items() if digit in digits)


def pairs(language: str) -> dict[str, str]:
    """English document → its translation, for all documents that have one.

    A translation that equals the English or holds a placeholder is none.
    """
    english, foreign = _messages("en"), _messages(_resolve(language))
    wanted = set(documents())
    found: dict[str, str] = {}
    for key, text in english.items():
        translation = foreign.get(key, "")
        if text in wanted and translation and translation != text and "{" not in translation:
            found.setdefault(text, translation)
    return found


def _bitext(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    # Of a pool of languages (see _collection), those that are translations.
    for name in (n for n in rest.split("+") if n != "en" or n == rest):
        for english, foreign in pairs(name).items():
            if split_of(english) in splits:
                yield f"kolibri:{name}", foreign, english


def _collection(rest: str, splits: tuple[str, ...], side: str) -> Found:
    ids = {english: f"m{i:04d}" for i, english in enumerate(documents())}
    names = rest.split("+")
    pool = len(names) > 1
    texts = {n: {e: e for e in ids} if pool and n == "en" else pairs(n) for n in names}
    # English text → id → what it says, in each language.
    foreign: dict[str, dict[str, str]] = {}
    for name, translations in texts.items():
        for english, text in translations.items():
            foreign.setdefault(english, {})[f"{ids[english]}/{name}" if pool else ids[english]] = text
    chosen = {e: found for e, found in foreign.items() if split_of(e) in splits}
    if side == "query":
        queries = {key: text for found in chosen.values() for key, text in found.items()}
        targets = {key: english for english, key in ids.items()}
        qrels = {key: {ids[english]: 1} for english, found in chosen.items() for key in found}
    else:
        queries = {ids[english]: english for english in chosen}
        targets = {key: text for found in foreign.values() for key, text in found.items()}
        qrels = {ids[english]: dict.fromkeys(found, 1) for english, found in chosen.items()}
    return Found(queries, targets, qrels)


_PARTS = ("train", "dev", "test")
SOURCE = Source(
    name="kolibri",
    spelling="kolibri:ny",
    title="interface messages of Kolibri, 32 languages, or several at once (`kolibri:en+ny+yo`)",
    size="1,092 messages, 310 of them test queries",
    licence="MIT",
    getting="extra `demo` (package kolibri 0.19.5)",
    bitext=Part(_bitext, _PARTS),
    collection=Part(_collection, _PARTS, SIDES),
)
