"""Belebele: a reading test in 122 languages, as known-item search for the passage."""

from typing import Any

from ...files import json_lines
from .source import SIDES, Found, Part, Repository, Source, text_of

_HUB = Repository("belebele", "facebook/belebele", host="hub")


def _rows(code: str) -> list[tuple[str, dict[str, Any]]]:
    return list(json_lines(_HUB.file(f"data/{code}.jsonl")))


def _collection(language: str, splits: tuple[str, ...], side: str) -> Found:
    asked, answered = _rows(language), _rows("eng_Latn")
    if side == "document":
        asked, answered = answered, asked
    # Rows of one passage carry the same link; wordings may differ between languages, links do not.
    passages = {text_of(where, row, "link"): text_of(where, row, "flores_passage") for where, row in answered}
    numbers = {link: f"p{i}" for i, link in enumerate(passages)}
    queries, qrels = {}, {}
    for where, row in asked:
        link = text_of(where, row, "link")
        if link in numbers:
            query = f"{numbers[link]}-{row.get('question_number')}"
            queries[query] = text_of(where, row, "question")
            qrels[query] = {numbers[link]: 1}
    return Found(queries, {numbers[link]: text for link, text in passages.items()}, qrels)


SOURCE = Source(
    name="belebele",
    spelling="belebele:swh_Latn",
    title="questions of a reading test over its passages, 122 languages",
    size="488 passages, 900 questions",
    licence="CC BY-SA 4.0",
    repositories=(_HUB,),
    collection=Part(_collection, ("test",), SIDES),
)
