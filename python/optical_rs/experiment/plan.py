"""Which cells are to be made: those that exist are known by the content that made them."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import fingerprint
from ..errors import InputError
from ..files import write_json
from ..models import RECORD, write_card
from ..training.fit import MARK
from .recipe import Cell, cells
from .students import identity
from .untrained import OF_BITEXT, content_of_method, parts_of
from .workbench import Workbench

#: What a run was asked for, in its folder.
CONFIG = "config.json"


class Plan:
    """The cells of a recipe and the state of each in the output folder, by the content that makes it."""

    def __init__(self, bench: Workbench, keep: str):
        self.bench, self.keep = bench, keep
        recipe = bench.recipe
        fused = {name for name, options in recipe.systems.items() if options.get("method") == "fusion"}
        # One seed of everything before the next, so that a run that is cut short can be compared all the same;
        # fusions after what they are made of.
        self.groups = sorted(cells(recipe), key=lambda group: (group[0].seed, group[0].system in fused))
        self._identities: dict[Cell, str] = {}

    def load(self) -> None:
        """Read all text that the cells need, and see that there are models."""
        self.bench.check_models()
        for group in self.groups:
            for cell in group:
                self.bench.asked(cell.system, cell.language)
                options = self.bench.recipe.systems[cell.system]
                if options.get("method") == "oracle":
                    self.bench.translations(cell.language, options)
                if options.get("loss") or options["method"] in OF_BITEXT:
                    self.bench.training_pairs(options, [cell.language])
                self.bench.anchor(options, [cell.language])
                self.bench.passages(options, [cell.language])

    def identity(self, cell: Cell) -> str:
        """The content hash of all that a cell's results depend on, besides the collections."""
        if cell not in self._identities:
            bench, options = self.bench, self.bench.recipe.systems[cell.system]
            if options.get("loss"):
                content: list[Any] = [identity(bench, cell), options.get("interpolate", 1.0)]
                content.append(bench.english.dtype)
            else:
                content = [{k: v for k, v in options.items() if k not in ("languages", "seeds", "of")}]
                content += [bench.side, *bench.prints, *content_of_method(bench, cell), bench.english.dtype]
                translator = options.get("translator")
                if translator and Path(translator).is_dir():
                    content.append(fingerprint.of_files(translator))
                if options["method"] in OF_BITEXT:
                    pairs, _ = bench.training_pairs(options, [cell.language])
                    content += [cell.seed, fingerprint.of_texts([*pairs.foreign, *pairs.english])]
                content += [self.identity(part) for part in parts_of(bench, cell)]
            self._identities[cell] = fingerprint.of_settings(content)
        return self._identities[cell]

    def record(self, cell: Cell) -> dict[str, Any]:
        """What a cell's folder says of it; empty if nothing was finished there."""
        try:
            return json.loads((self.bench.folder / cell.path / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def missing(self, cell: Cell) -> list[str]:
        """The places that a cell has no results of, or results of other text."""
        asked = self.bench.content(cell.system, cell.language)
        known = self.record(cell).get("collections", {}) if self.is_made(cell) else {}
        return [place for place, content in asked.items() if known.get(place) != content]

    def is_made(self, cell: Cell) -> bool:
        """Whether a cell's folder holds what this recipe would make, in some of the places at least."""
        return self.record(cell).get("made_of") == self.identity(cell)

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell is finished."""
        if not self.is_made(cell) or self.missing(cell):
            return False
        trained = self.bench.recipe.systems[cell.system].get("loss")
        folder = self.bench.folder / cell.path
        return not (trained and self.keep == "all") or (folder / "modules.json").exists()

    def stale(self) -> list[Cell]:
        """Cells whose folders hold results, or checkpoints, of something else."""
        found = []
        for cell in (cell for group in self.groups for cell in group):
            record = self.record(cell)
            mark = self.bench.folder / cell.path / MARK
            if record and record.get("made_of") != self.identity(cell):
                found.append(cell)
            elif not record and mark.exists():
                try:
                    made_of = json.loads(mark.read_text(encoding="utf-8")).get("made_of")
                except ValueError:
                    made_of = None
                trained = self.bench.recipe.systems[cell.system].get("loss")
                if not trained or made_of != identity(self.bench, cell):
                    found.append(cell)
        return found


def adopt(plan: Plan, other: Path) -> int:
    """Copy cells of the same content from another run's folder, and return their number."""
    if not other.is_dir():
        raise InputError(f"reuse: {other} is no folder")
    known = {}
    for file in sorted(other.rglob(RECORD)):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            known[record["made_of"], record["language"], record["seed"]] = file.parent
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a teacher, or half written
    taken = 0
    for cell in (cell for group in plan.groups for cell in group):
        source = known.get((plan.identity(cell), cell.language, cell.seed))
        target = plan.bench.folder / cell.path
        if source is None or plan.is_made(cell):
            continue
        record = json.loads((source / RECORD).read_text(encoding="utf-8"))
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(RECORD, "checkpoint-*"))
        teacher = plan.bench.teacher_from(target)
        content = {**record, **dataclasses.asdict(cell), "teacher": teacher}
        if (target / "modules.json").exists():
            write_card(target, content)
        write_json(target / RECORD, content)
        taken += 1
    return taken


def refuse_foreign(plan: Plan) -> None:
    """A folder in the way of a cell or a model must be one of ours."""
    folder = plan.bench.folder
    for name in ("teacher", "start"):
        own = folder / name
        if own.exists() and not (own / RECORD).exists():
            raise InputError(f"output: {own} is not of a run; choose another folder")
    for cell in (cell for group in plan.groups for cell in group):
        own = folder / cell.path
        ours = any((own / name).exists() for name in (RECORD, MARK, "evaluation"))
        if own.is_file() or (own.is_dir() and any(own.iterdir()) and (not ours or _holds_cells(own))):
            raise InputError(f"output: {own} is not of a run; choose another folder")


def _holds_cells(folder: Path) -> bool:
    """Whether there are folders of languages and seeds in a folder, which belong to another recipe."""
    return any((child / name).exists() for child in folder.iterdir() for name in (RECORD, MARK, "evaluation"))


def other_settings(folder: Path, now: Mapping[str, Any]) -> str:
    """The refusal of a folder with results of other settings: which keys of the recipe differ, if it is those."""
    try:
        before = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    changed = []
    for key in sorted(now):
        one, two = before.get(key), now[key]
        if isinstance(one, dict) and isinstance(two, dict):
            shared = one.keys() & two.keys() if key == "systems" else one.keys() | two.keys()
            changed += [k for k in sorted(shared) if one.get(k) != two.get(k)]
        elif one != two:
            changed.append(key)
    what = ", ".join(changed[:6]) or "the text of the bitext or of a collection, or a model"
    return (
        f"output: {folder} holds results of other settings ({what}); choose another folder, or pass --overwrite "
        "to make them again"
    )
