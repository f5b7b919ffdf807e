"""AfriQA: questions asked in ten African languages, their human translations, and gold passages of Wikipedia.

``afriqa:hau`` asks in Hausa, ``afriqa:hau/translated`` the same in the pivot language (English, or French for
fon and wol), as people translated them. ``afriqa:hau+ibo`` pools questions and passages of several languages;
``afriqa:hau@hau+ibo`` asks one language's questions over the passages of all. As bitext, ``afriqa:hau`` pairs the
questions with their translations; no test question is part of it, in any language and as a translation, nor is a
question that the passage of one answers. ``afriqa:hau/all`` trains on the questions of train and dev, for a last training
when nothing is left to be chosen on dev.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from ...files import json_lines
from .known_item import normal
from .source import Found, Part, Repository, Source, choose_language, id_of, text_of

_GITHUB = Repository("afriqa", "masakhane-io/afriqa", "5c29933753692c28773c34ac1f68482007f1d2bb")
_QUESTIONS = {"": "question_lang", "translated": "question_translated"}
_PARTS = ("train", "dev", "test")
#: As bitext: dev's questions train as well.
_EVERY = "/all"


@functools.lru_cache(maxsize=1)
def files() -> dict[str, dict[str, str]]:
    """Language → split → path, of the pinned revision; not every language has all splits."""
    found: dict[str, dict[str, str]] = {}
    for path in _GITHUB.pinned():
        *_, language, _pivot, split, _json = Path(path).name.split(".")
        found.setdefault(language, {})[split] = path
    return {language: {s: splits[s] for s in _PARTS if s in splits} for language, splits in found.items()}


@dataclasses.dataclass(frozen=True)
class _Spec:
    """What follows ``afriqa:``."""

    asked: list[str]
    pool: list[str]
    field: str

    @classmethod
    def parse(cls, rest: str) -> "_Spec":
        names, _, queries = rest.partition("/")
        asked, _, pool = names.partition("@")
        if queries not in _QUESTIONS:
            raise InputError(
                f"afriqa: expected afriqa:LANGUAGE or afriqa:LANGUAGE/translated, got 'afriqa:{rest}'"
            )
        spec = cls(asked.split("+"), (pool or asked).split("+"), _QUESTIONS[queries])
        for language in spec.asked + spec.pool:
            choose_language("afriqa", language, files())
        if missing := [name for name in spec.asked if name not in spec.pool]:
            raise InputError(f"afriqa: the passages of {', '.join(missing)} are not in the pool '{pool}'")
        pivots = {_pivot(name) for name in spec.pool}
        if len(pivots) > 1:
            raise InputError(f"afriqa: expected passages in one language, got {' and '.join(sorted(pivots))}")
        return spec


def _pivot(language: str) -> str:
    return next(iter(files()[language].values())).split(".")[-3]


def splits(rest: str) -> tuple[str, ...]:
    """The splits that every language that asks has."""
    asked = _Spec.parse(rest).asked
    return tuple(s for s in _PARTS if all(s in files()[language] for language in asked))


def _rows(language: str, split: str) -> Iterator[tuple[str, dict, str]]:
    """(where, row, passage); the passage is empty where the publisher has none."""
    for where, row in json_lines(_GITHUB.file(files()[language][split])):
        passage = row.get("context")
        if passage is not None:
            passage = text_of(where, row, "context").strip()
        yield where, row, passage or ""


def _collection(rest: str, splits: tuple[str, ...], side: str | None) -> Found:
    spec = _Spec.parse(rest)
    pooled = len(spec.pool) > 1
    queries: dict[str, str] = {}
    numbers: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    skipped = 0
    for language in spec.pool:
        prefix = f"{language}/" if pooled else ""
        count = 0
        # Questions of one split look among the passages of all.
        for part in files()[language]:
            for where, row, passage in _rows(language, part):
                asked = language in spec.asked and part in splits
                if not passage:
                    skipped += asked
                    continue
                if passage not in numbers:
                    numbers[passage] = f"{prefix}p{count}"
                    count += 1
                if asked:
                    query = f"{prefix}{part}-{id_of(where, row, 'id')}"
                    queries[query] = text_of(where, row, spec.field)
                    qrels.setdefault(query, {})[numbers[passage]] = 1
    return Found(queries, {number: text for text, number in numbers.items()}, qrels, skipped)


def _sides(rest: str) -> tuple[str, ...]:
    # Translated questions are in the passages' language: no side is foreign.
    return () if _Spec.parse(rest).field == _QUESTIONS["translated"] else ("query",)


def digest(text: str) -> str:
    """The start of the SHA-256 of a normalised text, as the lists of the tests' texts have it."""
    return hashlib.sha256(normal(text).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def passages_of_tests() -> frozenset[str]:
    """:func:`digest` of every passage of a test question, in any language of the pinned revision."""
    return frozenset(Path(__file__).with_name("afriqa_test.txt").read_text(encoding="ascii").split())


@functools.lru_cache(maxsize=1)
def questions_of_tests() -> frozenset[str]:
    """:func:`digest` of every test question of the pinned revision, in any language, and of its translation."""
    path = Path(__file__).with_name("afriqa_test_questions.txt")
    return frozenset(path.read_text(encoding="ascii").split())


def _pairs(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    spec = _Spec.parse(rest)
    for language in spec.asked:
        for split in splits:
            for where, row, passage in _rows(language, split):
                # What is left out may be without a question, too.
                if not passage or digest(passage) in passages_of_tests():
                    continue
                question = text_of(where, row, _QUESTIONS["translated"])
                if digest(question) in questions_of_tests():
                    continue
                short = (row.get("answer_pivot") or {}).get("text") or ()
                yield where, question, passage, (), tuple(short)


def _bitext(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    # The same questions as the pairs above, each with its human translation. Some are asked again in a test, in the
    # same language or in another. A row without a passage may be without a question, too (Twi's dev part has one).
    every = rest.endswith(_EVERY)
    for language in _Spec.parse(rest.removesuffix(_EVERY)).asked:
        for split in ("train", "dev") if every else splits:
            if split not in files()[language]:
                continue
            for where, row, passage in _rows(language, split):
                if not passage and not all(isinstance(row.get(field), str) for field in _QUESTIONS.values()):
                    continue
                question, translated = (text_of(where, row, field) for field in _QUESTIONS.values())
                tested = {digest(question), digest(translated)} & questions_of_tests()
                if not tested and digest(passage) not in passages_of_tests():
                    yield where, question, translated


def _pair_splits(rest: str) -> tuple[str, ...]:
    if _Spec.parse(rest).pool != _Spec.parse(rest).asked:
        raise InputError(f"afriqa:{rest}: expected languages without a pool of passages")
    return tuple(split for split in splits(rest) if split != "test")


def _bitext_splits(rest: str) -> tuple[str, ...]:
    if rest.endswith(_EVERY):
        return tuple(split for split in _bitext_splits(rest.removesuffix(_EVERY)) if split == "train")
    if _Spec.parse(rest).field != _QUESTIONS[""]:
        raise InputError(
            f"afriqa:{rest}: expected afriqa:LANGUAGE, which has the translations beside the questions"
        )
    return _pair_splits(rest)


SOURCE = Source(
    name="afriqa",
    spelling="afriqa:hau",
    title=(
        "questions in bem, fon, hau, ibo, kin, swa, twi, wol, yor, zul over English (fon, wol: French) passages; "
        "`/translated`: their human translations; `afriqa:hau+ibo`, `afriqa:hau@hau+ibo`: pools; "
        "`/all`, as bitext: train and dev together"
    ),
    size="hau, ibo, swa, twi, yor, zul: 300 · 409 · 295 · 486 · 253 · 325 test questions, 3,997 passages",
    licence="CC BY 4.0",
    repositories=(_GITHUB,),
    bitext=Part(_bitext, _bitext_splits),
    collection=Part(_collection, splits, _sides),
    pairs=Part(_pairs, _pair_splits),
)
