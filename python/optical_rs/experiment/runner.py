"""Making the cells that are missing: one run for ``optical-rs train`` and ``optical-rs experiment``."""

import dataclasses
import gc
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import sentence_transformers
import torch
import transformers

from .. import build_info, fingerprint
from ..errors import InputError
from ..files import write_json
from ..models import RECORD, origin, write_card
from ..progress import progress_bar
from ..retrieval import write_evaluation
from ..training import arguments, processes
from ..training.fit import MARK
from .plan import CONFIG, Plan, adopt, other_settings, refuse_foreign
from .recipe import RETRIEVAL, Cell, Recipe, same_recipe
from .report import write_report
from .students import Made, evaluate_cell, kept_student, languages_in_training, train_cells
from .untrained import ask, chosen
from .workbench import Workbench

#: Results per query that are kept in a cell's run.
KEPT = 1000
#: What students are kept: of every cell, of the best system by dev queries in each language, or none.
KEEP = ("all", "best", "none")


class CellsFailed(InputError):
    """Some cells could not be made; the others were, and are in the report."""

    status = 1


@processes.led(lambda recipe, *_, **__: recipe.training, same=same_recipe, elsewhere=({}, []))
def run(
    recipe: Recipe,
    folder: Path,
    *,
    keep: str = "none",
    overwrite: bool = False,
    report_only: bool = False,
    dry_run: bool = False,
    reuse: Path | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, Any], list[str]]:
    """Make the cells that are missing, then the report.

    A cell is a system in one language with one seed. Its folder holds its results, and its student if that is kept.
    Of several processes the main one does this, and the others train its students with it; they return ``({}, [])``.
    Existing results are recognised by the content that made them: models, text, options. A collection that was added
    needs no training where students were kept.

    Parameters
    ----------
    recipe : Recipe
    folder : path
        The output folder; one run at a time has it.
    keep : {"all", "best", "none"}
    overwrite : bool
        Make cells again that were made of other settings or text; otherwise they are an error.
    report_only : bool
        Make nothing, and report the results that exist.
    dry_run : bool
        Say what would be made. Text and models may be missing; results that exist are not checked then.
    reuse : path, optional
        Another run's folder, of which cells of the same content are taken over.
    cache : path, optional
        Of token embeddings; see :class:`~optical_rs.token_cache.TokenCache`.
    say : callable
        For a line about what goes on.

    Returns
    -------
    report : dict
        What ``report.json`` says.
    failures : list of str
        A line for each group of cells that failed; the others are made all the same.

    Raises
    ------
    InputError
        A folder that another process writes to, or that holds something else; a recipe that cannot be run.
    """
    if keep not in KEEP:
        raise InputError(f"keep: expected one of {', '.join(KEEP)}, got {keep!r}")
    bench = Workbench(recipe, folder, cache=cache, say=say)
    plan = Plan(bench, keep)
    if dry_run:
        return _dry_run(plan, say)
    # What is wrong with text or models is found before anything is written.
    plan.load()
    if report_only and not any(plan.record(cell) for group in plan.groups for cell in group):
        raise InputError(f"report_only: {folder} holds no results of this recipe")
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InputError(f"output: another process writes to {folder}") from None
    try:
        return _locked(plan, reuse, overwrite, report_only, say)
    finally:
        lock.release()
        (folder / ".lock").unlink(missing_ok=True)


def _dry_run(plan: Plan, say: Callable[[str], None]) -> tuple[dict[str, Any], list[str]]:
    """Say what would be made, and make nothing. Text and models that are not here yet are no failure."""
    try:
        plan.load()
        known = plan.bench.teacher_state() == "made" and plan.bench.start_state() == "made"
        state = ["done" if known and all(map(plan.is_done, group)) else "to do" for group in plan.groups]
    except InputError as error:
        say(f"existing results are not checked: {error}")
        state = ["exists" if all(map(plan.record, group)) else "to do" for group in plan.groups]
    for group, word in zip(plan.groups, state, strict=True):
        say(f"{word:6} {'; '.join(map(str, group))}")
    return {}, []


