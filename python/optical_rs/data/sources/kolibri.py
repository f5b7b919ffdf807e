"""The interface strings of Kolibri (an offline learning platform) in some 30 languages.

Read from the installed package ``kolibri`` (MIT). Every message has an id; the English text of a
message and its translation make a pair. One split serves all languages, by a hash of the English
text, so that no English document of one language's test set is in another's training set.
"""

import functools
import hashlib
import json
from pathlib import Path

from ...errors import InputError, closest
from ..packages import package_folder

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
