"""Retrieval on a development set, for sentence-transformers' trainer."""

import numpy as np
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.evaluation import BaseEvaluator

from ..data import Collection
from ..retrieval import encode, evaluate_tokens


class RetrievalEvaluator(BaseEvaluator):
    """Dev-set retrieval during training: the side that the teacher encodes is encoded once.

    Parameters
    ----------
    collection : Collection
        Dev queries and their documents.
    teacher : MultiVectorEncoder
        Encodes the English side.
    side : {"query", "document"}
        The side that the student encodes.
    fixed : list of (tokens, dim) arrays, optional
        The teacher's tokens of the other side, if they are known already.
    """

    def __init__(
        self,
        collection: Collection,
        teacher: MultiVectorEncoder,
        side: str = "query",
        *,
        fixed: list[np.ndarray] | None = None,
    ):
        super().__init__()
        self.collection, self.side = collection, side
        other = "document" if side == "query" else "query"
        self.fixed = fixed if fixed is not None else encode(teacher, self._texts(other), other)
        self.primary_metric = "dev_map"

    def _texts(self, role: str) -> list[str]:
        return list((self.collection.queries if role == "query" else self.collection.documents).values())

    def __call__(self, model, output_path=None, epoch=-1, steps=-1) -> dict[str, float]:
        training = model.training
        moving = encode(model, self._texts(self.side), self.side)
        model.train(training)
        pair = (moving, self.fixed) if self.side == "query" else (self.fixed, moving)
        mean = evaluate_tokens(*pair, self.collection, ("map", "ndcg_cut_10")).result.mean
        metrics = {f"dev_{name}": value for name, value in mean.items()}
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics
