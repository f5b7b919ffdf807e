"""What a command says while it works: what it does, how far it is, and nothing of the libraries below it."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

#: Seconds between lines where there is no terminal for a bar, as in the log of a job.
EVERY = 30.0


def say(line: str) -> None:
    """Print what is being done, on the standard error: results alone go to the standard output."""
    print(line, file=sys.stderr, flush=True)


class Report(Protocol):
    """What :func:`progress_bar` gives."""

    def __call__(self, done: int, total: int, tokens: int | None = None, /) -> None:
        """Parts done, all parts (0: not known) and, where texts are encoded, tokens of those that were encoded by now."""


@contextlib.contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Report]:
    """A function to call with the parts done and all parts (0: not known), and with the tokens encoded if there are some.

    On a terminal a bar is shown after half a second. Elsewhere, and where tqdm is not installed, a line is printed every
    half minute. Where tokens are told, a line with the pace of the whole comes last.

    Examples
    --------
    >>> with progress_bar("counting", "number") as report:
    ...     report(1, 2)
    """
    pace = _Pace(time.monotonic())
    bar_class = _bar_class() if sys.stderr.isatty() else None
    if bar_class is None:
        yield _lines(what, unit, pace)
    else:
        with bar_class(desc=what, unit=f" {unit}s", delay=0.5, leave=False) as bar:

            def report(done: int, total: int, tokens: int | None = None, /) -> None:
                pace.count(done, tokens)
                if tokens is not None:
                    bar.set_postfix_str(f"{pace.of(time.monotonic())[1]:.0f} tokens/s", refresh=False)
                bar.total = total or None
                bar.update(done - bar.n)

            yield report
    if pace.tokens:
        now = time.monotonic()
        parts, tokens = pace.of(now)
        say(
            f"{what}: {pace.done - pace.passed} {unit}s of {pace.tokens} tokens in {now - pace.began:.0f} s, "
            f"{parts:.3g} {unit}s/s, {tokens:.0f} tokens/s"
        )


@dataclasses.dataclass
class _Pace:
    """How fast work goes from a moment on: parts for which no token was encoded were done by an earlier run."""

    began: float
    done: int = 0
    tokens: int = 0
    passed: int = 0

    def count(self, done: int, tokens: int | None) -> None:
        if tokens is not None and tokens == self.tokens:
            self.passed += done - self.done
        self.done, self.tokens = done, tokens or 0

    def of(self, now: float, since: "_Pace | None" = None) -> tuple[float, float]:
        """Parts and tokens a second, since the beginning or an earlier moment."""
        before = since or _Pace(self.began)
        seconds = max(now - before.began, 1e-9)
        parts = (self.done - self.passed) - (before.done - before.passed)
        return max(parts, 0) / seconds, (self.tokens - before.tokens) / seconds


def _bar_class() -> Any:
    """tqdm's bar, which every extra that encodes text brings; None without it."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    return tqdm


def _lines(what: str, unit: str, pace: _Pace) -> Report:
    last = dataclasses.replace(pace)

    def report(done: int, total: int, tokens: int | None = None, /) -> None:
        nonlocal last
        pace.count(done, tokens)
        now = time.monotonic()
        if now - last.began >= EVERY:
            # The pace since the last line.
            parts, encoded = pace.of(now, last)
            last = dataclasses.replace(pace, began=now)
            of = f" of {total} {unit}s ({done / total:.0%})" if total else f" {unit}s"
            speed = f", {encoded:.0f} tokens/s" if tokens is not None else ""
            left = f", {(total - done) / parts:.0f} s left" if total and parts else ""
            say(f"{what}: {done}{of}, {now - pace.began:.0f} s, {parts:.3g} {unit}s/s{speed}{left}")

    return report


def quiet(*models: Any) -> None:
    """Silence what libraries print while they load, train and save, but for warnings that matter.

    Parameters
    ----------
    *models : MultiVectorEncoder or SentenceTransformer
        Models that are going to be trained or saved: their cards get no examples for a hub's search field, which
        sentence-transformers would choose from the training text, with a bar of its own, and encode.
    """
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
    if "datasets" in sys.modules:
        import datasets

        datasets.disable_progress_bars()
    for model in models:
        card = model.model_card_data
        card.generate_widget_examples = False
        # The trainer calls this whatever the switch above says.
        card.set_widget_examples = _no_examples


def _no_examples(dataset: Any) -> None:
    pass
