"""Language measures, by brute force and by their bounds."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.ranking import (
    awrf,
    evaluate,
    language_gap,
    max_rank,
    means_by_language,
    peer,
    rank_distance,
    write_run,
)

documents = st.sampled_from([f"d{i}.{language}" for i in range(4) for language in ("en", "sw", "ny")])
LANGUAGES = {f"d{i}.{language}": language for i in range(4) for language in ("en", "sw", "ny")}
qrels = st.fixed_dictionaries({"q": st.dictionaries(documents, st.integers(0, 2), min_size=1)})
runs = st.fixed_dictionaries(
    {"q": st.dictionaries(documents, st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1)}
)


@given(qrels, runs, st.integers(1, 6))
def test_ranks_by_brute_force(judged, run, depth):
    def rank(document):
        scores = run["q"]
        if document not in scores:
            return depth + 1
        mine = (scores[document], document)
        return min(1 + sum((s, d) > mine for d, s in scores.items()), depth + 1)

    ranks = [rank(d) for d, grade in judged["q"].items() if grade > 0]
    assert max_rank(judged, run, depth=depth) == ({"q": max(ranks)} if ranks else {})
    pairs = [abs(x - y) for x, y in itertools.combinations(ranks, 2)]
    assert rank_distance(judged, run, depth=depth) == ({"q": max(pairs)} if pairs else {})


@given(qrels, runs)
def test_fairness_lies_between_0_and_1(judged, run):
    for measure in (peer, awrf):
        values = measure(judged, run, LANGUAGES, k=5)
        assert set(values) == ({"q"} if any(judged["q"].values()) else set())
        assert all(0 <= v <= 1 for v in values.values())


def test_peer_is_the_test_of_kruskal_and_wallis():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    names = [f"d{i}" for i in range(30)]
    languages = {name: ["en", "sw", "ny"][i % 3] for i, name in enumerate(names)}
    grades = {name: int(g) for name, g in zip(names, generator.integers(0, 3, 30), strict=True)}
    scores = dict(zip(names, generator.permutation(30).astype(float), strict=True))
    ranks = {name: 30 - scores[name] for name in names}
    wanted = {}
    for grade in (0, 1, 2):
        groups = [
            [ranks[n] for n in names if grades[n] == grade and languages[n] == language]
            for language in ("en", "sw", "ny")
        ]
        wanted[grade] = stats.kruskal(*groups).pvalue
    weights = {0: 0.2, 1: 0.3, 2: 0.5}
    got = peer({"q": grades}, {"q": scores}, languages, k=30, weights=weights)
    assert got["q"] == pytest.approx(sum(weights[g] * wanted[g] for g in weights))
    assert peer({"q": grades}, {"q": scores}, languages, k=30)["q"] == pytest.approx(
        (wanted[1] + wanted[2]) / 2
    )


def test_peer_counts_what_was_not_retrieved():
    languages = {f"{language}{i}": language for language in ("en", "sw") for i in range(10)}
    judged = {"q": dict.fromkeys(languages, 1)}
    english = {"q": {f"en{i}": -float(i) for i in range(10)}}
    assert peer(judged, english, languages)["q"] < 1e-4
    one = {"q": {d: 1 for d in languages if d.startswith("en")}}
    assert peer(one, english, languages)["q"] == 1, "there is no other language"


def test_awrf_by_hand():
    languages = {"a": "en", "b": "en", "c": "sw"}
    judged, run = {"q": {"a": 1, "c": 1}}, {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    given_en = (1 + 1) / (1 + 1 + 1 / np.log2(3))
    p, q = np.array([given_en, 1 - given_en]), np.array([0.5, 0.5])
    middle = (p + q) / 2
    wanted = 1 - (np.sum(p * np.log2(p / middle)) + np.sum(q * np.log2(q / middle))) / 2
    assert awrf(judged, run, languages)["q"] == pytest.approx(wanted)
    assert awrf(judged, run, languages, target={"en": 1.0}, k=2)["q"] == 1


def test_gap_between_groups():
    before = {"ff": 0.3, "ny": 0.5, "fr": 0.9, "mr": 0.8}
    gap = language_gap(
        {"ff": 0.5, "ny": 0.6, "fr": 0.9, "mr": 0.8}, before, low=["ff", "ny"], high=["fr", "mr"]
    )
    assert gap.mean == pytest.approx(0.7)
    assert gap.best == "fr"
    assert gap.gaps["ff"] == pytest.approx(0.4)
    assert gap.closed == pytest.approx((0.55 - 0.4) / (0.85 - 0.4))
    assert language_gap({"sw": 0.5}, {"sw": 0.5}).closed is None
    for call, message in (
        (lambda: language_gap({}), "values: expected at least one"),
        (lambda: language_gap({"sw": 1}, {"ny": 1}), "no value for 'sw'"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_files_and_means_by_language(tmp_path):
    (tmp_path / "qrels").write_text("1 0 a 1\n1 0 b 1\n2 0 a 1\n")
    write_run(tmp_path / "run", {"1": {"a": 3.0, "x": 2.0, "b": 1.0}, "2": {"x": 1.0}}, "t")
    assert rank_distance(tmp_path / "qrels", tmp_path / "run") == {"1": 2.0}
    assert max_rank(tmp_path / "qrels", tmp_path / "run", depth=10) == {"1": 3.0, "2": 11.0}
    result = evaluate(tmp_path / "qrels", tmp_path / "run", ["map", "P_1"])
    assert means_by_language(result, {"1": "sw", "2": "ny"})["P_1"] == {"ny": 0.0, "sw": 1.0}
    with pytest.raises(InputError, match="no language for topic '2'"):
        means_by_language(result, {"1": "sw"})


def test_bad_input():
    judged, run = {"q": {"a": 1}}, {"q": {"a": 1.0}}
    for call, message in (
        (lambda: peer(judged, run, {}), "no language for document 'a'"),
        (lambda: awrf(judged, run, {}), "no language for document 'a'"),
        (lambda: peer(judged, run, {"a": "en"}, weights={1: 0.5}), "weights: expected a sum of 1, got 0.5"),
        (lambda: awrf(judged, run, {"a": "en"}, target={"en": 2.0}), "target: expected a sum of 1, got 2"),
        (lambda: max_rank(judged, run, depth=0), "depth: expected an integer >= 1, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            call()
