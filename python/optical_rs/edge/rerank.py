"""``rerank``: the documents of a run in the order of their MaxSim."""

from collections.abc import Mapping
from typing import Any

from ..errors import InputError, whole
from ..files import rank_key
from ..similarity import maxsim
from .index import pieces_of
from .search import Index


def rerank(
    index: Index, queries: Mapping[str, str], run: Mapping[str, Any], depth: int = 1000
) -> dict[str, list[tuple[str, float]]]:
    """The documents of a run, such as that of BM25, in the order of their MaxSim.

    Parameters
    ----------
    index : Index
    queries : dict of str to str
        Id → text.
    run : dict
        ``{query: {document: score}}`` or ``{query: [(document, score)]}``.
    depth : int
        Documents of each query that are scored, the best of the run.

    Returns
    -------
    dict of str to list of (id, score)
        For the queries of the run, best first; ties go to the higher id in byte order.

    Raises
    ------
    InputError
        A query without text, a ``depth`` below 1, or a document that the index does not have.
    """
    depth = whole("depth", depth)
    pieces = [pieces_of(shard) for shard in index.shards]
    missing = [query for query in run if not queries.get(query, "").strip()]
    if missing:
        raise InputError(f"queries: no text for '{missing[0]}'")
    names = list(run)
    found = {}
    for query, tokens in zip(names, index.encoder.encode_query([queries[n] for n in names]), strict=True):
        hits = run[query]
        pairs = list(hits.items() if isinstance(hits, Mapping) else hits)
        best = sorted(pairs, key=rank_key, reverse=True)[:depth]
        scores = []
        for document, _ in best:
            texts = [
                shard[i]
                for shard, own in zip(index.shards, pieces, strict=True)
                for i in own.get(document, ())
            ]
            if not texts:
                raise InputError(f"run: document '{document}' of query '{query}' is not in the index")
            scores.append(texts)
        flat = [text for texts in scores for text in texts]
        values = iter(maxsim([tokens], flat)[0].tolist() if flat else [])
        rows = [
            (name, max(next(values) for _ in texts)) for (name, _), texts in zip(best, scores, strict=True)
        ]
        found[query] = sorted(rows, key=rank_key, reverse=True)
    return found
