"""Reports: what tables, gains and distances say of cells written by hand."""

import json

import pytest
from optical_rs.experiment import make_recipe
from optical_rs.experiment.report import _gain_part, _gains, rank_distances, write_report
from optical_rs.plots import plot_curves, plot_points
from optical_rs.ranking import EvaluationResult, compare_results

pytest.importorskip("scipy")

#: Reciprocal ranks of three queries: system → language → seed.
RANKS = {
    "zero-shot": {"ny": [[2, 4, 5]], "fr": [[1, 1, 1]]},
    "words": {"ny": [[1, 2, 4]], "fr": [[1, 1, 2]]},
    "better": {"ny": [[1, 1, 2], [1, 2, 1]], "fr": [[1, 1, 1]]},
}


@pytest.fixture
def cells(tmp_path):
    made = []
    for system, by_language in RANKS.items():
        for language, seeds in by_language.items():
            for seed, ranks in enumerate(seeds):
                path = f"{system}/{language}-{seed}"
                folder = tmp_path / path / "evaluation" / "in-domain"
                folder.mkdir(parents=True)
                head = "query\tmap\tndcg_cut_10\trecall_10\trecip_rank\trecall_100"
                rows = [f"q{i}\t{1 / r:.6f}\t{1 / r:.6f}\t1\t{1 / r:.6f}\t1" for i, r in enumerate(ranks)]
                (folder / "per_query.tsv").write_text("\n".join([head, *rows]) + "\n")
                hits = [f"q{i} Q0 d{k} {k} {9 - k} x" for i in range(3) for k in range(1, 6)]
                (folder / "run.trec").write_text("\n".join(hits) + "\n")
                (tmp_path / path / "optical.json").write_text(json.dumps({"cell_seconds": 2.0 + seed}))
                made.append({"system": system, "language": language, "seed": seed, "path": path})
    return made


def recipe(systems, **changes):
    keys = {"bitext": "pairs.tsv", "collection": "collection", "languages": {"low": ["ny"], "high": ["fr"]}}
    return make_recipe({**keys, "systems": systems, **changes}, "test")


def test_numbers(cells, tmp_path):
    systems = {"zero-shot": None, "words": {"method": "psq"}, "better": {"loss": "greedy"}}
    report = write_report(tmp_path, cells, recipe=recipe(systems, baseline="words", translation=["words"]))
    table = report["measures"]["in-domain"]["map"]
    start, words, better = (0.5 + 0.25 + 0.2) / 3, (1 + 0.5 + 0.25) / 3, 2.5 / 3
    assert table["better"]["ny"] == {"mean": pytest.approx(better), "sd": pytest.approx(0), "seeds": 2}
    assert table["words"]["ny"]["sd"] is None
    gains = report["gains"]["systems"]["better"]
    assert gains["over_start"] == pytest.approx(better / start, abs=1e-5)
    assert gains["over_translation"] == pytest.approx(better / words, abs=1e-5)
    assert gains["gap_closed"] == pytest.approx((better - start) / (1 - start), abs=1e-5)
    assert report["gains"]["best_translation"] == "words"
    # Seeds are averaged before anything is tested: three topics in each of the two comparisons.
    rows = report["comparisons"]["in domain, low"]["rows"]
    assert {row["first"]: row["n"] for row in rows} == {"zero-shot": 3, "better": 3}
    difference = next(row["difference"] for row in rows if row["first"] == "better")
    assert difference == pytest.approx(better - words, abs=1e-5)
    assert report["cell_seconds"]["better"]["max"] == 3.0
    # |1 - 2|, |1 - 4|, |1 - 5|; |1 - 1|, |1 - 2|, |2 - 4|; |1 - 1|, |1 - 1|, |1 - 2|.
    assert report["rank_distance"] == pytest.approx({"zero-shot": 8 / 3, "words": 1.0, "better": 1 / 3})
    assert "| better | 0.833 ±0.000 |" in (tmp_path / "report.md").read_text()


