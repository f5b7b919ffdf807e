"""Known-item search: a sentence looks for its translation."""

import re
import unicodedata
from collections.abc import Collection, Iterable

from .source import Found

#: What is neither a letter nor a digit, in ASCII.
_NEITHER = re.compile("[^a-z0-9]+")


def normal(text: str) -> str:
    """A text without case, punctuation, spacing and variants of letters, the same for near-identical texts.

    Examples
    --------
    >>> normal("It's  HERE.") == normal("it’s here")
    True
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded.isascii():
        return _NEITHER.sub("", folded) or folded.strip()
    kept = "".join(c for c in folded if c.isalnum() or unicodedata.category(c)[0] == "M")
    return kept or folded.strip()


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
