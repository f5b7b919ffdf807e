"""The recipe of an experiment, and the cells that it asks for."""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, closest
from ..losses import LOSSES
from ..train import Recipe, TrainingArguments, read_recipe
from ..training.batches import ORDERS

#: What a system may be besides a loss.
METHODS = ("zero-shot", "psq", "bm25-translate", "nmt", "fusion")
#: The translator that goes word by word, with the alignments of the bitext.
DICTIONARY = "dictionary"
#: The loss that trains on texts in several languages, not on bitext: hybrid batches.
RETRIEVAL = "retrieval"
#: Options of trained systems besides their loss's.
TRAINED = (
    *("bitext", "proportions", "schedule", "order", "joint", "interpolate", "languages", "seeds", "training"),
    *("mlm", "mine", "margin", "adapter_rank", "freeze_layers", "max_pairs"),
)
#: Those of them that order or find sentence pairs, which hybrid batches do not have.
OF_BITEXT = ("order", "schedule", "mine", "margin")
#: Options of the others.
UNTRAINED = {
    "zero-shot": ("languages",),
    "psq": ("languages", "seeds", "bitext", "max_pairs", "cumulative", "k1", "b"),
    "bm25-translate": ("languages", "seeds", "bitext", "translator", "codes", "num_beams", "batch_size"),
    "nmt": ("languages", "seeds", "bitext", "translator", "codes", "num_beams", "batch_size"),
    "fusion": ("languages", "of", "method_of_fusion"),
}


