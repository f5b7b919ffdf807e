"""Cells with a student: trained once for all that share it, evaluated for each."""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import MultiVectorEncoder

from ..data import Collection
from ..models import load_model
from ..retrieval import Evaluation
from .recipe import Cell
from .workbench import Workbench


@dataclasses.dataclass(frozen=True)
class Made:
    """What came out of a cell: results by place, a record, and the student."""

    cell: Cell
    found: dict[str, Evaluation]
    record: dict[str, Any]
    student: MultiVectorEncoder | None = None


def languages_in_training(bench: Workbench, cell: Cell) -> list[str]:
    """Those that a cell's student learns: its own, or all of a joint student's."""
    options = bench.recipe.systems[cell.system]
    return bench.recipe.languages_of(cell.system) if options.get("joint") else [cell.language]


def identity(bench: Workbench, cell: Cell) -> str:
    """The content hash of a student's training; see :meth:`~optical_rs.training.Distillation.identity`."""
    options = bench.recipe.systems[cell.system]
    made, pairs, groups, dev = bench.distillation(options, languages_in_training(bench, cell), cell.seed)
    return made.identity(*bench.prints, pairs, groups, dev)


def train_cells(
    bench: Workbench, group: Sequence[Cell], places: Mapping[Cell, Sequence[str]], *, dev: bool = False
) -> Iterator[Made]:
    """Train the student that cells share, and evaluate it for each.

    Parameters
    ----------
    bench : Workbench
    group : sequence of Cell
    places : dict of Cell to sequence of str
        The collections that each is asked.
    dev : bool
        Record the dev MAP of each student, which comparing them by it needs.
    """
    first = group[0]
    options = bench.recipe.systems[first.system]
    made, pairs, groups, held = bench.distillation(options, languages_in_training(bench, first), first.seed)
    began = time.perf_counter()
    trained = made.train(
        pairs,
        bench.teacher,
        bench.start,
        groups=groups,
        dev=held,
        english=bench.english,
        folder=bench.folder / first.path,
        label=str(first),
    )
    seconds = (time.perf_counter() - began) / len(languages_in_training(bench, first))
    for cell in group:
        own = bench.recipe.systems[cell.system]
        student = trained.at(own.get("interpolate", 1.0))
        record = {**trained.record, "cell_seconds": seconds}
        if held is not None or dev:
            record |= _dev_map(bench, student, cell, held)
        yield Made(cell, evaluate_cell(bench, cell, student, places[cell]), record, student)


def evaluate_cell(
    bench: Workbench, cell: Cell, student: MultiVectorEncoder, places: Sequence[str]
) -> dict[str, Evaluation]:
    """Ask a student."""
    options = bench.recipe.systems[cell.system]
    collections = bench.asked(cell.system, cell.language)
    return {place: bench.evaluate(student, collections[place], options) for place in places}


def kept_student(folder: Path) -> MultiVectorEncoder | None:
    """The student of a cell, if it was kept."""
    return load_model(folder) if (folder / "modules.json").exists() else None


def _dev_map(
    bench: Workbench, student: MultiVectorEncoder, cell: Cell, held: Collection | None
) -> dict[str, float]:
    collection, left = (held, ()) if held is not None else bench.dev(cell.language)
    if collection is None or left:
        # Pairs that were held out for others are among this student's own: their MAP would say nothing.
        return {}
    options = bench.recipe.systems[cell.system]
    return {"dev_map": bench.evaluate(student, collection, options).result.mean["map"]}
