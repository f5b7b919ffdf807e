"""``Index``: what ``optical-rs index`` wrote, searched by text."""

import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..baselines import BM25
from ..display import table
from ..errors import InputError, texts_only, whole
from ..files import named
from ..fingerprint import expect_related
from ..ranking import fuse
from ..similarity import TokenStore, columns, search
from .encoder import Cut, Encoder
from .explanation import Explanation, explained, snippet
from .fields import Fields, Values
from .index import coarse_of, document_of, pieces_of

#: Documents of each ranking that are fused, at least.
_DEPTH = 100
#: Pieces for each document that is wanted, of documents that are cut; more where these are of fewer documents.
_PIECES = 4

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclasses.dataclass(frozen=True)
class Hit:
    """A document that was found.

    Attributes
    ----------
    document : str
        Its id.
    score : float
        What it is ranked by: its MaxSim, or that of its best piece; with words its reciprocal rank fusion.
    text : str
        What it, or its best piece, says.
    number : int
        The text in the index.
    fields : dict
        Such as its language or year, as they were indexed.
    similarity : float
        MaxSim.
    words : float or None
        BM25, if words count; 0 without a word in common.
    snippet : str or None
        The part of the text that answers most to the query, if it was asked for.
    explanation : Explanation or None
        Which tokens match, if it was asked for.
    """

    document: str
    score: float
    text: str
    number: int
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    similarity: float = 0.0
    words: float | None = None
    snippet: str | None = None
    explanation: Explanation | None = dataclasses.field(default=None, repr=False)


