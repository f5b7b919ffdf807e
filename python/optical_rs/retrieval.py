"""Encode, store, search, score: the way from a collection's texts to a run and its measures, in bounded memory.

Training, evaluation and experiments all go this way. What a frozen model makes of a text is kept on disk by content
(:class:`TokenCache`), so that nothing is encoded twice, whichever command asks for it.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import fingerprint
from .data import Collection
from .encoding import encode, fastest_precision, is_exported
from .errors import InputError, require
from .files import spelled, write_run
from .fingerprint import expect_related, identity_of
from .progress import progress_bar
from .ranking import EvaluationResult, evaluate
from .record import record_of, teacher_of
from .similarity import search
from .token_cache import StoredTokens, TokenCache, dim_of

#: What tables show.
MEASURES = ("map", "ndcg_cut_10", "recall_10", "recip_rank", "recall_100")
#: Results per query that are kept.
DEPTH = 1000
#: Documents that are searched together.
SEARCHED = 16_384


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A run and its measures.

    Attributes
    ----------
    run : dict of str to list of (str, float)
        Query id → documents and scores, best first.
    result : EvaluationResult
        Measures by query, means and intervals.
    precision : dict of str to str, or None
        What the models of ``"query"`` and ``"document"`` computed in; None for a run of no model.
    """

    run: dict[str, list[tuple[str, float]]]
    result: EvaluationResult
    precision: dict[str, str] | None = None

    def __repr__(self) -> str:
        means = ", ".join(f"{name}={value:.3f}" for name, value in self.result.mean.items())
        return f"Evaluation(queries={len(self.run)}, {means})"

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{name}</td><td>{value:.4f}</td></tr>" for name, value in self.result.mean.items()
        )
        return f"<table><tr><th>measure</th><th>mean of {len(self.run)} queries</th></tr>{cells}</table>"


def search_tokens(
    queries: Sequence[np.ndarray], documents: Any, depth: int, document_ids: Sequence[str]
) -> list[list[tuple[str, float]]]:
    """Exhaustive MaxSim search; documents on disk are read some thousands at a time.

    Parameters
    ----------
    queries : sequence of (tokens, dim) arrays
    documents : sequence of (tokens, dim) arrays, or StoredTokens
    depth : int
        Documents per query.
    document_ids : sequence of str

    Returns
    -------
    list of lists of (id, score)
        As :func:`optical_rs.similarity.search`.
    """
    if not isinstance(documents, StoredTokens) or not len(documents):
        return search(queries, documents, depth, document_ids=list(document_ids))
    best: list[list[tuple[str, float]]] = [[] for _ in queries]
    with progress_bar("searching", "document") as progress:
        for first, part in _parts(documents):
            ids = list(document_ids[first : first + len(part)])
            found = search(queries, part, depth, document_ids=ids)
            best = [
                sorted(old + new, key=lambda hit: (hit[1], hit[0].encode()), reverse=True)[:depth]
                for old, new in zip(best, found, strict=True)
            ]
            progress(first + len(part), len(documents))
    return best


def _parts(documents: StoredTokens) -> Iterator[tuple[int, list[np.ndarray]]]:
    for first in range(0, len(documents), SEARCHED):
        yield first, list(documents[first : first + SEARCHED])


def evaluate_tokens(
    queries: Any,
    documents: Any,
    collection: Collection,
    measures: Sequence[str] = MEASURES,
    depth: int = DEPTH,
) -> Evaluation:
    """Search with encoded queries over encoded documents (both in the collection's order), and score."""
    hits = search_tokens(queries, documents, depth, list(collection.documents))
    return evaluate_run(dict(zip(collection.queries, hits, strict=True)), collection, measures)


def evaluate_run(
    run: dict[str, list[tuple[str, float]]], collection: Collection, measures: Sequence[str] = MEASURES
) -> Evaluation:
    """Score a run, as a search returns it; queries that it lacks count as 0."""
    scores = {query: dict(found) for query, found in run.items() if found}
    if not scores:
        # A search that finds nothing, as one by words may, has a result: zero.
        topics = sorted(collection.qrels, key=str.encode)
        return Evaluation(
            run, EvaluationResult.of(list(measures), topics, np.zeros((len(measures), len(topics))))
        )
    return Evaluation(run, evaluate(collection.qrels, scores, measures, complete=True))


