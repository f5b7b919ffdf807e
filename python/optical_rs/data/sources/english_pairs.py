"""English questions with passages that answer them, to train a teacher on: MedQuAD, QED, XQuAD, COVID-QA, PubMedQA.

Also any file in the format of SQuAD. Rows are ``(where, question, passage, negatives)``, and answers where the source has
short ones.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...errors import InputError
from ...files import json_lines, read_bytes
from .source import Part, Repository, Source, text_of

#: Passages that are cut out of whole articles have about so many words.
WORDS = 150
_ENDS = re.compile(r"(?<=[.!?])\s+|\n+")


def _json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def passage_around(text: str, start: int, words: int = WORDS) -> str:
    """Whole sentences around a place of a text, about ``words`` words of them.

    Examples
    --------
    >>> passage_around("One two. Three four. Five six. Seven.", 10, words=4)
    'Three four. Five six.'
    """
    begins = [0, *(m.end() for m in _ENDS.finditer(text))]
    sentences = [text[b:e] for b, e in zip(begins, [*begins[1:], len(text)], strict=True)]
    first = last = max(i for i, begin in enumerate(begins) if begin <= max(start, 0))
    count = len(sentences[first].split())
    # The passage grows on both sides in turn, so that the answer is in its middle.
    forward = True
    while count < words and (first > 0 or last + 1 < len(sentences)):
        if (forward and last + 1 < len(sentences)) or first == 0:
            last += 1
            count += len(sentences[last].split())
        else:
            first -= 1
            count += len(sentences[first].split())
        forward = not forward
    return " ".join(" ".join(sentences[first : last + 1]).split())


def read_squad(path: Path, *, words: int | None = None) -> Iterator[tuple]:
    """Questions that have an answer, with their paragraphs, of a file in the format of SQuAD.

    Parameters
    ----------
    path : path
    words : int, optional
        Paragraphs that are longer are cut to about so many words around the answer.

    Raises
    ------
    InputError
        For a file in another format.
    """
    content = _json(path)
    try:
        for a, article in enumerate(content["data"]):
            for p, paragraph in enumerate(article["paragraphs"]):
                where = f"{path}, article {a}, paragraph {p}"
                text = text_of(where, paragraph, "context")
                for question in paragraph["qas"]:
                    if not question.get("answers") and question.get("is_impossible"):
                        continue
                    passage = text
                    if words is not None and len(text.split()) > words:
                        answers = question.get("answers") or [{"answer_start": 0}]
                        passage = passage_around(text, answers[0]["answer_start"], words)
                    short = tuple(text_of(where, answer, "text") for answer in question.get("answers") or ())
                    yield where, text_of(where, question, "question"), passage, (), short
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected the format of SQuAD (data, paragraphs, qas): {error}") from None


_MEDQUAD = Repository("MedQuAD", "abachaa/MedQuAD", "577bd37b96c02d1833b2c9eed2de9f96964e96cb")
_QED = Repository("QED", "google-research-datasets/QED", "2492920337122918bbfc7d12c1268b9af796c6cf")
_XQUAD = Repository("xquad", "google-deepmind/xquad", "7d30520c717524000f0d9d2f9c10a069acd9d285")
_COVID_QA = Repository("COVID-QA", "deepset-ai/COVID-QA", "fb2eb5e249618457e5359806601086c635c8eb8f")
_PUBMEDQA = Repository("pubmedqa", "pubmedqa/pubmedqa", "1cbae8e92f72f20c8d3747cbb3bf5bc53554d997")


def _medquad(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    for path in sorted(_MEDQUAD.clone().glob("*/*.xml")):
        try:
            pairs = list(ElementTree.fromstring(read_bytes(path)).iter("QAPair"))
        except ElementTree.ParseError as error:
            raise InputError(f"{path}: not valid XML ({error})") from None
        for pair in pairs:
            question, answer = (" ".join((pair.findtext(k) or "").split()) for k in ("Question", "Answer"))
            # Three of its parts have no answers, for reasons of copyright.
            if question and answer:
                yield str(path), question, answer, ()


def _qed(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    for where, row in json_lines(_QED.file("qed-dev.jsonlines")):
        short = tuple(part["string"] for answer in row.get("original_nq_answers") or () for part in answer)
        yield where, text_of(where, row, "question_text"), text_of(where, row, "paragraph_text"), (), short


def _xquad(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    yield from read_squad(_XQUAD.file("xquad.en.json"))


def _covid_qa(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    yield from read_squad(_COVID_QA.file("data/question-answering/200423_covidQA.json"), words=WORDS)


def _pubmedqa(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    path = _PUBMEDQA.file("data/ori_pqal.json")
    for number, row in _json(path).items():
        where = f"{path}, {number}"
        yield where, text_of(where, row, "QUESTION"), " ".join(row.get("CONTEXTS") or ()), ()


def _squad(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    yield from read_squad(Path(rest))


def _source(name: str, title: str, size: str, licence: str, repository: Repository, read: Any) -> Source:
    pairs = Part(read, ("train",))
    return Source(name, name, title, size, licence, (repository,), pairs=pairs)


SOURCES = (
    _source(
        "medquad",
        "medical questions with answers of NIH's sites",
        "16,407 pairs",
        "CC BY 4.0",
        _MEDQUAD,
        _medquad,
    ),
    _source(
        "qed", "Natural Questions with a paragraph (QED's dev set)", "1,355 pairs", "CC BY-SA 3.0", _QED, _qed
    ),
    _source("xquad", "questions of SQuAD with a paragraph", "1,190 pairs", "CC BY-SA 4.0", _XQUAD, _xquad),
    _source(
        "covid-qa",
        "questions on articles about COVID-19, cut to the answer's surroundings",
        "1,380 pairs",
        "Apache-2.0",
        _COVID_QA,
        _covid_qa,
    ),
    _source(
        "pubmedqa",
        "questions of biomedical titles with their abstracts",
        "1,000 pairs",
        "MIT",
        _PUBMEDQA,
        _pubmedqa,
    ),
    Source(
        "squad",
        "squad:FILE",
        "your file in SQuAD's format",
        "yours",
        "yours",
        getting="your file",
        pairs=Part(_squad, ("train",)),
    ),
)
