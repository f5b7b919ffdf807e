"""Retrieval collections: queries, documents and judgments."""

import dataclasses
import os
import random
from functools import partial
from pathlib import Path

from ..errors import InputError, closest
from ..files import Texts, check_id, iter_documents, lines_of, read_qrels, read_texts, spelled
from .bitext import examples
from .sources import SIDES, SOURCES, SPLITS, find
from .sources.source import Found

__all__ = ["Collection", "Texts", "load_collection", "read_texts", "splits_of", "stream_documents"]


@dataclasses.dataclass(frozen=True, repr=False)
class Collection:
    """A test collection.

    Attributes
    ----------
    name : str
        What it was loaded from.
    queries, documents : dict of str to str
        Id → text.
    qrels : dict of str to dict of str to int
        Query id → document id → relevance.
    side : {"query", "document"} or None
        The side that is in the foreign language; None where it is not known.
    skipped : int
        Rows of the source that were left out because a text is missing.
    """

    name: str
    queries: dict[str, str]
    documents: dict[str, str]
    qrels: dict[str, dict[str, int]]
    side: str | None = None
    skipped: int = 0

    def __repr__(self) -> str:
        side = f", foreign side: {self.side}" if self.side else ""
        skipped = f", {self.skipped:,} rows skipped" if self.skipped else ""
        counts = f"{len(self.queries):,} queries, {len(self.documents):,} documents"
        return f"Collection({self.name!r}, {counts}{side}{skipped})"

    def _repr_html_(self) -> str:
        rows = (
            (text, self.documents.get(max(judged, key=judged.__getitem__), ""))
            for query, text in self.queries.items()
            if (judged := self.qrels.get(query))
        )
        return examples(repr(self), ("query", "a relevant document"), rows)

    def sample(
        self, *, queries: int | None = None, documents: int | None = None, seed: int = 0
    ) -> "Collection":
        """A smaller collection: random queries, and random documents besides all relevant ones.

        Raises
        ------
        InputError
            Fewer queries than 1, or fewer documents than 0.
        """
        for name, count, least in (("queries", queries, 1), ("documents", documents, 0)):
            if count is not None and count < least:
                raise InputError(f"{name}: expected at least {least}, got {count}")
        pick = random.Random(seed)
        chosen = list(self.queries)
        if queries is not None and queries < len(chosen):
            chosen = sorted(pick.sample(chosen, queries))
        qrels = {q: self.qrels[q] for q in chosen if q in self.qrels}
        kept = {d for judged in qrels.values() for d in judged if d in self.documents}
        if documents is not None:
            others = [d for d in self.documents if d not in kept]
            kept |= set(pick.sample(others, min(max(documents - len(kept), 0), len(others))))
        else:
            kept = set(self.documents)
        return dataclasses.replace(
            self,
            queries={q: self.queries[q] for q in chosen},
            documents={d: text for d, text in self.documents.items() if d in kept},
            qrels=qrels,
        )


def stream_documents(spec: str | os.PathLike) -> Texts:
    """The documents of a file, or of a collection as :func:`load_collection` takes it, without holding them.

    Files, folders, ``irds:``, ``trec:``, ``ciral:`` and ``africlirmatrix:`` are read as they are asked for;
    of the other collections, which are small, the documents are held.

    Raises
    ------
    InputError
        As :func:`load_collection`; what :func:`iter_documents` finds wrong in a file is raised when it is read.

    Examples
    --------
    >>> documents = stream_documents("kolibri:ny")
    >>> len(documents)
    1092
    >>> next(iter(documents))[0]
    'm0000'
    """
    spec = spelled("documents", spec, "a path or the name of a source")
    path = Path(spec)
    if path.is_file():
        return Texts(partial(iter_documents, path))
    for name in ("corpus.jsonl", "documents.tsv"):
        if (path / name).exists():
            return Texts(partial(iter_documents, path / name))
    if path.suffix in (".tsv", ".jsonl", ".gz"):
        raise InputError(f"documents: no such file: {spec}")
    found = find(spec)
    if found and found[0].documents:
        return found[0].documents(found[1])
    documents = load_collection(spec, split="all").documents
    return Texts(lambda: iter(documents.items()), len(documents))


