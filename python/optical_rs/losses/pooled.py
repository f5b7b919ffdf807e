"""The sentence-level loss: mean token vectors."""

from torch import Tensor

from .base import BitextLoss, mean_tokens


def pooled_mse(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    """Mean over the batch of ``|mean(x) − mean(y)|²``."""
    return (mean_tokens(x, x_mask) - mean_tokens(y, y_mask)).square().sum(1).mean()


class PooledMSELoss(BitextLoss):
    """Squared distance of mean token vectors: the sentence-level distillation of Reimers & Gurevych
    (EMNLP 2020), with the mean of the token vectors as the sentence's."""

    def compare(self, features, labels, x, x_mask, y, y_mask):
        return pooled_mse(x, x_mask, y, y_mask)

    @property
    def citation(self) -> str:
        return """
@inproceedings{reimers2020multilingual,
    title = {Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation},
    author = {Reimers, Nils and Gurevych, Iryna},
    booktitle = {Proceedings of EMNLP},
    year = {2020},
    url = {https://arxiv.org/abs/2004.09813}
}
"""
