"""A retriever of LangChain (extra ``langchain``)."""

import os
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import PrivateAttr

from ..edge import Encoder
from ..edge.search import search_texts
from ..similarity import TokenStore


class OpticalRetriever(BaseRetriever):
    """Documents of an index for queries in another language, as LangChain's retrievers give them.

    Parameters
    ----------
    index : path
        What ``optical-rs index`` wrote with the teacher.
    model : path
        The exported student, which encodes the queries.
    k : int
        Documents of a query.
    **options
        Of LangChain's ``BaseRetriever``, such as ``tags``.

    Examples
    --------
    >>> from optical_rs.integrations.langchain import OpticalRetriever
    >>> OpticalRetriever("passages", "student", k=3).invoke("moto uli kuti?")  # doctest: +SKIP
    [Document(id='d0', metadata={'id': 'd0', 'score': 5.1}, page_content='the fire is on the fire'), …]
    """

    k: int = 10
    _encoder: Encoder = PrivateAttr()
    _store: TokenStore = PrivateAttr()

    def __init__(self, index: str | os.PathLike, model: str | os.PathLike, k: int = 10, **options: Any):
        super().__init__(k=k, **options)  # type: ignore[call-arg]
        self._encoder, self._store = Encoder(model), TokenStore(index)

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        hits = search_texts(self._encoder, self._store, [query], self.k)[0]
        return [
            Document(
                page_content=hit.text, id=hit.document, metadata={"id": hit.document, "score": hit.score}
            )
            for hit in hits
        ]
