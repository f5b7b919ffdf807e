"""Token weights by inverse document frequency, with sentences as documents."""

from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder

#: Texts that are tokenised together.
BATCH = 4096


def inverse_document_frequency(
    model: MultiVectorEncoder, texts: Sequence[str], prompts: Sequence[str] = ("",)
) -> np.ndarray:
    """``log((1 + N) / (1 + df)) + 1`` of every token id of a model: (vocabulary,) float64.

    Parameters
    ----------
    model : MultiVectorEncoder
        Its tokenizer cuts the texts.
    texts : sequence of str
        N sentences; df counts those that an id occurs in.
    prompts : sequence of str
        What is put before every sentence, in each role: its tokens are in all of them, and weigh 1.
    """
    return np.min([_of_one_role(model, texts, prompt) for prompt in prompts], axis=0)


def _of_one_role(model: MultiVectorEncoder, texts: Sequence[str], prompt: str) -> np.ndarray:
    frequency = np.zeros(model[0].auto_model.get_input_embeddings().num_embeddings)
    count = 0
    batch: list[str] = []

    def add() -> None:
        for ids in model.tokenizer(batch, truncation=True, max_length=model.get_max_seq_length())[
            "input_ids"
        ]:
            frequency[np.unique(ids)] += 1

    for text in texts:
        batch.append(prompt + text)
        count += 1
        if len(batch) == BATCH:
            add()
            batch = []
    if batch:
        add()
    return np.log((1 + count) / (1 + frequency)) + 1


class TeacherWeights(Sequence):
    """The weight of each teacher token of a sentence, by its place; parallel to the teacher's stored tokens.

    Made when they are asked for, by cutting the sentence again and masking it as the teacher does: nothing is written,
    and no process waits for another.

    Parameters
    ----------
    teacher : MultiVectorEncoder
    texts : sequence of str
        The English sentences, in the order of the stored tokens.
    sides : sequence of {"query", "document"}
        The roles that they were encoded in; texts of the second role follow those of the first.
    """

    def __init__(self, teacher: MultiVectorEncoder, texts: Sequence[str], sides: Sequence[str] = ("query",)):
        self.teacher, self.texts, self.sides = teacher, texts, tuple(sides)
        prompts = [teacher.prompts.get(side) or "" for side in self.sides]
        self.weight = inverse_document_frequency(teacher, texts, prompts)

    def __len__(self) -> int:
        return len(self.texts) * len(self.sides)

    def __getitem__(self, i):
        side, place = divmod(i, len(self.texts))
        task = self.sides[side]
        text = self.texts[place]
        features = self.teacher.preprocess([text], prompt=self.teacher.prompts.get(task), task=task)
        mask = features["attention_mask"].bool()
        # As the model's mask does, which follows the encoder: skipped words have no token vector.
        for module in self.teacher:
            if hasattr(module, "skiplist_words"):
                mask = module({**features}, task=task)["attention_mask"].bool()
        expansion = features.get("query_expansion_positions")
        if isinstance(expansion, torch.Tensor):
            mask = mask & ~expansion.bool()
        return self.weight[features["input_ids"][0][mask[0]].cpu().numpy()]
