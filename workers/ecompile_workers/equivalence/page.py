"""The report as one HTML page: no scripts, nothing loaded from elsewhere, readable in print and in the dark."""

from __future__ import annotations

import math
from html import escape

from .report import Report, check_row, microseconds, number, percent
from .validate import Check

STYLE = """
:root { color-scheme: light dark; --line: #d5d9de; --soft: #5b6570; --good: #1a7f4b; --bad: #c0362c; --fill: #eef1f4 }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a4149; --soft: #9aa5b1; --good: #4cc38a; --bad: #ff7b72; --fill: #23282e }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem }
.verdict { border-left: .4rem solid; padding: .3rem 0 .3rem 1rem; margin-bottom: 1.5rem }
.verdict p { margin: .2rem 0 0; color: var(--soft) }
.good { color: var(--good) } .bad { color: var(--bad) }
.verdict.good { border-color: var(--good) } .verdict.bad { border-color: var(--bad) }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th { font-weight: 600; color: var(--soft) }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
.bar { width: 11rem } .bar div { background: var(--fill); height: .7rem; border-radius: .35rem; overflow: hidden }
.bar span { display: block; height: 100%; background: currentColor; border-radius: .35rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 0 }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
footer { color: var(--soft); font-size: .9rem; margin-top: 2.5rem }
@media print {
  body { margin: 0; max-width: none; font-size: 12px }
  th, td { padding: .2rem .4rem }
  h2 { break-after: avoid } tr { break-inside: avoid }
}
"""
DECADES = 6
"""A bar is full at the limit and empty this many powers of ten below it."""


def to_html(report: Report) -> str:
    """A whole page."""
    outcome, subject = report.outcome, report.subject
    tone = "good" if outcome.passed else "bad"
    facts = {
        "Bundle": subject.bundle_digest,
        "Attempt": str(subject.attempt),
        "Held-out inputs": subject.held_out,
        "Latency": f"{microseconds(subject.module_seconds)} against {microseconds(subject.neural_seconds)} of the "
        f"original: {subject.speedup:.2f}x",
        "Answered": f"{percent(outcome.guard_coverage)} of {outcome.test_inputs} test inputs",
    }
    families = [["Inputs", "Rows", "Answered", "Delta", "Max delta", "r", "Max deviation"], *report.family_rows()]
    parts = [
        f'<header class="verdict {tone}"><h1>{escape(report.title)}</h1><p>{escape(outcome.reason)}</p></header>',
        "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items()) + "</dl>",
        "<h2>Checks</h2>",
        _checks(outcome.checks),
        "<h2>Inputs</h2>",
        _table(families),
        "<h2>What this means</h2>",
        "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in report.sentences()) + "</ul>",
    ]
    if outcome.groups is not None:
        head = ["Group", "Rows", "Differing", "Error", "Error of the network"]
        parts += ["<h2>Groups</h2>", _table([head, *report.group_rows()])]
    if outcome.classes:
        rows = [["Class", "Rows", "Agreement", f"Disagreement at {outcome.confidence:.0%}"], *report.class_rows()]
        left = len(outcome.classes) - (len(rows) - 1)
        parts += ["<h2>Classes</h2>", _table(rows)]
        parts += [f"<p>{left} more classes agree no less.</p>"] if left else []
        parts.append("<p>Each bound holds on its own. A class with few rows has a wide one.</p>")
    parts.append(
        "<footer>delta: mean of |y - y'| / (|y| + 1e-6) over inputs; r: Pearson's correlation; max deviation: largest "
        "|y - y'|, relative to the largest |y| where that exceeds 1. A bar is full at the limit; each sixth of it is a "
        "power of ten.</footer>"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _checks(checks: tuple[Check, ...]) -> str:
    lines = []
    for check in checks:
        name, value, limit, _ = map(escape, check_row(check))
        sign, tone, word = ("&#10003;", "good", "pass") if check.passed else ("&#10007;", "bad", "fail")
        lines.append(
            f'<tr><td>{name}</td><td>{value}</td><td>{limit}</td><td class="bar {tone}">{_bar(check)}</td>'
            f'<td class="{tone}">{sign} {word}</td></tr>'
        )
    head = "<tr><th>Check</th><th>Value</th><th>Limit</th><th></th><th></th></tr>"
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def _bar(check: Check) -> str:
    """How close an error is to its limit, by powers of ten; nothing for shares and counts."""
    if "delta" not in check.name and "deviation" not in check.name:
        return ""
    if not math.isfinite(check.value) or check.value >= check.limit:
        share = 1.0
    elif check.value <= 0:
        share = 0.0
    else:
        share = min(1.0, max(0.0, 1.0 + math.log10(check.value / check.limit) / DECADES))
    said = f"{number(check.value)} of {number(check.limit)}"
    return f'<div role="img" aria-label="{said}"><span style="width:{100 * share:.0f}%"></span></div>'


def _table(rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