class Index:
    """One index, or several as one, searched by text: by meaning, by words, by fields.

    It is what was committed when it was opened; documents that are added later are seen by a new one.

    Parameters
    ----------
    path : path or sequence of paths
        What ``optical-rs index`` or :func:`~optical_rs.edge.index.index` wrote; several are shards, whose hits are those
        of one index of all their documents. Of documents with the same id the best counts.
    model : path or Encoder, optional
        The exported model that encodes queries, such as a student. By default the one that encoded the documents, if it
        lies where it lay.
    teacher : path or Encoder, optional
        The exported model that encoded the documents, by which explanations cut them; by default ``model``.
    precision, threads
        As for :class:`~optical_rs.edge.Encoder`.

    Attributes
    ----------
    encoder : Encoder
        Of queries.
    shards : list of TokenStore

    Raises
    ------
    InputError
        No index, a shard that is given twice or is of another model than the first, or a model that has another teacher
        than the index.

    Examples
    --------
    >>> from optical_rs import Index
    >>> index = Index("passages", model="student")  # doctest: +SKIP
    >>> index.search("moto uli kuti?", k=3, filters={"year": {"gte": 1990}}, lexical=True)  # doctest: +SKIP
    [Hit(document='d0', score=0.03, …), …]
    """

    def __init__(
        self,
        path: Paths,
        model: str | os.PathLike[str] | Encoder | None = None,
        *,
        teacher: str | os.PathLike[str] | Encoder | None = None,
        precision: str | None = None,
        threads: int | None = None,
    ):
        several = isinstance(path, Iterable) and not isinstance(path, str | bytes | os.PathLike | Mapping)
        given: Any = path if several else [path]
        paths = [named(each) for each in given]
        if not paths:
            raise InputError("path: expected at least one index")
        # First stages first: if another process adds texts meanwhile, they are made of fewer than there are, not of more.
        coarse = map(coarse_of, paths)
        self._coarse = [TokenStore(each) if columns.holds_store(each) else None for each in coarse]
        self.shards = [TokenStore(each).snapshot() for each in paths]
        _expect_shards(self.shards)
        first = self.shards[0]
        if model is None:
            model = first.path.parent / str(first.metadata.get("model_path", ""))
            if not (model / "edge.json").is_file():
                raise InputError(
                    f"model: expected the exported model that encodes queries; that of {first.path} "
                    f"({first.metadata.get('model')}) is not at {model}"
                )
        self.encoder = (
            model
            if isinstance(model, Encoder)
            else Encoder(named(model, "model"), precision=precision, threads=threads)
        )
        for shard in self.shards:
            expect_fitting(self.encoder, shard)
        self.teacher: Encoder | None = None
        if teacher is not None:
            self.teacher = (
                teacher
                if isinstance(teacher, Encoder)
                else Encoder(named(teacher, "teacher"), threads=threads)
            )
            expect_related(self.teacher.identity, first.metadata, f"teacher: {self.teacher.path}")
        #: The number of each shard's first text, and of all texts.
        self._starts = np.cumsum([0, *map(len, self.shards)]).tolist()
        # Opened now, so that they are of the documents as these are; read where they are asked for.
        self._stored_fields = [Fields(shard.path) for shard in self.shards]
        self._values: Values | None = None
        self._pieces: list[dict[str, list[int]] | None] = [None] * len(self.shards)
        self._words: tuple[np.ndarray, BM25] | None = None
        # Of threads that search, one makes what is made on first use.
        self._making = threading.Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    def __repr__(self) -> str:
        paths = [str(shard.path) for shard in self.shards]
        shown = repr(paths[0] if len(paths) == 1 else paths)
        return f"Index({shown}, texts={len(self)}, model={self.encoder.name!r})"

    def _repr_html_(self) -> str:
        rows = [[shard.path, len(shard), shard.dtype, shard.dim] for shard in self.shards]
        return table(["index", "texts", "tokens as", "dim"], rows, f"model: {self.encoder.name}")

    def locate(self, number: int) -> tuple[TokenStore, int]:
        """The shard that has a text, and its number there."""
        shard = self._shard_of(number)
        return self.shards[shard], number - self._starts[shard]

    def live(self) -> np.ndarray:
        """The numbers of the texts that are not deleted, ascending."""
        numbers = [
            start + np.flatnonzero(~s.deleted) for s, start in zip(self.shards, self._starts, strict=False)
        ]
        return np.concatenate(numbers)

    def text(self, number: int) -> str:
        """What a text says."""
        shard, own = self.locate(number)
        return shard.contents[own]

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        filters: Mapping[str, Any] | None = None,
        lexical: bool = False,
        exact: bool = False,
        candidates: int | None = None,
        snippets: bool = False,
        explain: bool = False,
    ) -> list[Hit]:
        """The ``k`` best documents of a query.

        Parameters
        ----------
        query : str
        k : int
        filters : dict, optional
            Only documents whose fields have these values: ``{"language": "en"}``, one of several
            (``{"source": ["news", "health"]}``) or a range (``{"year": {"gte": 1990, "lt": 2000}}``; ``gt``, ``gte``,
            ``lt``, ``lte``). Documents without the field are left out.
        lexical : bool
            Rank by words, too: the ranking by MaxSim and that by BM25 are fused by reciprocal ranks.
        exact : bool
            Score every document, also where the index has a first stage.
        candidates : int, optional
            Of the first stage, where the index has one; by default the larger of 20 k and 200.
        snippets, explain : bool
            Whether hits carry a snippet, or how their tokens match.

        Returns
        -------
        list of Hit
            Best first; ties go to the higher id in byte order. A text without tokens is found by none that has some.

        Raises
        ------
        InputError
            A query without text, ``k`` or ``candidates`` below 1, or filters by fields that no document has or of
            another kind.
        """
        return self.search_batch(
            [query],
            k,
            filters=filters,
            lexical=lexical,
            exact=exact,
            candidates=candidates,
            snippets=snippets,
            explain=explain,
        )[0]

    def search_batch(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        filters: Mapping[str, Any] | None = None,
        lexical: bool = False,
        exact: bool = False,
        candidates: int | None = None,
        snippets: bool = False,
        explain: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Hit]]:
        """As :meth:`search`, for several queries, which are encoded and searched together."""
        texts_only("queries", queries)
        for i, query in enumerate(queries):
            if not query.strip():
                raise InputError(f"queries: expected text, got nothing at {i}")
        k = whole("k", k)
        if candidates is not None:
            candidates = whole("candidates", candidates)
        allowed = None if filters is None else self._filtered().select(filters)
        if not len(self) or not queries:
            return [[] for _ in queries]
        tokens = self.encoder.encode_query(queries)
        depth = max(k, _DEPTH) if lexical else k
        found = self._by_meaning(tokens, depth, allowed, exact, candidates, progress)
        if lexical:
            found = [
                self._fused(query, hits, x, k, depth, allowed)
                for query, hits, x in zip(queries, found, tokens, strict=True)
            ]
        return [
            self._shown(hits, query, x, snippets, explain)
            for query, hits, x in zip(queries, found, tokens, strict=True)
        ]

    def _by_meaning(
        self,
        tokens: list[np.ndarray],
        k: int,
        allowed: np.ndarray | None,
        exact: bool,
        candidates: int | None,
        progress: Callable[[int, int], None] | None,
    ) -> list[list[Hit]]:
        """The documents of each query by MaxSim."""
        found: list[list[Hit]] = [[] for _ in tokens]
        for place, (shard, coarse) in enumerate(zip(self.shards, self._coarse, strict=True)):
            if not len(shard):
                continue
            start = self._starts[place]
            mask = None if allowed is None else allowed[start : start + len(shard)]
            pieces, waiting = min(self._pieces_for(k, place), len(shard)), list(range(len(tokens)))
            while waiting:
                wanted = max(candidates or max(20 * k, 200), pieces)
                few = mask is not None and np.count_nonzero(mask) <= wanted
                first = None if exact or few or coarse is None else coarse
                parts = search(
                    [tokens[i] for i in waiting],
                    shard,
                    pieces,
                    allow=mask,
                    coarse=first,
                    candidates=wanted if first else None,
                    progress=progress,
                )
                again = []
                for i, part in zip(waiting, parts, strict=True):
                    # Texts without tokens come last, and are left out.
                    own = [
                        self._hit(start + shard.index(name), score) for name, score in part if score > -np.inf
                    ]
                    if _is_windowed(shard) and len(own) == pieces < len(shard):
                        best = _best(own, k)
                        # Among pieces as good as the last their own ids decided, and not those of their documents.
                        if len(best) < k or best[-1].score == own[-1].score:
                            again.append(i)
                            continue
                    found[i] += own
                pieces, waiting = min(2 * pieces, len(shard)), again
        return [_best(hits, k) for hits in found]

    def _by_words(self, scores: np.ndarray, k: int, allowed: np.ndarray | None) -> list[Hit]:
        """The documents with words in common, by BM25 over the words of all shards."""
        numbers = self._worded()[0]
        chosen = np.flatnonzero(scores > 0 if allowed is None else (scores > 0) & allowed[numbers])
        pieces = max(self._pieces_for(k, place) for place in range(len(self.shards)))
        while True:
            best = chosen
            if len(chosen) > pieces:  # with all that are as good as the last, among which ids decide
                least = np.partition(scores[chosen], len(chosen) - pieces)[len(chosen) - pieces]
                best = chosen[scores[chosen] >= least]
            hits = _best([self._hit(int(numbers[i]), float(scores[i])) for i in best], k)
            if len(hits) == k or len(best) == len(chosen):
                return hits
            pieces *= 2

    def _fused(
        self,
        query: str,
        meaning: list[Hit],
        tokens: np.ndarray,
        k: int,
        depth: int,
        allowed: np.ndarray | None,
    ) -> list[Hit]:
        """The documents of a query by the ranks of its ``depth`` best by MaxSim and by words."""
        scores = self._worded()[1].scores(query)
        words = self._by_words(scores, depth, allowed)
        runs = [{"q": [(hit.document, hit.score) for hit in hits]} for hits in (meaning, words)]
        similar, worded = ({hit.document: hit for hit in hits} for hits in (meaning, words))
        found = []
        for document, score in list(fuse(runs)["q"].items())[:k]:
            hit = similar.get(document) or worded[document]
            own = {"similarity": hit.score} if document in similar else self._similarity(tokens, hit)
            # A document that is found by meaning alone may still have some of the words.
            said = worded[document].score if document in worded else self._words_of(hit, scores)
            found.append(dataclasses.replace(hit, **own, score=score, words=said))
        return found

    def _texts_of(self, hit: Hit) -> tuple[int, Sequence[int]]:
        """The shard of a hit, and the numbers there of its document's texts."""
        place = self._shard_of(hit.number)
        return place, self._numbers_of(place, hit.document)

    def _similarity(self, tokens: np.ndarray, hit: Hit) -> dict[str, Any]:
        """MaxSim of a document's best piece, and that piece."""
        place, texts = self._texts_of(hit)
        shard = self.shards[place]
        name, score = search([tokens], shard, 1, allow=[shard.ids[i] for i in texts])[0][0]
        return {"similarity": score, "number": self._starts[place] + shard.index(name)}

    def _words_of(self, hit: Hit, scores: np.ndarray) -> float:
        """BM25 of a document, by its best piece."""
        place, texts = self._texts_of(hit)
        rows = np.searchsorted(self._worded()[0], self._starts[place] + np.array(texts))
        return float(scores[rows].max())

    def _shard_of(self, number: int) -> int:
        return int(np.searchsorted(self._starts, number, side="right")) - 1

    def _numbers_of(self, place: int, document: str) -> Sequence[int]:
        """The numbers in a shard of a document's texts."""
        shard, pieces = self.shards[place], self._pieces[place]
        if not _is_windowed(shard):
            number = shard.view.number(document)
            return () if number is None else (number,)
        if pieces is None:
            pieces = self._pieces[place] = pieces_of(shard)
        return pieces.get(document, ())

    def _pieces_for(self, k: int, place: int) -> int:
        """The texts of a shard that are looked at first for ``k`` documents."""
        return _PIECES * k if _is_windowed(self.shards[place]) else k

    def _hit(self, number: int, score: float) -> Hit:
        shard, own = self.locate(number)
        return Hit(document_of(shard, own), score, "", number)

    def _shown(
        self, hits: list[Hit], query: str, tokens: np.ndarray, snippets: bool, explain: bool
    ) -> list[Hit]:
        """With all that a caller sees."""
        asked = self.encoder.cut(query, "query") if snippets or explain else None
        shown = []
        for hit in hits:
            text = self.text(hit.number)
            why = None if asked is None else self._explained(asked, tokens, hit.number, text)
            shown.append(
                dataclasses.replace(
                    hit,
                    text=text,
                    fields=self._stored_fields[self._shard_of(hit.number)].of(hit.document),
                    similarity=hit.score if hit.words is None else hit.similarity,
                    snippet=snippet(why, text) if why and snippets else None,
                    explanation=why if explain else None,
                )
            )
        return shown

    def explain(self, query: str, number: int) -> Explanation:
        """How the tokens of a query and of a text, such as ``hit.number``, match.

        Raises
        ------
        InputError
            A text that is deleted, or a number that no text has.
        """
        if not 0 <= number < len(self) or (at := self.locate(number))[0].deleted[at[1]]:
            raise InputError(f"number: no text {number}, or it is deleted")
        tokens = self.encoder.encode_query([query])[0]
        return self._explained(self.encoder.cut(query, "query"), tokens, number, self.text(number))

    def _explained(self, query: Cut, tokens: np.ndarray, number: int, text: str) -> Explanation:
        shard, own = self.locate(number)
        cutter = self.teacher or self.encoder
        return explained(query, cutter.cut(text, "document"), (tokens, shard[own]))

    @property
    def fields(self) -> list[str]:
        """The fields that documents have, for filters."""
        return self._filtered().names

    def _filtered(self) -> Values:
        """The fields of all texts, for filters; read on first use."""
        with self._making:
            if self._values is None:
                self._values = Values(len(self), self._fields_of_texts())
            return self._values

    def _fields_of_texts(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The numbers of texts and the fields of their documents; deleted ones have none."""
        for place, fields in enumerate(self._stored_fields):
            for document, own in fields.items():
                for number in self._numbers_of(place, document):
                    yield self._starts[place] + number, own

    def _worded(self) -> tuple[np.ndarray, BM25]:
        """The texts that are not deleted, and their words; indexed on first use."""
        with self._making:
            if self._words is None:
                numbers = self.live()
                self._words = numbers, BM25([self.text(i) for i in numbers.tolist()])
            return self._words


def _is_windowed(store: TokenStore) -> bool:
    return store.metadata.get("window") is not None


def _best(hits: list[Hit], k: int) -> list[Hit]:
    """The best text of each document, best first; of the same score and document the first in the index."""
    best: dict[str, Hit] = {}
    for hit in sorted(hits, key=lambda hit: (hit.score, hit.document.encode(), -hit.number), reverse=True):
        best.setdefault(hit.document, hit)
    return list(best.values())[:k]


def _expect_shards(shards: Sequence[TokenStore]) -> None:
    """Refuse shards that are given twice, or whose tokens mean something else than the first's."""
    known: dict[str, Path] = {}
    for shard in shards:
        place = os.path.realpath(shard.path)
        if place in known:
            raise InputError(f"path: {shard.path} is given twice")
        known[place] = shard.path
        first = shards[0]
        same = ("encoder", "fingerprint") if "fingerprint" in first.metadata else ()
        if shard.dim != first.dim or any(shard.metadata.get(key) != first.metadata.get(key) for key in same):
            raise InputError(
                f"path: {shard.path} was made with another model ({shard.metadata.get('model')}) than {first.path} "
                f"({first.metadata.get('model')})"
            )


def expect_fitting(encoder: Encoder, store: TokenStore) -> None:
    """Refuse a store whose tokens mean something else than the model's.

    Raises
    ------
    InputError
    """
    if store.dim != encoder.dim:
        raise InputError(
            f"store: has dimension {store.dim}, but the model has {encoder.dim}; index with its teacher"
        )
    expect_related(encoder.identity, store.metadata, f"store: {store.path}")