def read_beir_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Judgments as BEIR has them: ``query<TAB>document<TAB>relevance``, with or without a first line of names."""
    qrels: dict[str, dict[str, int]] = {}
    for number, line in lines_of(path):
        fields = line.split("\t")
        if (number == 1 and fields[0] == "query-id") or not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            query, document, relevance = fields
            grade = int(relevance)
        except ValueError:
            raise InputError(f"{where}: expected 'query<TAB>document<TAB>integer'") from None
        qrels.setdefault(check_id(where, query), {})[check_id(where, document)] = grade
    return qrels


def splits_of(spec: str | os.PathLike) -> tuple[str, ...]:
    """The splits that a collection has, such as to know whether it has one to choose a checkpoint on.

    Raises
    ------
    InputError
        As :func:`load_collection`.

    Examples
    --------
    >>> splits_of("kolibri:ny"), splits_of("belebele:swh_Latn")
    (('train', 'dev', 'test'), ('test',))
    """
    spec = spelled("collection", spec, "a path or the name of a source")
    if found := find(spec):
        return found[0].part("collection", spec).have(found[1])
    if not Path(spec).is_dir():
        raise _unknown(spec)
    have = _beir_splits(Path(spec)) or _trec_splits(Path(spec))
    return tuple(sorted(have, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)))


def _unknown(spec: str) -> InputError:
    known = [s.spelling for s in SOURCES.values() if s.collection]
    return InputError(f"collection: no folder '{spec}' and no source of that name{closest(spec, known)}")


def _choose(path: Path, have: set[str], split: str) -> list[str]:
    if split == "all":
        return sorted(have)
    if split not in have:
        raise InputError(f"split: {path} has no '{split}'; it has {', '.join(sorted(have)) or 'none'}")
    return [split]


def _beir_splits(path: Path) -> set[str]:
    return {p.stem for p in (path / "qrels").glob("*.tsv")}


def _beir(path: Path, split: str) -> Found:
    qrels: dict[str, dict[str, int]] = {}
    for name in _choose(path, _beir_splits(path), split):
        for query, judged in read_beir_qrels(path / "qrels" / f"{name}.tsv").items():
            qrels.setdefault(query, {}).update(judged)
    return Found(read_texts(path / "queries.jsonl"), read_texts(path / "corpus.jsonl"), qrels)


def _own_files(path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The queries and the judgments that name their split."""
    queries = {p.name.split(".")[1]: p for p in path.glob("queries.*.tsv")}
    return queries, {p.stem: p for p in (path / "qrels").glob("*.txt")}


def _trec_splits(path: Path) -> set[str]:
    # Queries and judgments that name no split are the test's.
    common = (path / "qrels.txt").exists() and (path / "queries.tsv").exists()
    queries, qrels = _own_files(path)
    return {*queries, *qrels, *(["test"] if common else [])}


def _trec_like(path: Path, split: str) -> Found:
    """``documents.tsv``; for each split its own queries, judgments or both."""
    own_queries, own_qrels = _own_files(path)
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for name in _choose(path, _trec_splits(path), split):
        asked = read_texts(own_queries.get(name, path / "queries.tsv"))
        judged = read_qrels(own_qrels.get(name, path / "qrels.txt"))
        queries |= {query: text for query, text in asked.items() if query in judged}
        for query in asked.keys() & judged.keys():
            qrels.setdefault(query, {}).update(judged[query])
    return Found(queries, read_texts(path / "documents.tsv"), qrels)


def _folder(path: Path, split: str) -> Found:
    if (path / "corpus.jsonl").exists():
        return _beir(path, split)
    if (path / "documents.tsv").exists():
        return _trec_like(path, split)
    raise InputError(
        f"collection: {path} has neither corpus.jsonl (BEIR: queries.jsonl, qrels/<split>.tsv) nor "
        "documents.tsv (TREC: queries.tsv, qrels.txt)"
    )


def load_collection(spec: str | os.PathLike, *, split: str = "test", side: str | None = None) -> Collection:
    """Load queries, documents and judgments.

    Parameters
    ----------
    spec : str or path
        * a folder in BEIR's layout: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``;
        * a folder of ``documents.tsv`` and ``queries.tsv`` (id, tab, text) with TREC judgments in
          ``qrels.txt``, which are the test's; other splits have ``queries.<split>.tsv``,
          ``qrels/<split>.txt`` or both;
        * a published source, such as ``"afriqa:hau"``, ``"ciral:hausa"``, ``"mafand:hau"``,
          ``"irds:wikiclir/sw"``, ``"trec:FOLDER"``, ``"kolibri:ny"`` or ``"bible:ny"``; docs/reference/sources.md has
          their table.
    split : str
        ``"train"``, ``"dev"``, ``"test"`` or ``"all"``: which queries are asked (documents are always all).
    side : {"query", "document"}, optional
        The side that is in the foreign language. By default the source's own; ``"query"`` where a source has both.
        Of folders it is what the caller says.

    Returns
    -------
    Collection

    Raises
    ------
    InputError
        An unknown collection or language (with the nearest valid name); a split or side that the
        collection does not have (with those that it has); a bad line.

    Examples
    --------
    >>> load_collection("kolibri:ny", split="dev")
    Collection('kolibri:ny', 101 queries, 1,092 documents, foreign side: query)
    """
    spec = spelled("collection", spec, "a path or the name of a source")
    if side is not None and side not in SIDES:
        raise InputError(f"side: unknown side '{side}'{closest(side, SIDES)}")
    source = find(spec)
    if source:
        found, side = source[0].read_collection(spec, source[1], split, side)
    elif Path(spec).is_dir():
        found = _folder(Path(spec), split)
    else:
        raise _unknown(spec)
    queries = {q: text for q, text in found.queries.items() if q in found.qrels}
    if not queries:
        raise InputError(f"{spec}: no query with judgments")
    return Collection(spec, queries, found.documents, found.qrels, side, found.skipped)
