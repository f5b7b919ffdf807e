"""Results as text and as HTML."""

from html.parser import HTMLParser

import numpy as np
import optical_rs
import pytest
from optical_rs.display import MOST_CELLS, MOST_ROWS, heat_map, table
from optical_rs.ranking import compare, evaluate
from optical_rs.similarity import TokenStore
from optical_rs.transport import solve_batch

QRELS = {f"q{i}": {"d": 1} for i in range(30)}
RUN = {f"q{i}": {"d": 1.0, "x": 2.0 if i % 3 else 0.5} for i in range(30)}


class Checker(HTMLParser):
    """Every element that is opened is closed, and nothing but our own elements is there."""

    def __init__(self, text):
        super().__init__()
        self.open, self.data = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag in {"table", "caption", "thead", "tbody", "tr", "th", "td", "svg", "title", "rect"}
        if not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag == "rect"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.data.append(data)


def test_reprs_are_short_and_html_is_escaped(tmp_path):
    pytest.importorskip("scipy")
    store = TokenStore.create(tmp_path / "<store>", 2, {"model": "<b>toy</b>"})
    store.append([np.eye(2)], ["a"])
    cost = np.arange(8.0).reshape(2, 2, 2) / 8
    comparison = compare(QRELS, {"<script>": RUN, "b": QRELS}, ["map"])
    for result in (
        evaluate(QRELS, RUN, ["map"]),
        solve_batch(cost, 0.1),
        solve_batch(np.zeros((0, 2, 2)), 0.1),
        solve_batch(cost, 0.1, return_plan=False),
        store,
        TokenStore.create(tmp_path / "empty", 2),
        comparison,
    ):
        assert type(result).__name__ in repr(result)
        assert len(repr(result)) < 200
        assert Checker(result._repr_html_()).data
    assert "<script>" in repr(comparison)
    assert "&lt;script&gt;" in comparison._repr_html_()
    assert repr(comparison) == "Comparison(<script>, b; 30 topics; 1 of 1 differences significant)"
    assert repr(comparison.rows[0]).startswith("Difference(map: <script> − b = -0.3333 [")
    assert Checker(store._repr_html_()).data[0] == str(store.path)


def test_tensors_have_the_same_repr_as_arrays():
    torch = pytest.importorskip("torch")
    cost = np.arange(8.0).reshape(2, 2, 2) / 8
    arrays, tensors = solve_batch(cost, 0.1), solve_batch(torch.tensor(cost), 0.1)
    assert repr(arrays) == repr(tensors)
    assert arrays._repr_html_().count("<rect") == tensors._repr_html_().count("<rect") == 4


def test_long_tables_and_large_pictures_are_cut():
    assert f"… {5} more" in table(["x"], [[i] for i in range(MOST_ROWS + 5)])
    assert heat_map([[1.0] * (MOST_CELLS + 1)]) == ""
    assert heat_map([]) == ""
    assert heat_map([[0.0, 0.0]]).count('fill-opacity="0.000"') == 2


@pytest.mark.parametrize("name", optical_rs.__all__)
def test_the_curated_face_is_listed_and_there(name):
    pytest.importorskip("sentence_transformers")
    assert name in dir(optical_rs)
    assert getattr(optical_rs, name) is not None
