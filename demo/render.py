"""A run of the demo as an animated, self-contained SVG: each line appears when it was printed, waits shortened."""

from __future__ import annotations

from html import escape

LINE_HEIGHT = 17
CHARACTER_WIDTH = 7.3
COLUMNS = 132
MAX_WAIT_SECONDS = 1.2
"""Longer silences are cut to this, so that the picture is watched to its end."""


def render(lines: list[tuple[float, str]]) -> str:
    """The SVG's text."""
    shown: list[tuple[float, str]] = []
    clock, previous = 0.3, lines[0][0] if lines else 0.0
    for seconds, text in lines:
        clock += min(seconds - previous, MAX_WAIT_SECONDS)
        previous = seconds
        shown.append((clock, f"[{seconds:6.1f} s] {text}" if text else ""))
    width, height = int(COLUMNS * CHARACTER_WIDTH + 32), LINE_HEIGHT * len(shown) + 32
    rows = []
    for index, (at, text) in enumerate(shown):
        y = 26 + index * LINE_HEIGHT
        colour = "#7ee787" if "$ " in text else "#ffa657" if "drift" in text.lower() else "#e6edf3"
        rows.append(
            f'<text x="16" y="{y}" fill="{colour}" opacity="0">{escape(text[:COLUMNS])}'
            f'<set attributeName="opacity" to="1" begin="{at:.2f}s" fill="freeze"/></text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        '<rect width="100%" height="100%" rx="8" fill="#0d1117"/>'
        '<g font-family="ui-monospace,Menlo,Consolas,monospace" font-size="12" xml:space="preserve">'
        + "".join(rows)
        + "</g></svg>\n"
    )
