"""Compare systems over languages and seeds: ``python -m optical_rs.experiment recipes/seven_pairs.yaml``.

A recipe names languages, seeds, a bitext and a test collection for each language, and *systems*. Each cell
(system, language, seed) is trained where it needs training, searched, measured and written to a folder of its
own; a run that is started again does what is missing. The report is made of what the folders hold.
"""

import argparse
import dataclasses
import gc
import hashlib
import inspect
import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss

from .adaptation import add_adapters, continue_mlm, freeze_layers, merge_adapters, mine_bitext
from .baselines import TranslationTable, Translator, bm25, psq, translate_words, translation_table
from .data import Bitext, load_bitext, load_collection
from .data.collator import HybridCollator
from .data.collection import Collection
from .data.sampler import ORDERS, HybridBatchSampler, LengthBucketBatchSampler
from .errors import InputError, closest
from .evaluate import Evaluation, encode, evaluate_run, evaluate_tokens, write_evaluation
from .losses import LOSSES
from .models import freeze_word_embeddings, interpolate, set_dropout, student_of, use_plain_attention
from .progress import progress_bar
from .ranking import fuse
from .report import write_report
from .similarity.autograd import maxsim_scores
from .train import (
    TRAINING_DEFAULTS,
    Recipe,
    TrainingArguments,
    bitext_dataset,
    check_models,
    fit,
    idf_weights,
    make_loss,
    prepare_student,
    prepare_teacher,
    read_recipe,
    teacher_store,
    versions,
)

#: What a system may be besides a loss.
METHODS = ("zero-shot", "psq", "bm25-translate", "nmt", "fusion")
#: The translator that goes word by word, with the alignments of the bitext.
DICTIONARY = "dictionary"
#: The loss that trains on texts in several languages, not on bitext: hybrid batches.
RETRIEVAL = "retrieval"
#: Options of trained systems besides their loss's.
TRAINED = (
    *("bitext", "proportions", "order", "joint", "interpolate", "languages", "seeds", "training"),
    *("mlm", "mine", "margin", "adapter_rank", "freeze_layers", "max_pairs"),
)
#: Those of them that order or find sentence pairs, which hybrid batches do not have.
OF_BITEXT = ("order", "mine", "margin")
#: Options of the others.
UNTRAINED = {
    "zero-shot": ("languages",),
    "psq": ("languages", "seeds", "bitext", "max_pairs", "cumulative", "k1", "b"),
    "bm25-translate": ("languages", "seeds", "bitext", "translator", "codes", "num_beams", "batch_size"),
    "nmt": ("languages", "seeds", "bitext", "translator", "codes", "num_beams", "batch_size"),
    "fusion": ("languages", "of", "method_of_fusion"),
}
#: Results per query that are kept in a cell's run.
KEPT = 100
#: Where results are within a cell.
IN_DOMAIN, OUT_OF_DOMAIN = "in-domain", "out-of-domain"
CELL = "cell.json"


class CellsFailed(InputError):
    """Some cells could not be made; the others were, and are in the report."""

    status = 1


@dataclasses.dataclass
class Experiment(Recipe):
    """A recipe; :class:`~optical_rs.train.Recipe` has the other keys.

    ``bitext`` and ``collection`` may hold ``{language}``.
    """

    bitext: str = "kolibri:{language}"
    collection: str = "kolibri:{language}"
    languages: dict[str, list[str]] = dataclasses.field(default_factory=dict)
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


