"""A student and its teacher as one model of mteb (extra ``mteb``)."""

import os
from collections.abc import Mapping
from typing import Any

from mteb.models import ModelMeta

from ..errors import InputError
from ..models import load_model, record_folder
from ..record import record_of, teacher_of
from ..retrieval import encode, search_tokens
from ..token_cache import TokenCache


class StudentSearch:
    """What ``mteb.evaluate`` takes as a model for retrieval tasks: the student encodes one side, the teacher the other.

    Parameters
    ----------
    student : path
        What :func:`optical_rs.distil` or ``optical-rs train`` wrote.
    teacher : path or hub id, optional
        By default the one that the student was distilled from; a model without one encodes both sides.
    name : str
        ``organisation/name``, as mteb reports it.
    device : str, optional
        As in sentence-transformers.
    cache : path, optional
        Of token embeddings; see :class:`~optical_rs.token_cache.TokenCache`.

    Examples
    --------
    >>> import mteb
    >>> from optical_rs.integrations.mteb import StudentSearch
    >>> tasks = mteb.get_tasks(["BelebeleRetrieval"], languages=["hau"])  # doctest: +SKIP
    >>> mteb.evaluate(StudentSearch("runs/mine/student"), tasks)  # doctest: +SKIP
    """

    def __init__(
        self,
        student: str | os.PathLike,
        *,
        teacher: str = "",
        name: str = "optical_rs/student",
        device: str | None = None,
        cache: str | os.PathLike | None = None,
    ):
        own = load_model(student, device=device, argument="student")
        place = record_folder(student)
        given = teacher or teacher_of(place)
        other = load_model(given, device=device, argument="teacher") if given else own
        foreign_documents = record_of(place).get("side") == "document"
        self.queries, documents = (other, own) if foreign_documents else (own, other)
        self.documents = TokenCache(documents, cache)
        self.mteb_model_meta = ModelMeta.create_empty(
            {"name": name, "revision": "local", "embed_dim": own.get_embedding_dimension()}
        )
        self._ids: list[str] = []

    def index(self, corpus: Any, **_: Any) -> None:
        """Encode the documents, or read their tokens from the cache."""
        self._ids = list(corpus["id"])
        titles = corpus["title"] if "title" in corpus.column_names else [""] * len(self._ids)
        texts = [f"{title} {text}".strip() for title, text in zip(titles, corpus["text"], strict=True)]
        self._tokens = self.documents.tokens(texts, "document")

    def search(
        self, queries: Any, *, top_k: int, top_ranked: Mapping[str, list[str]] | None = None, **_: Any
    ) -> dict[str, dict[str, float]]:
        """The best documents of each query, by MaxSim."""
        if top_ranked is not None:
            raise InputError("top_ranked: expected a retrieval task; tasks that rerank are not supported")
        tokens = encode(self.queries, list(queries["text"]), "query")
        hits = search_tokens(tokens, self._tokens, top_k, self._ids)
        return {query: dict(found) for query, found in zip(queries["id"], hits, strict=True)}
