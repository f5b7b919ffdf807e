"""English questions with passages that answer them, to train a teacher on."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import InputError, closest
from ..files import json_lines, read_texts, spelled
from .bitext import examples
from .collection import read_beir_qrels
from .sources import SOURCES, find
from .sources.source import text_of


@dataclasses.dataclass(frozen=True, repr=False)
class QuestionPassages:
    """Questions, each with a passage that answers it.

    Attributes
    ----------
    name : str
        What they were loaded from.
    questions, passages : list of str
        Passage i answers question i.
    negatives : list of tuple of str
        Passages that do not answer question i; empty where none are known.
    answers : list of tuple of str
        Short answers to question i, as its passage has them; empty where none are known.
    """

    name: str
    questions: list[str]
    passages: list[str]
    negatives: list[tuple[str, ...]]
    answers: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.questions)

    def take(self, places: Iterable[int]) -> "QuestionPassages":
        """The pairs at these places."""
        chosen = list(places)
        return QuestionPassages(
            self.name,
            [self.questions[i] for i in chosen],
            [self.passages[i] for i in chosen],
            [self.negatives[i] for i in chosen],
            [self.answers[i] for i in chosen],
        )

    def __repr__(self) -> str:
        known = sum(map(bool, self.negatives))
        negatives = f", {known:,} with negatives" if known else ""
        return f"QuestionPassages({self.name!r}, {len(self):,} pairs{negatives})"

    def _repr_html_(self) -> str:
        return examples(repr(self), ("question", "passage"), zip(self.questions, self.passages, strict=True))


def _jsonl(path: Path) -> Iterator[tuple]:
    for where, row in json_lines(path):
        for name in ("negatives", "answers"):
            given = row.get(name) or []
            if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
                raise InputError(f"{where}: field '{name}': expected a list of texts, got {given!r}")
        negatives, answers = tuple(row.get("negatives") or ()), tuple(row.get("answers") or ())
        yield where, text_of(where, row, "query"), text_of(where, row, "passage"), negatives, answers


def _beir(path: Path, split: str) -> Iterator[tuple]:
    qrels = path / "qrels" / f"{split}.tsv"
    have = sorted(p.stem for p in (path / "qrels").glob("*.tsv"))
    if split not in have:
        raise InputError(f"split: {path} has no '{split}'; it has {', '.join(have) or 'none'}")
    queries, documents = read_texts(path / "queries.jsonl"), read_texts(path / "corpus.jsonl")
    for query, judged in read_beir_qrels(qrels).items():
        texts = {d: grade for d, grade in judged.items() if d in documents}
        negatives = tuple(documents[d] for d, grade in texts.items() if grade <= 0)
        for document, grade in texts.items():
            if grade > 0 and query in queries:
                yield str(qrels), queries[query], documents[document], negatives


def load_pairs(spec: str | os.PathLike, *, split: str = "train") -> QuestionPassages:
    """Load English questions with passages that answer them.

    Parameters
    ----------
    spec : str or path
        * a ``.jsonl`` file of ``{"query": …, "passage": …}``, optionally with lists ``negatives`` and ``answers``;
        * a folder in BEIR's layout, of whose judgments those above 0 make pairs;
        * ``"squad:FILE"`` in SQuAD's format;
        * ``"medquad"``, ``"qed"``, ``"xquad"``, ``"covid-qa"``, ``"pubmedqa"``;
        * ``"afriqa:hau"``, ``"afriqa:hau+ibo"``: human translations of questions, without passages of any
          test question.
    split : str
        The part of a source or of a folder in BEIR's layout.

    Returns
    -------
    QuestionPassages

    Raises
    ------
    InputError
        An unknown source; a split that it does not have; a bad line.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from optical_rs.data import load_pairs
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "pairs.jsonl"
    >>> _ = file.write_text('{"query": "who won?", "passage": "Kano Pillars won."}\\n', encoding="utf-8")
    >>> load_pairs(file).passages
    ['Kano Pillars won.']
    """
    spec = spelled("pairs", spec, "a path or the name of a source")
    path = Path(spec)
    found = find(spec)
    if found:
        rows = found[0].read_pairs(spec, found[1], split)
    elif path.is_dir():
        rows = _beir(path, split)
    elif path.name.removesuffix(".gz").endswith((".jsonl", ".json")):
        rows = _jsonl(path)
    else:
        known = [s.spelling for s in SOURCES.values() if s.pairs]
        raise InputError(f"pairs: no folder, .jsonl file or source '{spec}'{closest(spec, known)}")
    questions, passages, negatives, answers = [], [], [], []
    for where, question, passage, others, *short in rows:
        if not question.strip() or not passage.strip():
            raise InputError(f"{where}: the {'passage' if question.strip() else 'question'} is empty")
        questions.append(question.strip())
        passages.append(passage.strip())
        negatives.append(others)
        answers.append(tuple(dict.fromkeys(short[0])) if short else ())
    if not questions:
        raise InputError(f"{spec}: no question–passage pairs")
    return QuestionPassages(spec, questions, passages, negatives, answers)
