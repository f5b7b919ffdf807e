"""Batches whose columns are not simply the data set's columns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sentence_transformers.multi_vector_encoder.data_collator import MultiVectorEncoderDataCollator


@dataclass
class BitextCollator(MultiVectorEncoderDataCollator):
    """Tokenises the column ``english`` with the teacher and the others with the student.

    Needed only where the teacher runs inside the loss; a teacher's
    :class:`~optical_rs.similarity.TokenStore` needs no English text in the batch.

    Attributes
    ----------
    teacher_preprocess : callable
        ``teacher.preprocess``.
    """

    teacher_preprocess: Callable[..., dict[str, Any]] | None = None

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        features = [dict(row) for row in features]
        english = [row.pop("english") for row in features if "english" in row]
        batch = super().__call__(features)
        if english and self.teacher_preprocess is not None:
            task = next((v for k, v in batch.items() if k.endswith("_task")), "query")
            prompts = self.prompts if isinstance(self.prompts, dict) else {}
            encoded = self.teacher_preprocess(english, prompt=prompts.get("english"), task=task)
            batch |= {f"english_{key}": value for key, value in encoded.items()}
            batch["english_task"] = task
        return batch


@dataclass
class HybridCollator(MultiVectorEncoderDataCollator):
    """Makes pairs of what a :class:`~optical_rs.data.sampler.HybridBatchSampler` draws: the first half of a
    batch gives the column ``query``, the second half the column ``passage``."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        half = len(features) // 2
        pairs = zip(features[:half], features[half:], strict=True)
        return super().__call__([{"query": q["query"], "passage": p["passage"]} for q, p in pairs])
