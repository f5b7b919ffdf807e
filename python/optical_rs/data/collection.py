"""Retrieval collections: queries, documents and judgments."""

import dataclasses
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ..errors import InputError, closest
from ..files import iter_texts, lines_of, read_qrels, read_texts
from .bitext import BUILT_IN, SPLITS

SIDES = ("query", "document")


@dataclasses.dataclass(frozen=True)
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
    """

    name: str
    queries: dict[str, str]
    documents: dict[str, str]
    qrels: dict[str, dict[str, int]]

    def sample(
        self, *, queries: int | None = None, documents: int | None = None, seed: int = 0
    ) -> "Collection":
        """A smaller collection: random queries, and random documents besides all relevant ones."""
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
        return Collection(
            self.name,
            {q: self.queries[q] for q in chosen},
            {d: text for d, text in self.documents.items() if d in kept},
            qrels,
        )


class Texts:
    """(id, text) pairs that are read anew in every pass and never held together.

    Parameters
    ----------
    read : callable
        Returns an iterator over them.
    count : int, optional
        Their number; by default they are counted when it is asked for, which reads them once.
    """

    def __init__(self, read: Callable[[], Iterator[tuple[str, str]]], count: int | None = None):
        self._read, self._count = read, count

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self._read()

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in self)
        return self._count


def stream_documents(spec: str) -> Texts:
    """The documents of a file, or of a collection as :func:`load_collection` takes it, without holding them.

    Files, folders, ``irds:``, ``trec:``, ``ciral:`` and ``africlirmatrix:`` are read as they are asked for;
    of the other collections, which are small, the documents are held.

    Raises
    ------
    InputError
        As :func:`load_collection`; what :func:`iter_texts` finds wrong in a file is told when it is read.

    Examples
    --------
    >>> documents = stream_documents("kolibri:ny")
    >>> len(documents)
    1092
    >>> next(iter(documents))[0]
    'm0000'
    """
    from . import published

    path = Path(spec)
    if path.is_file():
        return Texts(partial(iter_texts, path))
    for name in ("corpus.jsonl", "documents.tsv"):
        if (path / name).exists():
            return Texts(partial(iter_texts, path / name))
    source, _, rest = spec.partition(":")
    if source in published.STREAMED:
        return published.STREAMED[source](rest)
    documents = load_collection(spec, split="all").documents
    return Texts(lambda: iter(documents.items()), len(documents))


def _beir_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for number, line in lines_of(path):
        fields = line.split("\t")
        if number == 1 and fields[0] == "query-id":
            continue
        try:
            query, document, relevance = fields
            qrels.setdefault(query, {})[document] = int(relevance)
        except ValueError:
            raise InputError(f"{path}:{number}: expected 'query<TAB>document<TAB>integer'") from None
    return qrels


def _folder(path: Path, split: str) -> Collection:
    if (path / "corpus.jsonl").exists():
        qrels = path / "qrels" / f"{split}.tsv"
        if not qrels.exists():
            have = sorted(p.stem for p in (path / "qrels").glob("*.tsv"))
            raise InputError(f"collection: {path} has no qrels/{split}.tsv{closest(split, have)}")
        collection = Collection(
            str(path),
            read_texts(path / "queries.jsonl"),
            read_texts(path / "corpus.jsonl"),
            _beir_qrels(qrels),
        )
    elif (path / "documents.tsv").exists():
        collection = Collection(
            str(path),
            read_texts(path / "queries.tsv"),
            read_texts(path / "documents.tsv"),
            read_qrels(path / "qrels.txt"),
        )
    else:
        raise InputError(
            f"collection: {path} has neither corpus.jsonl (BEIR: queries.jsonl, qrels/<split>.tsv) nor "
            "documents.tsv (TREC: queries.tsv, qrels.txt)"
        )
    judged = {q: text for q, text in collection.queries.items() if q in collection.qrels}
    if not judged:
        raise InputError(f"collection: {path} has no query with judgments")
    return dataclasses.replace(collection, queries=judged)


def _kolibri(spec: str, language: str, split: str, side: str) -> Collection:
    from .sources import kolibri

    ids = {english: f"m{i:04d}" for i, english in enumerate(kolibri.documents())}
    names = language.split("+")
    pool = len(names) > 1
    texts = {n: {e: e for e in ids} if pool and n == "en" else kolibri.pairs(n) for n in names}
    # English text → id → what it says, in each language.
    foreign: dict[str, dict[str, str]] = {}
    for name, translations in texts.items():
        for english, text in translations.items():
            foreign.setdefault(english, {})[f"{ids[english]}/{name}" if pool else ids[english]] = text
    chosen = {e: found for e, found in foreign.items() if split in ("all", kolibri.split_of(e))}
    if side == "query":
        queries = {key: text for found in chosen.values() for key, text in found.items()}
        documents = {key: english for english, key in ids.items()}
        qrels = {key: {ids[english]: 1} for english, found in chosen.items() for key in found}
    else:
        queries = {ids[english]: english for english in chosen}
        documents = {key: text for found in foreign.values() for key, text in found.items()}
        qrels = {ids[english]: dict.fromkeys(found, 1) for english, found in chosen.items()}
    return Collection(spec, queries, documents, qrels)


def _bible(spec: str, language: str, split: str, side: str) -> Collection:
    from .sources import bible

    if language != "ny":
        raise InputError(f"bible: no language '{language}'; did you mean 'ny'?")
    verses = bible.aligned()
    chosen = [k for k in verses if split in ("all", bible.split_of(k[0]))]
    # A query is the beginning of a verse: known items, with the wording of the whole withheld.
    asks, answers = (0, 1) if side == "query" else (1, 0)
    queries = {bible.verse_id(k): " ".join(verses[k][asks].split()[:10]) for k in chosen}
    documents = {bible.verse_id(k): pair[answers] for k, pair in verses.items()}
    return Collection(spec, queries, documents, {q: {q: 1} for q in queries})


def load_collection(spec: str, *, split: str = "test", side: str = "query") -> Collection:
    """Load queries, documents and judgments.

    Parameters
    ----------
    spec : str
        * a folder in BEIR's layout: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``;
        * a folder of ``documents.tsv`` and ``queries.tsv`` (id, tab, text) with TREC judgments in
          ``qrels.txt``;
        * ``"irds:<id>"``: a data set of ir_datasets (extra ``data``), such as ``irds:wikiclir/sw``,
          ``irds:neuclir/1/fa/trec-2022``, ``irds:clirmatrix/yo/bi139-base/en/test1`` or
          ``irds:mmarco/v2/fr/dev/small``;
        * ``"ciral:<language>"``, ``"africlirmatrix:<language>"``, ``"afriqa:<code>"``,
          ``"belebele:<code>"``: published collections, from files or their hub; see docs/data.md;
        * ``"trec:<folder>"``: TREC's SGML, as CLEF's documents and topics come: one file ``topics…``,
          ``qrels.txt`` and a folder ``documents``;
        * ``"kolibri:<language>"`` (known-item search in interface messages) or ``"bible:ny"`` (a
          verse by its first ten words), from installed packages (extra ``demo``);
        * ``"kolibri:en+ny+yo"``: the same in several languages at once, whose ids end in ``/ny`` and so on,
          such as a pool of documents in many languages for English queries (``side="document"``).
    split : str
        ``"train"``, ``"dev"``, ``"test"`` or ``"all"`` of a built-in collection: which queries are
        asked (documents are always all). The judgments file in BEIR's layout.
    side : {"query", "document"}
        For built-in collections, which side is in the foreign language.

    Returns
    -------
    Collection

    Raises
    ------
    InputError
        An unknown collection or language (with the nearest valid name); a bad line.
    """
    if side not in SIDES:
        raise InputError(f"side: unknown side '{side}'{closest(side, SIDES)}")
    source, _, language = spec.partition(":")
    if source in BUILT_IN:
        if split not in SPLITS:
            raise InputError(f"split: unknown split '{split}'{closest(split, SPLITS)}")
        return (_kolibri if source == "kolibri" else _bible)(spec, language, split, side)
    from . import published

    if source in published.SOURCES:
        return published.load_published(spec, split, side)
    path = Path(spec)
    if not path.is_dir():
        known = ["kolibri:ny", "bible:ny"]
        raise InputError(f"collection: no folder '{spec}' and no built-in of that name{closest(spec, known)}")
    return _folder(path, split)