def texts_of(collection: Collection, role: str) -> list[str]:
    """The texts of a collection's queries or documents."""
    return list((collection.queries if role == "query" else collection.documents).values())


def other_side(side: str) -> str:
    """``"document"`` for ``"query"``, and the other way round."""
    return "document" if side == "query" else "query"


def evaluate_pair(
    foreign: Any,
    english: TokenCache,
    collection: Collection,
    side: str,
    *,
    measures: Sequence[str] = MEASURES,
    depth: int = DEPTH,
    show_progress_bar: bool = False,
) -> Evaluation:
    """Encode the foreign side of a collection with one model and the English side with another; search and score.

    Documents go through a store: those of the English side through its cache, and those of the foreign side, where
    ``foreign`` is a :class:`TokenCache`, through that.

    Parameters
    ----------
    foreign : MultiVectorEncoder, Encoder or TokenCache
    english : TokenCache
    collection : Collection
    side : {"query", "document"}
        Which side of the collection is foreign.
    measures : sequence of str
    depth : int
        Documents kept per query.
    show_progress_bar : bool
        Models in torch compute in the precision of ``english``.

    Returns
    -------
    Evaluation
    """
    model = foreign.model if isinstance(foreign, TokenCache) else foreign

    def encoded(by: Any, role: str) -> list[np.ndarray]:
        shown = progress_bar(f"encoding {role} texts", "text") if show_progress_bar else nullcontext(None)
        with shown as progress:
            return encode(
                by, texts_of(collection, role), role, precision=english.precision, progress=progress
            )

    if side == "query":
        queries = encoded(model, "query")
        documents: Any = english.tokens(texts_of(collection, "document"), "document")
    else:
        queries = encoded(english.model, "query")
        if isinstance(foreign, TokenCache):
            documents = foreign.tokens(texts_of(collection, "document"), "document")
        else:
            documents = encoded(model, "document")
    sides = {side: model, other_side(side): english.model}
    precision = {
        role: sides[role].precision if is_exported(sides[role]) else english.precision
        for role in ("query", "document")
    }
    evaluation = evaluate_tokens(queries, documents, collection, measures, depth)
    return dataclasses.replace(evaluation, precision=precision)


def evaluate_student(
    student: Any,
    collection: str | Path | Collection,
    *,
    teacher: Any = None,
    side: str | None = None,
    split: str = "test",
    measures: Sequence[str] = MEASURES,
    depth: int = DEPTH,
    device: str | None = None,
    cache: str | os.PathLike | None = None,
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
) -> Evaluation:
    """Search a test collection with a student on the foreign side and its teacher on the English one.

    Parameters
    ----------
    student : path, hub id, MultiVectorEncoder or Encoder
        What :func:`optical_rs.distil` returned or wrote, or a model that was exported.
    collection : str, path or Collection
        As for :func:`optical_rs.load_collection`.
    teacher : path, hub id, MultiVectorEncoder or Encoder, optional
        The model of the English side; by default the one that the student was distilled from, or the student itself
        where nothing says which that was.
    side : {"query", "document"}, optional
        Which side is foreign; by default as the student was trained.
    split : str
        Of the collection.
    measures : sequence of str
    depth : int
        Documents kept per query.
    device : str, optional
        As in sentence-transformers.
    cache, dtype
        As ``folder`` and ``dtype`` of :class:`TokenCache`.
    precision : {"float32", "bfloat16", "auto"}
        What models in torch compute in. ``"auto"`` times both on a few of the documents and takes the faster, which it
        prints; measures then depend on the machine. Those of float32 differ between machines by rounding alone.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        Models that do not fit each other, a teacher that has changed since, or a bad collection.

    Examples
    --------
    >>> import optical_rs
    >>> student = optical_rs.distil("kolibri:ny", max_pairs=64, training={"max_steps": 2})  # doctest: +SKIP
    >>> optical_rs.evaluate_student(student, "kolibri:ny").result.mean["map"] > 0.5  # doctest: +SKIP
    True
    """
    from .data import load_collection

    own, told = _loaded(student, device)
    given = teacher if teacher is not None else told.get("teacher")
    # A model that says of no teacher encodes both sides.
    other, theirs = (own, told) if given is None else _loaded(given, device, "teacher")
    dims = [dim_of(m) for m in (own, other)]
    if dims[0] != dims[1]:
        raise InputError(f"teacher: has dimension {dims[1]}, but the student has {dims[0]}")
    if other is not own:
        expect_related(_identity(own, told), _identity(other, theirs), f"teacher: {_name_of(given)}")
    trained = told.get("side") or "query"
    if not isinstance(collection, Collection):
        collection = load_collection(
            collection, split=split, side=side or ("query" if trained == "both" else trained)
        )
    if side is None:
        side = getattr(collection, "side", None) or ("query" if trained == "both" else trained)
    if side not in ("query", "document"):
        raise InputError(f"side: expected 'query' or 'document', got {side!r}")
    chosen: str = precision
    if precision == "auto":
        encodes = other if side == "query" else own
        chosen = fastest_precision(encodes, texts_of(collection, "document"), "document")
    english = TokenCache(other, cache, dtype=dtype, precision=chosen)
    foreign = own if side == "query" else TokenCache(own, cache, dtype=dtype, precision=chosen)
    return evaluate_pair(
        foreign,
        english,
        collection,
        side,
        measures=measures,
        depth=depth,
        show_progress_bar=True,
    )


