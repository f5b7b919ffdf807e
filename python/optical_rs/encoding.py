"""``encode``: from texts to token embeddings, for models in torch and exported ones alike.

What takes time on a CPU is the model, and in it whatever does not fit the cache and whatever is padded. So texts of a like
length go together, and a batch is bounded by its tokens, not by its texts: a few hundred tokens stay in the second-level
cache of a core, a GPU gets many thousands. Tokenisation runs in a thread of its own, one batch ahead of the model.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from .errors import InputError, texts_only
from .progress import say

#: Texts that are tokenised, and sorted by tokens, together.
PART = 4096
#: What a model in torch can compute in.
PRECISIONS = ("float32", "bfloat16")
#: Tokens of a batch of a model in torch, on a CPU and elsewhere.
TOKENS_ON_CPU, TOKENS_ELSEWHERE = 512, 16_384
#: The share of a batch that may be padding on a CPU, where small batches are fast.
PADDED = 0.1
#: Texts that a calibration encodes, and how often.
SAMPLE, TRIES = 8, 2
#: Mean cosine to the reference below which a precision is not chosen, however fast it is.
CLOSE = 0.99


class Runtime(Protocol):
    """What :func:`encode` needs of a model: :class:`~optical_rs.edge.Encoder`, or a model in torch as :class:`_Torch`."""

    #: Tokens of a batch, padding included; a longer text is a batch of its own.
    tokens_per_batch: int
    #: How much shorter than the longest text of a batch the others may be, as a share of it.
    padded: float

    def prepare(self, texts: Sequence[str], role: str) -> tuple[Sequence[Any], Sequence[int]]:
        """Whatever :meth:`features` takes for each text, and its number of tokens."""

    def features(self, prepared: list[Any], role: str) -> Any:
        """A batch as the model takes it; called in another thread than :meth:`embed`."""

    def embed(self, features: Any, role: str) -> list[np.ndarray]:
        """(tokens, dim) float32 for each text of a batch."""


def encode(
    model: Any,
    texts: Sequence[str],
    role: str,
    *,
    precision: str = "float32",
    expansion: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Token embeddings of texts.

    Parameters
    ----------
    model : MultiVectorEncoder or Encoder
    texts : sequence of str
    role : {"query", "document"}
    precision : {"float32", "bfloat16"}
        What a model in torch computes matrix products and attention in; what is returned is float32. An exported model
        has its own precision.
    expansion : bool
        Whether tokens of query expansion, which stand for no word of the text, are returned.
    progress : callable, optional
        Called with the number of texts done and of all texts.

    Returns
    -------
    list of (tokens, dim) float32 arrays
        In the order of the texts.

    Raises
    ------
    InputError
        An unknown role or precision, or something that is not text.
    """
    if role not in ("query", "document"):
        raise InputError(f"role: expected 'query' or 'document', got {role!r}")
    texts = texts if isinstance(texts, str) else list(texts)
    texts_only("texts", texts)
    exported = is_exported(model)
    runtime: Runtime = model if exported else _Torch(model, precision, expansion)
    found: list[Any] = [None] * len(texts)
    done = 0
    work = _batches(runtime, texts, role)
    with contextlib.nullcontext() if exported else runtime.computing():  # type: ignore[attr-defined]
        # One text, as a search has it, is not worth a thread.
        for numbers, features in _ahead(work) if len(texts) > 1 else work:
            for number, tokens in zip(numbers, runtime.embed(features, role), strict=True):
                found[number] = tokens
            done += len(numbers)
            if progress:
                progress(done, len(texts))
    return found


def is_exported(model: Any, argument: str = "model") -> bool:
    """Whether a model is an :class:`~optical_rs.edge.Encoder`, which has neither torch nor its interface.

    Raises
    ------
    InputError
        Something that is no model.
    """
    if hasattr(model, "get_embedding_dimension"):
        return False
    if not hasattr(model, "tokens_per_batch"):
        raise InputError(f"{argument}: expected a MultiVectorEncoder or an Encoder, got {model!r:.100}")
    return True


def batches(lengths: Sequence[int], tokens: int, padded: float) -> Iterator[list[int]]:
    """Numbers of texts that go together, the longest first.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each text.
    tokens : int
        Of a batch at most, padding included; a longer text is a batch of its own.
    padded : float
        How much shorter than a batch's longest text the others may be, as a share of it. 0: all are of one length.

    Examples
    --------
    >>> list(batches([3, 9, 3, 10, 3], tokens=20, padded=0.1))
    [[3, 1], [0, 2, 4]]
    >>> list(batches([3, 9, 3, 10, 3], tokens=6, padded=0))
    [[3], [1], [0, 2], [4]]
    """
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        longest = lengths[batch[0]] if batch else 0
        if batch and ((len(batch) + 1) * longest > tokens or lengths[number] < (1 - padded) * longest):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _batches(runtime: Runtime, texts: Sequence[str], role: str) -> Iterator[tuple[list[int], Any]]:
    # Characters bring texts of a like number of tokens into one part.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
    for first in range(0, len(order), PART):
        part = order[first : first + PART]
        prepared, lengths = runtime.prepare([texts[i] for i in part], role)
        for batch in batches(lengths, runtime.tokens_per_batch, runtime.padded):
            yield [part[i] for i in batch], runtime.features([prepared[i] for i in batch], role)


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The items of an iterator, each made in another thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item