class Workbench:
    """What cells share: the teacher, its tokens of all English sentences, and encoded documents.

    Parameters
    ----------
    experiment : Experiment
    folder : path
        The output folder.
    """

    def __init__(self, experiment: Experiment, folder: Path):
        self.experiment, self.folder = experiment, folder
        #: The role of the foreign side, and that of the English one.
        self.side = experiment.side
        self.other = "document" if self.side == "query" else "query"
        self._bitexts: dict[str, Bitext] = {}
        self._collections: dict[tuple[str, str], Collection] = {}
        self._encoded: dict[str, list[np.ndarray]] = {}
        every = [self.bitext(spec) for spec in self._specs()]
        english = list(dict.fromkeys(text for bitext in every for text in bitext.english))
        self.places = {text: i for i, text in enumerate(english)}
        union = Bitext("all", english, english)
        check_models(experiment)
        in_domain = self._in_domain()
        self.teacher, _ = prepare_teacher(experiment, in_domain, folder / "teacher")
        #: What every student starts from: the teacher, or another encoder in its space.
        self.start = prepare_student(experiment, self.teacher, in_domain)
        self.store = teacher_store(self.teacher, union, [self.side], folder / "cache" / "teacher-tokens")

    def _in_domain(self) -> Bitext:
        """English of the recipe's own bitexts, which the teacher's head is fitted on."""
        texts = dict.fromkeys(
            text
            for language in self.experiment.every_language
            for text in self.bitext(self.experiment.bitext.format(language=language)).english
        )
        return Bitext("in-domain", list(texts), list(texts))

    def _specs(self) -> list[str]:
        found: dict[str, None] = {}
        for name, options in self.experiment.systems.items():
            for language in self.experiment.languages_of(name):
                own = [
                    spec.format(language=language) for key in ("mlm", "mine") if (spec := options.get(key))
                ]
                for spec in [*self.specs(options, language), *own]:
                    found[spec] = None
        for language in self.experiment.every_language:
            found[self.experiment.bitext.format(language=language)] = None
        return list(found)

    def specs(self, options: Mapping[str, Any], language: str) -> list[str]:
        """The bitexts that a system learns a language from."""
        given = options.get("bitext") or self.experiment.bitext
        return [spec.format(language=language) for spec in (given if isinstance(given, list) else [given])]

    def monolingual(self, spec: str, languages: Sequence[str]) -> Bitext:
        """Texts of a domain, both sides of a bitext, of which nothing may use the alignment."""
        bitexts = [self.bitext(spec.format(language=language)) for language in languages]
        foreign = [text for bitext in bitexts for text in bitext.foreign]
        english = sorted({text for bitext in bitexts for text in bitext.english})
        return Bitext(spec, foreign, english)

    def bitext(self, spec: str) -> Bitext:
        """A bitext, read once."""
        if spec not in self._bitexts:
            columns = (self.experiment.foreign_column, self.experiment.english_column)
            self._bitexts[spec] = load_bitext(spec, columns=columns)
        return self._bitexts[spec]

    def collections(self, language: str) -> dict[str, Collection]:
        """The test collections of a language, in and out of the domain."""
        found = {IN_DOMAIN: self._collection(self.experiment.collection.format(language=language), {})}
        if language in self.experiment.out_of_domain:
            sample = dict(self.experiment.out_of_domain[language])
            found[OUT_OF_DOMAIN] = self._collection(sample.pop("collection"), sample)
        return found

    def _collection(self, spec: str, sample: dict[str, Any]) -> Collection:
        key = spec, json.dumps(sample, sort_keys=True)
        if key not in self._collections:
            self._collections[key] = load_collection(spec, side=self.side).sample(**sample)
        return self._collections[key]

    def english(self, collection: Collection) -> list[np.ndarray]:
        """The teacher's tokens of a collection's English side, encoded once for all that share it."""
        texts = texts_of(collection, self.other)
        key = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        if key not in self._encoded:
            self._encoded[key] = encode(self.teacher, texts, self.other)
        return self._encoded[key]

    def evaluate(
        self, model: MultiVectorEncoder, collection: Collection, english: list[np.ndarray] | None = None
    ) -> Evaluation:
        """Encode the foreign side with a model, search and score; the English side is the teacher's."""
        foreign = encode(model, texts_of(collection, self.side), self.side)
        english = self.english(collection) if english is None else english
        pair = (foreign, english) if self.side == "query" else (english, foreign)
        return evaluate_tokens(*pair, collection)

    def training_pairs(
        self, options: Mapping[str, Any], languages: Sequence[str]
    ) -> tuple[Bitext, list[str]]:
        """The sentence pairs of a system, and the group of each: its language, or its bitext if several."""
        foreign, english, groups = [], [], []
        for language in languages:
            bitexts = [self.bitext(spec) for spec in self.specs(options, language)]
            bitexts = [b.head(options.get("max_pairs", self.experiment.max_pairs)) for b in bitexts]
            shares = options.get("proportions")
            if shares is not None:
                if len(shares) != len(bitexts):
                    raise InputError(
                        f"proportions: expected {len(bitexts)}, one for each bitext, got {len(shares)}"
                    )
                # As many pairs as the largest that the proportions allow without repeating the first.
                total = len(bitexts[0]) / shares[0]
                bitexts = [b.resample(round(total * s)) for b, s in zip(bitexts, shares, strict=True)]
            for bitext in bitexts:
                foreign += bitext.foreign
                english += bitext.english
                name = language if len(bitexts) == 1 else bitext.name
                groups += [name] * len(bitext)
        return Bitext("+".join(languages), foreign, english), groups


