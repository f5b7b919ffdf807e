"""Charts of alignments between the words of two texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..similarity.words import words_of
from ..transport import solve_batch
from .figure import WORSE, new_figure, plain

_HEAT = "Blues"


def word_vectors(model: Any, text: str, role: str = "query") -> tuple[list[str], np.ndarray]:
    """The words of a text, and a unit vector for each: the mean direction of its tokens.

    Tokens of the prompt and special tokens are left out.

    Parameters
    ----------
    model : MultiVectorEncoder
    text : str
    role : {"query", "document"}

    Returns
    -------
    (list of str, (words, dim) float32 array)

    Raises
    ------
    InputError
        If the text has no words, or the model makes no vector of some tokens.

    Examples
    --------
    >>> import optical_rs
    >>> from optical_rs.plots import word_vectors
    >>> pairs = optical_rs.load_bitext("kolibri:ny").head(48)
    >>> teacher = optical_rs.late_interaction("packaged:multilingual-e5-small", fit_on=pairs.english)
    >>> words, vectors = word_vectors(teacher, "Open site navigation")
    >>> words, vectors.shape
    (['Open', 'site', 'navigation'], (3, 128))
    """
    if role not in ("query", "document"):
        raise InputError(f"role: expected 'query' or 'document', got {role!r}")
    encode = model.encode_query if role == "query" else model.encode_document
    vectors = encode([text], convert_to_numpy=True, show_progress_bar=False)[0]
    prompt = model.prompts.get(role) or ""
    encoded = model.tokenizer(
        prompt + text, return_offsets_mapping=True, truncation=True, max_length=model.max_seq_length
    )
    spans = encoded["offset_mapping"]
    if len(spans) != len(vectors):
        raise InputError(f"model: expected a vector for each of {len(spans)} tokens, got {len(vectors)}")
    words, of = words_of(prompt + text, spans, len(prompt))
    if not words:
        raise InputError("text: expected words, got none")
    sums = np.stack([vectors[of == i].sum(axis=0) for i in range(len(words))]).astype(np.float32)
    return words, sums / np.linalg.norm(sums, axis=1, keepdims=True)


def plot_alignment(
    x: Any, y: Any, x_words: Sequence[str], y_words: Sequence[str], *, reg: float = 0.05
) -> Any:
    """A pair of texts under optimal transport, greedy alignment and MaxSim, side by side.

    Rows are the words of the first text, columns those of the second. Transport shows where each word's mass goes;
    greedy alignment takes each word to the nearest one; MaxSim counts the highest cosine of each row, outlined among
    all cosines.

    Parameters
    ----------
    x : (n, dim) array
        Unit vectors of the first text, as of :func:`word_vectors`.
    y : (m, dim) array
        Those of the second.
    x_words, y_words : sequence of str
        What the rows of each stand for.
    reg : float
        Regularisation of transport.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        Anything but two arrays of vectors of one dimension, or another number of words.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.plots import plot_alignment
    >>> figure = plot_alignment(np.eye(2), np.eye(2)[::-1], ["moto", "madzi"], ["water", "fire"])
    >>> [axes.get_title() for axes in figure.axes]
    ['optimal transport', 'greedy alignment', 'MaxSim']
    """
    try:
        x, y = (np.asarray(side, dtype=np.float32) for side in (x, y))
    except (TypeError, ValueError):
        raise InputError("x, y: expected arrays of numbers") from None
    if x.ndim != 2 or y.ndim != 2 or not len(x) or not len(y) or x.shape[1] != y.shape[1]:
        raise InputError(
            f"x, y: expected (n, dim) and (m, dim) arrays with vectors, got {x.shape} and {y.shape}"
        )
    for name, vectors, words in (("x_words", x, x_words), ("y_words", y, y_words)):
        if len(vectors) != len(words):
            raise InputError(f"{name}: expected {len(vectors)} words, one for each vector, got {len(words)}")
    cosines = x @ y.T
    plan = solve_batch(1 - cosines, reg).plan[0]
    greedy = np.zeros_like(cosines)
    greedy[np.arange(len(x)), cosines.argmax(axis=1)] = 1
    shown = {"optimal transport": plan * len(x), "greedy alignment": greedy, "MaxSim": cosines}
    figure, panels = _panels(len(shown), x_words, y_words)
    for axes, (title, values) in zip(panels, shown.items(), strict=True):
        _draw(
            axes,
            title,
            values,
            x_words,
            y_words,
            low=min(0.0, float(values.min())),
            high=max(1.0, float(values.max())),
        )
    from matplotlib.patches import Rectangle

    for i, j in enumerate(cosines.argmax(axis=1)):
        panels[-1].add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=WORSE, linewidth=2))
    return figure


def plot_plans(
    cost: Any, regs: Sequence[float], rows: Sequence[str] | None = None, columns: Sequence[str] | None = None
) -> Any:
    """The transport plan of one cost matrix, for several regularisations side by side.

    Parameters
    ----------
    cost : (n, m) array
    regs : sequence of float
    rows, columns : sequence of str, optional
        What the rows and columns stand for.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        No regularisation, another number of words than of rows or columns, or a cost that
        :func:`~optical_rs.transport.solve_batch` refuses.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.plots import plot_plans
    >>> figure = plot_plans(1 - np.eye(3), [0.5, 0.1])
    >>> [axes.get_title() for axes in figure.axes]
    ['reg 0.5', 'reg 0.1']
    """
    cost = np.asarray(cost)
    if not np.size(regs):
        raise InputError("regs: expected at least one regularisation")
    if cost.ndim != 2 or not cost.size:
        raise InputError(f"cost: expected an (n, m) array, got shape {cost.shape}")
    for name, words, count in (("rows", rows, cost.shape[0]), ("columns", columns, cost.shape[1])):
        if words is not None and len(words) != count:
            raise InputError(f"{name}: expected {count} words, got {len(words)}")
    plans = [solve_batch(cost, reg, max_iter=20_000).plan[0] * len(cost) for reg in np.atleast_1d(regs)]
    rows = [""] * cost.shape[0] if rows is None else rows
    columns = [""] * cost.shape[1] if columns is None else columns
    figure, panels = _panels(len(plans), rows, columns)
    for axes, reg, plan in zip(panels, np.atleast_1d(regs), plans, strict=True):
        _draw(axes, f"reg {reg:g}", plan, rows, columns, low=0.0, high=1.0)
    return figure


def _panels(count: int, rows: Sequence[str], columns: Sequence[str]) -> tuple[Any, Any]:
    width = count * max(1.6, 0.36 * len(columns)) + 0.09 * max(map(len, rows))
    height = max(1.2, 0.36 * len(rows)) + 0.5 + 0.08 * max(map(len, columns))
    return new_figure(width, height, panels=count)


def _draw(
    axes: Any,
    title: str,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    low: float,
    high: float,
) -> None:
    axes.imshow(values, cmap=_HEAT, vmin=low, vmax=high)
    axes.set_title(title, fontsize="medium")
    axes.set_xticks(
        range(len(columns)),
        [plain(word) for word in columns],
        rotation=60,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(rows)), [plain(word) for word in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
