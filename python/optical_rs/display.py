"""Results as HTML, for notebooks."""

import html
from collections.abc import Sequence
from typing import Any

#: Rows that a table shows at most, and rows and columns of a picture.
MOST_ROWS = 20
MOST_CELLS = 128


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """An HTML table; what is beyond :data:`MOST_ROWS` rows is counted.

    Examples
    --------
    >>> table(["measure"], [["a < b"]])
    '<table><thead><tr><th>measure</th></tr></thead><tbody><tr><td>a &lt; b</td></tr></tbody></table>'
    """
    parts = ["<table>"]
    if caption:
        parts.append(f'<caption style="caption-side: top">{_escape(caption)}</caption>')
    parts += ["<thead>", _row("th", head), "</thead><tbody>", *(_row("td", row) for row in rows[:MOST_ROWS])]
    if len(rows) > MOST_ROWS:
        parts.append(f'<tr><td colspan="{len(head)}">… {len(rows) - MOST_ROWS} more</td></tr>')
    return "".join([*parts, "</tbody></table>"])


def heat_map(values: Sequence[Sequence[float]], caption: str = "") -> str:
    """Numbers from 0 on as an SVG picture, the largest darkest; empty where there are too many.

    Examples
    --------
    >>> heat_map([[0.0, 2.0]]).count("<rect")
    2
    """
    height, width = len(values), len(values[0]) if len(values) else 0
    if not 0 < height <= MOST_CELLS or not 0 < width <= MOST_CELLS:
        return ""
    side = max(2, min(16, 256 // max(height, width)))
    top = max((max(row) for row in values), default=0.0) or 1.0
    cells = "".join(
        f'<rect x="{j * side}" y="{i * side}" width="{side}" height="{side}" fill-opacity="{max(x, 0) / top:.3f}"/>'
        for i, row in enumerate(values)
        for j, x in enumerate(row)
    )
    return (
        f'<svg width="{width * side}" height="{height * side}" fill="#1f77b4" style="border: 1px solid #999">'
        f"<title>{_escape(caption)}</title>{cells}</svg>"
    )


def _row(tag: str, cells: Sequence[Any]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _escape(cell: Any) -> str:
    return html.escape(str(cell))
