"""Data sets of ir_datasets: WikiCLIR, NeuCLIR, mMARCO, CLIRMatrix and many others."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ...errors import InputError, require
from ...files import Texts, check_id
from .source import Found, Part, Source


def _load(identifier: str, *needed: str) -> Any:
    library = require("ir_datasets", "data")
    try:
        source = library.load(identifier)
    except KeyError:
        raise InputError(f"irds: no data set '{identifier}'; see ir-datasets.com") from None
    for what in needed:
        if not getattr(source, f"has_{what}")():
            raise InputError(f"irds: {identifier} has no {what}; choose one of its parts (ir-datasets.com)")
    return source


@contextlib.contextmanager
def _getting(identifier: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - downloads fail in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"irds: cannot get {identifier} ({reason}); see ir-datasets.com for its files"
        ) from None


def sides(identifier: str) -> tuple[str, ...]:
    """The side that is foreign in sets of which it is known.

    Examples
    --------
    >>> sides("wikiclir/sw"), sides("clirmatrix/en/bi139-base/yo/test1"), sides("mmarco/v2/fr/dev")
    (('document',), ('query',), ())
    """
    name, *rest = identifier.split("/")
    if name in ("wikiclir", "neuclir"):
        return ("document",)
    if name == "clirmatrix" and len(rest) >= 3 and "en" in (rest[0], rest[2]) and rest[0] != rest[2]:
        # clirmatrix/<documents' language>/<set>/<queries' language>/<split>
        return ("query",) if rest[0] == "en" else ("document",)
    return ()


def _collection(identifier: str, splits: tuple[str, ...], side: str | None) -> Found:
    source = _load(identifier, "docs", "queries", "qrels")
    where = f"irds:{identifier}"
    with _getting(identifier):
        qrels = {q: dict(judged) for q, judged in source.qrels_dict().items()}
        queries = {check_id(where, q.query_id): q.default_text() for q in source.queries_iter()}
        documents = {check_id(where, d.doc_id): d.default_text() for d in source.docs_iter()}
    return Found(queries, documents, qrels)


def documents(identifier: str) -> Texts:
    """The documents of a set, which needs no queries."""
    source = _load(identifier, "docs")
    with _getting(identifier):
        count = source.docs_count()

    def read() -> Iterator[tuple[str, str]]:
        for document in source.docs_iter():
            yield check_id(f"irds:{identifier}", document.doc_id), document.default_text()

    return Texts(read, count)


SOURCE = Source(
    name="irds",
    spelling="irds:wikiclir/sw",
    title=(
        "any set of ir_datasets with documents, queries and judgments: WikiCLIR (English → other), NeuCLIR "
        "(`irds:neuclir/1/fa/trec-2022`), mMARCO (`irds:mmarco/v2/fr/dev/small`), "
        "CLIRMatrix (`irds:clirmatrix/…`), MIRACL, Mr. TyDi"
    ),
    size="mMARCO: 8.8 million passages a language",
    licence="see ir-datasets.com",
    getting="extra `data` downloads it, or says what to do",
    # The id names the part, so that there is one.
    collection=Part(_collection, ("test",), sides),
    documents=documents,
)
