"""Making the cells that are missing, and the command."""

import argparse
import dataclasses
import filecmp
import gc
import json
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import transformers

from ..errors import InputError, closest
from ..models import is_late_interaction
from ..progress import progress_bar
from ..retrieval import Evaluation, write_evaluation
from ..train import versions
from .recipe import Cell, Experiment, cells, definition, read_experiment
from .report import write_report
from .students import train_cells
from .untrained import untrained
from .workbench import Workbench

#: Results per query that are kept in a cell's run.
KEPT = 100
CELL = "cell.json"
DESCRIPTION = "Compare systems over languages and seeds, by a recipe; see docs/experiments.md."


class CellsFailed(InputError):
    """Some cells could not be made; the others were, and are in the report."""

    status = 1


def is_done(experiment: Experiment, folder: Path, cell: Cell) -> bool:
    """Whether a cell has been made, of this definition."""
    try:
        record = json.loads((folder / cell.path / CELL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return record.get("definition") == definition(experiment, cell)


def write_cell(
    experiment: Experiment, folder: Path, cell: Cell, found: dict[str, Evaluation], record: Mapping[str, Any]
) -> None:
    """The results of a cell; its record is written last."""
    target = folder / cell.path
    shutil.rmtree(target, ignore_errors=True)
    for where, evaluation in found.items():
        short = {query: hits[:KEPT] for query, hits in evaluation.run.items()}
        write_evaluation(target / where, dataclasses.replace(evaluation, run=short), tag=cell.system)
    content = {**dataclasses.asdict(cell), **record, "definition": definition(experiment, cell)}
    (target / CELL).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def adopt(experiment: Experiment, folder: Path, other: Path) -> int:
    """Copy cells of the same definition from another experiment's folder, and return their number.

    Raises
    ------
    InputError
        No folder, or one whose teacher is not this one's, byte by byte: its cells mean something else.
    """
    if not other.is_dir():
        raise InputError(f"reuse: {other} is no folder")
    if experiment.student and not is_late_interaction(experiment.student):
        raise InputError(f"reuse: student: {experiment.student} is fitted anew on each recipe's own text")
    ours, theirs = folder / "teacher", other / "teacher"
    files = sorted({f.relative_to(d) for d in (ours, theirs) for f in d.rglob("*.safetensors")})
    for name in files:
        pair = ours / name, theirs / name
        if not all(f.exists() for f in pair) or not filecmp.cmp(*pair, shallow=False):
            raise InputError(f"reuse: {theirs / name} is not {ours / name}: another teacher")
    known = {}
    for file in sorted(other.glob(f"cells/*/*/{CELL}")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            known[record["definition"], record["language"], record["seed"]] = file.parent
        except (ValueError, KeyError):
            continue  # half written
    taken = 0
    for group in cells(experiment):
        for cell in group:
            source = known.get((definition(experiment, cell), cell.language, cell.seed))
            if source is None or is_done(experiment, folder, cell):
                continue
            target = folder / cell.path
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(CELL))
            record = json.loads((source / CELL).read_text(encoding="utf-8"))
            content = {**record, **dataclasses.asdict(cell)}
            (target / CELL).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            taken += 1
    return taken


def run(
    experiment: Experiment,
    folder: Path,
    *,
    say: Callable[[str], None] = print,
    report_only: bool = False,
    reuse: Path | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Make the cells that are missing, unless ``report_only``, then the report.

    ``reuse`` is another experiment's folder, of which cells of the same definition are taken over.

    Returns
    -------
    report : dict
        What ``report.json`` says.
    failures : list of str
        A line for each group of cells that failed; the others are made all the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # One seed of everything before the next, so that a run that is cut short can be compared all the same;
    # fusions after what they are made of.
    fused = {name for name, options in experiment.systems.items() if options.get("method") == "fusion"}
    groups = sorted(cells(experiment), key=lambda group: (group[0].seed, group[0].system in fused))

    def find_missing() -> list[list[Cell]]:
        return [group for group in groups if not all(is_done(experiment, folder, cell) for cell in group)]

    missing = find_missing()
    total = sum(map(len, groups))
    say(f"{total} cells, {total - sum(map(len, missing))} of them done")
    failures: list[str] = []
    if report_only:
        missing = []
    bench = Workbench(experiment, folder) if missing else None
    if reuse is not None and missing:
        say(f"{adopt(experiment, folder, reuse)} cells taken from {reuse}")
        missing = find_missing()
    with progress_bar("cells", "cell") as progress:
        done = 0
        for group in missing:
            assert bench is not None
            try:
                if experiment.systems[group[0].system].get("loss"):
                    for cell, found, record in train_cells(bench, group):
                        write_cell(experiment, folder, cell, found, record)
                        say(_line(cell, found, record))
                else:
                    for cell in group:
                        began = time.perf_counter()
                        found = untrained(bench, cell)
                        record = {"cell_seconds": time.perf_counter() - began}
                        write_cell(experiment, folder, cell, found, record)
                        say(_line(cell, found, record))
            except KeyboardInterrupt:
                raise
            except Exception as error:  # noqa: BLE001 - one cell's failure must not lose the others' hours
                reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
                first = group[0]
                failures.append(f"{first.system}, {first.language}, seed {first.seed}: {reason}")
                say(f"failed: {failures[-1]}")
                if not isinstance(error, InputError):
                    with (folder / "failures.log").open("a", encoding="utf-8") as log:
                        log.write(traceback.format_exc())
            gc.collect()
            done += len(group)
            progress(done, sum(map(len, missing)))
    available = [cell for group in groups for cell in group if is_done(experiment, folder, cell)]
    report = write_report(
        folder,
        [dataclasses.asdict(cell) | {"path": cell.path} for cell in available],
        groups=experiment.languages,
        baseline=experiment.baseline,
        start=next((n for n, o in experiment.systems.items() if o.get("method") == "zero-shot"), None),
        translation=experiment.translation,
        question=experiment.question,
        about={"versions": versions(), "failures": failures, "systems": experiment.systems},
    )
    return report, failures


def _line(cell: Cell, found: Mapping[str, Evaluation], record: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{where} MAP {e.result.mean['map']:.3f}" for where, e in found.items())
    return f"{cell.system:24} {cell.language:6} seed {cell.seed}: {scores} ({record['cell_seconds']:.0f} s)"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``optical-rs experiment``."""
    parser = argparse.ArgumentParser(prog="optical-rs experiment", description=DESCRIPTION)
    parser.add_argument("recipe", type=Path, help="a file of recipes/")
    parser.add_argument("--output_dir", type=Path, help="default: runs/RECIPE")
    parser.add_argument("--systems", nargs="+", help="only these")
    parser.add_argument("--languages", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, help="number of seeds, for all languages")
    parser.add_argument(
        "--reuse",
        type=Path,
        metavar="DIR",
        help="another experiment's output_dir, of which cells of the same definition are taken over",
    )
    parser.add_argument("--report_only", action="store_true", help="report what is there, make nothing")
    parser.add_argument("--dry_run", action="store_true", help="say what would be done")
    options = parser.parse_args(arguments)
    experiment = read_experiment(options.recipe)
    _restrict(experiment, options)
    folder = options.output_dir or Path("runs") / options.recipe.stem
    if options.dry_run:
        for group in cells(experiment):
            state = "done" if all(is_done(experiment, folder, cell) for cell in group) else "to do"
            print(f"{state:6} {', '.join(f'{c.system} {c.language} {c.seed}' for c in group)}")
        return
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    _, failures = run(experiment, folder, report_only=options.report_only, reuse=options.reuse)
    print("\n" + (folder / "report.md").read_text(encoding="utf-8"))
    print(f"report, runs and measures per query: {folder}")
    if failures:
        raise CellsFailed(f"{len(failures)} of the cells failed:\n  " + "\n  ".join(failures))


def _restrict(experiment: Experiment, options: argparse.Namespace) -> None:
    if options.systems:
        for name in options.systems:
            if name not in experiment.systems:
                raise InputError(
                    f"systems: the recipe has no system '{name}'{closest(name, experiment.systems)}"
                )
        kept = {*options.systems, experiment.baseline}
        experiment.systems = {name: o for name, o in experiment.systems.items() if name in kept}
        experiment.translation = [name for name in experiment.translation if name in kept]
    if options.languages:
        for name in options.languages:
            if name not in experiment.every_language:
                raise InputError(
                    f"languages: the recipe has no '{name}'{closest(name, experiment.every_language)}"
                )
        experiment.languages = {
            group: chosen
            for group, names in experiment.languages.items()
            if (chosen := [name for name in names if name in options.languages])
        }
        outside = experiment.out_of_domain.items()
        experiment.out_of_domain = {k: v for k, v in outside if k in experiment.every_language}
    if options.seeds is not None:
        experiment.seeds = options.seeds
