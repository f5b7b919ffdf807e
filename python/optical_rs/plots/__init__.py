"""Charts of alignments, transport plans, comparisons and languages (extra ``plot``).

Each function returns a figure of matplotlib: a notebook shows it, and ``figure.savefig`` writes it.
"""

from .alignment import plot_alignment, plot_plans, word_vectors
from .comparisons import (
    plot_curves,
    plot_differences,
    plot_gap,
    plot_intervals,
    plot_languages,
    plot_points,
    plot_recall,
    plot_worse,
    write_plots,
)

__all__ = [
    "plot_alignment",
    "plot_curves",
    "plot_differences",
    "plot_gap",
    "plot_intervals",
    "plot_languages",
    "plot_plans",
    "plot_points",
    "plot_recall",
    "plot_worse",
    "word_vectors",
    "write_plots",
]
