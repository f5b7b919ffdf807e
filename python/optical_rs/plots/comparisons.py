"""Charts of comparisons and measures."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..ranking.differences import Comparison, Difference
from ..ranking.evaluation import EvaluationResult, evaluate
from .figure import BETTER, NEUTRAL, WORSE, new_figure, plain, shortened


def plot_differences(comparison: Comparison, row: Difference) -> Any:
    """Bars of a pair's differences, topic by topic in order of size, with the interval of their mean.

    Parameters
    ----------
    comparison : Comparison
        Of :func:`~optical_rs.ranking.compare`.
    row : Difference
        One of its rows.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from optical_rs.ranking import compare
    >>> from optical_rs.plots import plot_differences
    >>> qrels = {f"q{i}": {"d": 1} for i in range(30)}
    >>> one, two = ({q: {"d": 1.0, "x": 1.5 * (i % n == 0)} for i, q in enumerate(qrels)} for n in (2, 3))
    >>> result = compare(qrels, {"one": one, "two": two}, ["map"])
    >>> plot_differences(result, result.rows[0]).axes[0].get_ylabel()
    'map: one − two'
    """
    first, second = comparison.results[row.first], comparison.results[row.second]
    at = first.measures.index(row.measure)
    differences = np.sort(first.values[at] - second.values[at])[::-1]
    figure, axes = new_figure()
    colours = np.where(differences > 0, BETTER, np.where(differences < 0, WORSE, NEUTRAL))
    axes.bar(np.arange(len(differences)), differences, width=1.0, color=colours)
    level = 1 - comparison.alpha
    axes.axhspan(row.low, row.high, color=NEUTRAL, alpha=0.3, label=f"mean, {level:.0%} interval")
    axes.axhline(row.difference, color="black", linewidth=1)
    axes.axhline(0, color=NEUTRAL, linewidth=0.5)
    axes.set_xlabel(f"{row.n} topics: {row.wins} better, {row.losses} worse, {row.ties} the same")
    axes.set_ylabel(plain(f"{row.measure}: {row.first} − {row.second}"))
    axes.legend(frameon=False)
    return figure


def plot_worse(
    before: EvaluationResult,
    after: EvaluationResult,
    measure: str,
    *,
    texts: Mapping[Any, str] | None = None,
    most: int = 10,
) -> Any:
    """The topics that got worse from one result to another, those that lost the most first.

    Parameters
    ----------
    before, after : EvaluationResult
        Of :func:`~optical_rs.ranking.evaluate`, of the same topics.
    measure : str
        One that both have.
    texts : dict of str to str, optional
        Topic → text, to be shown in place of ids.
    most : int
        Topics at most.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If ``most`` is below 1, the topics differ, or none got worse.

    Examples
    --------
    >>> from optical_rs.plots import plot_worse
    >>> from optical_rs.ranking import evaluate
    >>> qrels = {"q1": {"d": 1}, "q2": {"d": 1}}
    >>> before = evaluate(qrels, {"q1": {"d": 2.0, "x": 1.0}, "q2": {"d": 1.0}}, ["map"])
    >>> after = evaluate(qrels, {"q1": {"d": 1.0, "x": 2.0}, "q2": {"d": 1.0}}, ["map"])
    >>> figure = plot_worse(before, after, "map", texts={"q1": "moto"})
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['moto']
    """
    if most < 1:
        raise InputError(f"most: expected an integer >= 1, got {most}")
    old, new = before.per_topic(measure), after.per_topic(measure)
    if old.keys() != new.keys():
        raise InputError(
            f"after: expected the {len(old)} topics of before, got {len(new)} of which some are others"
        )
    lost = sorted((topic for topic in old if new[topic] < old[topic]), key=lambda t: new[t] - old[t])[:most]
    if not lost:
        raise InputError(f"after: expected topics with a lower {measure} than before, got none")
    figure, axes = new_figure(height=1.4 + 0.3 * len(lost))
    places = range(len(lost))
    for y, topic in enumerate(lost):
        axes.plot([old[topic], new[topic]], [y, y], color=WORSE, alpha=0.5, linewidth=2, zorder=1)
    axes.plot([old[t] for t in lost], places, "o", color=NEUTRAL, label="before", zorder=2)
    axes.plot([new[t] for t in lost], places, "o", color=WORSE, label="after", zorder=2)
    axes.set_yticks(places, [plain(shortened((texts or {}).get(topic, str(topic)))) for topic in lost])
    axes.set_ylim(len(lost) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel(measure)
    figure.legend(frameon=False, ncols=2, loc="outside upper right")
    return figure


def plot_intervals(comparisons: Mapping[str, Comparison]) -> Any:
    """The mean difference of each pair with its interval, a panel for each comparison: an ablation at a glance.

    Differences that are significant after correction are filled.

    Parameters
    ----------
    comparisons : dict of str to Comparison
        Title → comparison, of one measure and with a baseline.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no comparison.

    Examples
    --------
    >>> from optical_rs.ranking import compare
    >>> from optical_rs.plots import plot_intervals
    >>> qrels = {f"q{i}": {"d": 1} for i in range(30)}
    >>> one, two = ({q: {"d": 1.0, "x": 1.5 * (i % n == 0)} for i, q in enumerate(qrels)} for n in (2, 3))
    >>> result = compare(qrels, {"one": one, "two": two}, ["map"], baseline="two")
    >>> plot_intervals({"all queries": result}).axes[0].get_xlabel()
    'map, difference to two'
    """
    if not comparisons:
        raise InputError("comparisons: expected at least one")
    names = list(dict.fromkeys(row.first for found in comparisons.values() for row in found.rows))
    height = 1.2 + 0.28 * len(names)
    figure, panels = new_figure(3.2 + 3.2 * len(comparisons), height, panels=len(comparisons))
    for axes, (title, found) in zip(panels, comparisons.items(), strict=True):
        for row in found.rows:
            colour = BETTER if row.low > 0 else WORSE if row.high < 0 else NEUTRAL
            face = colour if row.significant else "white"
            y = names.index(row.first)
            axes.plot([row.low, row.high], [y, y], color=colour)
            axes.plot(row.difference, y, "o", color=colour, markerfacecolor=face)
        axes.axvline(0, color=NEUTRAL, linewidth=0.5)
        axes.set_title(plain(title), fontsize="medium")
        axes.set_xlabel(plain(f"{found.rows[0].measure}, difference to {found.rows[0].second}"))
        axes.set_yticks(range(len(names)), [plain(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
    return figure


def plot_recall(
    qrels: Any,
    runs: Mapping[str, Any],
    *,
    depth: int = 1000,
    relevance_level: int = 1,
    complete: bool = False,
) -> Any:
    """Recall of each run over the number of documents looked at.

    Parameters
    ----------
    qrels, runs, relevance_level, complete
        As for :func:`~optical_rs.ranking.compare`.
    depth : int
        Documents to look at.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        A depth below 1, or as :func:`~optical_rs.ranking.evaluate`.

    Examples
    --------
    >>> from optical_rs.plots import plot_recall
    >>> plot_recall({"q": {"d": 1}}, {"one": {"q": {"d": 1.0}}}, depth=10).axes[0].get_ylabel()
    'recall'
    """
    if depth < 1:
        raise InputError(f"depth: expected an integer >= 1, got {depth}")
    cuts = sorted({*np.unique(np.geomspace(1, depth, 40).astype(int)).tolist(), depth})
    figure, axes = new_figure()
    for name, run in runs.items():
        names = [f"recall_{k}" for k in cuts]
        mean = evaluate(qrels, run, names, relevance_level=relevance_level, complete=complete).mean
        axes.plot(cuts, [mean[n] for n in names], label=plain(name))
    axes.set_xscale("log")
    axes.set_ylim(0, 1)
    axes.set_xlabel("documents looked at")
    axes.set_ylabel("recall")
    axes.legend(frameon=False)
    return figure


def plot_languages(values: Mapping[str, Mapping[str, float]], measure: str) -> Any:
    """A measure of several systems in several languages, side by side, with each system's mean.

    Parameters
    ----------
    values : dict of str to dict of str to float
        System → language → value.
    measure : str
        What the values are.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If no system has a value.

    Examples
    --------
    >>> from optical_rs.plots import plot_languages
    >>> plot_languages({"student": {"ny": 0.79, "fr": 0.95}}, "MAP").axes[0].get_ylabel()
    'MAP'
    """
    languages = list(dict.fromkeys(name for row in values.values() for name in row))
    if not languages:
        raise InputError("values: expected at least one system with a language")
    figure, axes = new_figure(width=max(6.4, 0.5 * len(languages) * len(values)))
    width = 0.8 / len(values)
    for i, (system, row) in enumerate(values.items()):
        places = np.arange(len(languages)) + (i - (len(values) - 1) / 2) * width
        heights = [row.get(name, np.nan) for name in languages]
        bars = axes.bar(places, heights, width, label=plain(system))
        axes.axhline(np.nanmean(heights), color=bars[0].get_facecolor(), linewidth=0.8, linestyle=":")
    axes.set_xticks(np.arange(len(languages)), [plain(name) for name in languages])
    axes.set_ylabel(measure)
    axes.legend(frameon=False, ncols=min(3, len(values)))
    return figure


def plot_gap(before: Mapping[str, float], after: Mapping[str, float], measure: str) -> Any:
    """A measure in each language before and after training, and how far each language is from the best one.

    Parameters
    ----------
    before, after : dict of str to float
        Language → value; of the same languages.
    measure : str
        What the values are.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If the languages differ, or there are none.

    Examples
    --------
    >>> from optical_rs.plots import plot_gap
    >>> figure = plot_gap({"ny": 0.60, "fr": 0.94}, {"ny": 0.79, "fr": 0.95}, "MAP")
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['fr', 'ny']
    """
    if not before or set(before) != set(after):
        raise InputError(
            f"after: expected the languages of before ({', '.join(before) or 'none'}), got {', '.join(after) or 'none'}"
        )
    names = sorted(before, key=lambda name: before[name], reverse=True)
    figure, axes = new_figure(height=1.4 + 0.32 * len(names))
    for values, colour, label in ((before, NEUTRAL, "before"), (after, BETTER, "after")):
        gap = max(values.values()) - min(values.values())
        axes.plot(
            [values[name] for name in names], range(len(names)), "o", color=colour,
            label=f"{label}: {gap:.2f} from the best language to the worst", zorder=2,
        )  # fmt: skip
    for y, name in enumerate(names):
        axes.plot([before[name], after[name]], [y, y], color=BETTER, alpha=0.4, linewidth=3, zorder=1)
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(measure)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(frameon=False, loc="outside upper left")
    return figure


def plot_curves(curves: Mapping[str, Mapping[int, float]], labels: tuple[str, str]) -> Any:
    """A measure of several systems over a size, on a logarithmic scale.

    Parameters
    ----------
    curves : dict of str to dict of int to float
        System → size → value.
    labels : (str, str)
        What size and value are.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no system.

    Examples
    --------
    >>> from optical_rs.plots import plot_curves
    >>> plot_curves({"student": {50: 0.6, 500: 0.7}}, ("pairs", "MAP")).axes[0].get_xlabel()
    'pairs'
    """
    if not curves:
        raise InputError("curves: expected at least one system")
    figure, axes = new_figure()
    for system, curve in curves.items():
        sizes = sorted(curve)
        axes.plot(sizes, [curve[size] for size in sizes], marker="o", label=plain(system))
    axes.set_xscale("log")
    ticks = sorted({size for curve in curves.values() for size in curve})
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(frameon=False)
    return figure


def plot_points(points: Mapping[str, tuple[float, float]], labels: tuple[str, str]) -> Any:
    """Two measures of each system against each other, such as one in and one out of a domain.

    Parameters
    ----------
    points : dict of str to (float, float)
        System → the two values.
    labels : (str, str)
        What they are.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no system.

    Examples
    --------
    >>> from optical_rs.plots import plot_points
    >>> plot_points({"student": (0.8, 0.6)}, ("in domain", "out of domain")).axes[0].get_ylabel()
    'out of domain'
    """
    if not points:
        raise InputError("points: expected at least one system")
    figure, axes = new_figure(height=4.8)
    for i, (system, (x, y)) in enumerate(points.items()):
        axes.plot(x, y, marker="osD^vPX*"[i % 8], linestyle="", label=plain(system))
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    return figure


def write_plots(
    folder: str | os.PathLike[str],
    comparison: Comparison,
    qrels: Any,
    runs: Mapping[str, Any],
    *,
    languages: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    relevance_level: int = 1,
    complete: bool = False,
) -> list[Path]:
    """Every chart of a comparison as PNG files.

    Parameters
    ----------
    folder : path
        Made if it does not exist.
    comparison, qrels, runs, relevance_level, complete
        As for :func:`~optical_rs.ranking.compare` and of it.
    languages : dict, optional
        Measure → system → language → value, for a chart of each measure.

    Returns
    -------
    list of Path
        What was written.
    """
    folder = Path(folder)
    charts: dict[str, Any] = {}
    for row in comparison.rows:
        name = f"{_file(row.measure)}-{_file(row.first)}-{_file(row.second)}"
        # Names that differ in signs alone are one file's.
        same = sum(other == name or other.startswith(f"{name}~") for other in charts)
        charts[f"{name}~{same + 1}" if same else name] = plot_differences(comparison, row)
    charts["recall"] = plot_recall(qrels, runs, relevance_level=relevance_level, complete=complete)
    for measure, values in (languages or {}).items():
        charts[f"languages-{_file(measure)}"] = plot_languages(values, measure)
    folder.mkdir(parents=True, exist_ok=True)
    return [_save(figure, folder / f"{name}.png") for name, figure in charts.items()]


def _file(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=150)
    return path
