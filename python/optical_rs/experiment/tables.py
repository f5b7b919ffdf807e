"""The keys of recipes and the options of systems as tables in Markdown, for docs/reference/recipes.md."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ..baselines import Translator, psq
from ..losses import LOSSES, options_of
from ..ranking.tables import markdown
from ..training import Distillation
from ..training.batches import HybridBatchSampler
from ..training.hybrid import OPTIONS as HYBRID
from ..training.stages import mine_bitext
from .recipe import DISTILLATION, METHODS, OF_BITEXT, PAIRS, RETRIEVAL, Recipe

#: What each option of a system does. A recipe accepts exactly these; a test compares.
OPTIONS = {
    "languages": "only these languages of the recipe",
    "seeds": "fewer seeds than the recipe has",
    "bitext": "other sentence pairs than the recipe's: a source or file, or a list of them",
    "max_pairs": "only the first pairs of each bitext",
    "proportions": "the share of each bitext of the list in the training pairs",
    "joint": "true: one student of all the recipe's languages",
    "schedule": "`[[1, 0], [0, 1]]`: the share of each bitext, from the first epoch to the last, changing linearly",
    "order": "batches of several languages or bitexts: `mixed`, `pure` (one in each batch; the default of joint "
    "students) or `sequential` (the first one before the second, in every epoch)",
    "interpolate": "weight interpolation (WiSE-FT): 0 is the start of training, 1 its end (default: 1; 0.5 in `distil` and in "
    "`train --bitext` without a recipe)",
    "mlm": "text of the domain, of which the foreign side is used for masked-word training before distillation",
    "mine": "text of the domain without an alignment: pairs that the student finds in it are trained on afterwards",
    "margin": "of `mine`: how much better a pair must be than the neighbours of its sides (default: 1.02)",
    "anchor": "`{text: …, weight: 1, batch_size: 16}`: on this English text of other domains, the student's tokens stay "
    "where they were before training",
    "passages": "English passages (a spec or a list of them) that the student must score as the teacher does: of "
    "`translate-distill`, which scores the batch's sentences without them, and of `optical` with `scores_weight`",
    "scores_weight": "weight of an added term of Translate-Distill over `passages`",
    "candidates": "passages for each sentence and step, of the best ones by the teacher",
    "adapter_rank": "train low-rank adapters (LoRA) of this rank instead of all weights",
    "freeze_layers": "keep so many of the lowest layers fixed",
    "training": "training arguments of this system, over those of the recipe",
    "reg": "entropic regularisation, in the unit of `reg_scale`",
    "reg_scale": "`absolute`: cost units; `spread`: standard deviations of the costs of a pair",
    "reg_m": "unbalanced transport: the penalty on marginals; needs `grad: envelope` (default: balanced)",
    "solver": "`auto`, `linear` or `log`: Sinkhorn in that domain; `ipot`: proximal steps",
    "max_iter": "iterations of the solver at most",
    "tol": "marginal error at which the solver stops",
    "marginals": "token weights: `uniform`, or `idf` of the training text",
    "grad": "`envelope`: the plan is held fixed; `implicit`: the gradient through the plan",
    "transport_weight": "weight of the transport term; 0 leaves it out",
    "pooled_weight": "weight of an added pooled MSE term",
    "contrastive_weight": "weight of an added in-batch contrastive term",
    "scale": "factor of the scores in the softmax (inverse temperature)",
    "alpha": "the share of batches within one language; the others are across languages",
    "weights": "how languages are drawn: `uniform`, or by `size`",
    "ngrams": "compare runs of so many characters within words instead of words (default: words)",
    "cumulative": "translations of a word are kept until their probabilities sum to this",
    "k1": "of BM25",
    "b": "of BM25",
    "translator": "`dictionary`: word by word, with word alignments of the bitext; or a sequence-to-sequence model, "
    "by hub id or folder (default: `dictionary`)",
    "codes": "`{xx: swh_Latn}`: what the translator calls a language",
    "num_beams": "beams of the translator",
    "batch_size": "queries that the translator gets at a time",
    "of": "the systems whose runs are fused",
    "method_of_fusion": "`rrf`: reciprocal ranks; `score`: scaled scores; `weighted`: scores with a weight chosen on dev "
    "queries (default: `rrf`)",
    "shares": "of `method_of_fusion: score`: the weight of each system (default: equal weights)",
    "encoder": "the plain encoder, mean pooling (default: the student's)",
    "queries": "the collection with the human translations (default: the source's own)",
    "by": "how human translations are searched: `late`, `pooled` or `bm25` (default: `late`)",
}


def recipe_table() -> str:
    """The keys of a recipe: name, default and what it says."""
    rows = []
    for field in dataclasses.fields(Recipe):
        value = field.default if field.default is not dataclasses.MISSING else None
        rows.append([f"`{field.name}`", _shown(value), field.metadata["help"]])
    return markdown(["key", "default", "what it says"], rows)


def options_table() -> str:
    """The options of systems: name, which systems have it, default and what it does."""
    rows = []
    for option in options():
        what, default = OPTIONS[option], default_of(option)
        rows.append([f"`{option}`", owners_of(option), "" if "(default" in what else default, what])
    return markdown(["option", "of", "default", "what it does"], rows)


def options() -> list[str]:
    """Every option of every system, those of pairs and training first."""
    found = dict.fromkeys([*PAIRS, *DISTILLATION])
    for kind in LOSSES.values():
        # In the order of the signature.
        found |= dict.fromkeys(
            name for name in inspect.signature(kind).parameters if name in options_of(kind)
        )
    found |= dict.fromkeys([*HYBRID, *(name for own in METHODS.values() for name in own)])
    return list(found)


def owners_of(option: str) -> str:
    """The losses and methods that have an option."""
    if option in (*PAIRS, *DISTILLATION):
        trained = f"losses but `{RETRIEVAL}`" if option in OF_BITEXT else "losses"
        losses = [trained]
    else:
        losses = [f"`{name}`" for name, kind in LOSSES.items() if option in options_of(kind)]
        losses += [f"`{RETRIEVAL}`"] if option in HYBRID else []
    methods = [f"`{name}`" for name, own in METHODS.items() if option in own]
    return "all" if len(methods) == len(METHODS) else ", ".join([*losses, *methods])


def default_of(option: str) -> str:
    """The default of an option, where one of its users declares it."""
    users: Sequence[Callable[..., Any]] = (
        *LOSSES.values(), Distillation, psq, Translator, HybridBatchSampler, mine_bitext,
    )  # fmt: skip
    for user in users:
        parameter = inspect.signature(user).parameters.get(option)
        if parameter is not None and parameter.default is not inspect.Parameter.empty:
            return _shown(parameter.default)
    return ""


def _shown(value: Any) -> str:
    """A default as a recipe spells it; nothing for what is empty."""
    if value is None or value == "" or not isinstance(value, bool | int | float | str):
        return ""
    text = (
        str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
    )
    return f"`{text}`"