def texts_of(collection: Collection, role: str) -> list[str]:
    """The texts of a collection's queries or documents."""
    return list((collection.queries if role == "query" else collection.documents).values())


def train_cells(
    bench: Workbench, group: Sequence[Cell]
) -> Iterator[tuple[Cell, dict[str, Evaluation], dict]]:
    """Train the student that cells share, and evaluate it for each."""
    experiment = bench.experiment
    options = experiment.systems[group[0].system]
    languages = list(dict.fromkeys(cell.language for cell in group))
    if options.get("joint"):
        # Seeds that fewer languages ask for are trained on all of them, too.
        languages_in_training = experiment.languages_of(group[0].system)
    else:
        languages_in_training = languages
    seed = group[0].seed
    transformers.set_seed(seed)
    student = student_of(bench.start)
    if experiment.freeze_embeddings:
        freeze_word_embeddings(student)
    if not torch.cuda.is_available():
        use_plain_attention(student)
    if experiment.dropout is not None:
        set_dropout(student, experiment.dropout)
    training = {
        **TRAINING_DEFAULTS,
        "disable_tqdm": True,
        "logging_strategy": "no",
        **experiment.training,
        **(options.get("training") or {}),
        "seed": seed,
        "output_dir": str(bench.folder / "training"),
        "remove_unused_columns": False,
    }
    began = time.perf_counter()
    record: dict[str, Any] = {}
    if options.get("mlm"):
        text = bench.monolingual(options["mlm"], languages_in_training)
        record |= continue_mlm(student, text.foreign, _plain(training))
    if options.get("freeze_layers"):
        freeze_layers(student, options["freeze_layers"])
    if options.get("adapter_rank"):
        add_adapters(student, options["adapter_rank"])
    learn = _train_retrieval if options["loss"] == RETRIEVAL else _train_distillation
    record |= learn(bench, student, options, languages_in_training, dict(training))
    if options.get("mine"):
        record |= _train_on_mined(bench, student, options, languages_in_training, dict(training))
    if options.get("adapter_rank"):
        merge_adapters(student)
    shutil.rmtree(bench.folder / "training", ignore_errors=True)
    record["cell_seconds"] = (time.perf_counter() - began) / len(languages_in_training)
    student.eval()
    start = dict(bench.start.named_parameters())
    trained = {
        name: p.detach().clone() for name, p in student.named_parameters() if not torch.equal(p, start[name])
    }
    for system in dict.fromkeys(cell.system for cell in group):
        share = experiment.systems[system].get("interpolate", 1.0)
        with torch.no_grad():
            for name, parameter in student.named_parameters():
                if name in trained:
                    parameter.copy_(trained[name])
        interpolate(student, bench.start, share)
        shared: dict[int, list[np.ndarray]] = {}
        for language in languages:
            found = {}
            for where, collection in bench.collections(language).items():
                english = bench.english(collection)
                if options["loss"] == RETRIEVAL:
                    # Both sides were trained.
                    if id(english) not in shared:
                        shared[id(english)] = encode(student, texts_of(collection, bench.other), bench.other)
                    english = shared[id(english)]
                found[where] = bench.evaluate(student, collection, english)
            yield Cell(system, language, seed), found, record


def _plain(training: Mapping[str, Any]) -> dict[str, Any]:
    """Those of our training arguments that transformers' own trainer knows, for training without checks."""
    known = {f.name for f in dataclasses.fields(transformers.TrainingArguments) if f.init}
    unused = {"eval_strategy", "save_strategy", "load_best_model_at_end", "metric_for_best_model"}
    unused |= {"remove_unused_columns"}
    return {k: v for k, v in training.items() if k in known - unused}


