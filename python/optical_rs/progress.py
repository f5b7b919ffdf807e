"""A progress bar on the terminal for work that takes more than a moment."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with the parts done and all parts (0: not known).

    The bar is shown after half a second, on terminals only.

    Examples
    --------
    >>> with progress_bar("counting", "number") as report:
    ...     report(1, 2)
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit=f" {unit}s", delay=0.5, leave=False) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield report
