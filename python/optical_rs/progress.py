"""What a command says while it works: what it does, how far it is, and nothing of the libraries below it."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

#: Seconds between lines where there is no terminal for a bar, as in the log of a job.
EVERY = 30.0


def say(line: str) -> None:
    """Print what is being done, on the standard error: results alone go to the standard output."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with the parts done and all parts (0: not known).

    On a terminal a bar is shown after half a second. Elsewhere, and where tqdm is not installed, a line is printed every
    half minute.

    Examples
    --------
    >>> with progress_bar("counting", "number") as report:
    ...     report(1, 2)
    """
    bar_class = _bar_class() if sys.stderr.isatty() else None
    if bar_class is None:
        yield _lines(what, unit)
        return

    with bar_class(desc=what, unit=f" {unit}s", delay=0.5, leave=False) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield report


def _bar_class() -> Any:
    """tqdm's bar, which every extra that encodes text brings; None without it."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    return tqdm


def _lines(what: str, unit: str) -> Callable[[int, int], None]:
    began = said = time.monotonic()
    before = 0

    def report(done: int, total: int) -> None:
        nonlocal said, before
        now = time.monotonic()
        if now - said >= EVERY:
            # The pace since the last line: what an earlier run has done is passed over in no time.
            pace = max(done - before, 0) / (now - said)
            said, before = now, done
            of = f" of {total} {unit}s ({done / total:.0%})" if total else f" {unit}s"
            left = f", {(total - done) / pace:.0f} s left" if total and pace else ""
            say(f"{what}: {done}{of}, {now - began:.0f} s, {pace:.3g} {unit}s/s{left}")

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
