"""A retriever of LangChain (extra ``langchain``)."""

import os
from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import PrivateAttr

from ..edge.search import Index


class OpticalRetriever(BaseRetriever):
    """Documents of an index for queries in another language, as LangChain's retrievers give them.

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
        Of LangChain's ``BaseRetriever``, such as ``tags``.

    Examples
    --------
    >>> from optical_rs.integrations.langchain import OpticalRetriever
    >>> OpticalRetriever("passages", "student", k=3).invoke("moto uli kuti?")  # doctest: +SKIP
    [Document(id='d0', metadata={'id': 'd0', 'score': 5.1}, page_content='the fire is on the fire'), …]
    """

    k: int = 10
    filters: dict[str, Any] | None = None
    lexical: bool = False
    _index: Index = PrivateAttr()

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
        super().__init__(k=k, filters=filters, lexical=lexical, **options)  # type: ignore[call-arg]
        self._index = Index(index, model)

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        hits = self._index.search(query, self.k, filters=self.filters, lexical=self.lexical)
        return [
            Document(
                page_content=hit.text,
                id=hit.document,
                metadata={**hit.fields, "id": hit.document, "score": hit.score},
            )
            for hit in hits
        ]