def _loaded(model: Any, device: str | None, argument: str = "student") -> tuple[Any, dict[str, Any]]:
    """A model, and what is known of how it was made."""
    if not isinstance(model, str | os.PathLike):
        if is_exported(model, argument):
            return model, {}
        return model, dict(getattr(model, "optical_record", None) or {})
    require("sentence_transformers", "train")
    from .models import load_model, record_folder

    folder = record_folder(spelled(argument, model, "a path or the name of a model"))
    record = record_of(folder)
    if teacher := teacher_of(folder):
        record = {**record, "teacher": teacher}
    return load_model(model, device=device, argument=argument), record


def _identity(model: Any, record: Mapping[str, Any]) -> Mapping[str, Any]:
    return model.identity if is_exported(model) else identity_of(model, record)


def _name_of(model: Any) -> str:
    return str(model) if isinstance(model, str | os.PathLike) else type(model).__name__


def content_of(collection: Collection) -> str:
    """The content hash of a collection: texts, ids and judgments, whatever it is called."""
    judged = {query: dict(sorted(found.items())) for query, found in collection.qrels.items()}
    return fingerprint.of_settings(
        [
            fingerprint.of_texts([part for pair in collection.queries.items() for part in pair]),
            fingerprint.of_texts([part for pair in collection.documents.items() for part in pair]),
            fingerprint.of_settings(judged),
        ]
    )


def describe(result: EvaluationResult, interval: str | None = None) -> dict[str, Any]:
    """Means of a result as plain numbers, with the bootstrap interval of one measure if asked."""
    summary: dict[str, Any] = dict(result.mean)
    if interval:
        summary[f"{interval}_interval"] = list(result.interval(interval))
    return summary


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A text table of named summaries."""
    names = {"map": "MAP", "ndcg_cut_10": "nDCG@10", "recall_10": "R@10", "recall_100": "R@100"}
    width = max(len("system"), *(len(r) for r in rows))
    head = f"{'system':{width}}" + "".join(f"  {n:>7}" for n in names.values()) + "   MAP, 95 % interval"
    lines = [head, "-" * len(head)]
    for row, values in rows.items():
        cells = "".join(f"  {values[m]:7.3f}" for m in names)
        low, high = values.get("map_interval", (None, None))
        lines.append(f"{row:{width}}{cells}" + (f"   {low:.3f} – {high:.3f}" if low is not None else ""))
    return "\n".join(lines)


def write_evaluation(folder: Path, evaluation: Evaluation, tag: str) -> None:
    """``run.trec``, ``per_query.tsv`` and ``metrics.json`` of an evaluation; the last has its precision, too."""
    folder.mkdir(parents=True, exist_ok=True)
    write_run(folder / "run.trec", evaluation.run, tag)
    result = evaluation.result
    rows = ["\t".join(["query", *result.measures])]
    rows += ["\t".join([t, *(f"{v:.6f}" for v in result.values[:, i])]) for i, t in enumerate(result.topics)]
    (folder / "per_query.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
    means = describe(result, "map")
    if evaluation.precision:
        means["precision"] = evaluation.precision
    (folder / "metrics.json").write_text(json.dumps(means, indent=1) + "\n", encoding="utf-8")
