"""Domain adaptation besides bitext: monolingual text, mined pairs, and training fewer weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from sentence_transformers import MultiVectorEncoder
from torch import nn

from ..data import Bitext
from ..errors import InputError
from ..retrieval import encode
from ..similarity import maxsim

#: Scores that mining holds at a time.
SCORES = 1 << 24


class MaskedWords(nn.Module):
    """An encoder that guesses masked pieces among those that some texts have.

    The word embeddings are the output weights, too, and stay as they are; a linear map in between, which
    starts as the identity, is thrown away afterwards. A softmax over a whole multilingual vocabulary would
    take most of the time.
    """

    def __init__(self, encoder: Any, pieces: torch.Tensor):
        super().__init__()
        self.encoder = encoder
        table = encoder.get_input_embeddings()
        words = table.weight.detach()[pieces].clone()
        self.register_buffer("words", words, persistent=False)
        places = torch.full((table.num_embeddings,), -100)
        places[pieces] = torch.arange(len(pieces))
        self.register_buffer("places", places, persistent=False)
        self.map = nn.Linear(words.shape[1], words.shape[1])
        with torch.no_grad():
            self.map.weight.copy_(torch.eye(words.shape[1]))
            self.map.bias.zero_()

    def forward(self, input_ids, attention_mask, labels, **_):
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        masked = labels != -100
        logits = self.map(hidden[masked]) @ self.words.T
        wanted = self.places[labels[masked]]
        # A batch in which nothing was masked teaches nothing.
        loss = nn.functional.cross_entropy(logits, wanted) if len(wanted) else logits.sum()
        return {"loss": loss}


def continue_mlm(
    model: MultiVectorEncoder,
    texts: Sequence[str],
    training: dict[str, Any],
    *,
    mask: float = 0.15,
) -> dict[str, float]:
    """Continue the encoder's masked-language-model training on text of the domain, in place.

    Parameters
    ----------
    model : MultiVectorEncoder
        Its encoder is trained; frozen parts stay frozen.
    texts : sequence of str
        Monolingual text.
    training : dict
        Of transformers' ``TrainingArguments``.
    mask : float
        The share of pieces that are masked.

    Returns
    -------
    dict
        ``mlm_loss``, the mean over all steps, and ``mlm_steps``.

    Raises
    ------
    InputError
        No text, or a tokenizer without a mask.
    """
    if not texts:
        raise InputError("texts: expected at least one")
    tokenizer = model.tokenizer
    if tokenizer.mask_token_id is None:
        raise InputError("model: its tokenizer has no mask token")
    rows = tokenizer(list(texts), truncation=True, max_length=128)["input_ids"]
    pieces = torch.tensor(sorted({i for row in rows for i in row}))
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=mask)
    # Random replacements come from the whole vocabulary; only what is to be guessed is among the pieces.
    wrapped = MaskedWords(model[0].auto_model, pieces)
    trainer = transformers.Trainer(
        model=wrapped,
        args=transformers.TrainingArguments(**training, save_strategy="no", remove_unused_columns=False),
        train_dataset=[{"input_ids": row} for row in rows],
        data_collator=collator,
    )
    for callback in (
        transformers.trainer_callback.PrinterCallback,
        transformers.trainer_callback.ProgressCallback,
    ):
        trainer.remove_callback(callback)
    result = trainer.train()
    trainer.accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    return {"mlm_loss": float(result.training_loss), "mlm_steps": float(result.global_step)}


def mine_bitext(
    student: MultiVectorEncoder,
    teacher: MultiVectorEncoder,
    foreign: Sequence[str],
    english: Sequence[str],
    *,
    margin: float = 1.02,
    neighbours: int = 4,
) -> Bitext:
    """Sentence pairs among texts that nobody has aligned.

    A pair is kept if each side is the other's best by mean MaxSim s, and better by ``margin`` than the mean
    of both sides' ``neighbours`` best: the margin of [1]_ on late interaction, both ways::

        s(f, e) = (maxsim(f, e) / |f| + maxsim(e, f) / |e|) / 2
        s(f, e) / mean of the best s(f, ·) and s(·, e)  ≥  margin

    Parameters
    ----------
    student, teacher : MultiVectorEncoder
        Of the foreign and of the English side.
    foreign, english : sequence of str
    margin : float
        The higher, the fewer and cleaner pairs.
    neighbours : int
        Of the mean.

    Returns
    -------
    Bitext
        The pairs, the surest first; there may be none.

    Raises
    ------
    InputError
        A side without text.

    References
    ----------
    .. [1] M. Artetxe, H. Schwenk. Margin-based parallel corpus mining with multilingual sentence
       embeddings. ACL 2019.
    """
    if not foreign or not english:
        raise InputError("foreign: expected text on both sides")
    x = encode(student, list(foreign), "query")
    y = encode(teacher, list(english), "query")
    k = min(neighbours, len(x), len(y))
    of_foreign, best, score = np.empty(len(x)), np.empty(len(x), dtype=np.int64), np.empty(len(x))
    # The best of each English text so far, and whose the very best is.
    of_english = np.full((k, len(y)), -np.inf, dtype=np.float32)
    owner = np.zeros(len(y), dtype=np.int64)
    lengths = np.array([max(len(t), 1) for t in y])
    size = max(1, SCORES // len(y))
    for first in range(0, len(x), size):
        part = x[first : first + size]
        forward = maxsim(part, y) / np.array([[max(len(t), 1)] for t in part])
        scores = (forward + maxsim(y, part).T / lengths) / 2
        rows = slice(first, first + len(part))
        best[rows] = scores.argmax(axis=1)
        score[rows] = scores.max(axis=1)
        of_foreign[rows] = np.sort(scores, axis=1)[:, -k:].mean(axis=1)
        top = scores.argmax(axis=0)
        better = scores[top, np.arange(len(y))] > of_english[-1]
        owner[better] = first + top[better]
        of_english = np.sort(np.concatenate([of_english, scores]), axis=0)[-k:]
    means = of_english.mean(axis=0)
    found = []
    for i, j in enumerate(best.tolist()):
        ratio = score[i] / max((of_foreign[i] + means[j]) / 2, 1e-6)
        if owner[j] == i and ratio >= margin:
            found.append((-ratio, i, j))
    found.sort()
    return Bitext("mined", [foreign[i] for _, i, _ in found], [english[j] for _, _, j in found])
