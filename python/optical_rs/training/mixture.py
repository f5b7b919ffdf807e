"""Sentence pairs of several bitexts as one, and whose each is."""

from collections.abc import Sequence

import numpy as np

from ..data import Bitext
from ..errors import InputError


def mix(
    bitexts: Sequence[Bitext],
    *,
    max_pairs: int | None = None,
    proportions: Sequence[float] | None = None,
    group: str | None = None,
) -> tuple[Bitext, list[str]]:
    """Put bitexts one after the other.

    Parameters
    ----------
    bitexts : sequence of Bitext
    max_pairs : int, optional
        Use only the first pairs of each.
    proportions : sequence of float, optional
        The share of each, of which the sum is 1. As many pairs are taken as the shares allow without repeating one of
        the first bitext; others are drawn, and repeated where they are too few.
    group : str, optional
        What all pairs belong to; by default each belongs to its own bitext.

    Returns
    -------
    bitext : Bitext
    groups : list of str
        One for each pair.

    Raises
    ------
    InputError
        Another number of proportions than of bitexts.

    Examples
    --------
    >>> from optical_rs.data import Bitext
    >>> one, two = Bitext("news", ["a", "b"], ["A", "B"]), Bitext("bible", ["c"], ["C"])
    >>> mixed, groups = mix([one, two], proportions=[0.5, 0.5])
    >>> mixed.english, groups
    (['A', 'B', 'C', 'C'], ['news', 'news', 'bible', 'bible'])
    """
    parts = [bitext.head(max_pairs) for bitext in bitexts]
    if proportions is not None:
        if len(proportions) != len(parts):
            raise InputError(
                f"proportions: expected {len(parts)}, one for each bitext, got {list(proportions)}"
            )
        total = len(parts[0]) / proportions[0]
        parts = [b.resample(round(total * s)) for b, s in zip(parts, proportions, strict=True)]
    foreign = [text for part in parts for text in part.foreign]
    english = [text for part in parts for text in part.english]
    groups = [group or part.name for part in parts for _ in range(len(part))]
    return Bitext("+".join(dict.fromkeys(part.name for part in parts)), foreign, english), groups


def by_epoch(stages: Sequence[Sequence[float]], epochs: int) -> list[list[float]]:
    """Shares of each epoch: from the first stage's to the last's, in straight lines.

    Examples
    --------
    >>> by_epoch([[1, 0], [0, 1]], 3)
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    table = np.array(stages, dtype=float)
    at = np.linspace(0, len(table) - 1, epochs)
    return np.stack([np.interp(at, np.arange(len(table)), column) for column in table.T], axis=1).tolist()
