"""Why a document was found: which of its tokens answer to which of the query, and where in the text they are."""

import dataclasses
import functools

import numpy as np

from ..transport import solve_batch
from .encoder import Cut

#: Characters of a snippet.
SNIPPET = 240
#: Entropic regularisation of the transport problem.
REG = 0.05


@dataclasses.dataclass(frozen=True)
class Explanation:
    """How a query and a document were brought together.

    Attributes
    ----------
    query, document : list of str
        Their tokens.
    similarity : (query tokens, document tokens) float32 array
        Cosines.
    matches : (query tokens) int array
        The document token that each query token counts in MaxSim; empty for a document without tokens.
    query_words, document_words : (list of str, (tokens,) int array)
        Their words, and the word of each token, or −1 for tokens of a prompt and special ones.
    numbered : bool
        Whether the document's tokens have numbers for names, as no tokenizer that is at hand cuts the text into them.
    """

    query: list[str]
    document: list[str]
    similarity: np.ndarray
    matches: np.ndarray
    query_words: tuple[list[str], np.ndarray]
    document_words: tuple[list[str], np.ndarray]
    numbered: bool = False

    @functools.cached_property
    def plan(self) -> np.ndarray:
        """The (query tokens, document tokens) float32 transport plan between both, with cost 1 − similarity and uniform
        masses; solved when it is first asked for."""
        if not self.similarity.size:  # a text without tokens: there is nothing to transport
            return self.similarity
        plan: np.ndarray = solve_batch((1 - self.similarity)[None].astype(np.float32), REG).plan[0]
        return plan

    def lines(self) -> list[str]:
        """A line for each query token: its match, their similarity, and the share that is transported."""
        width = max(map(len, self.query), default=0)
        share = self.plan / np.maximum(self.plan.sum(axis=1, keepdims=True), 1e-30)
        return [
            f"{token:>{width}}  {self.similarity[i, j]:5.2f}  {share[i, j]:4.0%}  {self.document[j]}"
            for i, (token, j) in enumerate(zip(self.query, self.matches, strict=False))
        ]


def explained(query: Cut, document: Cut, tokens: tuple[np.ndarray, np.ndarray]) -> Explanation:
    """Which tokens of a document match which of a query.

    Parameters
    ----------
    query, document : Cut
        The texts as their tokenizers cut them. If the document's tokens do not fit those in the store, they are numbered
        instead.
    tokens : two (tokens, dim) arrays
        Of the query and of the document.
    """
    x, y = tokens
    shown, words, word_of = document
    numbered = len(shown) != len(y)
    if numbered:
        shown = words = [str(i) for i in range(len(y))]
        word_of = np.arange(len(y))
    similarity = x @ y.T
    matches = similarity.argmax(axis=1) if len(y) else np.zeros(0, dtype=int)
    return Explanation(
        query.tokens, shown, similarity, matches, (query.words, query.word_of), (words, word_of), numbered
    )


def snippet(why: Explanation, text: str, length: int = SNIPPET) -> str:
    """The part of a text whose words answer most to a query, of at most some characters and two ellipses.

    Examples
    --------
    >>> words = ["zero", "one", "two", "three"]
    >>> why = Explanation(["2"], words, np.eye(4)[[2]], np.array([2]),
    ...     (["2"], np.array([0])), (words, np.arange(4)))
    >>> snippet(why, "zero one two three", length=10)
    '… one two …'
    """
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    if why.numbered:  # nobody knows where in the text they are
        return f"{text[:length].rpartition(' ')[0] or text[:length]} …"
    words, word_of = why.document_words
    weights = np.zeros(len(words) + 1)  # the last is that of no word
    for i, j in enumerate(why.matches):
        if why.query_words[1][i] >= 0:
            weights[word_of[j]] += max(float(why.similarity[i, j]), 0.0)
    starts, ends, at = [], [], 0
    for word in words:
        found = text.find(word, at)
        at = found + len(word) if found >= 0 else at
        starts.append(found if found >= 0 else at)
        ends.append(at)
    best, value, last = (0, length), -1.0, 0
    for first, start in enumerate(starts):
        while last < len(words) and ends[last] - start <= length:
            last += 1
        inside = float(weights[first:last].sum())
        if inside > value:
            best, value = (start, ends[last - 1] if last > first else start + length), inside
    start, end = best
    # What room is left shows what comes before.
    room = max(length - (end - start), 0)
    if room and start:
        cut = text.find(" ", max(start - room - 1, 0), start)
        start = 0 if start <= room else cut + 1 if cut >= 0 else start
    return f"{'… ' if start else ''}{text[start:end]}{' …' if end < len(text) else ''}"