def _locked(
    plan: Plan,
    reuse: Path | None,
    overwrite: bool,
    report_only: bool,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], list[str]]:
    bench, recipe, folder = plan.bench, plan.bench.recipe, plan.bench.folder
    refuse_foreign(plan)
    resolved = json.loads(json.dumps(dataclasses.asdict(recipe), default=str))
    resolved["training"] = arguments.what_counts({**arguments.defaults(), **resolved["training"]})
    if not overwrite and any(plan.record(c) for g in plan.groups for c in g):
        other = bench.teacher_state()
        if other == "other" or (other == "made" and bench.start_state() == "other"):
            raise InputError(other_settings(folder, resolved))
    bench.prints  # noqa: B018 - without models nothing can be made, and nothing is to be removed
    stale = plan.stale()
    if stale and not (overwrite or report_only):
        raise InputError(other_settings(folder, resolved))
    if not report_only:
        for cell in stale:
            shutil.rmtree(folder / cell.path)
        write_json(folder / CONFIG, resolved)
    if reuse is not None and not report_only:
        say(f"{adopt(plan, reuse)} results taken from {reuse}")
    every = [cell for group in plan.groups for cell in group]
    todo = [group for group in plan.groups if not all(plan.is_done(cell) for cell in group)]
    done = sum(map(plan.is_done, every))
    say(f"{len(every)} results: {done} exist, {len(every) - done} are missing")
    failures: list[str] = []
    if not report_only:
        failures = _make(plan, todo, say)
    if plan.keep == "best" and not report_only:
        keep_best(plan, say)
    available = [cell for cell in every if plan.is_made(cell) and len(plan.missing(cell)) == 0]
    report = write_report(
        folder,
        [{**dataclasses.asdict(cell), "path": cell.path} for cell in available],
        recipe=recipe,
        about={"versions": versions(), "failures": failures, "config": resolved},
    )
    return report, failures


def _make(plan: Plan, todo: Sequence[list[Cell]], say: Callable[[str], None]) -> list[str]:
    """Make groups of cells; a line for each that failed."""
    bench, failures, done = plan.bench, [], 0
    with progress_bar("computing", "result") as progress:
        for group in todo:
            try:
                for made in _made(plan, group):
                    write_cell(plan, made)
                    say(_line(made))
            except KeyboardInterrupt:
                raise
            except Exception as error:
                if processes.busy():
                    raise
                reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
                failures.append(f"{group[0]}: {reason}")
                say(f"failed: {failures[-1]}")
                if not isinstance(error, InputError):
                    with (bench.folder / "failures.log").open("a", encoding="utf-8") as log:
                        log.write(traceback.format_exc())
            gc.collect()
            done += len(group)
            progress(done, sum(map(len, todo)))
    return failures


def _made(plan: Plan, group: Sequence[Cell]):
    """The cells of a group that are not done, one at a time."""
    bench = plan.bench
    if not bench.recipe.systems[group[0].system].get("loss"):
        for cell in group:
            began = time.perf_counter()
            found = {place: ask(bench, cell, place) for place in bench.asked(cell.system, cell.language)}
            record = {**chosen(bench, cell), "cell_seconds": time.perf_counter() - began}
            yield Made(cell, found, record)
        return
    needed = [cell for cell in group if not plan.is_done(cell)]
    left = []
    for cell in needed:
        student = kept_student(bench.folder / cell.path) if plan.is_made(cell) else None
        if student is None:
            left.append(cell)
        else:
            found = evaluate_cell(bench, cell, student, plan.missing(cell))
            yield Made(cell, found, plan.record(cell))
    if left:
        places = {cell: list(bench.asked(cell.system, cell.language)) for cell in left}
        yield from train_cells(bench, left, places, dev=plan.keep == "best")


