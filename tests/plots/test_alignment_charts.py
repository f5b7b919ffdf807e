"""Charts of alignments show the plan, the nearest words and the cosines."""

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.plots import plot_alignment, plot_gap, plot_plans, plot_worse, word_vectors
from optical_rs.ranking import evaluate
from optical_rs.similarity.words import words_of
from optical_rs.transport import solve_batch

pytest.importorskip("matplotlib")


def test_the_three_alignments_of_a_pair():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 8)), rng.normal(size=(4, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    plan, greedy, cosines = (
        axes.images[0].get_array().data for axes in plot_alignment(x, y, list("abc"), list("defg")).axes
    )
    assert plan == pytest.approx(solve_batch((1 - x @ y.T).astype(np.float32), 0.05).plan[0] * 3, abs=1e-6)
    assert (greedy.argmax(axis=1) == (x @ y.T).argmax(axis=1)).all()
    assert greedy.sum() == 3
    assert cosines == pytest.approx(x @ y.T, abs=1e-6)
    with pytest.raises(InputError, match="x_words: expected 3 words"):
        plot_alignment(x, y, list("ab"), list("defg"))


def test_plans_get_sharper():
    cost = np.random.default_rng(0).random((4, 4))
    blurred, sharp = (axes.images[0].get_array().data for axes in plot_plans(cost, [1.0, 0.01]).axes)
    assert sharp.max() > blurred.max()
    with pytest.raises(InputError, match="regs: expected at least one"):
        plot_plans(cost, [])


def test_words_of_a_model(teacher, pairs):
    words, vectors = word_vectors(teacher, pairs[0][0])
    assert words == pairs[0][0].split()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(words)))
    tokens = teacher.encode_query([pairs[0][0]], convert_to_numpy=True)[0]
    # Its words are whole tokens, after those of [CLS] and of the prompt.
    assert vectors == pytest.approx(tokens[3:-1], abs=1e-6)
    with pytest.raises(InputError, match="role: expected"):
        word_vectors(teacher, "moto", "title")


def test_words_where_a_language_has_no_spaces():
    text = "พ" * 40 + " no"
    words, of = words_of(text, [(0, 20), (20, 40), (40, 43)])
    assert words == ["พ" * 20, "พ" * 20, "no"]
    assert of.tolist() == [0, 1, 2]


def test_gaps_need_the_same_languages():
    figure = plot_gap({"ny": 0.6, "fr": 0.9}, {"fr": 0.95, "ny": 0.8}, "MAP")
    assert figure.axes[0].get_xlabel() == "MAP"
    before, after = (line.get_xdata() for line in figure.axes[0].lines[:2])
    assert (list(before), list(after)) == ([0.9, 0.6], [0.95, 0.8])
    with pytest.raises(InputError, match="after: expected the languages of before"):
        plot_gap({"ny": 0.6}, {"fr": 0.9}, "MAP")


def test_only_what_got_worse_is_shown():
    qrels = {f"q{i}": {"d": 1} for i in range(12)}
    good = evaluate(qrels, {q: {"d": 2.0, "x": 1.0} for q in qrels}, ["map"])
    poor = {q: {"d": 1.0, "x": 2.0 if i in (5, 7) else 0.5} for i, q in enumerate(qrels)}
    poor = evaluate(qrels, poor | {"q7": {"d": 1.0, "x": 2.0, "y": 3.0}}, ["map"])
    figure = plot_worse(good, poor, "map", texts={"q5": "moto"})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["q7", "moto"]
    assert figure.axes[0].lines[-1].get_xdata() == pytest.approx([1 / 3, 1 / 2])
    with pytest.raises(InputError, match="expected topics with a lower map than before"):
        plot_worse(poor, good, "map")
    with pytest.raises(InputError, match="expected the 12 topics of before"):
        plot_worse(good, good.restrict(["q1"]), "map")


def test_what_cannot_be_drawn(tmp_path):
    one, two = np.eye(2), np.eye(3)
    for call, message in (
        (lambda: plot_alignment(one, two, ["a", "b"], ["a", "b", "c"]), r"x, y: expected \(n, dim\)"),
        (lambda: plot_alignment(one[:0], one, [], ["a", "b"]), r"x, y: expected \(n, dim\)"),
        (lambda: plot_alignment([["a"]], one, ["a"], ["a", "b"]), "x, y: expected arrays of numbers"),
        (lambda: plot_plans(np.zeros((2, 2, 2)), [0.1]), r"cost: expected an \(n, m\) array"),
        (lambda: plot_plans(one, [0.1], rows=["a"]), "rows: expected 2 words, got 1"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    # Dollar signs are text, not mathematics.
    figure = plot_alignment(one, one, ["$\\frac$", "$5"], ["a", "b"])
    figure.savefig(tmp_path / "chart.png")
    assert len(plot_plans(one, 0.1).axes) == 1
