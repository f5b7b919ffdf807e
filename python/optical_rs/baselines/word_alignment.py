"""What words translate to, learnt from bitext, and search with it: probabilistic structured queries."""

import dataclasses
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError, require


def words(text: str) -> list[str]:
    """Lower-case words of a text, in any script: letters, digits and marks that belong together."""
    return re.findall(r"[\w\u0300-\u036f\u0900-\u0dff'’]+", text.lower())


@dataclasses.dataclass(frozen=True)
class TranslationTable:
    """How often a word of one language was linked to a word of the other.

    Attributes
    ----------
    foreign, english : dict of str to dict of str to float
        Word → its translations and their probabilities, which sum to 1: P(english | foreign) and
        P(foreign | english).
    """

    foreign: dict[str, dict[str, float]]
    english: dict[str, dict[str, float]]


def translation_table(foreign: Sequence[str], english: Sequence[str]) -> TranslationTable:
    """Learn word translations from sentence pairs with eflomal (extra ``baselines``).

    Links of both directions count. eflomal samples and takes no seed: each call draws somewhat different
    links.

    Parameters
    ----------
    foreign, english : sequence of str
        Sentence i of one translates sentence i of the other.

    Returns
    -------
    TranslationTable

    Raises
    ------
    InputError
        Sides of different lengths, or no pair with words on both sides.

    References
    ----------
    R. Östling, J. Tiedemann. Efficient word alignment with Markov chain Monte Carlo. PBML 106, 2016.
    """
    if len(foreign) != len(english):
        raise InputError(
            f"english: expected {len(foreign)} sentences, one for each foreign one, got {len(english)}"
        )
    pairs = [(words(f), words(e)) for f, e in zip(foreign, english, strict=True)]
    pairs = [(f, e) for f, e in pairs if f and e]
    if not pairs:
        raise InputError("foreign: no pair has words on both sides")
    aligner = require("eflomal", "baselines").Aligner()
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        forward, backward = Path(folder) / "forward", Path(folder) / "backward"
        aligner.align(
            [" ".join(f) for f, _ in pairs],
            [" ".join(e) for _, e in pairs],
            links_filename_fwd=str(forward),
            links_filename_rev=str(backward),
            quiet=True,
        )
        for file in (forward, backward):
            lines = file.read_text(encoding="ascii").splitlines()
            for (f, e), line in zip(pairs, lines, strict=True):
                for link in line.split():
                    a, b = map(int, link.split("-"))
                    counts[f[a], e[b]] += 1
    return TranslationTable(_given(counts, 0), _given(counts, 1))


def _given(counts: Counter[tuple[str, str]], side: int) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for pair, count in counts.items():
        table.setdefault(pair[side], {})[pair[1 - side]] = float(count)
    return {
        word: {
            other: n / sum(found.values()) for other, n in sorted(found.items(), key=lambda x: (-x[1], x[0]))
        }
        for word, found in sorted(table.items())
    }


def psq(
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    table: TranslationTable,
    k: int = 1000,
    *,
    cumulative: float = 0.97,
    k1: float = 1.2,
    b: float = 0.75,
) -> dict[str, list[tuple[str, float]]]:
    """The ``k`` best English documents of each foreign query by probabilistic structured queries.

    Counts of a foreign word f are expected ones, over its translations e, and are ranked by BM25::

        tf(f, d) = Σ_e P(e | f) · tf(e, d)        df(f) = Σ_e P(e | f) · df(e)

    Words that the table lacks stand for themselves (names, numbers).

    Parameters
    ----------
    queries, documents : dict of str to str
        Id → text.
    table : TranslationTable
        Of :func:`translation_table`.
    k : int
        Documents per query at most; only those with a count are returned.
    cumulative : float
        The most probable translations are kept until they have this much of the probability.
    k1, b : float
        Of BM25.

    Returns
    -------
    dict of str to list of (id, score)
        Best first, ties by id, the higher first.

    Raises
    ------
    InputError
        A ``k`` below 1, or no documents.

    References
    ----------
    K. Darwish, D. Oard. Probabilistic structured query methods. SIGIR 2003.

    Examples
    --------
    >>> from optical_rs.baselines import TranslationTable, psq
    >>> table = TranslationTable({"moto": {"fire": 0.9, "hot": 0.1}}, {})
    >>> run = psq({"q": "moto"}, {"a": "the fire burns", "b": "a hot day", "c": "rain"}, table, cumulative=1)
    >>> [name for name, _ in run["q"]]
    ['a', 'b']
    """
    if k < 1:
        raise InputError(f"k: expected at least 1, got {k}")
    if not documents:
        raise InputError("documents: expected at least one")
    ids = sorted(documents, reverse=True)
    lists = [words(documents[i]) for i in ids]
    postings: dict[str, Counter[int]] = {}
    for place, text in enumerate(lists):
        for word in text:
            postings.setdefault(word, Counter())[place] += 1
    lengths = np.array([len(text) for text in lists], dtype=float)
    norm = k1 * (1 - b + b * lengths / max(lengths.mean(), 1e-9))
    run = {}
    for query, asked in queries.items():
        scores = np.zeros(len(ids))
        for word, repeated in Counter(words(asked)).items():
            frequency, spread = np.zeros(len(ids)), 0.0
            for english, share in _most_probable(table.foreign.get(word, {word: 1.0}), cumulative):
                found: Mapping[int, int] = postings.get(english, {})
                spread += share * len(found)
                for place, count in found.items():
                    frequency[place] += share * count
            idf = np.log1p((len(ids) - spread + 0.5) / (spread + 0.5))
            scores += repeated * idf * frequency / (frequency + norm)
        best = np.argsort(-scores, kind="stable")[:k]
        run[query] = [(ids[i], float(scores[i])) for i in best if scores[i] > 0]
    return run


def _most_probable(translations: Mapping[str, float], cumulative: float) -> list[tuple[str, float]]:
    kept, total = [], 0.0
    for word, share in sorted(translations.items(), key=lambda x: (-x[1], x[0])):
        kept.append((word, share))
        total += share
        if total >= cumulative:
            break
    return [(word, share / total) for word, share in kept]
