"""Contrastive retrieval training on parallel texts in several languages: hybrid batches."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss

from ..data import Bitext
from ..similarity.torch_ops import maxsim_scores
from .batches import HybridBatchSampler, HybridCollator
from .fit import fit

#: The loss's name in recipes.
RETRIEVAL = "retrieval"
#: Its options.
OPTIONS = ("alpha", "weights", "scale")


def train_hybrid(
    student: MultiVectorEncoder,
    bitext: Bitext,
    languages: Sequence[str],
    training: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    anchored: Callable[..., Any] | None = None,
    label: str = "training",
) -> dict[str, Any]:
    """Train both sides of a student: a stretch of a text must find the text, in its own or another language.

    Parameters
    ----------
    student : MultiVectorEncoder
        Trained in place.
    bitext : Bitext
        Texts of the same English are one text in several languages.
    languages : sequence of str
        The foreign language of each pair.
    training : dict
        Training arguments.
    options : dict
        ``alpha`` and ``weights`` of :class:`~optical_rs.training.batches.HybridBatchSampler`; ``scale`` of the
        contrastive loss.
    anchored : callable, optional
        Makes another loss of a loss and the student.
    label : str
        Of the progress bar.

    Returns
    -------
    dict
        As of :func:`~optical_rs.training.fit.fit`, and ``texts``.
    """
    places = {text: i for i, text in enumerate(dict.fromkeys(bitext.english))}
    texts: dict[tuple[int, str], str] = {}
    names = list(languages) or ["foreign"] * len(bitext)
    for foreign, english, language in zip(bitext.foreign, bitext.english, names, strict=True):
        texts[places[english], language] = foreign
        texts[places[english], "en"] = english
    draw = np.random.default_rng(training["seed"])
    rows = {"query": [_cut(text, draw) for text in texts.values()], "passage": list(texts.values())}
    sampler = partial(
        HybridBatchSampler,
        messages=[message for message, _ in texts],
        languages=[language for _, language in texts],
        alpha=options.get("alpha", 0.5),
        weights=options.get("weights", "uniform"),
    )
    mapping = {
        "batch_sampler": sampler,
        "prompts": {
            "query": student.prompts.get("query") or "", "passage": student.prompts.get("document") or ""
        },
        "router_mapping": {"query": "query", "passage": "document"},
    }  # fmt: skip
    loss: Any = MultiVectorMultipleNegativesRankingLoss(
        student,
        scale=options.get("scale", 20.0),
        similarity_fct=partial(maxsim_scores, length_normalize=True),
    )
    if anchored is not None:
        loss = anchored(loss, student)
    record = fit(loss, Dataset.from_dict(rows), {**training, **mapping}, collator=HybridCollator, label=label)
    return {**record, "texts": len(texts)}


def _cut(text: str, draw: np.random.Generator) -> str:
    """A stretch of half of a text's words or more: what someone might ask for it."""
    words = text.split()
    length = int(draw.integers((len(words) + 1) // 2, len(words) + 1))
    start = int(draw.integers(0, len(words) - length + 1))
    return " ".join(words[start : start + length])
