"""A trained teacher: contrastive MaxSim training on English questions with passages that answer them."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from datasets import Dataset
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss

from .. import fingerprint
from ..data import Collection, QuestionPassages, load_pairs
from ..data.sources.known_item import normal
from ..errors import InputError, require
from ..models import (
    E5_SMALL,
    RECORD,
    freeze_word_embeddings,
    is_late_interaction,
    load_model,
    origin,
    set_dropout,
    student_of,
    weights,
)
from ..retrieval import content_of
from ..similarity.torch_ops import maxsim_scores
from ..token_cache import TokenCache
from . import arguments, processes
from .dev import RetrievalEvaluator
from .fit import claim, fit
from .negatives import Negatives, mine_negatives, without_copies
from .teacher import expect_room, prepare_teacher, save_teacher, teacher_identity, trained_before

#: Raise when the way teachers are trained changes.
_REVISION = 1
#: Texts that a head is fitted on at most: half questions, half passages.
HEAD_TEXTS = 1000
#: Dev questions and passages at most. The model in training encodes all of them at every evaluation.
DEV_QUERIES, DEV_DOCUMENTS = 300, 600


def defaults() -> dict[str, Any]:
    """Training arguments of teachers, over :func:`.arguments.defaults`."""
    return {
        **arguments.defaults(),
        "per_device_train_batch_size": 24,
        "num_train_epochs": 1,
        "learning_rate": 1e-4,
        # One pass over the pairs is evaluated four times.
        "eval_strategy": "steps",
        "eval_steps": 0.25,
        "save_strategy": "steps",
        "save_steps": 0.25,
        # A single long passage would make a batch of long ones, and memory grows with it.
        "max_length": 192,
        # No text is twice in a batch, where it would be a negative of itself.
        "batch_sampler": "no_duplicates",
    }


@processes.led(lambda *_, training=None, **__: training)
def train_retriever(
    encoder: Any = E5_SMALL,
    pairs: Any = (),
    *,
    dim: int = 128,
    negatives: Any = "bm25",
    dev: Collection | None = None,
    scale: float = 20.0,
    freeze_embeddings: bool = True,
    dropout: float | None = 0.0,
    interpolate: float = 1.0,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
    overwrite: bool = False,
    cache: str | os.PathLike | None = None,
    label: str = "training the teacher",
) -> MultiVectorEncoder:
    """Train a late-interaction model on English questions with passages: a teacher to distil from.

    An encoder first gets a closed-form head, fitted on the questions and passages. Then each question must score its
    passage above hard negatives and above the passages of the rest of the batch, by MaxSim over the question's number
    of tokens [1]_.

    Parameters
    ----------
    encoder : str, path or MultiVectorEncoder
        Any encoder, or a late-interaction checkpoint, which is trained on.
    pairs : QuestionPassages, str, or a sequence of them
        As for :func:`optical_rs.data.load_pairs`.
    dim : int
        Of the head.
    negatives : str, dict or Negatives
        See :class:`~optical_rs.training.negatives.Negatives`.
    dev : Collection, optional
        Its queries choose the best checkpoint. Pairs with these queries or with passages that answer them are left
        out of training. The last checkpoint is taken without them.
    scale : float
        Of scores, the reciprocal of the temperature.
    freeze_embeddings : bool
        Keep the word embedding table fixed, so that languages that are not trained keep theirs.
    dropout : float, optional
        In training; None for the encoder's own.
    interpolate : float
        Weights are interpolated between those before training (0) and after it (1), WiSE-FT: a teacher in between keeps
        more of what the encoder knows of other languages.
    training : dict
        Training arguments, over :func:`defaults`.
    seed : int
    folder : path, optional
        Where the model is saved; an interrupted call goes on from the checkpoints in it, and one that is repeated
        loads the model.
    overwrite : bool
        Replace a model in ``folder`` that was made of something else, which otherwise is an error.
    cache : path, optional
        Of token embeddings, where the model finds negatives; see :class:`~optical_rs.token_cache.TokenCache`.
    label : str
        Of the progress bar.

    Returns
    -------
    MultiVectorEncoder
        With ``optical_record``: ``pairs``, ``left_out``, ``steps``, ``train_seconds``, and ``dev_map`` with ``dev``.

    Raises
    ------
    InputError
        No pairs; a model, an option or a folder that cannot be used.

    References
    ----------
    .. [1] O. Khattab, M. Zaharia. ColBERT: efficient and effective passage search via contextualized late
       interaction over BERT. SIGIR 2020.

    Examples
    --------
    >>> from optical_rs.training import train_retriever
    >>> teacher = train_retriever(pairs=["qed", "xquad"], training={"max_steps": 10})  # doctest: +SKIP
    """
    mined, options = Negatives.of(negatives), {**defaults(), **(training or {})}
    arguments.check(options, "training")
    if not scale > 0:
        raise InputError(f"scale: expected a number above 0, got {scale}")
    if not isinstance(interpolate, int | float) or not 0 < interpolate <= 1:
        raise InputError(f"interpolate: expected a share in 0..1, got {interpolate}")
    # What is wrong with values is found before minutes of mining.
    arguments.made({**options, "output_dir": "", "load_best_model_at_end": False})
    if mined.by == "bm25":
        require("bm25s", "baselines")
    held = None if dev is None else dev.sample(queries=DEV_QUERIES, documents=DEV_DOCUMENTS)
    loaded = _loaded(pairs)
    every = without_copies(loaded)
    used = every if held is None else _without_dev(every, held)
    if len(used) < 2:
        raise InputError(
            f"pairs: expected two pairs or more to train on, got {len(used)} of {len(every)} without those of dev"
        )
    identity = fingerprint.of_settings(
        {
            "revision": _REVISION,
            "start": _identity(encoder, dim, used),
            "pairs": [fingerprint.of_texts(texts) for texts in (used.questions, used.passages)],
            "known": [fingerprint.of_settings(texts) for texts in (used.negatives, used.answers)],
            "negatives": dataclasses.asdict(mined),
            "scale": scale,
            "freeze_embeddings": freeze_embeddings,
            "dropout": dropout,
            # Named where it counts, so that a teacher of before this option is still known by its content.
            **({} if interpolate == 1 else {"interpolate": interpolate}),
            "training": arguments.what_counts(options),
            "seed": seed,
            "dev": None if held is None else content_of(held),
        }
    )
    target = None if folder is None else Path(folder)
    if target is not None:
        done = trained_before(target, identity, overwrite)
        if done is not None:
            return done
    model = _start(encoder, dim, used, None if target is None else target / "start")
    tokens = TokenCache(model, cache) if mined.by == "model" else None
    rows = mine_negatives(used, mined, tokens, seed=seed)
    # The columns of all rows are alike; a row without enough negatives is left out, as no other passage may be one.
    count = max(map(len, rows))
    kept = [i for i, row in enumerate(rows) if len(row) == count]
    place = None if target is None else target / "checkpoints"
    if target is not None and place is not None:
        claim(place, identity)
        (target / RECORD).unlink(missing_ok=True)
    columns: dict[str, list[str]] = {
        "query": [used.questions[i] for i in kept],
        "positive": [used.passages[i] for i in kept],
        **{f"negative_{n + 1}": [rows[i][n] for i in kept] for n in range(count)},
    }
    start = student_of(model) if interpolate < 1 else None
    if freeze_embeddings:
        freeze_word_embeddings(model)
    if dropout is not None:
        set_dropout(model, dropout)
    record = processes.together(
        _contrast, model, columns, held, scale, {**options, "seed": seed}, place, label
    )
    model.eval()
    if start is not None:
        weights.interpolate(model, start, interpolate)
        record["interpolate"] = interpolate
        if held is not None:
            record["dev_map"] = RetrievalEvaluator(held, None)(model)["dev_map"]
    record |= {"pairs": len(kept), "left_out": len(every) - len(kept), "negatives": dataclasses.asdict(mined)}
    record |= origin(encoder if isinstance(encoder, str) else "", [part.name for part in loaded])
    if target is not None:
        save_teacher(model, target, identity, record)
    model.optical_record = record
    return model


def _contrast(
    model: MultiVectorEncoder,
    columns: Mapping[str, list[str]],
    dev: Collection | None,
    scale: float,
    training: Mapping[str, Any],
    folder: Path | None,
    label: str,
) -> dict[str, Any]:
    """Train a model in place on questions with passages and negatives, in all processes."""
    transformers.set_seed(training["seed"])
    roles = {name: "query" if name == "query" else "document" for name in columns}
    loss = MultiVectorMultipleNegativesRankingLoss(
        model, scale=scale, similarity_fct=partial(maxsim_scores, length_normalize=True)
    )
    with tempfile.TemporaryDirectory() as temporary:
        mapping = {
            "prompts": {name: model.prompts.get(role) or "" for name, role in roles.items()},
            "router_mapping": roles,
            "output_dir": str(folder) if folder is not None and processes.is_main() else temporary,
            "remove_unused_columns": False,
        }
        if folder is None and dev is None:
            mapping["save_strategy"] = "no"
        return fit(
            loss,
            Dataset.from_dict(dict(columns)),
            {**training, **mapping},
            evaluator=None if dev is None else RetrievalEvaluator(dev, None),
            label=label,
        )


def _loaded(pairs: Any) -> list[QuestionPassages]:
    given = [pairs] if isinstance(pairs, str | os.PathLike | QuestionPassages) else list(pairs)
    if not given:
        raise InputError("pairs: expected questions with passages, got none; see docs/how-to/data.md")
    return [part if isinstance(part, QuestionPassages) else load_pairs(part) for part in given]


def _without_dev(pairs: QuestionPassages, dev: Collection) -> QuestionPassages:
    """Pairs of which neither the question is asked in dev nor the passage answers one that is."""
    asked = {normal(text) for text in dev.queries.values()}
    judged = {d for found in dev.qrels.values() for d, grade in found.items() if grade > 0}
    answering = {normal(text) for d, text in dev.documents.items() if d in judged}
    kept = [
        i
        for i, (question, passage) in enumerate(zip(pairs.questions, pairs.passages, strict=True))
        if normal(question) not in asked and normal(passage) not in answering
    ]
    return pairs.take(kept)


def _head_texts(pairs: QuestionPassages) -> list[str]:
    """Questions and passages, evenly from all sources."""
    texts: dict[str, None] = {}
    for part in (pairs.questions, pairs.passages):
        unique = list(dict.fromkeys(part))
        places = np.linspace(0, len(unique) - 1, min(len(unique), HEAD_TEXTS // 2)).astype(int)
        texts |= dict.fromkeys(unique[i] for i in places)
    return list(texts)


def _identity(encoder: Any, dim: int, pairs: QuestionPassages) -> str:
    if isinstance(encoder, MultiVectorEncoder):
        return fingerprint.of_model(encoder)
    if is_late_interaction(str(encoder), "encoder"):
        return fingerprint.of_model(load_model(encoder, argument="encoder"))
    expect_room(str(encoder), dim)
    return teacher_identity(str(encoder), dim, _head_texts(pairs))


def _start(encoder: Any, dim: int, pairs: QuestionPassages, folder: Path | None) -> MultiVectorEncoder:
    if isinstance(encoder, MultiVectorEncoder):
        return student_of(encoder)
    return prepare_teacher(str(encoder), dim, _head_texts(pairs), folder)[0]