class _Torch:
    """A MultiVectorEncoder as a runtime."""

    def __init__(self, model: Any, precision: str, expansion: bool):
        if precision not in PRECISIONS:
            raise InputError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.model, self.precision, self.expansion = model, precision, expansion
        on_cpu = model.device.type == "cpu"
        self.tokens_per_batch = TOKENS_ON_CPU if on_cpu else TOKENS_ELSEWHERE
        self.padded = PADDED if on_cpu else 1.0

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """For all batches: weights are cast once."""
        import torch

        self.model.eval()
        reduced = self.precision == "bfloat16"
        with (
            torch.inference_mode(),
            torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=reduced),
        ):
            yield

    def prepare(self, texts: Sequence[str], role: str) -> tuple[Sequence[str], Sequence[int]]:
        # Not verbose: long texts are cut by `features`, and a warning of their length would be wrong.
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        ids = self.model.tokenizer(list(texts), **options)["input_ids"]
        # Prompts and special tokens are the same for all.
        longest = self.model.get_max_seq_length() or max(map(len, ids), default=0)
        return texts, [min(len(found), longest) for found in ids]

    def features(self, prepared: list[str], role: str) -> dict[str, Any]:
        names = ("query",) if role == "query" else ("document", "passage", "corpus")
        named = next((name for name in names if name in self.model.prompts), self.model.default_prompt_name)
        return self.model.preprocess(prepared, prompt=self.model.prompts.get(named), task=role)

    def embed(self, features: dict[str, Any], role: str) -> list[np.ndarray]:
        from sentence_transformers.util import batch_to_device

        found = self.model(batch_to_device(features, self.model.device), task=role)
        kept = found["attention_mask"].bool()
        expanded = found.get("query_expansion_positions")
        if not self.expansion and hasattr(expanded, "bool"):
            kept = kept & ~expanded.bool()
        tokens = found["token_embeddings"].float().cpu().numpy()
        return [text[mask] for text, mask in zip(tokens, kept.cpu().numpy(), strict=True)]


def fastest(
    candidates: Mapping[str, Callable[[Sequence[str]], list[np.ndarray]]], texts: Sequence[str]
) -> str:
    """Which of several ways to encode texts is the fastest on this machine; what was measured is printed.

    Parameters
    ----------
    candidates : dict of str to callable
        Each takes texts and returns token embeddings. The first is the reference: another is chosen only if its tokens have
        a mean cosine of at least .99 with those of the first.
    texts : sequence of str
        A few of them are encoded, twice by each candidate in turn; the best time of each counts.

    Returns
    -------
    str
        The name of a candidate.

    Examples
    --------
    >>> fastest({"only": lambda texts: [np.ones((2, 3))] * len(texts)}, ["some text"])
    'only'
    """
    reference = next(iter(candidates))
    if len(candidates) < 2 or not texts:
        return reference
    sample = list(texts[:: -(-len(texts) // SAMPLE)])
    seconds = dict.fromkeys(candidates, float("inf"))
    rows: dict[str, np.ndarray] = {}
    for _ in range(TRIES):
        for name, encoder in candidates.items():
            began = time.perf_counter()
            rows[name] = np.concatenate(encoder(sample))
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    cosine = {name: _mean_cosine(found, rows[reference]) for name, found in rows.items()}
    close = [name for name in candidates if name == reference or cosine[name] >= CLOSE]
    best = min(close, key=seconds.__getitem__)
    said = ", ".join(
        f"{name} {len(found) / seconds[name]:.0f} tokens/s"
        + (f" (mean cosine {cosine[name]:.4f})" if name != reference else "")
        for name, found in rows.items()
    )
    say(f"encoding in {best}, the fastest of {said}")
    return best


def _mean_cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Of the rows of two arrays; those of some models have no unit length, and texts may have no tokens at all."""
    if not len(x):
        return 1.0
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return float(((x * y).sum(axis=1) / np.maximum(lengths, 1e-30)).mean())


def fastest_precision(model: Any, texts: Sequence[str], role: str) -> str:
    """The precision that a model in torch is fastest in; see :func:`fastest`.

    bfloat16 is faster where the processor has instructions for it, and slower elsewhere.
    """
    if is_exported(model):
        return "float32"
    ways = {name: lambda part, name=name: encode(model, part, role, precision=name) for name in PRECISIONS}
    return fastest(ways, texts)
