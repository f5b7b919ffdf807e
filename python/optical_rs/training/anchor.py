"""The English anchor: a student keeps its own English where it was before training."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sentence_transformers import MultiVectorEncoder
from torch import Tensor, nn
from transformers.trainer_callback import TrainerCallback

from .. import fingerprint
from ..errors import InputError, closest
from ..losses.base import pad, without_expansion
from ..losses.tokens import token_mse
from .english import read_english, specs_of


@dataclasses.dataclass(frozen=True)
class Anchor:
    """English text that a student is held at.

    In every step the student encodes ``batch_size`` of the texts, and the loss has another term: the squared distance of
    each token to what it was before training, ``weight`` times its mean over the tokens [1]_ [2]_. The student's own
    tokens are compared with its start's, so that no alignment is needed. Text of other domains than the bitext's keeps
    those in place.

    Attributes
    ----------
    texts : sequence of str
    weight : float
    batch_size : int

    References
    ----------
    .. [1] S. Cao, N. Kitaev, D. Klein. Multilingual alignment of contextual word representations. ICLR 2020.
    .. [2] P. Efimov, L. Boytsov, E. Arslanova, P. Braslavski. The impact of cross-lingual adjustment of contextual word
       representations on zero-shot transfer. ECIR 2023.

    Examples
    --------
    >>> Anchor(["the house", "the river", "the house"]).texts
    ('the house', 'the river')
    """

    texts: Sequence[str]
    weight: float = 1.0
    batch_size: int = 16

    def __post_init__(self) -> None:
        if isinstance(self.texts, str):
            raise InputError("anchor: texts: expected a list of texts, got one text")
        object.__setattr__(self, "texts", tuple(dict.fromkeys(text for text in self.texts if text.strip())))
        if not self.texts:
            raise InputError("anchor: text: expected English texts, got none")
        number = isinstance(self.weight, int | float) and not isinstance(self.weight, bool)
        if not number or not self.weight > 0:
            raise InputError(f"anchor: weight: expected a number above 0, got {self.weight!r}")
        size = self.batch_size
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InputError(f"anchor: batch_size: expected an integer of at least 1, got {size!r}")

    @property
    def identity(self) -> dict[str, Any]:
        """What a student's weights depend on."""
        return {**dataclasses.asdict(self), "texts": fingerprint.of_texts(self.texts)}


def check_anchor(given: Any) -> dict[str, Any]:
    """The options of an anchor in a recipe, with ``text`` as a list.

    Raises
    ------
    InputError
        An unknown key, no text, or values that :class:`Anchor` refuses.
    """
    valid = ("text", "weight", "batch_size")
    if not isinstance(given, Mapping):
        raise InputError(f"anchor: expected a mapping with 'text', got {given!r}")
    for key in given:
        if key not in valid:
            raise InputError(f"anchor: unknown key '{key}'{closest(key, valid)}")
    text = given.get("text")
    options = {**given, "text": specs_of(text, "anchor: text")}
    Anchor(["."], **{k: v for k, v in options.items() if k != "text"})
    return options


def read_anchor(given: Any, role: str) -> Anchor:
    """An anchor of its options in a recipe.

    Parameters
    ----------
    given : Anchor or dict
        ``text``, specs of :func:`~optical_rs.training.english.read_english`, ``weight`` and ``batch_size``.
    role : {"query", "document"}

    Raises
    ------
    InputError
        As :func:`check_anchor`; text that cannot be loaded.

    Examples
    --------
    >>> len(read_anchor({"text": "kolibri:ny", "weight": 0.5}, "query").texts) > 500
    True
    """
    if isinstance(given, Anchor):
        return given
    options = check_anchor(given)
    texts = read_english(options.pop("text"), role, "anchor: text")
    return Anchor(texts, **options)


class AnchoredLoss(nn.Module):
    """Another loss, and the squared distance of the student's English tokens to those before training.

    Parameters
    ----------
    loss : module
        Over the student.
    model : MultiVectorEncoder
        The student.
    anchor : Anchor
    before : dict of str to sequence of (tokens, dim) arrays
        Role → what the start made of the anchor's texts.
    seed : int
        Of the texts of each step.
    """

    def __init__(
        self,
        loss: nn.Module,
        model: MultiVectorEncoder,
        anchor: Anchor,
        before: Mapping[str, Sequence[np.ndarray]],
        seed: int,
    ):
        super().__init__()
        self.loss, self.model = loss, model
        self.anchor, self.before, self.seed = anchor, dict(before), seed
        self._student = (model,)
        #: The trainer's step and the part of it, of which the texts are drawn: see :class:`CountSteps`.
        self.step = self.part = 0

    def forward(self, sentence_features: Any, labels: Tensor | None = None) -> dict[str, Tensor]:
        """The loss's terms and ``anchor``."""
        terms = self.loss(sentence_features, labels)
        return {
            **(terms if isinstance(terms, dict) else {"loss": terms}),
            "anchor": self.anchor.weight * self.term(),
        }

    def term(self) -> Tensor:
        """The mean over the tokens of a batch of ``|token − token before training|²``."""
        roles = list(self.before)
        draw = np.random.default_rng([self.seed, self.step, self.part])
        self.part += 1
        role = roles[self.step % len(roles)]
        size = min(self.anchor.batch_size, len(self.anchor.texts))
        places = draw.choice(len(self.anchor.texts), size=size, replace=False)
        own: Any = self._student[0]
        features = own.preprocess(
            [self.anchor.texts[i] for i in places], prompt=own.prompts.get(role) or None, task=role
        )
        features = {k: v.to(own.device) if isinstance(v, Tensor) else v for k, v in features.items()}
        student: Any = self.model
        x, mask = without_expansion(student(features, task=role))
        tokens = [self.before[role][i] for i in places]
        y, y_mask = pad(tokens, tokens[0].shape[1])
        return token_mse(x.float(), mask, y.to(x.device), y_mask.to(x.device))

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of the loss."""
        loss: Any = self.loss
        return {
            **loss.get_config_dict(),
            "anchor_weight": self.anchor.weight,
            "anchor_batch_size": self.anchor.batch_size,
        }

    @property
    def citation(self) -> str:
        """The loss's own."""
        return getattr(self.loss, "citation", "")


class CountSteps(TrainerCallback):
    """Gives an anchored loss the trainer's step, so that a continued run draws the texts of an uninterrupted one."""

    def __init__(self, loss: AnchoredLoss):
        self.loss = loss

    def on_step_begin(self, args, state, control, **kwargs):
        self.loss.step, self.loss.part = state.global_step, 0
