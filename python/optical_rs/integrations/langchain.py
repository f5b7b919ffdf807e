"""A retriever of LangChain (extra ``langchain``)."""

from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

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

    Examples
    --------
    >>> from optical_rs.integrations.langchain import OpticalRetriever
    >>> OpticalRetriever(index="passages", model="student", k=3).invoke("moto uli kuti?")  # doctest: +SKIP
    [Document(id='d0', metadata={'id': 'd0', 'score': 5.1}, page_content='the fire is on the fire'), …]
    """

    index: Path
    model: Path
    k: int = 10

    def model_post_init(self, context: Any) -> None:
        """Open the index and load the model once."""
        self._encoder, self._store = Encoder(self.model), TokenStore(self.index)

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        hits = search_texts(self._encoder, self._store, [query], self.k)[0]
        return [
            Document(
                page_content=hit.text, id=hit.document, metadata={"id": hit.document, "score": hit.score}
            )
            for hit in hits
        ]