def write_cell(plan: Plan, made: Made) -> None:
    """A cell's results and student; its record, which says that it is finished, is written last."""
    bench, cell = plan.bench, made.cell
    target = bench.folder / cell.path
    for place, evaluation in made.found.items():
        short = {query: hits[:KEPT] for query, hits in evaluation.run.items()}
        write_evaluation(
            target / "evaluation" / place, dataclasses.replace(evaluation, run=short), tag=cell.system
        )
    options = bench.recipe.systems[cell.system]
    content: dict[str, Any] = {
        **made.record,
        **dataclasses.asdict(cell),
        "options": options,
        "side": bench.recipe.side,
        **origin(bench.recipe.student or bench.recipe.teacher, _texts_of(bench, cell)),
        "teacher": bench.teacher_from(target),
        "teacher_fingerprint": bench.prints[0],
        "made_of": plan.identity(cell),
        "collections": bench.content(cell.system, cell.language),
        "sizes": {
            place: {"queries": len(found.queries), "documents": len(found.documents)}
            for place, found in bench.asked(cell.system, cell.language).items()
        },
        "build": build_info(),
        "versions": versions(),
    }
    if options.get("loss") == RETRIEVAL:
        # Both sides were trained: the student is its own partner.
        del content["teacher"], content["teacher_fingerprint"]
    if made.student is not None and plan.keep != "none":
        made.student.save_pretrained(str(target))
        content["fingerprint"] = fingerprint.of_model(made.student)
    target.mkdir(parents=True, exist_ok=True)
    if "fingerprint" in content:
        write_card(target, content)
    for file in [*target.glob("checkpoint-*"), target / "eval"]:
        shutil.rmtree(file, ignore_errors=True)
    write_json(target / RECORD, content)
    (target / MARK).unlink(missing_ok=True)


def _texts_of(bench: Workbench, cell: Cell) -> list[str]:
    """The training text of a cell, in all languages that its student learns."""
    options = bench.recipe.systems[cell.system]
    given = options.get("bitext") or bench.recipe.bitext
    specs = [str(spec) for spec in (given if isinstance(given, list) else [given])]
    return list(
        dict.fromkeys(s.format(language=name) for s in specs for name in languages_in_training(bench, cell))
    )


def keep_best(plan: Plan, say: Callable[[str], None]) -> None:
    """Leave the student with the highest dev MAP in each language; its siblings' weights are removed."""
    by_language: dict[str, list[tuple[float, Cell]]] = {}
    for cell in (cell for group in plan.groups for cell in group):
        record = plan.record(cell)
        if (plan.bench.folder / cell.path / "modules.json").exists() and "dev_map" in record:
            by_language.setdefault(cell.language, []).append((record["dev_map"], cell))
    for found in by_language.values():
        best = max(found, key=lambda pair: pair[0])
        for _, cell in found:
            if cell != best[1]:
                drop_student(plan.bench.folder / cell.path)
        say(f"kept: {plan.bench.folder / best[1].path} (dev MAP {best[0]:.3f})")


def drop_student(folder: Path) -> None:
    """Remove a checkpoint from a cell's folder; results and record stay."""
    # First what says that there is one: whenever this is interrupted, half a checkpoint is none.
    (folder / "modules.json").unlink(missing_ok=True)
    for file in list(folder.iterdir()):
        if file.name == "evaluation" or file.name == RECORD:
            continue
        shutil.rmtree(file) if file.is_dir() else file.unlink()


def _line(made: Made) -> str:
    scores = ", ".join(f"{place} MAP {e.result.mean['map']:.3f}" for place, e in made.found.items())
    dev = f"dev MAP {made.record['dev_map']:.3f}, " if "dev_map" in made.record else ""
    return f"{made.cell!s:32} {dev}{scores} ({made.record.get('cell_seconds', 0.0):.0f} s)"


def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "numpy": np.__version__,
    }
