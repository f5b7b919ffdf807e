"""``distil``: a student in one call."""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from sentence_transformers import MultiVectorEncoder

from ..data import Bitext, Collection, load_bitext
from ..errors import InputError
from ..files import path_of, spelled
from ..models import E5_SMALL, origin
from ..token_cache import TokenCache
from . import processes
from .anchor import read_anchor
from .dev import dev_of
from .distillation import DEFAULT, Distillation, name_of
from .english import read_english, specs_of
from .fit import MARK
from .teacher import check_models, prepare_start, prepare_teacher
from .trained import save_student


@processes.led(lambda *_, training=None, **__: training)
def distil(
    bitext: str | os.PathLike | Bitext,
    teacher: Any = E5_SMALL,
    *,
    student: str = "",
    loss: Any = DEFAULT["loss"],
    interpolate: float = DEFAULT["interpolate"],
    side: str = "query",
    dim: int = 128,
    dev: str | os.PathLike | Collection | bool = True,
    head_text: Sequence[str] | None = None,
    max_pairs: int | None = None,
    columns: tuple[str, str] = ("foreign", "english"),
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    output: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
    **options: Any,
) -> MultiVectorEncoder:
    """Distil a student from a teacher and sentence pairs: ``optical-rs train`` with one system.

    Parameters
    ----------
    bitext : str, path or Bitext
        As for :func:`optical_rs.load_bitext`.
    teacher : str, path or MultiVectorEncoder
        A late-interaction checkpoint, or any encoder, which gets a closed-form head of dimension ``dim``.
    student : str
        A checkpoint or encoder to start from; the teacher by default.
    loss : str or class
        As in :class:`Distillation`; its options are keyword arguments of this function.
    interpolate : float
        How far the student goes from its start: 1 is as trained, and less forgets less of what it could do before.
    side : {"query", "document", "both"}
        The role of the foreign texts.
    dev : str, path, Collection or bool
        Whose dev queries choose the best checkpoint. True holds pairs out of the bitext for that; False takes the
        last checkpoint.
    head_text : sequence of str, optional
        What a head is fitted on: English text like that which will be searched, best of all the documents themselves.
        The English of the bitext by default.
    max_pairs : int, optional
        Use only the first pairs.
    columns : pair of str
        Names of the foreign and the English column of a file.
    training : dict, optional
        Training arguments of transformers, such as ``{"num_train_epochs": 3, "learning_rate": 1e-4}``.
    seed : int
    output : path, optional
        Where the student is saved, with checkpoints from which an interrupted call goes on.
    cache : path, optional
        Of token embeddings; see :class:`~optical_rs.token_cache.TokenCache`.
    **options
        Options of the loss, such as ``reg=0.05``, and the other attributes of :class:`Distillation`;
        ``anchor={"text": "qed", "weight": 1.0}`` holds the student's English where it was.

    Returns
    -------
    MultiVectorEncoder
        An ordinary model of sentence-transformers, which knows its teacher: see
        :func:`optical_rs.evaluate_student`.

    Raises
    ------
    InputError
        Bad bitext, models that cannot be had or do not fit, unknown options.

    Examples
    --------
    >>> import optical_rs
    >>> student = optical_rs.distil("kolibri:ny", max_pairs=64, training={"max_steps": 2})  # doctest: +SKIP
    """
    fields = {f.name for f in dataclasses.fields(Distillation)}
    own = {key: options.pop(key) for key in list(options) if key in fields}
    if own.get("anchor") is not None:
        own["anchor"] = read_anchor(own["anchor"], "query" if side == "both" else side)
    if own.get("passages") is not None:
        own["passages"] = read_english(specs_of(own["passages"], "passages"), "document", "passages")
    recipe = Distillation(
        loss=loss,
        loss_options=options,
        side=side,
        interpolate=interpolate,
        training={"disable_tqdm": True, "logging_strategy": "no", **(training or {})},
        seed=seed,
        **own,
    )
    pairs = bitext if isinstance(bitext, Bitext) else load_bitext(bitext, columns=columns)
    pairs, held = dev_of(dev, pairs.head(max_pairs), recipe.search_side)
    head_text = pairs.english if head_text is None else list(head_text)
    folder = None if output is None else path_of("output", output)
    if folder is not None:
        unfinished = folder / "checkpoints"
        if unfinished.exists() and not (unfinished / MARK).exists():
            raise InputError(f"output: {unfinished} holds files that are not of a run; choose another folder")
    if isinstance(teacher, MultiVectorEncoder):
        model, path = teacher, ""
        begin = prepare_start(student, model, head_text, None)
    else:
        check_models(
            spelled("teacher", teacher, "a MultiVectorEncoder, or the path or name of a model"), student, dim
        )
        where = None if folder is None else folder / "teacher"
        model, path = prepare_teacher(str(teacher), dim, head_text, where)
        begin = prepare_start(student, model, head_text, None if folder is None else folder / "start")
    trained = recipe.train(
        pairs,
        model,
        begin,
        dev=held,
        english=TokenCache(model, cache),
        folder=None if folder is None else folder / "checkpoints",
    )
    made = trained.at(interpolate)
    if folder is not None:
        base = student or (teacher if isinstance(teacher, str | os.PathLike) else "")
        system = {"loss": name_of(loss), **options, "interpolate": interpolate}
        save_student(made, folder, trained, path, {**origin(str(base), [pairs.name]), "system": system})
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return made
