"""Charts show what was computed, and are written as images."""

import json

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.cli.compare import main
from optical_rs.plots import plot_differences, plot_intervals, plot_languages, plot_recall
from optical_rs.ranking import compare, write_run

pytest.importorskip("matplotlib")

QRELS = {f"q{i}": {"d": 1} for i in range(30)}
ONE = {q: {"d": 1.0, "x": 2.0 * (i % 3 == 0), "y": -1.0} for i, q in enumerate(QRELS)}
TWO = {q: {"d": 1.0, "x": 2.0 * (i % 2 == 0), "y": -1.0} for i, q in enumerate(QRELS)}


def test_bars_are_the_differences():
    result = compare(QRELS, {"one": ONE, "two": TWO}, ["map"])
    axes = plot_differences(result, result.rows[0]).axes[0]
    heights = [bar.get_height() for bar in axes.patches[:30]]
    wanted = result.results["one"].values[0] - result.results["two"].values[0]
    assert heights == sorted(wanted, reverse=True)
    low, high = result.rows[0].low, result.rows[0].high
    # A rectangle since matplotlib 3.9, a polygon before.
    boxes = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    assert any(np.allclose([box.y0, box.y1], [low, high]) for box in boxes)


def test_intervals_of_each_difference():
    result = compare(QRELS, {"base": ONE, "two": TWO, "same": ONE}, ["map"], baseline="base")
    figure = plot_intervals({"all": result, "again": result})
    assert [axes.get_title() for axes in figure.axes] == ["all", "again"]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["two", "same"]
    interval, point = axes.lines[0], axes.lines[1]
    row = result.rows[0]
    assert list(interval.get_xdata()) == [row.low, row.high]
    assert list(point.get_xdata()) == [row.difference]
    with pytest.raises(InputError, match="comparisons: expected at least one"):
        plot_intervals({})


def test_recall_rises_to_all_that_was_found():
    line = plot_recall(QRELS, {"one": ONE}, depth=10).axes[0].lines[0]
    x, y = line.get_data()
    assert list(x[[0, -1]]) == [1, 10]
    assert y[0] == pytest.approx(20 / 30)
    assert y[-1] == 1
    with pytest.raises(InputError, match="depth: expected"):
        plot_recall(QRELS, {"one": ONE}, depth=0)


def test_languages_side_by_side():
    values = {"zero-shot": {"ny": 0.6, "fr": 0.9}, "optical": {"ny": 0.8, "fr": 0.9}}
    axes = plot_languages(values, "map").axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.6, 0.9, 0.8, 0.9]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ny", "fr"]
    with pytest.raises(InputError, match="at least one system"):
        plot_languages({}, "map")


def test_the_command_writes_charts_and_languages(tmp_path, capsys):
    (tmp_path / "qrels").write_text("".join(f"{q} 0 d 1\n" for q in QRELS))
    for name, run in (("one", ONE), ("two", TWO)):
        write_run(tmp_path / f"{name}.run", run, name)
    (tmp_path / "languages").write_text(
        "".join(f"{q} {'sw' if i < 15 else 'ny'}\n" for i, q in enumerate(QRELS))
    )
    files = [str(tmp_path / name) for name in ("qrels", "one.run", "two.run")]
    arguments = [
        "-m",
        "map",
        *files,
        "--languages",
        str(tmp_path / "languages"),
        "--plot",
        str(tmp_path / "plots"),
    ]
    main(arguments)
    printed = capsys.readouterr().out
    assert "| map | ny | sw | mean | largest gap |" in printed
    assert "documents of one tie in score" not in printed
    found = sorted(p.name for p in (tmp_path / "plots").iterdir())
    assert found == ["languages-map.png", "map-one-two.png", "recall.png"]
    assert all((tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG") for name in found)
    main([*arguments[:-2], "--format", "json"])
    read = json.loads(capsys.readouterr().out)
    assert set(read["languages"]["map"]) == {"one", "two"}
    assert read["languages"]["map"]["one"]["ny"] == pytest.approx(read["means"]["one"]["map"])
    main([*arguments[:-2], "--format", "latex"])
    assert r"\toprule" in capsys.readouterr().out


def test_ties_in_score_are_told():
    tied = {q: {"d": 1.0, "x": 1.0} for q in QRELS}
    notes = compare(QRELS, {"one": ONE, "tied": tied}, ["map"]).notes
    assert any(note.startswith("100.00% of the documents of tied tie in score") for note in notes)
    assert not any("documents of one" in note for note in notes)
