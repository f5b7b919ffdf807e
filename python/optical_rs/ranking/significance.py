"""Tests of differences, intervals of their means, and corrections for many tests."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import InputError

TESTS = ("t", "randomisation", "wilcoxon")
CORRECTIONS = ("holm", "bonferroni", "bh", "none")


def _generator(seed: int, stream: int) -> np.random.Generator:
    """Counter-based random numbers, apart for each use."""
    return np.random.Generator(np.random.Philox(key=[seed, stream]))


def _chunks(total: int, n: int) -> Iterator[int]:
    """Sizes of pieces of `total` rows of `n`, so that none takes much memory."""
    step = max(1, 4_000_000 // max(n, 1))
    for start in range(0, total, step):
        yield min(step, total - start)


def bootstrap(d: np.ndarray, alpha: float, resamples: int, seed: int) -> tuple[float, float]:
    """The interval of a mean by the percentile bootstrap, of level 1 − alpha."""
    generator = _generator(seed, 0)
    means = np.concatenate(
        [
            d[generator.integers(len(d), size=(size, len(d)))].mean(axis=1)
            for size in _chunks(resamples, len(d))
        ]
    )
    low, high = np.percentile(means, [50 * alpha, 100 - 50 * alpha])
    return float(low), float(high)


def p_value(d: np.ndarray, test: str, resamples: int, seed: int) -> float:
    """The two-sided p-value of differences, by one of ``TESTS``."""
    if not d.any():
        return 1.0
    if test == "randomisation":
        generator = _generator(seed, 1)
        # Sums that are equal but for the order of their additions count as equally extreme.
        seen = abs(d.sum()) * (1 - 1e-12)
        extreme = 0
        for size in _chunks(resamples, len(d)):
            signs = generator.integers(2, size=(size, len(d)), dtype=np.int8).astype(np.float64) * 2 - 1
            extreme += int((np.abs(signs @ d) >= seen).sum())
        return (1 + extreme) / (1 + resamples)
    from scipy import stats

    if test == "wilcoxon":
        return float(stats.wilcoxon(d, zero_method="pratt").pvalue)
    spread = d.std(ddof=1)
    # Differences that are all the same leave no doubt, as far as a t-test can see.
    return float(stats.ttest_1samp(d, 0.0).pvalue) if spread > 0 else 0.0


def equivalence(d: np.ndarray, margin: float) -> float:
    """The p-value of two one-sided t-tests of the mean against the margin on either side."""
    from scipy import stats

    error = d.std(ddof=1) / math.sqrt(len(d))
    if error == 0:
        return 0.0 if abs(d.mean()) < margin else 1.0
    below = stats.t.sf((d.mean() + margin) / error, len(d) - 1)
    above = stats.t.sf((margin - d.mean()) / error, len(d) - 1)
    return float(max(below, above))


def adjust(p: Sequence[float], correction: str = "holm") -> list[float]:
    """p-values corrected for their number.

    Parameters
    ----------
    p : sequence of float
    correction : {"holm", "bonferroni", "bh", "none"}
        Holm's step-down and Bonferroni's bound the family-wise error rate, Benjamini and Hochberg's
        step-up the false discovery rate.

    Returns
    -------
    list of float
        In the order given, at most 1.

    Raises
    ------
    InputError
        An unknown correction.

    References
    ----------
    S. Holm, Scandinavian Journal of Statistics 6, 1979; Y. Benjamini and Y. Hochberg, JRSS B 57, 1995.

    Examples
    --------
    >>> from optical_rs.ranking import adjust
    >>> adjust([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    n = len(values)
    order = np.argsort(values, kind="stable")
    out = values.copy()
    if correction == "bonferroni":
        out = values * n
    elif correction == "holm":
        out[order] = np.maximum.accumulate(values[order] * np.arange(n, 0, -1))
    elif correction == "bh":
        steps = values[order] * n / np.arange(1, n + 1)
        out[order] = np.minimum.accumulate(steps[::-1])[::-1]
    elif correction != "none":
        raise InputError(f"correction: expected one of {', '.join(CORRECTIONS)}, got {correction!r}")
    adjusted: list[float] = np.minimum(out, 1.0).tolist()
    return adjusted
