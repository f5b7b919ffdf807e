"""The report of an experiment: tables, tests and charts, made of the cells' measures per query."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import build_info
from ..errors import InputError
from ..files import read_run, write_json
from ..fingerprint import of_files
from ..models import RECORD
from ..ranking import EvaluationResult, compare_results, language_gap
from ..ranking.differences import Comparison
from ..ranking.tables import markdown
from ..retrieval import MEASURES as ALL_MEASURES
from ..retrieval import describe, table
from .recipe import IN_DOMAIN, OUT_OF_DOMAIN, Recipe

#: Measures of the tables, and what they are called there.
MEASURES = {"map": "MAP", "ndcg_cut_10": "nDCG@10", "recall_100": "R@100"}
#: How a title says the places that every recipe may have; others are called as the recipe calls them.
TITLES = {IN_DOMAIN: "in domain", OUT_OF_DOMAIN: "out of domain"}


def read_per_query(file: Path) -> dict[str, dict[str, float]]:
    """Query → measure → value, of a cell's ``per_query.tsv``."""
    head, *rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    return {row[0]: dict(zip(head[1:], map(float, row[1:]), strict=True)) for row in rows}


def _values(
    folder: Path, cells: Sequence[Mapping[str, Any]], where: str
) -> dict[str, dict[str, dict[int, dict[str, dict[str, float]]]]]:
    """System → language → seed → query → measure → value."""
    found: dict[str, Any] = {}
    for cell in cells:
        file = folder / cell["path"] / "evaluation" / where / "per_query.tsv"
        if file.exists():
            seeds = found.setdefault(cell["system"], {}).setdefault(cell["language"], {})
            seeds[cell["seed"]] = read_per_query(file)
    return found


def _summary(seeds: Mapping[int, Mapping[str, Mapping[str, float]]], measure: str) -> dict[str, Any]:
    """The mean over queries and seeds, and the spread over seeds."""
    means = [float(np.mean([query[measure] for query in queries.values()])) for queries in seeds.values()]
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return {"mean": float(np.mean(means)), "sd": spread, "seeds": len(means)}


def _averaged(
    languages: Mapping[str, Mapping[int, Any]],
    names: Sequence[str],
    measures: Sequence[str] = tuple(MEASURES),
) -> EvaluationResult:
    """Each query's measures, averaged over seeds, for the queries of some languages."""
    topics: dict[str, list[list[float]]] = {}
    for language in names:
        for queries in languages[language].values():
            for query, values in queries.items():
                topics.setdefault(f"{language}/{query}", []).append([values[m] for m in measures])
    keys = sorted(topics, key=str.encode)
    return EvaluationResult.of(list(measures), keys, np.array([np.mean(topics[k], axis=0) for k in keys]).T)


def _comparison(
    values: Mapping[str, Any], names: Sequence[str], measure: str, baseline: str
) -> Comparison | None:
    """All systems that have all of these languages against the baseline."""
    complete = {system: v for system, v in values.items() if all(name in v for name in names)}
    if baseline not in complete or len(complete) < 2:
        return None
    results = {system: _averaged(v, names).select([measure]) for system, v in complete.items()}
    first = results[baseline]
    results = {system: r for system, r in results.items() if r.topics == first.topics}
    return compare_results(results, baseline=baseline, test="randomisation") if len(results) > 1 else None


