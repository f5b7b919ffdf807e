"""Known-item search: a sentence looks for its translation."""

import unicodedata
from collections.abc import Collection, Iterable

from .source import Found


class _Kept(dict):
    """Code points of letters, digits and marks, and None for the others; filled as they are met."""

    def __missing__(self, code: int) -> int | None:
        letter = chr(code)
        kept = letter.isalnum() or unicodedata.category(letter)[0] == "M"
        self[code] = code if kept else None
        return self[code]


_KEPT = _Kept()


def normal(text: str) -> str:
    """A text without case, punctuation, spacing and variants of letters, the same for near-identical texts.

    Examples
    --------
    >>> normal("It's  HERE.") == normal("it’s here")
    True
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return folded.translate(_KEPT) or folded.strip()


def known_items(
    rows: Iterable[tuple[str, str, str]],
    asked: Collection[str],
    side: str | None,
    *,
    seen: Collection[str] = (),
    skipped: int = 0,
) -> Found:
    """Queries, documents and judgments out of translated sentences.

    Parameters
    ----------
    rows : iterable of (id, foreign, english)
        Sentences to search among; copies on either side are one query and one document.
    asked : collection of str
        Ids of those that are queries.
    side : {"query", "document"}
        The side that is foreign.
    seen : collection of str
        Normalised English texts of the training data: nothing is asked for them.
    skipped : int
        Rows that were left out before.
    """
    asked, seen = set(asked), set(seen)
    documents: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    ids: dict[str, str] = {}
    of_query: dict[str, str] = {}
    for key, foreign, english in rows:
        query, document = (foreign, english) if side == "query" else (english, foreign)
        found = ids.setdefault(normal(document), key)
        documents.setdefault(found, document)
        if key in asked and normal(english) not in seen:
            name = of_query.setdefault(normal(query), key)
            queries.setdefault(name, query)
            qrels.setdefault(name, {})[found] = 1
    return Found(queries, documents, qrels, skipped)