@dataclasses.dataclass
class Experiment(Recipe):
    """A recipe; :class:`~optical_rs.train.Recipe` has the other keys.

    ``bitext`` and ``collection`` may hold ``{language}``. ``head_languages`` are those whose English sentences the
    teacher's head is fitted on: all of the recipe's, unless a recipe is to share another one's teacher.
    """

    bitext: str = "kolibri:{language}"
    collection: str = "kolibri:{language}"
    languages: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    head_languages: list[str] = dataclasses.field(default_factory=list)
    seeds: Any = 1
    out_of_domain: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    systems: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    baseline: str = "zero-shot"
    translation: list[str] = dataclasses.field(default_factory=list)
    question: str = ""

    @property
    def every_language(self) -> list[str]:
        """The languages of all groups."""
        return [name for group in self.languages.values() for name in group]

    def seeds_of(self, system: str, language: str) -> list[int]:
        """The seeds of a system's cells in a language; 0 alone where nothing is drawn.

        Word alignments are drawn, too; as their sampler takes no seed, theirs only count repetitions.
        """
        options = self.systems[system]
        method = options.get("method")
        if method == "fusion":
            return max((self.seeds_of(part, language) for part in options["of"]), key=len)
        words = method in ("bm25-translate", "nmt") and options.get("translator", DICTIONARY) == DICTIONARY
        if method and method != "psq" and not words:
            return [0]
        group = next(name for name, members in self.languages.items() if language in members)
        seeds = self.seeds[group] if isinstance(self.seeds, dict) else self.seeds
        return list(range(min(seeds, options.get("seeds", seeds))))

    def languages_of(self, system: str) -> list[str]:
        """The languages that a system is asked in."""
        own = self.systems[system].get("languages")
        return [name for name in self.every_language if own is None or name in own]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A system in one language with one seed; see :meth:`Experiment.seeds_of`."""

    system: str
    language: str
    seed: int

    @property
    def path(self) -> str:
        """Its folder, below the output folder."""
        return f"cells/{self.system}/{self.language}-{self.seed}"


def read_experiment(path: Path) -> Experiment:
    """Read a recipe.

    Raises
    ------
    InputError
        An unknown key, system option, loss or language, with the nearest valid name.
    """
    raw = read_recipe(path, "recipe", ("languages", "systems"))
    keys = {f.name for f in dataclasses.fields(Experiment)}
    for key in raw:
        if key not in keys:
            raise InputError(f"{path}: unknown key '{key}'{closest(key, keys)}")
    experiment = Experiment(**raw)
    experiment.training = experiment.training or {}
    experiment.head_languages = experiment.head_languages or experiment.every_language
    _check(experiment, str(path))
    return experiment


def _check(experiment: Experiment, where: str) -> None:
    if experiment.side not in ("query", "document"):
        raise InputError(f"{where}: side: expected 'query' or 'document', got {experiment.side!r}")
    names = experiment.every_language
    if len(set(names)) != len(names):
        raise InputError(f"{where}: languages: a language is in two groups")
    seeds = experiment.seeds
    given = seeds if isinstance(seeds, dict) else dict.fromkeys(experiment.languages, seeds)
    for group in experiment.languages:
        if group not in given or not isinstance(given[group], int) or given[group] < 1:
            raise InputError(
                f"{where}: seeds: expected a number of seeds for '{group}', got {given.get(group)}"
            )
    for language in experiment.out_of_domain:
        if language not in names:
            raise InputError(f"{where}: out_of_domain: no language '{language}'{closest(language, names)}")
    valid = {f.name for f in dataclasses.fields(TrainingArguments) if f.init}
    for key in experiment.training:
        if key not in valid:
            raise InputError(f"{where}: training: unknown key '{key}'{closest(key, valid)}")
    for name, options in experiment.systems.items():
        if not isinstance(options, dict | None):
            raise InputError(f"{where}: system '{name}': expected options as a mapping, got {options!r}")
        experiment.systems[name] = options = options or {}
        if not name or "/" in name or name.startswith("."):
            raise InputError(f"{where}: system '{name}': not usable as the name of a folder")
        _check_system(experiment, f"{where}: system '{name}'", options)
    for name in [experiment.baseline, *experiment.translation]:
        if name not in experiment.systems:
            raise InputError(f"{where}: no system '{name}'{closest(name, experiment.systems)}")


def _check_system(experiment: Experiment, where: str, options: dict[str, Any]) -> None:
    loss, method = options.get("loss"), options.get("method")
    if loss is not None:
        losses = [*LOSSES, RETRIEVAL]
        if loss not in losses:
            raise InputError(f"{where}: unknown loss '{loss}'{closest(loss, losses)}")
        if loss == RETRIEVAL:
            valid = {"loss", "alpha", "weights", "scale", *(set(TRAINED) - set(OF_BITEXT))}
        else:
            given = {"model", "teacher", "student_idf", "teacher_idf"}
            own = set(inspect.signature(LOSSES[loss]).parameters) - given
            valid = {"loss", *own, *TRAINED}
    else:
        method = options["method"] = method or "zero-shot"
        if method not in METHODS:
            raise InputError(f"{where}: unknown method '{method}'{closest(method, METHODS)}")
        valid = {"method", *UNTRAINED[method]}
    for key in options:
        if key not in valid:
            raise InputError(f"{where} has no option '{key}'{closest(key, valid)}")
    if options.get("order", "mixed") not in ORDERS:
        raise InputError(f"{where}: unknown order '{options['order']}'{closest(options['order'], ORDERS)}")
    if not 0 < options.get("interpolate", 1.0) <= 1:
        raise InputError(f"{where}: interpolate: expected a share in 0..1, got {options['interpolate']}")
    _check_mixture(where, options)
    for language in options.get("languages") or []:
        if language not in experiment.every_language:
            raise InputError(
                f"{where}: languages: the recipe has no '{language}'{closest(language, experiment.every_language)}"
            )
    for other in options.get("of") or []:
        if other not in experiment.systems:
            raise InputError(f"{where}: of: no system '{other}'{closest(other, experiment.systems)}")
    if method == "fusion" and len(options.get("of") or []) < 2:
        raise InputError(f"{where}: of: expected two systems or more")


def _check_mixture(where: str, options: Mapping[str, Any]) -> None:
    """Proportions, and each stage of a schedule, are a share for each bitext."""
    given = options.get("bitext")
    bitexts = len(given) if isinstance(given, list) else 1
    if "schedule" in options:
        for other in ("proportions", "mine"):
            if other in options:
                raise InputError(f"{where}: schedule: says what each epoch is made of; leave '{other}' out")
        stages = options["schedule"]
        if not isinstance(stages, list) or not stages:
            raise InputError(f"{where}: schedule: expected a list of stages, got {stages!r}")
    else:
        stages = [options["proportions"]] if options.get("proportions") is not None else []
    for shares in stages:
        if not isinstance(shares, list) or len(shares) != bitexts:
            name = "schedule" if "schedule" in options else "proportions"
            raise InputError(f"{where}: {name}: expected {bitexts}, one for each bitext, got {shares!r}")


def cells(experiment: Experiment) -> Iterator[list[Cell]]:
    """All cells, those that are made together at a time: of one training, or of one untrained system.

    Systems that differ in ``interpolate`` alone share their training.
    """
    trained: dict[str, list[str]] = {}
    for name, options in experiment.systems.items():
        if options.get("loss"):
            trained.setdefault(_training(options), []).append(name)
    for name, options in experiment.systems.items():
        languages = experiment.languages_of(name)
        if not options.get("loss"):
            for language in languages:
                yield from ([Cell(name, language, seed)] for seed in experiment.seeds_of(name, language))
            continue
        group = trained.pop(_training(options), None)
        if group is None:
            continue  # made with a system before it
        if options.get("joint"):
            seeds = {language: experiment.seeds_of(name, language) for language in languages}
            for seed in max(seeds.values(), key=len):
                asked = [language for language in languages if seed in seeds[language]]
                yield [Cell(system, language, seed) for system in group for language in asked]
        else:
            for language in languages:
                for seed in experiment.seeds_of(name, language):
                    yield [Cell(system, language, seed) for system in group]


def _training(options: Mapping[str, Any]) -> str:
    """What a system's training depends on."""
    return json.dumps({k: v for k, v in options.items() if k != "interpolate"}, sort_keys=True)


def definition(experiment: Experiment, cell: Cell) -> str:
    """A hash of all that a cell's results depend on, besides its language, its seed and the teacher's weights."""
    options = _of_a_cell(experiment.systems[cell.system])
    parts = {part: _of_a_cell(experiment.systems[part]) for part in options.get("of") or []}
    recipe = {f.name: getattr(experiment, f.name) for f in dataclasses.fields(Recipe)}
    wide = experiment.languages_of(cell.system) if options.get("joint") else [cell.language]
    content = [options, parts, recipe, experiment.training, wide, experiment.out_of_domain.get(cell.language)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _of_a_cell(options: Mapping[str, Any]) -> dict[str, Any]:
    """A system's options without those that say which cells there are: more seeds do not unmake the first."""
    return {k: v for k, v in options.items() if k not in ("languages", "seeds")}
