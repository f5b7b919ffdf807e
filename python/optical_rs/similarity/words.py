"""From the pieces of a tokenizer to the words that a reader sees."""

import bisect
import itertools
import re
from collections.abc import Sequence

import numpy as np

#: Characters of a run without spaces that is still a word; longer ones are text of a language without spaces.
LONGEST = 30


def words_of(text: str, spans: Sequence[tuple[int, int]], prompt: int = 0) -> tuple[list[str], np.ndarray]:
    """The words of a text, and the word that each token is a part of.

    Words are divided by spaces. Where a language has none, each token is a word.

    Parameters
    ----------
    text : str
        What was tokenised, with its prompt.
    spans : sequence of (int, int)
        Where each token begins and ends in it; empty for special tokens.
    prompt : int
        Characters of the prompt, whose tokens are a part of no word.

    Returns
    -------
    (list of str, (tokens,) int array)
        The words that have tokens, and the number of each token's word, or −1.

    Examples
    --------
    >>> from optical_rs.similarity.words import words_of
    >>> words, of = words_of("query: moto uli", [(0, 0), (0, 6), (6, 9), (9, 11), (11, 15), (0, 0)], prompt=7)
    >>> words, of.tolist()
    (['moto', 'uli'], [-1, -1, 0, 0, 1, -1])
    """
    # Not those behind the last token, where a long text was cut off.
    last = max((end for _, end in spans), default=0)
    found = (run.span() for run in re.compile(r"\S+").finditer(text, prompt))
    runs = list(itertools.takewhile(lambda run: run[0] < last, found))
    words: list[str] = []
    places: dict[tuple[int, int], int] = {}
    of = np.full(len(spans), -1)
    for i, (start, end) in enumerate(spans):
        # A piece may begin with the space before its word.
        start = max(start, prompt)
        while start < end and text[start].isspace():
            start += 1
        if start >= end:
            continue
        run = runs[bisect.bisect_right(runs, (start, len(text))) - 1]
        if run[1] - run[0] > LONGEST:
            run = (start, end)
        if run not in places:
            places[run] = len(words)
            words.append(text[run[0] : run[1]])
        of[i] = places[run]
    return words, of
