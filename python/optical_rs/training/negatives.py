"""Hard negatives: passages that look like an answer to a question and are none."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..baselines import bm25
from ..data import QuestionPassages
from ..data.sources.known_item import normal
from ..errors import InputError, closest
from ..progress import progress_bar
from ..retrieval import search_tokens
from ..token_cache import TokenCache

#: What finds negatives: words in common, the model that is about to be trained, or nothing.
MINERS = ("bm25", "model", "none")
_WORD = re.compile(r"\w+")


@dataclasses.dataclass(frozen=True)
class Negatives:
    """How hard negatives are found, and which passages may be none.

    A passage is never a negative of a question that it was given for, in any spelling, nor if it shares
    ``overlap`` of its words with such a passage or holds a known answer.

    Attributes
    ----------
    by : {"bm25", "model", "none"}
        ``"none"`` takes those that the pairs come with, and in-batch negatives.
    count : int
        Of each question.
    depth : int
        Passages that are considered for a question.
    skip : int
        The best so many that are allowed are passed over.
    below : float, optional
        Only passages below this share of the positive's own score [1]_; by default .95 of the model's scores, and
        any of BM25's, where a passage above the positive often is no answer.
    overlap : float
        Of words.

    References
    ----------
    .. [1] G. Moreira et al. NV-Retriever: improving text embedding models with effective hard-negative mining.
       arXiv 2407.15831.
    """

    by: str = "bm25"
    count: int = 1
    depth: int = 50
    skip: int = 0
    below: float | None = None
    overlap: float = 0.8

    def __post_init__(self) -> None:
        if self.by not in MINERS:
            raise InputError(f"negatives: by: unknown miner {self.by!r}{closest(self.by, MINERS)}")
        for name, least in (("count", 1), ("depth", 1), ("skip", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"negatives: {name}: expected an integer of at least {least}, got {value!r}")
        for name in ("below", "overlap"):
            value = getattr(self, name)
            wrong = not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1
            if wrong and not (name == "below" and value is None):
                raise InputError(f"negatives: {name}: expected a share in 0..1, got {value!r}")

    @classmethod
    def of(cls, given: Any) -> "Negatives":
        """Of a recipe: a miner's name, a mapping of options, or these themselves.

        Examples
        --------
        >>> Negatives.of("model").by, Negatives.of({"by": "bm25", "count": 2}).count
        ('model', 2)
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, str):
            return cls(by=given)
        if not isinstance(given, Mapping):
            raise InputError(f"negatives: expected {', '.join(MINERS)} or options, got {given!r}")
        names = {f.name for f in dataclasses.fields(cls)}
        for key in given:
            if key not in names:
                raise InputError(f"negatives: unknown key '{key}'{closest(key, names)}")
        return cls(**given)


def without_copies(pairs: Sequence[QuestionPassages]) -> QuestionPassages:
    """Pairs of several sources as one, where texts that differ in spelling alone are one text, and no pair is twice.

    Examples
    --------
    >>> one = QuestionPassages("a", ["Who?", "who"], ["She.", "she"], [(), ("he",)], [(), ("she",)])
    >>> without_copies([one]).passages, without_copies([one]).negatives, without_copies([one]).answers
    (['She.'], [('he',)], [('she',)])
    """
    texts: dict[str, str] = {}

    def first(text: str) -> str:
        return texts.setdefault(normal(text), text)

    rows: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for part in pairs:
        for question, passage, negatives, answers in zip(
            part.questions, part.passages, part.negatives, part.answers, strict=True
        ):
            known = rows.setdefault((first(question), first(passage)), ({}, {}))
            known[0].update(dict.fromkeys(map(first, negatives)))
            known[1].update(dict.fromkeys(answers))
    return QuestionPassages(
        "+".join(part.name for part in pairs),
        [question for question, _ in rows],
        [passage for _, passage in rows],
        [tuple(negatives) for negatives, _ in rows.values()],
        [tuple(answers) for _, answers in rows.values()],
    )


class _Guard:
    """Which passages may not be negatives of a question."""

    def __init__(self, pairs: QuestionPassages, overlap: float):
        self.overlap = overlap
        self._words: dict[str, list[str]] = {}
        self.answering: dict[str, set[str]] = {}
        self.answers: dict[str, set[str]] = {}
        for question, passage, answers in zip(pairs.questions, pairs.passages, pairs.answers, strict=True):
            self.answering.setdefault(question, set()).add(passage)
            shown = (" ".join(self.words(answer)) for answer in answers)
            self.answers.setdefault(question, set()).update(f" {answer} " for answer in shown if answer)

    def words(self, text: str) -> list[str]:
        if text not in self._words:
            self._words[text] = _WORD.findall(text.casefold())
        return self._words[text]

    def allows(self, question: str, passage: str) -> bool:
        if passage in self.answering[question]:
            return False
        words = self.words(passage)
        if self.answers[question]:
            held = f" {' '.join(words)} "
            if any(answer in held for answer in self.answers[question]):
                return False
        own = set(words)
        for answering in self.answering[question]:
            other = set(self.words(answering))
            if len(own & other) >= self.overlap * max(min(len(own), len(other)), 1):
                return False
        return True


