"""A retriever of LlamaIndex (extra ``llama-index``)."""

import os
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from ..edge.search import Index


class OpticalRetriever(BaseRetriever):
    """Documents of an index for queries in another language, as LlamaIndex's retrievers give them.

    Parameters
    ----------
    index : path or sequence of paths
        What ``optical-rs index`` wrote with the teacher; several are searched as one.
    model : path, optional
        The exported student, which encodes the queries; by default the model that encoded the documents.
    k : int
        Documents of a query.
    filters, lexical
        As for :meth:`~optical_rs.edge.search.Index.search`.
    **options
        Of LlamaIndex's ``BaseRetriever``.

    Examples
    --------
    >>> from optical_rs.integrations.llama_index import OpticalRetriever
    >>> OpticalRetriever("passages", "student", k=3).retrieve("moto uli kuti?")  # doctest: +SKIP
    [NodeWithScore(node=TextNode(id_='d0', …), score=5.1), …]
    """

    def __init__(
        self,
        index: str | os.PathLike | Sequence[str | os.PathLike],
        model: str | os.PathLike | None = None,
        k: int = 10,
        *,
        filters: dict[str, Any] | None = None,
        lexical: bool = False,
        **options: Any,
    ):
        self.index, self.k, self.filters, self.lexical = Index(index, model), k, filters, lexical
        super().__init__(**options)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self.index.search(query_bundle.query_str, self.k, filters=self.filters, lexical=self.lexical)
        return [
            NodeWithScore(
                node=TextNode(id_=hit.document, text=hit.text, metadata=dict(hit.fields)),
                score=float(hit.score),
            )
            for hit in hits
        ]
