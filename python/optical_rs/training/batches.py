"""Batches: texts of similar length, languages that are kept apart or mixed, and their columns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.multi_vector_encoder.data_collator import MultiVectorEncoderDataCollator

from ..errors import InputError, closest

#: How batches treat groups: ``mixed`` does not look at them, ``pure`` has one group in a batch, and
#: ``sequential`` has all of the first group before the second, in every epoch.
ORDERS = ("mixed", "pure", "sequential")


class LengthBucketBatchSampler(DefaultBatchSampler):
    """Random batches of texts of similar length, the same for the same seed and epoch.

    Each epoch shuffles the pairs, sorts stretches of :attr:`STRETCH` batches by length, cuts batches
    and shuffles those. Nothing depends on what was drawn before, so a resumed run sees the batches
    that an uninterrupted one would. Length is that of the first text column in characters.

    Parameters
    ----------
    dataset, batch_size, drop_last, **kwargs
        As sentence-transformers' trainer gives them.
    groups : sequence, optional
        The group of each row, such as its language.
    order : {"mixed", "pure", "sequential"}
        What batches do with groups; see :data:`ORDERS`.
    schedule : sequence of sequence of float, optional
        The share of each group in each epoch (the last epoch's also in those that follow), for mixed
        batches. An epoch then has as many rows as the first group: of each group, random ones by its share,
        and the group over again where that is more than it has.

    Raises
    ------
    InputError
        An unknown order, another number of groups than of rows, or a schedule that is not a share for each
        group, or not of mixed batches.
    """

    #: Batches that are sorted together: long enough for even lengths, short enough to stay random.
    STRETCH = 64

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        *,
        groups: Sequence[Any] | None = None,
        order: str = "mixed",
        schedule: Sequence[Sequence[float]] | None = None,
        **kwargs: Any,
    ):
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last, **kwargs)
        labels = kwargs.get("valid_label_columns") or []
        texts = next(c for c in dataset.column_names if c not in labels)
        self.lengths = np.array([len(t) for t in dataset[texts]])
        if order not in ORDERS:
            raise InputError(f"order: unknown order '{order}'{closest(order, ORDERS)}")
        if groups is not None and len(groups) != len(self.lengths):
            raise InputError(f"groups: expected {len(self.lengths)}, one for each row, got {len(groups)}")
        self.order = order
        names = list(dict.fromkeys(groups or [None]))
        if groups is None or (order == "mixed" and schedule is None):
            self.members = [np.arange(len(self.lengths))]
        else:
            number = np.array([names.index(g) for g in groups])
            self.members = [np.flatnonzero(number == i) for i in range(len(names))]
        self.schedule = None if schedule is None else _shares(schedule, len(names), order)

    def __iter__(self) -> Iterator[list[int]]:
        draw = np.random.default_rng([self.seed or 0, self.epoch])
        members = self.members
        if self.schedule is not None:
            members = [self._scheduled(draw, self.schedule[min(self.epoch, len(self.schedule) - 1)])]
        parts = [self._batches(draw, part) for part in members]
        if self.order == "sequential":
            shuffled = [part[i] for part in parts for i in draw.permutation(len(part))]
        else:
            batches = [batch for part in parts for batch in part]
            shuffled = [batches[i] for i in draw.permutation(len(batches))]
        for batch in shuffled:
            yield batch.tolist()

    def _batches(self, draw: np.random.Generator, members: np.ndarray) -> list[np.ndarray]:
        order = members[draw.permutation(len(members))]
        batches: list[np.ndarray] = []
        for start in range(0, len(order), self.STRETCH * self.batch_size):
            stretch = order[start : start + self.STRETCH * self.batch_size]
            stretch = stretch[np.argsort(self.lengths[stretch], kind="stable")]
            batches += [stretch[i : i + self.batch_size] for i in range(0, len(stretch), self.batch_size)]
        return [b for b in batches if len(b) == self.batch_size] if self.drop_last else batches

    def _scheduled(self, draw: np.random.Generator, shares: np.ndarray) -> np.ndarray:
        """The rows of an epoch, by the shares of the groups."""
        total = len(self.members[0])
        ends = np.round(np.cumsum(shares) * total).astype(int)
        rows = []
        for members, count in zip(self.members, np.diff(ends, prepend=0), strict=True):
            times = -(-count // len(members))
            rows.append(
                np.concatenate([members[:0], *(draw.permutation(members) for _ in range(times))])[:count]
            )
        return np.concatenate(rows)

    def __len__(self) -> int:
        counted = self.members if self.schedule is None else self.members[:1]
        sizes = np.array([len(members) for members in counted])
        return int((sizes // self.batch_size if self.drop_last else -(-sizes // self.batch_size)).sum())


def _shares(schedule: Sequence[Sequence[float]], groups: int, order: str) -> np.ndarray:
    """A schedule as (epochs, groups), each row adding up to one."""
    if order != "mixed":
        raise InputError(f"schedule: needs mixed batches, got order '{order}'")
    for row in schedule:
        if len(row) != groups or not sum(row) > 0 or min(row) < 0:
            raise InputError(f"schedule: expected a share for each of {groups} groups, got {list(row)}")
    if not len(schedule):
        raise InputError("schedule: expected the shares of an epoch at least, got none")
    shares = np.array(schedule, dtype=float)
    return shares / shares.sum(axis=1, keepdims=True)


class HybridBatchSampler(DefaultBatchSampler):
    """Contrastive batches that are monolingual or cross-lingual: hybrid batches (Elmahdy, Lin, Ahmad,
    arXiv 2408.10536).

    The data set has a row for each text in each language; rows of one text carry the same ``message``. A
    batch is ``batch_size`` rows of queries and then as many rows of their passages. With probability
    ``alpha`` all of them are in one language, else queries are in one language and passages in another.
    :class:`~optical_rs.training.batches.HybridCollator` makes the two columns of it.

    An epoch has as many batches as are needed to see each (text, language) once as a query, on average.
    Every batch is drawn from its own counter (seed, epoch, number), so a resumed run, and each process
    of several, sees what an uninterrupted one would.

    Parameters
    ----------
    dataset, batch_size, drop_last, **kwargs
        As sentence-transformers' trainer gives them.
    messages : sequence of int
        Which text each row is.
    languages : sequence of str
        The language of each row.
    alpha : float
        Probability of a monolingual batch.
    weights : {"uniform", "size"}
        Languages are drawn alike, or in proportion to their rows.

    Raises
    ------
    InputError
        An ``alpha`` outside 0..1, lengths that differ from the data set's, a language with less than a
        batch of texts, or fewer than two languages for cross-lingual batches.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        *,
        messages: Sequence[int],
        languages: Sequence[str],
        alpha: float = 0.5,
        weights: str = "uniform",
        **kwargs: Any,
    ):
        # What others divide batches by is their number of rows.
        super().__init__(dataset, batch_size=2 * batch_size, drop_last=drop_last, **kwargs)
        self.pairs = batch_size
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha: expected a probability, got {alpha}")
        if weights not in ("uniform", "size"):
            raise InputError(f"weights: expected 'uniform' or 'size', got {weights!r}")
        for name, given in (("messages", messages), ("languages", languages)):
            if len(given) != len(dataset):
                raise InputError(f"{name}: expected {len(dataset)}, one for each row, got {len(given)}")
        self.alpha = alpha
        self.rows: dict[str, dict[int, int]] = {}
        for row, (message, language) in enumerate(zip(messages, languages, strict=True)):
            self.rows.setdefault(language, {})[message] = row
        self.names = sorted(self.rows)
        for name in self.names:
            if len(self.rows[name]) < batch_size:
                raise InputError(
                    f"languages: '{name}' has {len(self.rows[name])} texts, fewer than a batch of {batch_size}"
                )
        sizes = np.array([len(self.rows[name]) for name in self.names], dtype=float)
        self.shares = sizes / sizes.sum() if weights == "size" else np.full(len(sizes), 1 / len(sizes))
        self.total = int(sizes.sum())
        if alpha < 1 and not any(self._partners(name) for name in self.names):
            raise InputError("languages: cross-lingual batches need two languages with texts in common")

    def _partners(self, language: str) -> dict[str, list[int]]:
        """Other languages, and the texts that they have in common with this one: a batch or more."""
        own = self.rows[language].keys()
        shared = {name: sorted(own & self.rows[name].keys()) for name in self.names if name != language}
        return {name: texts for name, texts in shared.items() if len(texts) >= self.pairs}

    def __iter__(self) -> Iterator[list[int]]:
        partners = {name: self._partners(name) for name in self.names}
        for number in range(len(self)):
            draw = np.random.default_rng([self.seed or 0, self.epoch, number])
            asked = self.names[draw.choice(len(self.names), p=self.shares)]
            others = partners[asked]
            if draw.random() < self.alpha or not others:
                answered, texts = asked, list(self.rows[asked])
            else:
                shares = np.array([self.shares[self.names.index(name)] for name in others])
                answered = list(others)[draw.choice(len(others), p=shares / shares.sum())]
                texts = others[answered]
            chosen = draw.choice(texts, size=self.pairs, replace=False).tolist()
            yield [self.rows[asked][m] for m in chosen] + [self.rows[answered][m] for m in chosen]

    def __len__(self) -> int:
        return max(1, round(self.total / self.pairs))


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
    """Makes pairs of what a :class:`~HybridBatchSampler` draws: the first half of a
    batch gives the column ``query``, the second half the column ``passage``."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        half = len(features) // 2
        pairs = zip(features[:half], features[half:], strict=True)
        return super().__call__([{"query": q["query"], "passage": p["passage"]} for q, p in pairs])
