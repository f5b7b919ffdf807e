"""Encode a collection, search it, and score what is found."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from .data import Collection
from .edge import Encoder
from .errors import InputError, require
from .progress import progress_bar
from .ranking import EvaluationResult, evaluate, write_run
from .similarity import search

#: What tables show.
MEASURES = ("map", "ndcg_cut_10", "recall_10", "recip_rank", "recall_100")
#: Results per query that are kept.
DEPTH = 1000


def encode(
    model: Any,
    texts: Sequence[str],
    role: str,
    *,
    batch_size: int = 64,
    show_progress_bar: bool = False,
) -> list[np.ndarray]:
    """Token embeddings of texts in the role ``"query"`` or ``"document"``: (tokens, dim) float32 each.

    ``model`` is a MultiVectorEncoder, or an :class:`~optical_rs.edge.Encoder`, which makes its own batches.
    """
    if isinstance(model, Encoder):
        with progress_bar("encoding", "text") if show_progress_bar else nullcontext() as progress:
            return model.encode(list(texts), role, progress=progress)
    encoder = model.encode_query if role == "query" else model.encode_document
    return encoder(
        list(texts), batch_size=batch_size, convert_to_numpy=True, show_progress_bar=show_progress_bar
    )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A run and its measures."""

    run: dict[str, list[tuple[str, float]]]
    result: EvaluationResult


def evaluate_tokens(
    queries: Any,
    documents: Any,
    collection: Collection,
    measures: Sequence[str] = MEASURES,
    depth: int = DEPTH,
) -> Evaluation:
    """Search with encoded queries over encoded documents (both in the collection's order), and score."""
    hits = search(queries, documents, depth, document_ids=list(collection.documents))
    return evaluate_run(dict(zip(collection.queries, hits, strict=True)), collection, measures)


def evaluate_run(
    run: dict[str, list[tuple[str, float]]], collection: Collection, measures: Sequence[str] = MEASURES
) -> Evaluation:
    """Score a run, as a search returns it; queries that it lacks count as 0."""
    scores = {query: dict(found) for query, found in run.items()}
    return Evaluation(run, evaluate(collection.qrels, scores, measures, complete=True))


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
    """``run.trec``, ``per_query.tsv`` and ``metrics.json`` of an evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    write_run(folder / "run.trec", evaluation.run, tag)
    result = evaluation.result
    rows = ["\t".join(["query", *result.measures])]
    rows += ["\t".join([t, *(f"{v:.6f}" for v in result.values[:, i])]) for i, t in enumerate(result.topics)]
    (folder / "per_query.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
    (folder / "metrics.json").write_text(
        json.dumps(describe(result, "map"), indent=1) + "\n", encoding="utf-8"
    )


def evaluate_model(
    model: str | Path,
    collection: Collection,
    *,
    teacher: str | None = None,
    side: str = "query",
    runtime: str = "torch",
    device: str | None = None,
    precision: str | None = None,
    batch_size: int = 64,
    measures: Sequence[str] = MEASURES,
    depth: int = DEPTH,
    show_progress_bar: bool = True,
) -> Evaluation:
    """Encode a collection, search it exactly and score the run.

    Parameters
    ----------
    model : path or hub id
        The model of the foreign side.
    collection : Collection
    teacher : path or hub id, optional
        The model of the English side; the same model by default.
    side : {"query", "document"}
        Which side is foreign.
    runtime : {"torch", "edge"}
        ``"edge"`` takes models that ``optical-rs export`` has written, and needs no torch.
    device : str, optional
        Of torch; a GPU where there is one by default.
    precision : {"int8", "float32"}, optional
        Of exported models.

    Returns
    -------
    Evaluation
    """
    own, other, dims = _loaded(model, teacher, runtime, device, precision)
    if dims[0] != dims[1]:
        raise InputError(f"teacher: has dimension {dims[1]}, but the model has {dims[0]}")
    pair = (own, other) if side == "query" else (other, own)
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
    queries = encode(pair[0], list(collection.queries.values()), "query", **options)
    documents = encode(pair[1], list(collection.documents.values()), "document", **options)
    return evaluate_tokens(queries, documents, collection, measures, depth)


def _loaded(
    model: str | Path, teacher: str | None, runtime: str, device: str | None, precision: str | None
) -> tuple[Any, Any, tuple[int, int]]:
    """Both models and their dimensions."""
    if runtime == "edge":
        own = Encoder(model, precision=precision)
        other = Encoder(teacher, precision=precision) if teacher else own
        return own, other, (own.dim, other.dim)
    require("sentence_transformers", "train")
    from .models import load_model

    one = load_model(model, device=device)
    two = load_model(teacher, device=device, argument="teacher") if teacher else one
    return one, two, (one.get_embedding_dimension(), two.get_embedding_dimension())
