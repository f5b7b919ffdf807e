"""Batches of texts of similar length."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sentence_transformers.base.sampler import DefaultBatchSampler


class LengthBucketBatchSampler(DefaultBatchSampler):
    """Random batches of texts of similar length, the same for the same seed and epoch.

    Each epoch shuffles the pairs, sorts stretches of :attr:`STRETCH` batches by length, cuts batches
    and shuffles those. Nothing depends on what was drawn before, so a resumed run sees the batches
    that an uninterrupted one would. Length is that of the first text column in characters.
    """

    #: Batches that are sorted together: long enough for even lengths, short enough to stay random.
    STRETCH = 64

    def __init__(self, dataset: Any, batch_size: int, drop_last: bool, **kwargs: Any):
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last, **kwargs)
        labels = kwargs.get("valid_label_columns") or []
        texts = next(c for c in dataset.column_names if c not in labels)
        self.lengths = np.array([len(t) for t in dataset[texts]])

    def __iter__(self) -> Iterator[list[int]]:
        draw = np.random.default_rng([self.seed or 0, self.epoch])
        order = draw.permutation(len(self.lengths))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), self.STRETCH * self.batch_size):
            stretch = order[start : start + self.STRETCH * self.batch_size]
            stretch = stretch[np.argsort(self.lengths[stretch], kind="stable")]
            batches += [stretch[i : i + self.batch_size] for i in range(0, len(stretch), self.batch_size)]
        if self.drop_last:
            batches = [b for b in batches if len(b) == self.batch_size]
        for i in draw.permutation(len(batches)):
            yield batches[i].tolist()

    def __len__(self) -> int:
        whole, rest = divmod(len(self.lengths), self.batch_size)
        return whole + (0 if self.drop_last or not rest else 1)
