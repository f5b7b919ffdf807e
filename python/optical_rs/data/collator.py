"""Batches whose two columns belong to two tokenisers."""

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
