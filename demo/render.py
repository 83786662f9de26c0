"""A recording as an animated picture: `python -m demo.render demo.cast docs/assets/demo.svg`.

The SVG is self-contained: no script, no font, no link. Each line appears when it was printed, long waits shortened;
the picture scrolls as a terminal does, and starts again.
"""

from __future__ import annotations

import argparse
from html import escape
from pathlib import Path

from .cast import COLUMNS, read

LINE_HEIGHT = 18
CHARACTER_WIDTH = 7.4
VISIBLE_LINES = 30
MARGIN = 16
MAX_WAIT_SECONDS = 1.0
"""Longer silences are cut to this, so that the picture is watched to its end; the times printed stay true."""
LAST_SECONDS = 12.0
"""The summary stays this long before the picture starts again."""
BACKGROUND, PLAIN = "#0d1117", "#e6edf3"
COLOURS = (("$ ", "#7ee787"), ("drift", "#ffa657"), ("FALLBACK", "#ff7b72"), ("Promoted", "#79c0ff"))
"""The first word found in a line gives its colour."""


def timeline(lines: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """The same lines with long waits shortened."""
    shown: list[tuple[float, str]] = []
    clock, previous = 0.5, lines[0][0] if lines else 0.0
    for at, text in lines:
        clock += min(at - previous, MAX_WAIT_SECONDS)
        previous = at
        shown.append((clock, text))
    return shown


def render(lines: list[tuple[float, str]]) -> str:
    """The SVG's text."""
    shown = timeline(lines)
    total = (shown[-1][0] if shown else 0.0) + LAST_SECONDS
    width = int(COLUMNS * CHARACTER_WIDTH + 2 * MARGIN)
    visible = min(VISIBLE_LINES, max(len(shown), 1))
    height = visible * LINE_HEIGHT + 2 * MARGIN
    rows = "".join(_row(index, at / total, text) for index, (at, text) in enumerate(shown))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        "<title>One model's whole life, recorded from make demo</title>"
        f"<style>{_styles(shown, total, visible)}</style>"
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>'
        f'<svg x="{MARGIN}" y="{MARGIN}" width="{width - 2 * MARGIN}" height="{visible * LINE_HEIGHT}">'
        f'<g class="screen" xml:space="preserve">{rows}</g></svg></svg>\n'
    )


def _row(index: int, share: float, text: str) -> str:
    colour = next((colour for word, colour in COLOURS if word in text), PLAIN)
    y = (index + 1) * LINE_HEIGHT - 5
    return f'<text class="l{index}" y="{y}" fill="{colour}">{escape(text[:COLUMNS])}</text>' if text else ""


def _styles(shown: list[tuple[float, str]], total: float, visible: int) -> str:
    """Keyframes: each line is hidden until its time; the screen moves up by a line for each that does not fit.

    Without animation (and for readers who prefer reduced motion) the end is shown.
    """
    rules = [".screen{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}"]
    hidden = max(0, len(shown) - visible)
    rules.append(f".screen{{transform:translateY(-{hidden * LINE_HEIGHT}px)}}")
    moving = ["@keyframes s{0%{transform:translateY(0)}"]
    for index, (at, text) in enumerate(shown):
        percent = 100 * at / total
        if text:
            rules.append(
                f"@keyframes k{index}{{0%,{percent:.2f}%{{opacity:0}}{percent + 0.01:.2f}%,100%{{opacity:1}}}}"
            )
        if index >= visible:
            moving.append(f"{percent:.2f}%{{transform:translateY(-{(index - visible + 1) * LINE_HEIGHT}px)}}")
    moving.append(f"100%{{transform:translateY(-{hidden * LINE_HEIGHT}px)}}}}")
    rules.append("".join(moving))
    animated = "".join(f".l{i}{{animation:k{i} {total:.1f}s infinite}}" for i, (_, text) in enumerate(shown) if text)
    screen = f".screen{{animation:s {total:.1f}s infinite step-end}}"
    rules.append(f"@media (prefers-reduced-motion:no-preference){{{screen}{animated}}}")
    return "".join(rules)


def main() -> None:
    parser = argparse.ArgumentParser(prog="demo.render", description=__doc__)
    parser.add_argument("cast", type=Path)
    parser.add_argument("svg", type=Path)
    arguments = parser.parse_args()
    arguments.svg.parent.mkdir(parents=True, exist_ok=True)
    arguments.svg.write_text(render(read(arguments.cast)))


if __name__ == "__main__":
    main()
