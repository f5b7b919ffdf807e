"""Students: their training, with whatever adaptation a system asks for, and their cells."""

import dataclasses
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss

from ..data import Bitext
from ..models import (
    add_adapters,
    freeze_layers,
    freeze_word_embeddings,
    interpolate,
    merge_adapters,
    set_dropout,
    student_of,
    use_plain_attention,
)
from ..retrieval import Evaluation, encode
from ..similarity.torch_ops import maxsim_scores
from ..train import TRAINING_DEFAULTS, bitext_dataset, fit, idf_weights, make_loss
from ..training.batches import HybridBatchSampler, HybridCollator, LengthBucketBatchSampler
from ..training.stages import continue_mlm, mine_bitext
from .recipe import RETRIEVAL, TRAINED, Cell
from .workbench import Workbench, texts_of


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
    schedule = options.get("schedule")
    if schedule:
        schedule = _by_epoch(schedule, math.ceil(training["num_train_epochs"]))
    sampler = partial(LengthBucketBatchSampler, groups=groups, order=order, schedule=schedule)
    prompt = student.prompts.get(bench.side) or ""
    places = [bench.places[text] for text in bitext.english]
    training |= {
        "batch_sampler": sampler,
        "prompts": {"foreign": prompt},
        "router_mapping": {"foreign": bench.side},
    }
    record = fit(loss, bitext_dataset(bitext, [bench.side], places), training, save=False)
    return {**record, "pairs": len(bitext)}


def _by_epoch(stages: Sequence[Sequence[float]], epochs: int) -> list[list[float]]:
    """Shares of each epoch: from the first stage's to the last's, in straight lines."""
    table = np.array(stages, dtype=float)
    at = np.linspace(0, len(table) - 1, epochs)
    return np.stack([np.interp(at, np.arange(len(table)), column) for column in table.T], axis=1).tolist()


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
