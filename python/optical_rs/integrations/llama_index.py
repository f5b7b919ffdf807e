"""A retriever of LlamaIndex (extra ``llama-index``)."""

import os
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from ..edge import Encoder
from ..edge.search import search_texts
from ..similarity import TokenStore


class OpticalRetriever(BaseRetriever):
    """Documents of an index for queries in another language, as LlamaIndex's retrievers give them.

    Parameters
    ----------
    index : path
        What ``optical-rs index`` wrote with the teacher.
    model : path
        The exported student, which encodes the queries.
    k : int
        Documents of a query.
    **options
        Of LlamaIndex's ``BaseRetriever``.

    Examples
    --------
    >>> from optical_rs.integrations.llama_index import OpticalRetriever
    >>> OpticalRetriever("passages", "student", k=3).retrieve("moto uli kuti?")  # doctest: +SKIP
    [NodeWithScore(node=TextNode(id_='d0', …), score=5.1), …]
    """

    def __init__(self, index: str | os.PathLike, model: str | os.PathLike, k: int = 10, **options: Any):
        self.encoder, self.store, self.k = Encoder(model), TokenStore(index), k
        super().__init__(**options)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = search_texts(self.encoder, self.store, [query_bundle.query_str], self.k)[0]
        return [
            NodeWithScore(node=TextNode(id_=hit.document, text=hit.text), score=float(hit.score))
            for hit in hits
        ]