def mine_negatives(
    pairs: QuestionPassages, options: Negatives, tokens: TokenCache | None = None, *, seed: int = 0
) -> list[tuple[str, ...]]:
    """``count`` negatives of each question: its own first, then the best that are found, then random passages.

    Parameters
    ----------
    pairs : QuestionPassages
        Without copies; see :func:`without_copies`.
    options : Negatives
    tokens : TokenCache, optional
        Of the model, which ``by="model"`` needs.
    seed : int
        Of random passages, where too few are found.

    Returns
    -------
    list of tuple of str
        Fewer than ``count`` only where no other passage is allowed; none at all for ``by="none"``, unless all pairs come
        with ``count`` of them or more.

    Examples
    --------
    >>> pairs = QuestionPassages(
    ...     "two",
    ...     ["who sings in kano", "where is kano", "is rain in nigeria"],
    ...     ["Sani sings in Kano", "Kano is in Nigeria", "Rain is water"],
    ...     [(), (), ()],
    ...     [("Sani",), ("Nigeria",), ()],
    ... )
    >>> mine_negatives(pairs, Negatives())
    [('Kano is in Nigeria',), ('Sani sings in Kano',), ('Kano is in Nigeria',)]
    """
    if options.by == "none":
        known = all(len(own) >= options.count for own in pairs.negatives)
        return [own[: options.count] if known else () for own in pairs.negatives]
    passages = list(dict.fromkeys(pairs.passages))
    guard = _Guard(pairs, options.overlap)
    draw = np.random.default_rng(seed)
    found = []
    if options.by == "bm25":
        ranked = _by_words(pairs, passages, options)
    else:
        ranked = _by_model(pairs, passages, options, tokens)
    with progress_bar("mining negatives", "question") as progress:
        for i, (question, hits) in enumerate(zip(pairs.questions, ranked, strict=True)):
            allowed = (p for p in hits if guard.allows(question, p))
            chosen = dict.fromkeys(pairs.negatives[i][: options.count])
            for number, passage in enumerate(allowed):
                if len(chosen) == options.count:
                    break
                if number >= options.skip:
                    chosen[passage] = None
            if len(chosen) < options.count:
                for place in draw.permutation(len(passages)):
                    if len(chosen) == options.count:
                        break
                    if passages[place] not in chosen and guard.allows(question, passages[place]):
                        chosen[passages[place]] = None
            found.append(tuple(chosen))
            if i % 100 == 99 or i + 1 == len(pairs):
                progress(i + 1, len(pairs))
    return found


def _by_words(pairs: QuestionPassages, passages: list[str], options: Negatives) -> Iterator[list[str]]:
    """Passages by falling BM25 score, those below a share of the positive's alone where one is asked."""
    questions = {str(i): question for i, question in enumerate(pairs.questions)}
    documents = {str(i): passage for i, passage in enumerate(passages)}
    found = bm25(questions, documents, min(options.depth, len(passages)), language="english")
    for query, positive in zip(questions, pairs.passages, strict=True):
        hits = [(documents[document], score) for document, score in found[query]]
        own = next((score for passage, score in hits if passage == positive), 0.0)
        yield [p for p, score in hits if options.below is None or score < options.below * own]


def _by_model(
    pairs: QuestionPassages, passages: list[str], options: Negatives, tokens: TokenCache | None
) -> Iterator[list[str]]:
    """Passages by falling MaxSim score that are below a share of the positive's."""
    if tokens is None:
        raise InputError("tokens: the model finds negatives by its tokens, got none")
    below = 0.95 if options.below is None else options.below
    documents = tokens.tokens(passages, "document")
    questions = tokens.tokens(pairs.questions, "query")
    places = {passage: place for place, passage in enumerate(passages)}
    ids = list(map(str, range(len(passages))))
    for first in range(0, len(pairs), 1024):
        asked = list(questions[first : first + 1024])
        hits = search_tokens(asked, documents, min(options.depth, len(passages)), ids)
        for query, found, positive in zip(asked, hits, pairs.passages[first : first + 1024], strict=True):
            own = float((query @ documents[places[positive]].T).max(axis=1).sum())
            # Scores may be negative, where a share of one lies above it.
            yield [passages[int(d)] for d, score in found if score < own - (1 - below) * abs(own)]
