"""The command against trec_eval itself, where its binary is named by ``TREC_EVAL`` or on the path."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "compare_trec_eval.py"
spec = importlib.util.spec_from_file_location("compare_trec_eval", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def test_every_call_prints_the_same_bytes_and_ends_with_the_same_status():
    trec_eval = script.binary()
    if trec_eval is None:
        pytest.skip("trec_eval is not installed")
    total, differences = script.compare(trec_eval)
    assert not differences
    assert total >= 60


def test_the_calls_hold_what_is_to_be_compared(tmp_path):
    """Without the binary: the files have graded, negative, unjudged and tied documents, and every call runs."""
    script.generate(tmp_path)
    judged = [line.split() for line in (tmp_path / "qrels").read_text().splitlines()]
    run = [line.split() for line in (tmp_path / "run").read_text().splitlines()]
    assert {int(grade) for *_, grade in judged} == {-1, 0, 1, 2, 3, 12}
    pool = {(topic, document) for topic, _, document, _ in judged}
    assert {(topic, document) in pool for topic, _, document, *_ in run} == {True, False}
    scores = {}
    for topic, _, _, _, score, _ in run:
        scores.setdefault(topic, []).append(score)
    assert any(len(set(of)) < len(of) for of in scores.values())
    judged_topics = {topic for topic, *_ in judged}
    assert judged_topics - scores.keys()
    assert scores.keys() - judged_topics
    outcomes = [script.call_ours(arguments) for arguments in script.calls(script.GENERATED, tmp_path)]
    assert len(outcomes) >= 100
    assert {outcome.status for outcome in outcomes} == {0, 1, 2, 4, 7, 255}
    assert all(outcome.printed for outcome in outcomes[:4])
