"""BM25, by bm25s (extra ``baselines``)."""

from collections.abc import Mapping

from ..errors import InputError, require


def bm25(
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    k: int = 1000,
    *,
    language: str | None = None,
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
    k1, b : float
        Saturation of word counts, and how much long documents are held back.

    Returns
    -------
    dict of str to list of (id, score)
        Best first.

    Raises
    ------
    InputError
        A ``k`` below 1, no documents, or a language without a stemmer.

    References
    ----------
    S. Robertson, H. Zaragoza. The probabilistic relevance framework: BM25 and beyond. FnTIR 3(4), 2009.
    X. Lù. BM25S: orders of magnitude faster lexical search via eager sparse scoring. arXiv 2407.03618.

    Examples
    --------
    >>> from optical_rs.baselines import bm25
    >>> bm25({"q": "the river"}, {"a": "a river and its banks", "b": "mountains"})["q"][0][0]
    'a'
    """
    if k < 1:
        raise InputError(f"k: expected at least 1, got {k}")
    if not documents:
        raise InputError("documents: expected at least one")
    library = require("bm25s", "baselines")
    stemmer = None
    if language is not None:
        snowball = require("Stemmer", "baselines")
        if language not in snowball.algorithms():
            raise InputError(
                f"language: no stemmer for '{language}'; have {', '.join(snowball.algorithms())}"
            )
        stemmer = snowball.Stemmer(language)
    options = {
        "stopwords": language if language == "english" else [],
        "stemmer": stemmer,
        "show_progress": show_progress_bar,
        "token_pattern": r"(?u)\b\w+\b",
    }
    ids = list(documents)
    corpus = library.tokenize(list(documents.values()), return_ids=True, **options)
    if not corpus.vocab:
        return {query: [] for query in queries}
    index = library.BM25(k1=k1, b=b)
    index.index(corpus, show_progress=show_progress_bar)
    asked = library.tokenize(list(queries.values()), return_ids=False, **options)
    found, scores = index.retrieve(
        asked, k=min(k, len(ids)), show_progress=show_progress_bar, n_threads=0, sorted=True
    )
    return {
        query: [(ids[i], float(s)) for i, s in zip(row, values, strict=True) if s > 0]
        for query, row, values in zip(queries, found.tolist(), scores.tolist(), strict=True)
    }
