"""MAFAND-MT: news in English and African languages, and the articles that they come from.

Bitext is that of ``data/text_files``; ``mafand:hau/json`` has the larger Hausa training file. The collection is
in the domain of the bitext: a sentence looks for its article, in the languages whose articles are published.
Sentences of the training file are not asked for: nearly all of the Hausa articles are in the larger one, so that
``mafand:hau/json`` has 21 queries left of 1,880.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from ...files import lines_of
from ..formats.delimited import quoted_fields, read_jsonl
from ..formats.moses import read_moses
from .known_item import normal
from .source import SIDES, Found, Part, Repository, Source, choose_language

_GITHUB = Repository("lafand-mt", "masakhane-io/lafand-mt", "d441f8b063d63e95eafb72e84317359e27abf95e")
_PARTS = ("train", "dev", "test")
#: Larger training files, by language.
_JSON = {"hau": "data/json_files/en-hau/train.json"}
#: In these languages a field with quotation marks in it is quoted, as in CSV.
_QUOTED = ("yor",)


@functools.lru_cache(maxsize=1)
def _splits() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Language → splits of bitext, and of articles, at the pinned revision."""
    found: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for path in _GITHUB.pinned():
        if text := re.fullmatch(r"data/text_files/en-(\w+)/(\w+)\.en", path):
            found[0].setdefault(text[1], []).append(text[2])
        if articles := re.fullmatch(r"data/doc_level_tsv/eng-(\w+)/(dev|test)\.tsv", path):
            found[1].setdefault(articles[1], []).append(articles[2])
    return found


def _parse(rest: str) -> tuple[str, str]:
    language, _, variant = rest.partition("/")
    choose_language("mafand", language, _splits()[0])
    if variant and (variant != "json" or language not in _JSON):
        raise InputError(
            f"mafand: no variant '{rest}'; expected {', '.join(f'{name}/json' for name in _JSON)}"
        )
    return language, variant


def bitext_splits(rest: str) -> tuple[str, ...]:
    """The splits of a language's bitext."""
    return tuple(s for s in _PARTS if s in _splits()[0][_parse(rest)[0]])


def collection_splits(rest: str) -> tuple[str, ...]:
    """The splits of a language's articles."""
    language = _parse(rest)[0]
    if language not in _splits()[1]:
        raise InputError(f"mafand: no articles in '{language}'; expected one of: {', '.join(_splits()[1])}")
    return tuple(s for s in _PARTS if s in _splits()[1][language])


def _bitext(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    language, variant = _parse(rest)
    for split in splits:
        if variant and split == "train":
            yield from read_jsonl(_GITHUB.file(_JSON[language]))
        else:
            folder = f"data/text_files/en-{language}/{split}"
            yield from read_moses(_GITHUB.file(f"{folder}.{language}"), _GITHUB.file(f"{folder}.en"))


def articles(path: Path, *, quoted: bool = False) -> Iterator[list[tuple[str, str]]]:
    """The articles of a file, lists of (foreign, English); a line without text ends one.

    A side may be empty. The first line names the columns, English before the other language.
    """
    article: list[tuple[str, str]] = []
    for number, line in lines_of(path):
        if number == 1:
            continue
        if line.strip():
            english, foreign, *_ = [
                *(quoted_fields(f"{path}:{number}", line) if quoted else line.split("\t")),
                "",
            ]
            article.append((foreign.strip(), english.strip()))
        elif article:
            yield article
            article = []
    if article:
        yield article


def _collection(rest: str, splits: tuple[str, ...], side: str) -> Found:
    language, _ = _parse(rest)
    documents: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    of_query: dict[str, str] = {}
    skipped = 0
    train = ("train",) if "train" in bitext_splits(rest) else ()
    seen = {normal(english) for _, _, english in _bitext(rest, train)}
    # Sentences of one split look among the articles of all.
    for split in collection_splits(rest):
        path = _GITHUB.file(f"data/doc_level_tsv/eng-{language}/{split}.tsv")
        for number, article in enumerate(articles(path, quoted=language in _QUOTED)):
            name = f"{split}-{number}"
            texts = " ".join(pair[1 if side == "query" else 0] for pair in article)
            documents[name] = " ".join(texts.split())
            for place, (foreign, english) in enumerate(article):
                if split not in splits:
                    continue
                if not foreign or not english:
                    skipped += 1
                    continue
                # Nothing is asked that a student saw in training.
                if normal(english) not in seen:
                    text = foreign if side == "query" else english
                    # A sentence that several articles have is one query.
                    query = of_query.setdefault(normal(text), f"{name}.{place}")
                    queries.setdefault(query, text)
                    qrels.setdefault(query, {})[name] = 1
    return Found(queries, documents, qrels, skipped)


SOURCE = Source(
    name="mafand",
    spelling="mafand:hau",
    title=(
        "news (MAFAND-MT): amh, hau, ibo, kin, lug, nya, pcm, sna, swa, tsn, twi, xho, yor, zul; "
        "`mafand:hau/json`: more Hausa; as a collection, sentences over their articles "
        "(hau, kin, nya, pcm, sna, swa, xho, yor)"
    ),
    size="training pairs: hau 3,098 (json 5,865) · ibo 6,998 · swa 30,782 · twi 3,337 · yor 6,644 · zul 3,500",
    licence="CC BY-NC 4.0",
    repositories=(_GITHUB,),
    bitext=Part(_bitext, bitext_splits),
    collection=Part(_collection, collection_splits, SIDES),
)