def test_what_is_not_found_counts_as_beyond_the_run(cells, tmp_path):
    file = tmp_path / "zero-shot" / "ny-0" / "evaluation" / "in-domain" / "per_query.tsv"
    file.write_text(file.read_text().replace("q0\t0.5", "q0\t0.0").replace("\t0.500000\t1\n", "\t0.0\t1\n"))
    distances = rank_distances(tmp_path, cells, ["ny", "fr"])
    assert distances["zero-shot"] == pytest.approx((5 + 3 + 4) / 3)


def test_curves_over_sizes(cells, tmp_path):
    pytest.importorskip("matplotlib")
    systems = {"zero-shot": {}, "words": {"loss": "greedy", "max_pairs": 50}, "better": {"loss": "optical"}}
    systems["better"]["max_pairs"] = 100
    languages = {"low": ["ny"]}
    write_report(tmp_path, cells, recipe=recipe(systems, languages=languages, baseline="words"))
    assert not (tmp_path / "pairs.svg").exists()
    for name, pairs in (("words", 50), ("better", 100)):
        (tmp_path / name).rename(tmp_path / f"x-{pairs}")
    names = {"words": "x-50", "better": "x-100"}
    renamed = [
        cell
        | {"system": names.get(cell["system"], cell["system"])}
        | {"path": cell["path"].replace(cell["system"], names.get(cell["system"], cell["system"]))}
        for cell in cells
    ]
    systems = {f"x-{pairs}": {"loss": "greedy", "max_pairs": pairs} for pairs in (50, 100)} | {
        "zero-shot": {}
    }
    write_report(tmp_path, renamed, recipe=recipe(systems, languages=languages, baseline="x-50"))
    text = (tmp_path / "report.md").read_text()
    assert "![pairs](pairs.svg)" in text
    assert "![ablation](ablation.svg)" in text
    figure = plot_curves({"x": {50: 0.1, 100: 0.2}}, ("pairs", "MAP"))
    assert figure.axes[0].get_xscale() == "log"
    assert plot_points({"x": (0.1, 0.2)}, ("in", "out")).axes[0].get_ylabel() == "out"


def test_results_can_be_compared_without_runs():
    results = {
        name: EvaluationResult.of(["map"], ["q1", "q2", "q3"], [values])
        for name, values in (("a", [0.1, 0.2, 0.3]), ("b", [0.3, 0.3, 0.5]))
    }
    row = compare_results(results).rows[0]
    assert (row.n, row.difference) == (3, pytest.approx(-0.5 / 3))
    from optical_rs import InputError

    other = EvaluationResult.of(["map"], ["q1", "q2", "x"], [[0, 0, 0]])
    with pytest.raises(InputError, match="results: 'b' has other topics or measures than 'a'"):
        compare_results({"a": results["a"], "b": other})
    with pytest.raises(InputError, match=r"values: expected shape \(1, 3\), got \(1, 2\)"):
        EvaluationResult.of(["map"], ["q1", "q2", "q3"], [[0, 0]])


def test_with_one_group_the_gap_is_that_to_human_translations():
    systems = {"zero-shot": None, "student": {"loss": "pooled-mse"}, "human": {"method": "oracle"}}
    recipe = make_recipe({"bitext": "x", "collection": "x", "systems": systems}, "here")
    language = recipe.every_language[0]
    rows = {name: {language: {"mean": value}} for name, value in zip(systems, (0.5, 0.6, 0.9), strict=True)}
    gains = _gains(rows, recipe, "zero-shot")
    assert gains["aim"] == "human"
    assert [gains["systems"][name]["gap_closed"] for name in systems] == pytest.approx([0, 0.25, 1])
    text = "\n".join(_gain_part(gains, "zero-shot"))
    assert "gap to human closed" in text
    # There is no translation by machine, and so no column of it.
    assert "best translation" not in text
