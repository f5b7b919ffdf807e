"""A teacher with fewer layers: some of the layers of another, which learn its tokens."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import MultiVectorEncoder

from .. import fingerprint
from ..data import Bitext, Collection
from ..data.sources.known_item import normal
from ..errors import InputError
from ..losses import TokenMSELoss
from ..models import keep_layers, origin, student_of
from ..retrieval import content_of
from ..token_cache import TokenCache
from . import arguments, processes
from .dev import evaluate_alone
from .distillation import Distillation, name_of
from .retriever import DEV_DOCUMENTS, DEV_QUERIES
from .teacher import save_teacher, trained_before

#: Raise when the way layers are healed changes.
_REVISION = 1
#: Words of a text at most. Attention over long texts takes more time than it teaches.
WORDS = 200


def defaults() -> dict[str, Any]:
    """Training arguments, over :func:`.arguments.defaults`."""
    return {
        **arguments.defaults(),
        "max_steps": 1200,
        "learning_rate": 5e-4,
        # Every text is seen a few times; the last weights are taken, as the loss has no reason to rise.
        "eval_strategy": "no",
        "save_strategy": "steps",
        "save_steps": 0.25,
    }


@processes.led(lambda *_, training=None, **__: training)
def fewer_layers(
    teacher: MultiVectorEncoder,
    layers: int,
    texts: Sequence[str],
    *,
    dev: Collection | None = None,
    freeze_embeddings: bool = True,
    dropout: float | None = 0.0,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    cache: str | os.PathLike[str] | None = None,
    base: str = "",
    sources: Sequence[str] = (),
    label: str = "training fewer layers",
) -> MultiVectorEncoder:
    """A teacher with evenly spaced layers of another, trained to make the same tokens of the same texts.

    Encoding takes time in proportion to the layers. The first and the last layer are kept, with those evenly between
    them, and so are embeddings and head. The rest is distillation on single texts, each as query and as document: each
    token of the shorter model is compared with the whole model's token. Both are in one space
    afterwards: queries of either search passages of either.

    Parameters
    ----------
    teacher : MultiVectorEncoder
        It stays as it is.
    layers : int
        From 2 to the teacher's own number.
    texts : sequence of str
        Questions, passages, sentences; of long ones the first :data:`WORDS` words. Foreign text keeps its language in
        place.
    dev : Collection, optional
        Its questions, and passages that answer them, are left out of ``texts``, and its MAP is in the record. The last
        weights are taken in any case.
    freeze_embeddings, dropout, training, seed
        As for :func:`~optical_rs.training.train_retriever`; training arguments are over :func:`defaults`.
    folder, overwrite, cache, label
        As there.
    base : str
        What the card says that the teacher was.
    sources : sequence of str
        What it says that the texts were.

    Returns
    -------
    MultiVectorEncoder
        With ``optical_record``: ``system`` (its layers), ``texts``, ``steps``, ``train_seconds``, and ``dev_map`` with ``dev``.

    Raises
    ------
    InputError
        Fewer than two texts; a number of layers, an option or a folder that cannot be used.

    References
    ----------
    .. [1] V. Sanh, L. Debut, J. Chaumond, T. Wolf. DistilBERT, a distilled version of BERT. arXiv 1910.01108.

    Examples
    --------
    >>> from optical_rs.models import load_model
    >>> from optical_rs.training import fewer_layers
    >>> teacher = load_model("runs/english_teacher")  # doctest: +SKIP
    >>> small = fewer_layers(teacher, 6, texts, folder="runs/english_teacher_6")  # doctest: +SKIP
    """
    start = student_of(teacher)
    keep_layers(start, layers)
    held = None if dev is None else dev.sample(queries=DEV_QUERIES, documents=DEV_DOCUMENTS)
    used = _without(texts, held)
    if len(used) < 2:
        raise InputError(f"texts: expected two or more, got {len(used)} of {len(texts)} without those of dev")
    engine = Distillation(
        loss=TokenMSELoss,
        side="both",
        freeze_embeddings=freeze_embeddings,
        dropout=dropout,
        training={**defaults(), **(training or {})},
        seed=seed,
    )
    same = Bitext("texts", used, used)
    # Half precision: the tokens of some thousand passages are a gigabyte in single.
    tokens = TokenCache(teacher, cache, dtype="float16")
    identity = fingerprint.of_settings(
        {
            "revision": _REVISION,
            "training": engine.identity(tokens.fingerprint, fingerprint.of_model(start), same),
            "dev": None if held is None else content_of(held),
        }
    )
    target = None if folder is None else Path(folder)
    if target is not None:
        done = trained_before(target, identity, overwrite)
        if done is not None:
            return done
    trained = engine.train(
        same,
        teacher,
        start,
        english=tokens,
        folder=None if target is None else target / "checkpoints",
        label=label,
    )
    model = trained.student
    timing = {k: v for k, v in trained.record.items() if k != "pairs"}
    system = {"loss": name_of(TokenMSELoss), "layers": layers}
    record = {"system": system, "texts": len(used), **timing, **origin(base, sources)}
    if held is not None:
        record["dev_map"] = float(evaluate_alone(model, held).result.mean["map"])
    if target is not None:
        save_teacher(model, target, identity, record)
    model.optical_record = record
    return model


def _without(texts: Sequence[str], dev: Collection | None) -> list[str]:
    """Each text once, cut to :data:`WORDS`, without dev questions and passages that answer them."""
    left: set[str] = set()
    if dev is not None:
        judged = {d for found in dev.qrels.values() for d, grade in found.items() if grade > 0}
        left = {normal(text) for text in dev.queries.values()}
        left |= {normal(text) for d, text in dev.documents.items() if d in judged}
    kept = (text for text in texts if text.strip() and normal(text) not in left)
    return list(dict.fromkeys(" ".join(text.split()[:WORDS]) for text in kept))