def _train_on_mined(
    bench: Workbench,
    student: MultiVectorEncoder,
    options: Mapping[str, Any],
    languages: Sequence[str],
    training: dict[str, Any],
) -> dict[str, Any]:
    """Self-training: pairs that the student itself finds in text of the domain, besides its bitext."""
    student.eval()
    pairs, groups = bench.training_pairs(options, languages)
    foreign, english = list(pairs.foreign), list(pairs.english)
    right = found = 0
    own = {"margin": options["margin"]} if "margin" in options else {}
    for language in languages:
        text = bench.monolingual(options["mine"], [language])
        mined = mine_bitext(student, bench.teacher, text.foreign, text.english, **own)
        truth = bench.bitext(options["mine"].format(language=language))
        known = set(zip(truth.foreign, truth.english, strict=True))
        right += sum(pair in known for pair in zip(mined.foreign, mined.english, strict=True))
        found += len(mined)
        # As much of it as of the bitext, if there is any.
        if len(mined):
            mined = mined.resample(max(len(mined), len(pairs) // len(languages)))
            foreign += mined.foreign
            english += mined.english
            groups += [f"{language}, mined"] * len(mined)
    student.train()
    _distil(bench, student, options, Bitext("with mined", foreign, english), groups, training)
    return {"mined": found, "mined_right": right}


def _train_distillation(
    bench: Workbench,
    student: MultiVectorEncoder,
    options: Mapping[str, Any],
    languages: Sequence[str],
    training: dict[str, Any],
) -> dict[str, Any]:
    bitext, groups = bench.training_pairs(options, languages)
    return _distil(bench, student, options, bitext, groups, training)


def _distil(
    bench: Workbench,
    student: MultiVectorEncoder,
    options: Mapping[str, Any],
    bitext: Bitext,
    groups: Sequence[str],
    training: dict[str, Any],
) -> dict[str, Any]:
    own = {k: v for k, v in options.items() if k not in TRAINED}
    idf = _idf(bench, student, bitext) if own.get("marginals") == "idf" else {}
    loss = make_loss(own, student, bench.store, **idf)
    order = options.get("order", "pure" if options.get("joint") else "mixed")
    sampler = partial(LengthBucketBatchSampler, groups=groups, order=order)
    prompt = student.prompts.get(bench.side) or ""
    places = [bench.places[text] for text in bitext.english]
    training |= {
        "batch_sampler": sampler,
        "prompts": {"foreign": prompt},
        "router_mapping": {"foreign": bench.side},
    }
    record = fit(loss, bitext_dataset(bitext, [bench.side], places), training, save=False)
    return {**record, "pairs": len(bitext)}


def _idf(bench: Workbench, student: MultiVectorEncoder, bitext: Bitext) -> dict[str, Any]:
    english = Bitext("all", [], list(bench.places))
    folder = bench.folder / "cache" / "teacher-idf"
    return idf_weights(
        bench.teacher, student, dataclasses.replace(english, foreign=bitext.foreign), [bench.side], folder
    )


def _train_retrieval(
    bench: Workbench,
    student: MultiVectorEncoder,
    options: Mapping[str, Any],
    languages: Sequence[str],
    training: dict[str, Any],
) -> dict[str, Any]:
    texts: dict[tuple[int, str], str] = {}
    for language in languages:
        bitext, _ = bench.training_pairs(options, [language])
        for foreign, english in zip(bitext.foreign, bitext.english, strict=True):
            texts[bench.places[english], language] = foreign
            texts[bench.places[english], "en"] = english
    draw = np.random.default_rng(training["seed"])
    rows = {"query": [_cut(text, draw) for text in texts.values()], "passage": list(texts.values())}
    sampler = partial(
        HybridBatchSampler,
        messages=[message for message, _ in texts],
        languages=[language for _, language in texts],
        alpha=options.get("alpha", 0.5),
        weights=options.get("weights", "uniform"),
    )
    prompts = {"query": student.prompts.get("query") or "", "passage": student.prompts.get("document") or ""}
    training |= {
        "batch_sampler": sampler,
        "prompts": prompts,
        "router_mapping": {"query": "query", "passage": "document"},
    }
    scores = partial(maxsim_scores, length_normalize=True)
    loss = MultiVectorMultipleNegativesRankingLoss(
        student, scale=options.get("scale", 20.0), similarity_fct=scores
    )
    record = fit(loss, datasets.Dataset.from_dict(rows), training, collator=HybridCollator, save=False)
    return {**record, "pairs": len(texts)}


def _cut(text: str, draw: np.random.Generator) -> str:
    """A stretch of half of a text's words or more: what someone might ask for it."""
    words = text.split()
    length = int(draw.integers((len(words) + 1) // 2, len(words) + 1))
    start = int(draw.integers(0, len(words) - length + 1))
    return " ".join(words[start : start + length])


def untrained(bench: Workbench, cell: Cell) -> dict[str, Evaluation]:
    """Ask a system that needs no student."""
    options = bench.experiment.systems[cell.system]
    ask = {
        "zero-shot": _zero_shot,
        "psq": _psq,
        "bm25-translate": _bm25_translate,
        "nmt": _nmt,
        "fusion": _fusion,
    }[options["method"]]
    return {
        where: ask(bench, cell, options, where, collection)
        for where, collection in bench.collections(cell.language).items()
    }


def _zero_shot(bench, cell, options, where, collection) -> Evaluation:
    return bench.evaluate(bench.start, collection)


def _table(bench: Workbench, options: Mapping[str, Any], language: str) -> TranslationTable:
    """Translations of the queries' words into the documents' language, whichever is the foreign one."""
    bitext, _ = bench.training_pairs(options, [language])
    table = translation_table(bitext.foreign, bitext.english)
    return table if bench.side == "query" else TranslationTable(table.english, table.foreign)


def _psq(bench, cell, options, where, collection) -> Evaluation:
    own = {k: options[k] for k in ("cumulative", "k1", "b") if k in options}
    table = _table(bench, options, cell.language)
    return evaluate_run(psq(collection.queries, collection.documents, table, **own), collection)


def _translated(bench, cell, options, collection) -> dict[str, str]:
    texts = list(collection.queries.values())
    model = options.get("translator", DICTIONARY)
    if model == DICTIONARY:
        made = translate_words(texts, _table(bench, options, cell.language))
    else:
        codes = options.get("codes") or {}
        pair = [codes.get(name, name) for name in (cell.language, "en")]
        source, target = pair if bench.side == "query" else reversed(pair)
        own = {k: options[k] for k in ("num_beams", "batch_size") if k in options}
        cache = bench.folder / "cache" / "translations.jsonl"
        made = Translator(model, source, target, cache=cache, **own)(texts)
    return dict(zip(collection.queries, made, strict=True))


def _bm25_translate(bench, cell, options, where, collection) -> Evaluation:
    queries = _translated(bench, cell, options, collection)
    stemmed = "english" if bench.side == "query" else None
    return evaluate_run(bm25(queries, collection.documents, language=stemmed), collection)


def _nmt(bench, cell, options, where, collection) -> Evaluation:
    queries = encode(bench.teacher, list(_translated(bench, cell, options, collection).values()), "query")
    if bench.side == "query":
        documents = bench.english(collection)
    else:
        documents = encode(bench.teacher, list(collection.documents.values()), "document")
    return evaluate_tokens(queries, documents, collection)


def _fusion(bench, cell, options, where, collection) -> Evaluation:
    runs: list[Path] = []
    for part in options["of"]:
        seeds = bench.experiment.seeds_of(part, cell.language)
        seed = cell.seed if cell.seed in seeds else seeds[0]
        file = bench.folder / Cell(part, cell.language, seed).path / where / "run.trec"
        if not file.exists():
            raise InputError(f"of: '{part}' has no run for {cell.language}, seed {seed}: {file}")
        runs.append(file)
    fused = fuse(runs, method=options.get("method_of_fusion", "rrf"))
    return evaluate_run({query: list(found.items()) for query, found in fused.items()}, collection)


def definition(experiment: Experiment, cell: Cell) -> str:
    """A hash of all that a cell's results depend on."""
    options = experiment.systems[cell.system]
    parts = {part: experiment.systems[part] for part in options.get("of") or []}
    recipe = {f.name: getattr(experiment, f.name) for f in dataclasses.fields(Recipe)}
    wide = experiment.languages_of(cell.system) if options.get("joint") else [cell.language]
    content = [options, parts, recipe, experiment.training, wide, experiment.out_of_domain.get(cell.language)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


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


def run(
    experiment: Experiment,
    folder: Path,
    *,
    say: Callable[[str], None] = print,
    report_only: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Make the cells that are missing, unless ``report_only``, then the report.

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
    missing = [group for group in groups if not all(is_done(experiment, folder, cell) for cell in group)]
    total = sum(map(len, groups))
    say(f"{total} cells, {total - sum(map(len, missing))} of them done")
    failures: list[str] = []
    if report_only:
        missing = []
    bench = Workbench(experiment, folder) if missing else None
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
    parser = argparse.ArgumentParser(prog="optical-rs experiment", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a file of recipes/")
    parser.add_argument("--output_dir", type=Path, help="default: runs/RECIPE")
    parser.add_argument("--systems", nargs="+", help="only these")
    parser.add_argument("--languages", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, help="number of seeds, for all languages")
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
    _, failures = run(experiment, folder, report_only=options.report_only)
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


if __name__ == "__main__":
    from .cli import run_command

    run_command(main)
