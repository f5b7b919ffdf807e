"""``Comparison``: what comparing runs found, as a table and as a picture."""

import dataclasses
import math
from typing import Any

from .evaluation import EvaluationResult
from .tables import latex, markdown

_TEST_NAMES = {
    "t": "paired t-test, two-sided",
    "randomisation": "paired sign-flip randomisation test, two-sided",
    "wilcoxon": "Wilcoxon signed-rank test (Pratt's zeros), two-sided",
}
_CORRECTION_NAMES = {
    "holm": "Holm",
    "bonferroni": "Bonferroni",
    "bh": "Benjamini–Hochberg (false discovery rate)",
    "none": "no",
}


@dataclasses.dataclass(frozen=True)
class Difference:
    """One measure of two runs, topic by topic.

    Attributes
    ----------
    measure, first, second : str
        What was compared.
    n : int
        Topics.
    mean_first, mean_second : float
        Means over topics.
    difference : float
        ``mean_first − mean_second``.
    low, high : float
        Bootstrap interval of the difference (percentile method), of level 1 − alpha.
    effect_size : float
        Mean of the differences over their standard deviation (Cohen's d_z); 0 if all are 0, infinite if
        all are the same.
    wins, losses, ties : int
        Topics on which the first is better, worse, the same.
    p, p_adjusted : float
        As tested, and corrected over all rows of the comparison.
    p_equivalent : float or None
        Of two one-sided t-tests against the margin: small where the means differ by less than it.
    significant, equivalent : bool
        ``p_adjusted < alpha``; ``p_equivalent < alpha``.

    Examples
    --------
    >>> from optical_rs.ranking import compare
    >>> qrels = {f"q{i}": {"d": 1} for i in range(30)}
    >>> one = {f"q{i}": {"d": 1.0, "x": 2.0 if i % 3 else 0.5} for i in range(30)}
    >>> compare(qrels, {"one": one, "two": one}, ["map"]).rows[0]
    Difference(map: one − two = +0.0000 [+0.0000, +0.0000], p adj. 1)
    """

    measure: str
    first: str
    second: str
    n: int
    mean_first: float
    mean_second: float
    difference: float
    low: float
    high: float
    effect_size: float
    wins: int
    losses: int
    ties: int
    p: float
    p_adjusted: float
    p_equivalent: float | None
    significant: bool
    equivalent: bool

    def __repr__(self) -> str:
        return (
            f"Difference({self.measure}: {self.first} − {self.second} = {self.difference:+.4f} "
            f"[{self.low:+.4f}, {self.high:+.4f}], p adj. {_p(self.p_adjusted)}{'*' if self.significant else ''})"
        )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs compared pair by pair.

    Attributes
    ----------
    results : dict of str to EvaluationResult
        Each run's measures, all over the same topics.
    rows : list of Difference
        One for each pair and measure.
    test, correction : str
        As asked for.
    alpha : float
        Level of tests and intervals.
    margin : float or None
        Differences below this do not matter.
    notes : list of str
        What the literature warns of, where it applies.
    """

    results: dict[str, EvaluationResult]
    rows: list[Difference]
    test: str
    correction: str
    alpha: float
    margin: float | None
    notes: list[str]

    def __repr__(self) -> str:
        n = self.rows[0].n if self.rows else 0
        significant = sum(row.significant for row in self.rows)
        return (
            f"Comparison({', '.join(self.results)}; {n} topics; "
            f"{significant} of {len(self.rows)} differences significant)"
        )

    def _repr_html_(self) -> str:
        from ..display import table

        notes = [[note] for note in [self.caption, *self.notes]]
        return table(*self._table()) + table(["notes"], notes)

    @property
    def caption(self) -> str:
        """Test, correction, number of topics and margin, in words."""
        n = self.rows[0].n if self.rows else 0
        parts = [
            f"{_TEST_NAMES[self.test]}; {_CORRECTION_NAMES[self.correction]} correction over {len(self.rows)} "
            f"comparisons; n = {n} topics; {1 - self.alpha:.0%} bootstrap intervals"
        ]
        if self.margin is not None:
            parts.append(f"equivalence by two one-sided t-tests with a margin of {self.margin:g}")
        return "; ".join(parts) + "."

    def to_dict(self) -> dict[str, Any]:
        """Everything but the values per topic, ready for JSON (where an infinite effect size is None)."""

        def plain(row: Difference) -> dict[str, Any]:
            fields = dataclasses.asdict(row)
            return {
                k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()
            }

        return {
            "means": {
                name: {str(measure): mean for measure, mean in result.mean.items()}
                for name, result in self.results.items()
            },
            "test": self.test,
            "correction": self.correction,
            "alpha": self.alpha,
            "margin": self.margin,
            "rows": [plain(row) for row in self.rows],
            "notes": self.notes,
        }

    def _table(self) -> tuple[list[str], list[list[str]]]:
        head = [
            "measure",
            "first",
            "second",
            "difference",
            "interval",
            "d",
            "better/worse/same",
            "p",
            "p adj.",
        ]
        if self.margin is not None:
            head.append("p equiv.")
        body = []
        for r in self.rows:
            cells = [
                r.measure,
                f"{r.first} {r.mean_first:.4f}",
                f"{r.second} {r.mean_second:.4f}",
                f"{r.difference:+.4f}",
                f"[{r.low:+.4f}, {r.high:+.4f}]",
                f"{r.effect_size:+.2f}",
                f"{r.wins}/{r.losses}/{r.ties}",
                _p(r.p),
                _p(r.p_adjusted) + ("*" if r.significant else ""),
            ]
            if r.p_equivalent is not None:
                cells.append(_p(r.p_equivalent) + ("=" if r.equivalent else ""))
            body.append(cells)
        return head, body

    def to_markdown(self) -> str:
        """A table, with what was tested below it; ``*`` marks significance, ``=`` equivalence."""
        return "\n".join([markdown(*self._table()), "", self.caption, *(f"Note: {n}" for n in self.notes)])

    def to_latex(self) -> str:
        """The same as a ``table`` with ``booktabs`` rules."""
        return latex(*self._table(), " ".join([self.caption, *self.notes]), text_columns=3)


def _p(p: float) -> str:
    return "<.0001" if p < 1e-4 else f"{p:.4f}".lstrip("0") if p < 1 else "1"