def write_report(
    folder: Path,
    cells: Sequence[Mapping[str, Any]],
    *,
    recipe: Recipe,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``report.json``, ``report.md`` and charts of a run.

    Parameters
    ----------
    folder : path
        Of the run.
    cells : sequence of dict
        ``system``, ``language``, ``seed`` and ``path`` of the cells that are finished.
    recipe : Recipe
        Its first group of languages is the one to be improved, the last one the aim; gains and gaps are counted from
        its zero-shot system, or from the baseline.
    about : dict, optional
        More for ``report.json``.

    Returns
    -------
    dict
        What ``report.json`` says: ``systems`` (place → language → system → means and the interval of MAP),
        ``measures``, ``gains``, ``comparisons``, ``train_seconds``, ``pairs_per_second``, ``checksums`` and more.

    Raises
    ------
    InputError
        No cells.
    """
    if not cells:
        raise InputError("cells: nothing was made that could be reported")
    groups, baseline = recipe.groups, recipe.baseline
    languages = recipe.every_language
    systems = list(dict.fromkeys(cell["system"] for cell in cells))
    zero_shot = (name for name, options in recipe.systems.items() if options.get("method") == "zero-shot")
    start = next(zero_shot, baseline)
    records = {
        cell["path"]: json.loads((folder / cell["path"] / RECORD).read_text(encoding="utf-8"))
        for cell in cells
    }
    report: dict[str, Any] = {"question": recipe.question, "groups": dict(groups), "baseline": baseline}
    report["collections"] = _sizes_of(cells, records)
    places = list(dict.fromkeys(p for name in languages for p in recipe.places(name)))
    parts = [f"# {recipe.question or 'Systems compared'}", ""]
    comparisons: dict[str, Comparison] = {}
    per_place: dict[str, Any] = {}
    report["systems"] = {}
    for where in places:
        title = TITLES.get(where, where)
        values = _values(folder, cells, where)
        if not values:
            continue
        asked = [name for name in languages if any(name in v for v in values.values())]
        order = [system for system in systems if system in values]
        table = {
            measure: {
                system: {
                    name: _summary(values[system][name], measure) for name in asked if name in values[system]
                }
                for system in order
            }
            for measure in MEASURES
        }
        per_place[where] = table
        report["systems"][where] = {
            name: {
                system: describe(_averaged(values[system], [name], ALL_MEASURES), "map")
                for system in order
                if name in values[system]
            }
            for name in asked
        }
        families = {group: [name for name in names if name in asked] for group, names in groups.items()}
        if where == OUT_OF_DOMAIN:
            families = {title: asked}
        if len(asked) == 1:
            parts += _one_language(report, where, asked[0], title)
        else:
            for measure, label in MEASURES.items():
                parts += [f"## {label}, {title}", "", _table(table[measure], asked, families), ""]
        for family, names in families.items():
            if names and (found := _comparison(values, names, "map", baseline)):
                several = len(families) > 1 or (family and family != title)
                comparisons[f"{title}, {family}" if several else title] = found
    report["measures"] = per_place
    report["gains"] = _gains(per_place.get(IN_DOMAIN, {}).get("map", {}), recipe, start)
    if len(languages) > 1:
        parts += _gain_part(report["gains"], start)
    for title, comparison in comparisons.items():
        parts += [f"## MAP against {baseline}: {title}", "", comparison.to_markdown(), ""]
    report["rank_distance"] = rank_distances(folder, cells, languages)
    if report["rank_distance"]:
        rows = [[name, f"{value:.1f}"] for name, value in report["rank_distance"].items()]
        parts += [
            f"## Rank distance between {', '.join(languages)}",
            "",
            markdown(["system", "ranks"], rows),
            "",
        ]
    report["comparisons"] = {title: comparison.to_dict() for title, comparison in comparisons.items()}
    for found in report["comparisons"].values():
        found.pop("results", None)
    parts += _seconds(report, cells, records)
    report["checksums"] = {
        f"{cell['path']}/evaluation/{where}/per_query.tsv": of_files(file)
        for cell in cells
        for where in places
        if (file := folder / cell["path"] / "evaluation" / where / "per_query.tsv").exists()
    }
    report |= {"build": build_info(), **(about or {})}
    if failures := (about or {}).get("failures"):
        parts += ["## Not made", "", *(f"- {line}" for line in failures), ""]
    charts = _charts(folder, per_place, comparisons, recipe.systems)
    parts += [f"![{chart.stem}]({chart.relative_to(folder)})" for chart in charts]
    (folder / "report.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8", newline="\n")
    write_json(folder / "report.json", report)
    return report


def _sizes_of(cells: Sequence[Mapping[str, Any]], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Place → language → number of queries and documents."""
    found: dict[str, Any] = {}
    for cell in cells:
        for place, size in records[cell["path"]].get("sizes", {}).items():
            found.setdefault(place, {})[cell["language"]] = size
    return found


def _one_language(report: Mapping[str, Any], where: str, language: str, title: str) -> list[str]:
    """All measures of a place that only one language is asked in, with intervals."""
    names = {"map": "MAP", "ndcg_cut_10": "nDCG@10", "recall_10": "R@10", "recall_100": "R@100"}
    rows = []
    for system, values in report["systems"][where][language].items():
        low, high = values["map_interval"]
        rows.append([system, *(f"{values[m]:.3f}" for m in names), f"{low:.3f} – {high:.3f}"])
    size = report["collections"].get(where, {}).get(language, {})
    about = f"{size.get('queries', 0)} queries, {size.get('documents', 0)} documents"
    heading = ", ".join(part for part in (language, title) if part)
    head = ["system", *names.values(), "MAP, 95 % interval"]
    return [f"## {heading[0].upper()}{heading[1:]}", "", f"{about}.", "", markdown(head, rows), ""]


def _seconds(
    report: dict[str, Any], cells: Sequence[Mapping[str, Any]], records: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Time and throughput of training, into the report and as a part of the page."""
    seconds: dict[str, list[float]] = {}
    for cell in cells:
        seconds.setdefault(cell["system"], []).append(records[cell["path"]].get("cell_seconds", 0.0))
    report["cell_seconds"] = {name: {"mean": float(np.mean(s)), "max": max(s)} for name, s in seconds.items()}
    # Systems that differ in interpolation alone have one training, and its record.
    once = {(r["train_seconds"], r["steps"]): r for r in records.values() if r.get("train_seconds")}
    trained = list(once.values())
    total = sum(r["train_seconds"] for r in trained)
    report["train_seconds"] = total
    pairs = sum(r["pairs_per_second"] * r["train_seconds"] for r in trained)
    report["pairs_per_second"] = pairs / total if total else 0.0
    rows = [[name, f"{v['mean']:.0f}", f"{v['max']:.0f}"] for name, v in report["cell_seconds"].items()]
    return ["## Seconds per cell", "", markdown(["system", "mean", "longest"], rows), ""]


def show(report: Mapping[str, Any]) -> str:
    """The tables of a report as text for a terminal."""
    parts = []
    for place, languages in report["systems"].items():
        for language, rows in languages.items():
            where = ", ".join(part for part in (language, TITLES.get(place, place)) if part)
            size = report["collections"].get(place, {}).get(language, {})
            parts.append(
                f"{where}: {size['queries']} queries, {size['documents']} documents\n\n{table(rows)}"
            )
    if report["train_seconds"]:
        parts.append(f"training: {report['train_seconds']:.0f} s, {report['pairs_per_second']:.0f} pairs/s")
    return "\n\n".join(parts)


def _cell(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return ""
    return f"{summary['mean']:.3f}" + (f" ±{summary['sd']:.3f}" if summary["sd"] is not None else "")


def _mean_of(row: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> float | None:
    return float(np.mean([row[n]["mean"] for n in names])) if names and all(n in row for n in names) else None


def _table(
    rows: Mapping[str, Mapping[str, Any]], languages: Sequence[str], families: Mapping[str, Sequence[str]]
) -> str:
    """Systems by languages, with the mean of each family that has more than one; ± is over seeds."""
    wide = {name: members for name, members in families.items() if len(members) > 1}
    head = ["system", *languages, *(f"mean of {name}" for name in wide)]
    body = []
    for system, row in rows.items():
        means = [_mean_of(row, members) for members in wide.values()]
        body.append(
            [
                system,
                *(_cell(row.get(name)) for name in languages),
                *("" if m is None else f"{m:.3f}" for m in means),
            ]
        )
    return markdown(head, body)


def rank_distances(
    folder: Path, cells: Sequence[Mapping[str, Any]], languages: Sequence[str]
) -> dict[str, float]:
    """How far apart languages are for one need: the worst minus the best rank of the first document that a
    query finds among those that are right, over queries of one id in all languages, averaged.

    What a run does not have counts as one more than its depth. For systems that were asked in all
    languages; the first seed of each.
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for cell in cells:
        file = folder / cell["path"] / "evaluation" / IN_DOMAIN
        if cell["seed"] == 0 and (file / "run.trec").exists():
            ranks = found.setdefault(cell["system"], {}).setdefault(cell["language"], {})
            reciprocal = {q: v["recip_rank"] for q, v in read_per_query(file / "per_query.tsv").items()}
            deep = max(map(len, read_run(file / "run.trec").values()), default=0)
            for query, value in reciprocal.items():
                ranks[query] = min(round(1 / value), deep + 1) if value else deep + 1
    distances = {}
    for system, by_language in found.items():
        if len(languages) < 2 or any(name not in by_language for name in languages):
            continue
        shared = set.intersection(*(set(by_language[name]) for name in languages))
        per_query = [[by_language[name][query] for name in languages] for query in sorted(shared)]
        spread = [max(row) - min(row) for row in per_query]
        if spread:
            distances[system] = float(np.mean(spread))
    return distances


def _gains(
    rows: Mapping[str, Mapping[str, Any]],
    recipe: Recipe,
    first: str,
) -> dict[str, Any]:
    """Of each system in the first group: the mean, ratios to the first system and to the best translation, and
    the share of the gap that was closed: to the last group, or where there is one group to human translations."""
    groups, translation = recipe.groups, recipe.translation
    names = list(groups)
    low, high = list(groups[names[0]]), list(groups[names[-1]])
    before = rows.get(first, {})
    start = _mean_of(before, low)
    translated = {name: m for name in translation if (m := _mean_of(rows.get(name, {}), low)) is not None}
    best = max(translated, key=lambda name: translated[name]) if translated else None
    # With one group of languages the aim is the first system that searches with human translations.
    human = (name for name, options in recipe.systems.items() if options.get("method") == "oracle")
    oracle = next(human, None) if len(names) == 1 else None
    top = _mean_of(rows.get(oracle, {}), low) if oracle else None
    gains = {}
    for system, row in rows.items():
        mean = _mean_of(row, low)
        if mean is None:
            continue
        closed = None
        if len(names) > 1 and start is not None and all(name in before for name in high):
            values = {name: row[name]["mean"] for name in low} | {name: before[name]["mean"] for name in high}
            was = {name: before[name]["mean"] for name in [*low, *high]}
            closed = language_gap(values, was, low=low, high=high).closed
        elif top is not None and start is not None and top > start:
            closed = (mean - start) / (top - start)
        gains[system] = {
            "mean": mean,
            "over_start": mean / start if start else None,
            "over_translation": mean / translated[best] if best else None,
            "gap_closed": closed,
        }
    aim = names[-1] if len(names) > 1 else oracle
    return {"systems": gains, "best_translation": best, "low": low, "high": high, "aim": aim}


def _gain_part(gains: Mapping[str, Any], start: str) -> list[str]:
    if not gains["systems"]:
        return []

    def number(x: float | None, form: str) -> str:
        return "" if x is None or math.isnan(x) else format(x, form)

    rows = [
        [
            system,
            f"{v['mean']:.3f}",
            number(v["over_start"], ".2f"),
            number(v["over_translation"], ".2f"),
            number(v["gap_closed"], ".0%"),
        ]
        for system, v in gains["systems"].items()
    ]
    best = gains["best_translation"] or "none"
    aim = gains["aim"]
    head = ["system", "MAP", f"× {start}", f"× best translation ({best})", f"gap to {aim} closed"]
    # A column without a number says nothing.
    shown = [i for i in range(len(head)) if any(row[i] for row in rows)]
    head, rows = [head[i] for i in shown], [[row[i] for i in shown] for row in rows]
    return [f"## Gains, mean of {', '.join(gains['low'])}", "", markdown(head, rows), ""]


def _sizes(
    means: Mapping[str, Mapping[str, float]], systems: Mapping[str, Any]
) -> dict[str, dict[int, float]]:
    """Curves over the number of pairs: of systems that differ in ``max_pairs`` alone, by their loss or method."""
    curves: dict[str, dict[int, float]] = {}
    for name, row in means.items():
        options = dict(systems.get(name) or {})
        if pairs := options.pop("max_pairs", None):
            label = name.removesuffix(f"-{pairs}")
            curves.setdefault(label, {})[pairs] = float(np.mean(list(row.values())))
    return {label: curve for label, curve in curves.items() if len(curve) > 1}


def _charts(
    folder: Path,
    per_place: Mapping[str, Any],
    comparisons: Mapping[str, Comparison],
    systems: Mapping[str, Any],
) -> list[Path]:
    """MAP by language and system, differences to the baseline, in against out of domain, and over the number of
    pairs; none where matplotlib is missing."""
    try:
        from ..plots import plot_curves, plot_intervals, plot_languages, plot_points

        drawn = []
        table = per_place.get(IN_DOMAIN, {}).get("map")
        if table:
            means = {s: {name: v["mean"] for name, v in row.items()} for s, row in table.items()}
            drawn.append(("languages.svg", plot_languages(means, "MAP")))
            if curves := _sizes(means, systems):
                drawn.append(("pairs.svg", plot_curves(curves, ("sentence pairs", "mean MAP"))))
        if comparisons:
            drawn.append(("ablation.svg", plot_intervals(comparisons)))
        outside = per_place.get(OUT_OF_DOMAIN, {}).get("map")
        if table and outside:
            language = next(iter(next(iter(outside.values()))))
            points = {
                s: (table[s][language]["mean"], row[language]["mean"])
                for s, row in outside.items()
                if language in table.get(s, {}) and language in row
            }
            labels = (f"MAP in domain ({language})", f"MAP out of domain ({language})")
            drawn.append(("domains.svg", plot_points(points, labels)))
    except InputError:
        return []
    for name, figure in drawn:
        figure.savefig(folder / name, metadata={"Date": None})
    return [folder / name for name, _ in drawn]
