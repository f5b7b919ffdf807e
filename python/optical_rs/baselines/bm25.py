"""BM25, by bm25s (extra ``edge`` or ``baselines``)."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, require


class BM25:
    """Texts, indexed by their words (BM25, Lucene's variant).

    Parameters
    ----------
    texts : sequence of str
    language, ngrams, k1, b
        As for :func:`bm25`.

    Raises
    ------
    InputError
        A language without a stemmer, or ``ngrams`` below 1 or with a language.

    Examples
    --------
    >>> from optical_rs.baselines import BM25
    >>> BM25(["a river and its banks", "mountains"]).scores("the river").round(2).tolist()
    [0.25, 0.0]
    """

    def __init__(
        self,
        texts: Sequence[str],
        *,
        language: str | None = None,
        ngrams: int | None = None,
        k1: float = 1.2,
        b: float = 0.75,
        show_progress_bar: bool = False,
    ):
        number = isinstance(ngrams, int) and not isinstance(ngrams, bool)
        if ngrams is not None and (language is not None or not number or ngrams < 1):
            raise InputError(f"ngrams: expected at least 1, and no language, got {ngrams!r} and {language!r}")
        self._ngrams = ngrams
        self._library = require("bm25s", "edge")
        stemmer = None
        if language is not None:
            snowball = require("Stemmer", "baselines")
            if language not in snowball.algorithms():
                raise InputError(
                    f"language: no stemmer for '{language}'; have {', '.join(snowball.algorithms())}"
                )
            stemmer = snowball.Stemmer(language)
        self._options: dict[str, Any] = {
            "stopwords": language if language == "english" else [],
            "stemmer": stemmer,
            "show_progress": show_progress_bar,
            "token_pattern": r"(?u)\b\w+\b",
        }
        corpus = self._library.tokenize(self._terms(texts), return_ids=True, **self._options)
        self._count, self._index = len(texts), None
        if corpus.vocab:
            self._index = self._library.BM25(k1=k1, b=b)
            self._index.index(corpus, show_progress=show_progress_bar)

    def __len__(self) -> int:
        return self._count

    def _terms(self, texts: Sequence[str]) -> list[str]:
        return (
            list(texts) if self._ngrams is None else [character_ngrams(text, self._ngrams) for text in texts]
        )

    def scores(self, query: str) -> np.ndarray:
        """The score of every text, float32: 0 for those without a word in common."""
        words = self._library.tokenize(self._terms([query]), return_ids=False, **self._options)[0]
        if self._index is None or not words:
            return np.zeros(self._count, np.float32)
        return self._index.get_scores(words)

    def best(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """The ``k`` best texts of each query, (number, score), of those with a word in common."""
        if self._index is None or not queries:
            return [[] for _ in queries]
        asked = self._library.tokenize(self._terms(queries), return_ids=False, **self._options)
        found, scores = self._index.retrieve(
            asked,
            k=min(k, self._count),
            show_progress=self._options["show_progress"],
            n_threads=0,
            sorted=True,
        )
        return [
            [(i, float(s)) for i, s in zip(row, values, strict=True) if s > 0]
            for row, values in zip(found.tolist(), scores.tolist(), strict=True)
        ]


def character_ngrams(text: str, n: int) -> str:
    """The runs of ``n`` characters within each word, apart; shorter words whole. Case and marks above or below
    letters do not count.

    Examples
    --------
    >>> from optical_rs.baselines.bm25 import character_ngrams
    >>> character_ngrams("uCanada, Ọyọ", 5)
    'ucana canad anada oyo'
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).lower()
    words = re.findall(r"\w+", plain)
    return " ".join(w[i : i + n] for w in words for i in range(max(1, len(w) - n + 1)))


def bm25(
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    k: int = 1000,
    *,
    language: str | None = None,
    ngrams: int | None = None,
    k1: float = 1.2,
    b: float = 0.75,
    show_progress_bar: bool = False,
) -> dict[str, list[tuple[str, float]]]:
    """The ``k`` best documents of each query by words in common (BM25, Lucene's variant).

    Parameters
    ----------
    queries, documents : dict of str to str
        Id → text.
    k : int
        Documents per query at most; only those with a word in common are returned.
    language : str, optional
        Of both, for stemming by Snowball and its stop words, as ``"english"``; none by default, which is
        right for languages without a stemmer.
    ngrams : int, optional
        Compare runs of so many characters within words instead of whole words, without case and diacritics. Names
        and loanwords of a foreign query are then found in English text, also with a prefix or a suffix (Zulu
        *eCanada*), as far as they are written in the same script. 5 is a good choice.
    k1, b : float
        Saturation of word counts, and how much long documents are held back.

    Returns
    -------
    dict of str to list of (id, score)
        Best first.

    Raises
    ------
    InputError
        A ``k`` below 1, no documents, a language without a stemmer, or ``ngrams`` below 1 or with a language.

    References
    ----------
    S. Robertson, H. Zaragoza. The probabilistic relevance framework: BM25 and beyond. FnTIR 3(4), 2009.
    X. Lù. BM25S: orders of magnitude faster lexical search via eager sparse scoring. arXiv 2407.03618.
    P. McNamee, J. Mayfield. Character n-gram tokenization for European language text retrieval. Information
    Retrieval 7, 2004.

    Examples
    --------
    >>> from optical_rs.baselines import bm25
    >>> bm25({"q": "the river"}, {"a": "a river and its banks", "b": "mountains"})["q"][0][0]
    'a'
    >>> bm25({"q": "inhlokodolobha yaseCanada"}, {"a": "The capital of Canada", "b": "rivers"}, ngrams=5)["q"][0][0]
    'a'
    """
    if k < 1:
        raise InputError(f"k: expected at least 1, got {k}")
    if not documents:
        raise InputError("documents: expected at least one")
    ids = list(documents)
    index = BM25(
        list(documents.values()),
        language=language,
        ngrams=ngrams,
        k1=k1,
        b=b,
        show_progress_bar=show_progress_bar,
    )
    hits = index.best(list(queries.values()), k)
    return {
        query: [(ids[i], score) for i, score in found] for query, found in zip(queries, hits, strict=True)
    }
