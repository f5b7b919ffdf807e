"""Development queries: which they are, and their MAP during training."""

import os
from collections.abc import Sequence
from typing import Any

from sentence_transformers.base.evaluation import BaseEvaluator

from ..data import Bitext, Collection, load_collection
from ..data.split import hold_out
from ..retrieval import MEASURES, Evaluation, encode, evaluate_pair, evaluate_tokens, texts_of
from ..token_cache import TokenCache

#: Dev queries and documents at most: they are searched after every epoch.
DEV_QUERIES, DEV_DOCUMENTS = 500, 5000


class RetrievalEvaluator(BaseEvaluator):
    """MAP of development queries during training; the English side comes from the teacher's cache.

    Parameters
    ----------
    collection : Collection
        Dev queries and their documents.
    english : TokenCache or None
        Of the teacher; None for a model that encodes both sides.
    side : {"query", "document"}
        The side that the student encodes.
    """

    def __init__(self, collection: Collection, english: TokenCache | None, side: str = "query"):
        super().__init__()
        self.collection, self.english, self.side = collection, english, side
        self.primary_metric = "dev_map"

    def __call__(self, model, output_path=None, epoch=-1, steps=-1) -> dict[str, float]:
        training, measures = model.training, ("map", "ndcg_cut_10")
        if self.english is None:
            found = evaluate_alone(model, self.collection, measures)
        else:
            found = evaluate_pair(model, self.english, self.collection, self.side, measures=measures)
        model.train(training)
        metrics = {f"dev_{name}": value for name, value in found.result.mean.items()}
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics


def evaluate_alone(model: Any, collection: Collection, measures: Sequence[str] = MEASURES) -> Evaluation:
    """Search a collection with a model on both sides, and score."""
    queries, documents = (encode(model, texts_of(collection, role), role) for role in ("query", "document"))
    return evaluate_tokens(queries, documents, collection, measures)


def dev_of(
    dev: str | os.PathLike | Collection | bool, bitext: Bitext, side: str
) -> tuple[Bitext, Collection | None]:
    """The pairs to train on and the dev queries: a collection's own, or pairs held out of the bitext."""
    if dev is False:
        return bitext, None
    if isinstance(dev, Collection):
        return bitext, dev.sample(queries=DEV_QUERIES, documents=DEV_DOCUMENTS)
    if dev is not True:
        found = load_collection(str(dev), split="dev", side=side)
        return bitext, found.sample(queries=DEV_QUERIES, documents=DEV_DOCUMENTS)
    count = min(200, len(bitext) // 10)
    if count < 8:
        return bitext, None
    if side == "query":
        kept, held = hold_out(bitext, dev=count, test=0)
    else:
        # English queries, foreign documents.
        turned, held = hold_out(Bitext(bitext.name, bitext.english, bitext.foreign), dev=count, test=0)
        kept = Bitext(bitext.name, turned.english, turned.foreign)
    return kept, held["dev"].sample(documents=DEV_DOCUMENTS)
