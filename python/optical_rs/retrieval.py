"""Evaluate a student on a test collection: ``python -m optical_rs.retrieval --model DIR --collection NAME``."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from .data import Collection, load_collection
from .edge import Encoder
from .errors import InputError, require
from .fingerprint import expect_related, identity_of
from .progress import progress_bar
from .ranking import EvaluationResult, evaluate, write_run
from .similarity import search

#: What tables show.
MEASURES = ("map", "ndcg_cut_10", "recall_10", "recip_rank", "recall_100")
#: Results per query that are kept.
DEPTH = 1000
#: The file next to a checkpoint that says how it was made; see :mod:`optical_rs.train`.
RECORD = "optical.json"


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
    (folder / "per_query.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "metrics.json").write_text(
        json.dumps(describe(result, "map"), indent=1) + "\n", encoding="utf-8"
    )


def partner_of(model: str | Path) -> tuple[str | None, str]:
    """The teacher that a student's record names (a path or hub id), and the side that it was trained for."""
    file = Path(model) / RECORD
    if not file.exists():
        return None, "query"
    record = json.loads(file.read_text(encoding="utf-8"))
    teacher = record["teacher"]
    local = Path(model) / teacher
    return (str(local) if local.exists() else teacher), record["side"]


def evaluate_model(
    model: str | Path,
    collection: Collection,
    *,
    partner: str | None = None,
    side: str = "query",
    runtime: str = "torch",
    precision: str | None = None,
    batch_size: int = 64,
    measures: Sequence[str] = MEASURES,
    depth: int = DEPTH,
    show_progress_bar: bool = True,
) -> Evaluation:
    """Encode a collection, search it exactly and score the run, on a CPU.

    Parameters
    ----------
    model : path or hub id
        The model of the foreign side.
    collection : Collection
    partner : path or hub id, optional
        The model of the English side; the same model by default.
    side : {"query", "document"}
        Which side is foreign.
    runtime : {"torch", "edge"}
        ``"edge"`` takes models that ``optical-rs export`` has written, and needs no torch.
    precision : {"int8", "float32"}, optional
        Of exported models.

    Returns
    -------
    Evaluation
    """
    own, other, dims = _loaded(model, partner, runtime, precision)
    if dims[0] != dims[1]:
        raise InputError(f"partner: has dimension {dims[1]}, but the model has {dims[0]}")
    if partner:
        expect_related(_identity(own, model), _identity(other, partner), f"partner: {partner}")
    pair = (own, other) if side == "query" else (other, own)
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
    queries = encode(pair[0], list(collection.queries.values()), "query", **options)
    documents = encode(pair[1], list(collection.documents.values()), "document", **options)
    return evaluate_tokens(queries, documents, collection, measures, depth)


def _identity(model: Any, path: str | Path) -> dict[str, str | None]:
    if isinstance(model, Encoder):
        return model.identity
    from .models.loading import record_of

    return identity_of(model, record_of(path))


def _loaded(
    model: str | Path, partner: str | None, runtime: str, precision: str | None
) -> tuple[Any, Any, tuple[int, int]]:
    """Both models and their dimensions."""
    if runtime == "edge":
        own = Encoder(model, precision=precision)
        other = Encoder(partner, precision=precision) if partner else own
        return own, other, (own.dim, other.dim)
    require("sentence_transformers", "train")
    from .models import load_model

    one = load_model(model, device="cpu")
    two = load_model(partner, device="cpu", argument="partner") if partner else one
    return one, two, (one.get_embedding_dimension(), two.get_embedding_dimension())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``optical-rs evaluate``."""
    parser = argparse.ArgumentParser(prog="optical-rs evaluate", description=__doc__)
    parser.add_argument("--model", required=True, help="checkpoint of the student")
    parser.add_argument("--collection", required=True, help="kolibri:<language>, bible:ny, or a folder")
    parser.add_argument("--split", default="test", help="which queries of it")
    parser.add_argument("--partner", help="model of the English side (default: the student's teacher)")
    parser.add_argument(
        "--side", choices=("query", "document"), help="the foreign side (default: as trained)"
    )
    parser.add_argument(
        "--runtime", choices=("torch", "edge"), default="torch", help="edge: exported models, without torch"
    )
    parser.add_argument("--precision", choices=("int8", "float32"), help="of exported models")
    parser.add_argument("--measures", nargs="+", default=list(MEASURES))
    parser.add_argument("--depth", type=int, default=DEPTH, help="results kept per query")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--max_queries", type=int, help="a random sample of the queries")
    parser.add_argument("--max_documents", type=int, help="a random sample, besides relevant documents")
    parser.add_argument("--output_dir", type=Path, help="default: MODEL/evaluation/COLLECTION")
    options = parser.parse_args(arguments)
    partner, trained_side = partner_of(options.model)
    side = options.side or ("query" if trained_side == "both" else trained_side)
    if not Path(options.model).exists() and "/" not in options.model:
        # A wrong folder is told before a collection is read.
        raise InputError(f"model: no such folder: {options.model}")
    collection = load_collection(options.collection, split=options.split, side=side)
    collection = collection.sample(queries=options.max_queries, documents=options.max_documents)
    evaluate({}, {}, options.measures)  # unknown measures are told before anything is encoded
    measures = list(dict.fromkeys([*options.measures, *MEASURES]))
    done = evaluate_model(
        options.model,
        collection,
        partner=options.partner or partner,
        side=side,
        runtime=options.runtime,
        precision=options.precision,
        batch_size=options.batch_size,
        measures=measures,
        depth=options.depth,
    )
    name = f"{options.collection}-{options.split}".replace(":", "-").replace("/", "-").strip("-.")
    folder = options.output_dir or Path(options.model) / "evaluation" / name
    write_evaluation(folder, done, tag=Path(options.model).name or "student")
    print(
        f"{options.collection}, {options.split}: {len(collection.queries)} queries, "
        f"{len(collection.documents)} documents\n"
    )
    print(table({Path(options.model).name: describe(done.result, "map")}))
    extra = [m for m in done.result.measures if m not in MEASURES]
    for measure in extra:
        print(f"{measure}\t{done.result.mean[measure]:.4f}")
    print(f"\nrun, per-query measures and means: {folder}")


if __name__ == "__main__":
    from .cli import run_command

    run_command(main)
