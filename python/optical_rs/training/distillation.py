"""The engine: how a student is made of a teacher and sentence pairs."""

import dataclasses
import inspect
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from sentence_transformers import MultiVectorEncoder
from torch import nn

from .. import fingerprint
from ..data import Bitext, Collection
from ..errors import InputError
from ..losses import options_of, resolve_loss
from ..losses.idf import TeacherWeights, inverse_document_frequency
from ..models import (
    add_adapters,
    freeze_layers,
    freeze_word_embeddings,
    merge_adapters,
    set_dropout,
    student_of,
    use_plain_attention,
)
from ..retrieval import content_of
from ..token_cache import TokenCache
from . import arguments, processes
from .anchor import Anchor, AnchoredLoss
from .batches import ORDERS, LengthBucketBatchSampler
from .dev import RetrievalEvaluator
from .fit import claim, fit
from .hybrid import RETRIEVAL, train_hybrid
from .mixture import by_epoch, mix
from .stages import continue_mlm, mine_bitext
from .trained import Trained

SIDES = ("query", "document", "both")
#: The default system of `distil`; docs/results/index.md has the evidence.
DEFAULT: dict[str, Any] = {"loss": "pooled-mse", "interpolate": 0.5}


@dataclasses.dataclass(frozen=True)
class Distillation:
    """How a student is made; :meth:`run` makes it.

    Attributes
    ----------
    loss : str or class
        A name (``optical``, ``pooled-mse``, ``greedy``, ``contrastive``, ``translate-distill``; ``retrieval`` for
        contrastive training on hybrid batches), ``"package.module:Class"``, or a class made of
        :class:`~optical_rs.losses.BitextLoss`.
    loss_options : dict
        Keyword arguments of the loss.
    side : {"query", "document", "both"}
        The role of the foreign texts.
    interpolate : float
        Weights are interpolated between those before training (0) and after it (1), WiSE-FT.
    order : {"mixed", "pure", "sequential"}
        What batches do with groups of pairs: see :data:`~optical_rs.training.batches.ORDERS`.
    schedule : list of list of float, optional
        The share of each group, from the first epoch to the last.
    mlm : sequence of str
        Foreign text of the domain, for masked-word training before distillation.
    mine : sequence of Bitext
        Unaligned text of the domain (the alignment is used to count what was found right): pairs that the student
        finds in it are trained on as well, in a second round.
    margin : float, optional
        Of mining.
    adapter_rank, freeze_layers : int
        Train low-rank adapters instead of all weights; keep the lowest layers fixed.
    freeze_embeddings : bool
        Keep the word embedding table fixed.
    dropout : float, optional
        Of the student in training; None for the encoder's own.
    anchor : Anchor, optional
        English text at which the student is held where it was before training.
    passages : sequence of str
        English passages whose scores the student learns (``loss="translate-distill"``).
    training : dict
        Training arguments of sentence-transformers and transformers, over :func:`.arguments.defaults`.
    seed : int
    """

    loss: Any = DEFAULT["loss"]
    loss_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    side: str = "query"
    interpolate: float = 1.0
    order: str = "mixed"
    schedule: Sequence[Sequence[float]] | None = None
    mlm: Sequence[str] = ()
    mine: Sequence[Bitext] = ()
    margin: float | None = None
    adapter_rank: int = 0
    freeze_layers: int = 0
    freeze_embeddings: bool = True
    dropout: float | None = 0.0
    anchor: Anchor | None = None
    passages: Sequence[str] = ()
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise InputError(f"side: expected one of {', '.join(SIDES)}, got {self.side!r}")
        if self.order not in ORDERS:
            raise InputError(f"order: expected one of {', '.join(ORDERS)}, got {self.order!r}")
        if self.anchor is not None and not isinstance(self.anchor, Anchor):
            raise InputError(f"anchor: expected an Anchor, got {self.anchor!r}")
        if self.side == "both" and (self.order != "mixed" or self.schedule):
            raise InputError(
                "side: 'both' needs mixed batches, and cannot be combined with order or schedule"
            )
        if self.freeze_layers and self.adapter_rank:
            raise InputError("freeze_layers: cannot be combined with adapter_rank")
        if not isinstance(self.interpolate, int | float) or not 0 < self.interpolate <= 1:
            raise InputError(f"interpolate: expected a share in 0..1, got {self.interpolate}")
        arguments.check(self.training, "training")
        check_passages(self.loss, self.side, self.passages)
        if self.loss != RETRIEVAL:
            kind = resolve_loss(self.loss)
            for key in self.loss_options.keys() - options_of(kind):
                raise InputError(
                    f"{key}: {kind.__name__} has no such option; it has {sorted(options_of(kind))}"
                )

    @property
    def sides(self) -> tuple[str, ...]:
        """The roles that foreign texts are trained in."""
        return ("query", "document") if self.side == "both" else (self.side,)

    @property
    def search_side(self) -> str:
        """The role of the foreign side where a student is evaluated."""
        return self.sides[0]

    @property
    def resumable(self) -> bool:
        """Whether training is one run of the trainer, whose checkpoints say all."""
        return not (self.mlm or self.mine or self.adapter_rank)

    def identity(
        self,
        teacher: str,
        start: str,
        bitext: Bitext,
        groups: Sequence[str] = (),
        dev: Collection | None = None,
    ) -> str:
        """The content hash of all that a student's weights depend on, besides ``interpolate``.

        Parameters
        ----------
        teacher, start : str
            Fingerprints of the teacher and of what the student starts from.
        """
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("loss", "mlm", "mine", "interpolate", "training", "anchor", "passages"):
            options.pop(name)
        if self.passages:
            options["passages"] = fingerprint.of_texts(self.passages)
        if self.anchor is not None:
            options["anchor"] = self.anchor.identity
        return fingerprint.of_settings(
            {
                **options,
                "loss": name_of(self.loss),
                "mlm": fingerprint.of_texts(self.mlm),
                "mine": [fingerprint.of_texts([*b.foreign, *b.english]) for b in self.mine],
                "training": arguments.what_counts({**arguments.defaults(), **self.training}),
                "teacher": teacher,
                "start": start,
                "bitext": fingerprint.of_texts([*bitext.foreign, *bitext.english]),
                "groups": fingerprint.of_texts(groups),
                "dev": content_of(dev) if dev is not None and self.chooses else None,
                # Every process adds to the batch.
                "processes": PartialState().num_processes,
            }
        )

    @property
    def chooses(self) -> bool:
        """Whether the best checkpoint is taken by dev queries."""
        training = {**arguments.defaults(), **self.training}
        steps = {str(training[k]).lower() for k in ("eval_strategy", "save_strategy")}
        wanted = bool(training["load_best_model_at_end"]) and not steps & {"no", "false"}
        return self.resumable and wanted and self.loss != RETRIEVAL

    def run(
        self,
        bitext: Bitext,
        teacher: MultiVectorEncoder,
        start: MultiVectorEncoder | None = None,
        **options: Any,
    ) -> MultiVectorEncoder:
        """Make a student: :meth:`train`, which has the parameters, and :attr:`interpolate`."""
        return self.train(bitext, teacher, start, **options).at(self.interpolate)

    @processes.led(lambda self, *_, **__: self.training)
    def train(
        self,
        bitext: Bitext,
        teacher: MultiVectorEncoder,
        start: MultiVectorEncoder | None = None,
        *,
        groups: Sequence[str] = (),
        dev: Collection | None = None,
        english: TokenCache | None = None,
        folder: str | os.PathLike | None = None,
        label: str = "training",
    ) -> "Trained":
        """Train a copy of ``start``.

        Parameters
        ----------
        bitext : Bitext
        teacher : MultiVectorEncoder
        start : MultiVectorEncoder, optional
            What the student starts from; the teacher by default.
        groups : sequence of str
            The group of each pair, such as its language or bitext, where batches or a schedule look at it.
        dev : Collection, optional
            Its queries choose the best checkpoint; without them the last one is taken.
        english : TokenCache, optional
            Of the teacher; the user's by default.
        folder : path, optional
            For checkpoints, from which the same training goes on after an interruption; none are kept by default.
        label : str
            Of the progress bar.

        Returns
        -------
        Trained
        """
        start = teacher if start is None else start
        english = TokenCache(teacher) if english is None else english
        # What cannot be continued has no checkpoints to keep.
        place = Path(folder) if folder is not None and self.resumable else None
        if place is not None:
            start_print = english.fingerprint if start is teacher else fingerprint.of_model(start)
            claim(place, self.identity(english.fingerprint, start_print, bitext, groups, dev))
        return processes.together(
            self._train, bitext, teacher, start, list(groups), dev, english, place, label
        )

    def _train(
        self,
        bitext: Bitext,
        teacher: MultiVectorEncoder,
        start: MultiVectorEncoder,
        groups: Sequence[str],
        dev: Collection | None,
        english: TokenCache,
        folder: Path | None,
        label: str,
    ) -> "Trained":
        """:meth:`train` in all processes."""
        transformers.set_seed(self.seed)
        student = student_of(start)
        if self.freeze_embeddings:
            freeze_word_embeddings(student)
        training = {
            **arguments.defaults(),
            **self.training,
            "seed": self.seed,
            "remove_unused_columns": False,
        }
        if training.get("use_cpu"):
            use_plain_attention(student)
        if self.dropout is not None:
            set_dropout(student, self.dropout)
        evaluator = None
        with tempfile.TemporaryDirectory() as temporary:
            kept = folder is not None and processes.is_main()
            training["output_dir"] = str(folder if kept else temporary)
            if folder is None and (dev is None or not self.chooses):
                training["save_strategy"] = "no"
            if not self.resumable:
                training |= {"save_strategy": "no", "eval_strategy": "no"}
            if dev is not None and self.chooses:
                evaluator = RetrievalEvaluator(dev, english, self.search_side)
            record: dict[str, Any] = {"pairs": len(bitext)}
            held = self._anchored(start, teacher, english)
            if self.mlm:
                record |= continue_mlm(student, self.mlm, _plain(training))
            if self.freeze_layers:
                freeze_layers(student, self.freeze_layers)
            if self.adapter_rank:
                add_adapters(student, self.adapter_rank)
            if self.loss == RETRIEVAL:
                record |= train_hybrid(
                    student, bitext, groups, training, self.loss_options, anchored=held, label=label
                )
            else:
                record |= self._distil(student, english, bitext, groups, training, evaluator, held, label)
                if self.mine:
                    record |= self._train_on_mined(student, english, bitext, groups, training, held, label)
            if self.adapter_rank:
                merge_adapters(student)
        student.eval()
        if self.loss == RETRIEVAL:
            # Both sides were trained: the student is its own partner.
            return Trained(student, start, record, None, None, self.side)
        return Trained(student, start, record, teacher, english.fingerprint, self.side)

    def _anchored(
        self, start: MultiVectorEncoder, teacher: MultiVectorEncoder, english: TokenCache
    ) -> Callable[[nn.Module], nn.Module] | None:
        """What puts the anchor's term to a loss."""
        if self.anchor is None:
            return None
        tokens = english if start is teacher else TokenCache(start, english.path.parent, dtype=english.dtype)
        roles = ("query", "document") if self.loss == RETRIEVAL else self.sides
        with processes.in_turn():
            before = {role: tokens.tokens(self.anchor.texts, role) for role in roles}
        return partial(AnchoredLoss, anchor=self.anchor, before=before, seed=self.seed)

    def _distil(self, student, english, bitext, groups, training, evaluator, held, label) -> dict[str, Any]:
        sides = self.sides
        unique = {text: i for i, text in enumerate(dict.fromkeys(bitext.english))}
        texts = list(unique)
        with processes.in_turn():
            parts = [english.tokens(texts, side) for side in sides]
        tokens = parts[0] if len(parts) == 1 else parts[0].joined(parts[1])
        options = dict(self.loss_options)
        if options.get("marginals") == "idf":
            before = [student.prompts.get(side) or "" for side in sides]
            options["student_idf"] = inverse_document_frequency(student, bitext.foreign, before)
            options["teacher_idf"] = TeacherWeights(english.model, texts, sides)
        if self.passages:
            unique_passages = list(dict.fromkeys(self.passages))
            with processes.in_turn():
                options["passages"] = english.tokens(unique_passages, "document")
        loss: Any = resolve_loss(self.loss)(student, tokens, **options)
        if held is not None:
            loss = held(loss, student)
        places = [unique[text] for text in bitext.english]
        sampler: Any = training.get("batch_sampler", "length_bucket")
        if sampler == "length_bucket":
            schedule = self.schedule
            if schedule:
                schedule = by_epoch(schedule, math.ceil(training["num_train_epochs"]))
            sampler = partial(
                LengthBucketBatchSampler,
                groups=list(groups) or None if len(sides) == 1 else None,
                order=self.order,
                schedule=schedule,
            )
        prompts = {side: student.prompts.get(side) or "" for side in sides}
        if len(sides) == 1:
            mapping = {"prompts": {"foreign": prompts[sides[0]]}, "router_mapping": {"foreign": sides[0]}}
        else:
            mapping = {
                "prompts": {side: {"foreign": prompts[side]} for side in sides},
                "router_mapping": {side: {"foreign": side} for side in sides},
            }
        sets = {
            side: Dataset.from_dict(
                {"foreign": bitext.foreign, "label": [s * len(texts) + place for place in places]}
            )
            for s, side in enumerate(sides)
        }
        dataset = sets[sides[0]] if len(sides) == 1 else DatasetDict(sets)
        return fit(
            loss, dataset, {**training, **mapping, "batch_sampler": sampler}, evaluator=evaluator, label=label
        )

    def _train_on_mined(self, student, english, bitext, groups, training, held, label) -> dict[str, Any]:
        """Self-training: pairs that the student finds in text of the domain, besides its bitext."""
        student.eval()
        parts, names = [bitext], list(groups) or ["bitext"] * len(bitext)
        right = found = 0
        own: dict[str, Any] = {} if self.margin is None else {"margin": self.margin}
        for text in self.mine:
            search = partial(
                mine_bitext, student, english.model, text.foreign, sorted(set(text.english)), **own
            )
            # Processors that round otherwise would find other pairs.
            mined = processes.from_main(search)
            known = set(zip(text.foreign, text.english, strict=True))
            right += sum(pair in known for pair in zip(mined.foreign, mined.english, strict=True))
            found += len(mined)
            if len(mined):
                # As much of it as of the bitext, if there is any.
                mined = mined.resample(max(len(mined), len(bitext) // len(self.mine)))
                parts.append(mined)
                names += [f"{text.name}, mined"] * len(mined)
        student.train()
        both, _ = mix(parts)
        self._distil(student, english, both, names, training, None, held, label)
        return {"mined": found, "mined_right": right}


def check_passages(loss: Any, side: str, passages: Any) -> None:
    """Passages are for losses that take them, of students that encode queries.

    Raises
    ------
    InputError
    """
    if isinstance(passages, str):
        raise InputError("passages: expected a list of texts, got one text")
    if not passages:
        return
    if loss == RETRIEVAL or "passages" not in inspect.signature(resolve_loss(loss)).parameters:
        raise InputError(
            f"passages: expected a loss that scores them, such as translate-distill, got {loss!r}"
        )
    if side != "query":
        raise InputError(f"passages: expected a student of queries (side: query), got side {side!r}")


def name_of(loss: Any) -> str:
    """A loss as identities and records have it; classes that are not ours with the hash of their source."""
    if loss == RETRIEVAL:
        return RETRIEVAL
    kind = resolve_loss(loss)
    name = f"{kind.__module__}:{kind.__qualname__}"
    if kind.__module__.startswith("optical_rs."):
        return name
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return name
    return f"{name}@{fingerprint.of_texts([source])[:16]}"


def _plain(training: Mapping[str, Any]) -> dict[str, Any]:
    """Those of our training arguments that transformers' own trainer knows, for training without checks."""
    known = {f.name for f in dataclasses.fields(transformers.TrainingArguments) if f.init}
    unused = {"eval_strategy", "save_strategy", "load_best_model_at_end", "metric_for_best_model"}
    unused |= {"remove_unused_columns"}
    return {k: v for k, v in training.items() if k in known - unused}
