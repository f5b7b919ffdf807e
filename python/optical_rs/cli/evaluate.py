"""``optical-rs evaluate``: a student on a test collection."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, require
from ..progress import quiet, say
from ..record import EXPORTED, record_of, teacher_of
from .options import Parser, add_json

MEASURES = ("map", "ndcg_cut_10", "recall_10", "recip_rank", "recall_100")


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(
        "evaluate",
        "Evaluate a student on a test collection.",
        {"--partner": "--teacher", "--output_dir": "--output"},
    )
    parser.add_argument("--model", required=True, help="the model of the foreign side: a folder or a hub id")
    parser.add_argument("--collection", required=True, help="a folder, or a source such as kolibri:ny")
    parser.add_argument("--split", default="test", help="the split whose queries are used")
    parser.add_argument(
        "--teacher",
        help="the model of the English side (default: the teacher that the student's record names)",
    )
    parser.add_argument(
        "--side", choices=("query", "document"), help="the side in the foreign language (default: as trained)"
    )
    parser.add_argument(
        "--runtime", choices=("torch", "edge"), default="torch", help="edge: exported models, without torch"
    )
    parser.add_argument("--device", help="device of torch: cpu or cuda (default: a GPU if there is one)")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "auto", "int8"),
        help="what models compute in: of torch float32 (default), bfloat16, or auto, the faster of them on this machine; "
        "of exported models int8 or float32",
    )
    parser.add_argument(
        "--measures", nargs="+", default=list(MEASURES), help="by the names of trec_eval or ir_measures"
    )
    parser.add_argument("--depth", type=int, default=1000, help="results kept per query")
    parser.add_argument("--max_queries", type=int, help="a random sample of the queries")
    parser.add_argument(
        "--max_documents", type=int, help="a random sample; relevant documents are always kept"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: MODEL/evaluation/COLLECTION")
    add_json(parser)
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs evaluate``."""
    options = build_parser().parse_args(arguments)
    if not Path(options.model).exists() and "/" not in options.model:
        # A wrong folder is reported before a collection is read.
        raise InputError(f"model: no such folder: {options.model}")
    place = options.model
    if options.runtime == "torch":
        require("sentence_transformers", "train")
        quiet()
        _check_device(options.device)
        from ..models import record_folder

        place = record_folder(options.model)
        if options.precision == "int8":
            raise InputError("precision: int8 is of exported models (--runtime edge)")
    elif options.device:
        raise InputError("device: only with --runtime torch; exported models run on the CPU")
    teacher = _teacher(options, place)
    from ..data import load_collection
    from ..ranking import evaluate
    from ..retrieval import describe, evaluate_student, table, write_evaluation

    trained = record_of(place).get("side", "query")
    side = options.side or ("query" if trained == "both" else trained)
    evaluate({}, {}, options.measures)  # an unknown measure is reported before anything is encoded
    collection = load_collection(options.collection, split=options.split, side=side)
    collection = collection.sample(queries=options.max_queries, documents=options.max_documents)
    models = {"foreign": options.model, "English": teacher or options.model}
    roles = ("foreign", "English") if side == "query" else ("English", "foreign")
    say(
        f"encoding {len(collection.queries)} queries by {models[roles[0]]} and "
        f"{len(collection.documents)} documents by {models[roles[1]]}"
    )
    student: Any = options.model
    partner: Any = teacher
    if options.runtime == "edge":
        from ..edge import Encoder

        student = Encoder(options.model, precision=options.precision)
        partner = Encoder(str(teacher), precision=options.precision)
    done = evaluate_student(
        student,
        collection,
        teacher=partner,
        side=side,
        device=options.device,
        precision="float32" if options.runtime == "edge" else options.precision or "float32",
        measures=list(dict.fromkeys([*options.measures, *MEASURES])),
        depth=options.depth,
    )
    name = f"{options.collection}-{options.split}".replace(":", "-").replace("/", "-").strip("-.")
    folder = options.output or Path(options.model) / "evaluation" / name
    write_evaluation(folder, done, tag=Path(options.model).name or "student")
    summary = describe(done.result, "map")
    if options.json:
        about = {
            "collection": options.collection,
            "split": options.split,
            "side": side,
            "queries": len(collection.queries),
            "documents": len(collection.documents),
            "model": options.model,
            "teacher": models["English"],
            "measures": summary,
            "precision": done.precision,
            "output": str(folder),
        }
        print(json.dumps(about, indent=1, ensure_ascii=False))
        return
    print(
        f"{options.collection}, {options.split}: {len(collection.queries)} queries, "
        f"{len(collection.documents)} documents\n"
    )
    print(table({Path(options.model).name: summary}))
    for measure in done.result.measures:
        if measure not in MEASURES:
            print(f"{measure}\t{done.result.mean[measure]:.4f}")
    print(f"\nrun, per-query measures and means: {folder}")


def _check_device(device: str | None) -> None:
    torch = require("torch", "train")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: cannot use '{device}': {str(error).splitlines()[0]}") from None


def _teacher(options: argparse.Namespace, place: str | Path) -> str | None:
    """The model of the English side; None where a checkpoint without a record encodes both sides.

    Raises
    ------
    InputError
        An exported model of which nothing says what encodes the other side: its own scores would mean nothing.
    """
    if options.teacher:
        return str(options.teacher)
    recorded = teacher_of(place)
    if options.runtime == "edge" and not (recorded and (Path(recorded) / EXPORTED).exists()):
        known = f" (its teacher is {recorded}, which is not exported)" if recorded else ""
        raise InputError(
            f"teacher: expected --teacher, the exported model of the English side: {options.model} does not name "
            f"one{known}; give {options.model} itself where one model encodes both sides"
        )
    return recorded
