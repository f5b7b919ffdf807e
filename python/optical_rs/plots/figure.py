"""What the charts have in common: their colours, and a figure that needs no screen."""

from typing import Any

from ..errors import require

BETTER, WORSE, NEUTRAL = "#2a6f97", "#c8553d", "#6c757d"


def new_figure(width: float = 6.4, height: float = 3.6, *, panels: int | None = None) -> tuple[Any, Any]:
    """A figure that needs no screen, and its axes: one, or a list of panels side by side."""
    require("matplotlib", "plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    drawn = figure.subplots(1, panels or 1, squeeze=False, sharey=True)[0]
    for axes in drawn:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, drawn[0] if panels is None else drawn


def plain(text: Any) -> str:
    """Text as it is: between two dollar signs matplotlib would read mathematics."""
    return str(text).replace("$", r"\$")


def shortened(text: str, most: int = 48) -> str:
    """A text that fits beside a chart."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
