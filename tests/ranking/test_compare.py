"""Comparisons of runs: against scipy, by exhaustive enumeration, and by their invariants."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.cli import run_command
from optical_rs.cli.compare import main
from optical_rs.ranking import adjust, compare, evaluate, write_run

stats = pytest.importorskip("scipy.stats")


def collection(seed, n=30, quality=(0.3, 0.8), documents=20):
    """Judgments and runs; the higher the quality, the more the scores follow the judgments."""
    rng = np.random.default_rng(seed)
    qrels = {
        f"q{i:03}": {f"d{j}": int(rng.integers(3)) for j in range(documents)} | {"always": 1}
        for i in range(n)
    }
    runs = {
        f"run{k}": {
            topic: {doc: strength * grade + rng.random() for doc, grade in judged.items()}
            for topic, judged in qrels.items()
        }
        for k, strength in enumerate(quality)
    }
    return qrels, runs


@pytest.mark.parametrize("seed", range(4))
def test_tests_agree_with_scipy(seed):
    qrels, runs = collection(seed)
    values = [evaluate(qrels, run, ["map"]).values[0] for run in runs.values()]
    d = values[0] - values[1]
    row = compare(qrels, runs, ["map"]).rows[0]
    assert row.p == pytest.approx(stats.ttest_rel(*values).pvalue, rel=1e-12)
    assert row.difference == pytest.approx(d.mean(), rel=1e-12)
    assert row.effect_size == pytest.approx(d.mean() / d.std(ddof=1))
    wilcoxon = compare(qrels, runs, ["map"], test="wilcoxon").rows[0]
    assert wilcoxon.p == pytest.approx(stats.wilcoxon(d, zero_method="pratt").pvalue)
    chance = compare(qrels, runs, ["map"], test="randomisation", resamples=20_000).rows[0]
    theirs = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=20_000, random_state=np.random.default_rng(0)
    )
    assert chance.p == pytest.approx(theirs.pvalue, abs=0.015)
    for margin in (0.01, 0.3):
        tost = compare(qrels, runs, ["map"], margin=margin).rows[0]
        sides = (
            stats.ttest_1samp(d, -margin, alternative="greater").pvalue,
            stats.ttest_1samp(d, margin, alternative="less").pvalue,
        )
        assert tost.p_equivalent == pytest.approx(max(sides))
        assert tost.equivalent == (max(sides) < 0.05)


def test_randomisation_tends_to_the_enumeration_of_all_signs():
    qrels, runs = collection(5, n=8)
    d = np.subtract(*(evaluate(qrels, run, ["map"]).values[0] for run in runs.values()))
    sums = [abs((d * signs).sum()) for signs in itertools.product((-1, 1), repeat=8)]
    exact = np.mean([s >= abs(d.sum()) * (1 - 1e-12) for s in sums])
    row = compare(qrels, runs, ["map"], test="randomisation", resamples=100_000).rows[0]
    assert row.p == pytest.approx(exact, abs=0.006)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrections(p):
    n = len(p)
    bonferroni, holm, bh = (adjust(p, name) for name in ("bonferroni", "holm", "bh"))
    assert bonferroni == [min(1, x * n) for x in p]
    np.testing.assert_allclose(bh, stats.false_discovery_control(p), atol=1e-12)
    order = np.argsort(p, kind="stable")
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, p[index] * (n - rank))
        assert holm[index] == pytest.approx(min(1, running))
    assert adjust(p, "none") == p
    for x, h, b in zip(p, holm, bonferroni, strict=True):
        assert x <= h <= b


def test_corrections_are_over_pairs_and_measures():
    qrels, runs = collection(6, quality=(0.2, 0.3, 0.9))
    result = compare(qrels, runs, ["map", "ndcg_cut_10"])
    assert [(r.measure, r.first, r.second) for r in result.rows[:3]] == [
        ("map", "run0", "run1"), ("map", "run0", "run2"), ("map", "run1", "run2"),
    ]  # fmt: skip
    assert len(result.rows) == 6
    assert [r.p_adjusted for r in result.rows] == adjust([r.p for r in result.rows], "holm")
    assert [r.significant for r in result.rows] == [r.p_adjusted < 0.05 for r in result.rows]
    against = compare(qrels, runs, ["map"], baseline="run1")
    assert [(r.first, r.second) for r in against.rows] == [("run0", "run1"), ("run2", "run1")]


def test_intervals_cover_about_as_often_as_they_say():
    covered = 0
    for seed in range(60):
        qrels, runs = collection(seed, n=40, quality=(0.5, 0.5), documents=10)
        row = compare(qrels, runs, ["ndcg_cut_10"], resamples=1000).rows[0]
        covered += row.low <= 0 <= row.high
    assert 50 <= covered <= 60


def test_the_same_seed_gives_the_same_digits():
    qrels, runs = collection(7)
    options = {"measures": ["map"], "test": "randomisation", "resamples": 3000}
    one, same = (compare(qrels, runs, **options, seed=3).rows[0] for _ in range(2))
    other = compare(qrels, runs, **options, seed=4).rows[0]
    assert one == same
    assert (one.low, one.high) != (other.low, other.high)


def test_identical_and_constantly_different_runs():
    qrels, runs = collection(8)
    same = compare(qrels, {"a": runs["run0"], "b": runs["run0"]}, ["map"], margin=0.01).rows[0]
    assert (same.p, same.difference, same.effect_size, same.ties) == (1.0, 0.0, 0.0, 30)
    assert same.equivalent
    qrels = {f"q{i}": {"d": 1} for i in range(10)}
    first = {topic: {"d": 2.0, "x": 1.0} for topic in qrels}
    second = {topic: {"d": 1.0, "x": 2.0} for topic in qrels}
    row = compare(qrels, {"a": first, "b": second}, ["recip_rank"]).rows[0]
    assert row.difference == 0.5
    assert row.effect_size == math.inf
    assert row.p == 0


def test_topics_that_a_run_lacks_are_taken_alike_everywhere(tmp_path, capsys):
    """One rule for ``evaluate``, ``compare`` and both commands: left out, or 0 if asked for."""
    from optical_rs.cli.trec_eval import main as trec_eval

    qrels, runs = collection(9)
    for topic in ("q003", "q007"):
        del runs["run0"][topic]
    lines = [f"{t} 0 {d} {g}\n" for t, judged in qrels.items() for d, g in judged.items()]
    (tmp_path / "qrels").write_text("".join(lines))
    for name, run in runs.items():
        write_run(tmp_path / f"{name}.txt", run, name)
    files = [str(tmp_path / name) for name in ("qrels", "run0.txt", "run1.txt")]
    for complete, how in ((False, "they are left out for all runs"), (True, "they count as 0")):
        found = compare(qrels, runs, ["map", "num_rel", "gm_map"], complete=complete)
        alone = evaluate(qrels, runs["run0"], ["map", "num_rel", "gm_map"], complete=complete)
        assert found.rows[0].n == (30 if complete else 28)
        assert found.results["run0"].mean == pytest.approx(alone.mean, rel=1e-12)
        both = {t: qrels[t] for t in found.results["run1"].topics}
        assert found.results["run1"].mean == pytest.approx(
            evaluate(both, runs["run1"], ["map", "num_rel", "gm_map"]).mean, rel=1e-12
        )
        assert found.notes[:2] == [
            "run0 lacks 2 judged topics (q003, q007).",
            f"of the topics that a run lacks: {how}.",
        ]
        flags = ["-c"] if complete else []
        trec_eval([*flags, "-m", "map", *files[:2]])
        assert capsys.readouterr().out.split()[-1] == f"{alone.mean['map']:.4f}"
        main([*flags, "-m", "map", "--format", "json", *files])
        printed = json.loads(capsys.readouterr().out)
        assert printed["means"]["run0"]["map"] == pytest.approx(alone.mean["map"], rel=1e-12)


def test_measures_are_called_as_they_were_asked_for():
    ir_measures = pytest.importorskip("ir_measures")
    qrels, runs = collection(3)
    found = compare(qrels, runs, [ir_measures.nDCG @ 10, "RR@10"])
    assert [row.measure for row in found.rows] == ["nDCG@10", "RR@10"]
    assert list(found.to_dict()["means"]["run0"]) == ["nDCG@10", "RR@10"]
    assert any("reciprocal rank" in note for note in found.notes)


def test_notes_and_tables_say_what_was_done():
    qrels, runs = collection(10, n=12)
    result = compare(
        qrels, runs, ["map", "recip_rank"], correction="none", test="wilcoxon", margin=0.02, alpha=0.01
    )
    text = result.to_markdown()
    for words in ("only 12 topics", "without correction", "no interval scale", "ranks of differences"):
        assert words in text
    assert "Wilcoxon signed-rank" in text
    assert "n = 12 topics" in text
    assert "99% bootstrap" in text
    assert "margin of 0.02" in text
    assert text.splitlines()[0].count("|") == text.splitlines()[2].count("|")
    latex = compare(qrels, {"a_b": runs["run0"], "50%": runs["run1"]}, ["map"]).to_latex()
    assert r"a\_b" in latex
    assert r"50\%" in latex
    assert latex.count(r"\\") == 2
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_command(tmp_path, capsys):
    qrels, runs = collection(11)
    (tmp_path / "qrels.txt").write_text(
        "".join(f"{t} 0 {d} {g}\n" for t, judged in qrels.items() for d, g in judged.items())
    )
    for name, run in runs.items():
        write_run(tmp_path / f"{name}.txt", run, tag=name)
    files = [str(tmp_path / f"{name}.txt") for name in runs]
    main([str(tmp_path / "qrels.txt"), *files, "-m", "AP", "--test", "randomisation", "--format", "json"])
    printed = json.loads(capsys.readouterr().out)
    want = compare(qrels, runs, ["map"], test="randomisation").rows[0]
    assert printed["rows"][0]["first"] == "run0"
    assert printed["rows"][0]["p"] == want.p
    main([str(tmp_path / "qrels.txt"), f"x={files[0]}", f"y={files[1]}", "--baseline", "y"])
    assert "| x 0." in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        run_command(main, [str(tmp_path / "qrels.txt"), files[0], files[0]])
    assert stop.value.code == 2
    assert "two runs are called 'run0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "run7"}, "baseline: no run 'run7'"),
        ({"test": "anova"}, "test: expected one of t,"),
        ({"correction": "sidak"}, "correction: expected one of holm,"),
        ({"margin": -0.1}, "margin: expected a number > 0"),
        ({"alpha": 1.5}, "alpha: expected a number between"),
        ({"resamples": 0}, "resamples: expected an integer"),
        ({"measures": ["mapp"]}, "did you mean 'map'"),
    ],
)
def test_bad_options(options, message):
    qrels, runs = collection(12)
    with pytest.raises(InputError, match=message):
        compare(qrels, runs, **options)


def test_too_little_to_compare():
    qrels, runs = collection(13)
    with pytest.raises(InputError, match="at least two runs"):
        compare(qrels, {"a": runs["run0"]})
    with pytest.raises(InputError, match="at least 2 topics, got 1"):
        compare({"q000": qrels["q000"]}, runs)
