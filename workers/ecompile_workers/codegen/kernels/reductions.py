"""Sums, means and extremes over axes; softmax and normalisations over the last one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .maps import literal


@dataclass(frozen=True, kw_only=True)
class Fold:
    """How a reduction combines values."""

    start: float
    combine: str
    across: str
    """Of the lanes of a vector."""
    scalar: str


SUM = Fold(start=0.0, combine="{a} + {b}", across="e_sum({a})", scalar="{a}")
MAX = Fold(start=float("-inf"), combine="e_max({a}, {b})", across="e_highest({a})", scalar="{a}")
MIN = Fold(start=float("inf"), combine="e_min({a}, {b})", across="e_lowest({a})", scalar="{a}")


def print_reduce(
    fold: Fold,
    kept: tuple[Sequence[int], Sequence[int], Sequence[int]],
    reduced: tuple[Sequence[int], Sequence[int]],
    *,
    scale: float,
    lanes: int,
) -> str:
    """static void @(x, y). `kept`: sizes, steps in x, steps in y. `reduced`: sizes, steps in x.

    Vectors lie along a kept axis that is contiguous in both, else along a contiguous reduced one, else along any.
    """
    sizes, x_steps, y_steps = kept
    along = next((a for a in range(len(sizes)) if x_steps[a] == 1 and y_steps[a] == 1), None)
    if along is not None:
        return _along_kept(fold, kept, reduced, along, scale, lanes)
    return _along_reduced(fold, kept, reduced, scale, lanes)


def _loops(name: str, sizes: Sequence[int], skip: int | None) -> list[str]:
    return [f"  for (int {name}{a} = 0; {name}{a} < {n}; {name}{a}++)" for a, n in enumerate(sizes) if a != skip]


def _offset(name: str, steps: Sequence[int], skip: int | None) -> str:
    terms = [f"(long){name}{a} * {step}" for a, step in enumerate(steps) if a != skip and step]
    return " + ".join(terms) or "0"


def _along_kept(
    fold: Fold,
    kept: tuple[Sequence[int], Sequence[int], Sequence[int]],
    reduced: tuple[Sequence[int], Sequence[int]],
    along: int,
    scale: float,
    lanes: int,
) -> str:
    sizes, x_steps, y_steps = kept
    lines = ["static void @(const float *restrict x, float *restrict y) {", *_loops("i", sizes, along), "  {"]
    lines.append(f"    const float *xi = x + {_offset('i', x_steps, along)};")
    lines.append(f"    float *yi = y + {_offset('i', y_steps, along)};")
    whole = sizes[along] // lanes * lanes
    rest = sizes[along] - whole

    def block(index: str, load: str, store: str) -> list[str]:
        return [
            f"      v t = e_splat({literal(fold.start)});",
            *_loops("j", reduced[0], None),
            f"      {{ const float *xj = xi + {index} + {_offset('j', reduced[1], None)};"
            f" t = {fold.combine.format(a='t', b=load)}; }}",
            f"      {store}",
        ]

    value = f"t * {literal(scale)}" if scale != 1 else "t"
    if whole:
        lines.append(f"    for (int i = 0; i < {whole}; i += LANES) {{")
        lines += [*block("i", "LOADU(xj)", f"STOREU(yi + i, {value});"), "    }"]
    if rest:
        lines += [
            "    {",
            *block(f"{whole}", f"e_loadn(xj, {rest}, 0.0f)", f"e_storen(yi + {whole}, {value}, {rest});"),
        ]
        lines.append("    }")
    return "\n".join([*lines, "  }", "}", ""])


def _along_reduced(
    fold: Fold,
    kept: tuple[Sequence[int], Sequence[int], Sequence[int]],
    reduced: tuple[Sequence[int], Sequence[int]],
    scale: float,
    lanes: int,
) -> str:
    sizes, x_steps, y_steps = kept
    inner = next((a for a, step in enumerate(reduced[1]) if step == 1), len(reduced[0]) - 1)
    size, step = reduced[0][inner], reduced[1][inner]
    whole, start = size // lanes * lanes, literal(fold.start)
    lines = ["static void @(const float *restrict x, float *restrict y) {", *_loops("i", sizes, None), "  {"]
    lines.append(f"    const float *xi = x + {_offset('i', x_steps, None)};")
    lines.append(f"    v t = e_splat({start});")
    lines += [*_loops("j", reduced[0], inner), "    {"]
    lines.append(f"      const float *xj = xi + {_offset('j', reduced[1], inner)};")
    if whole:
        load = "LOADU(xj + i)" if step == 1 else f"e_gather(xj + (long)i * {step}, {step}, {lanes})"
        lines.append(f"      for (int i = 0; i < {whole}; i += LANES) t = {fold.combine.format(a='t', b=load)};")
    if size > whole:
        rest = size - whole
        if step == 1:
            load = f"e_loadn(xj + {whole}, {rest}, {start})"
            lines.append(f"      t = {fold.combine.format(a='t', b=load)};")
        else:
            lines.append(f"      v u = e_splat({start});")
            lines.append(f"      for (int i = 0; i < {rest}; i++) u[i] = xj[(long)(i + {whole}) * {step}];")
            lines.append(f"      t = {fold.combine.format(a='t', b='u')};")
    lines.append("    }")
    total = fold.across.format(a="t")
    lines.append(f"    y[{_offset('i', y_steps, None)}] = {total}{f' * {literal(scale)}' if scale != 1 else ''};")
    return "\n".join([*lines, "  }", "}", ""])


def print_softmax(rows: int, size: int, x_step: int, y_step: int, *, lanes: int) -> str:
    """static void @(x, y): e^(x - max) over its sum, for `rows` rows of `size` contiguous elements."""
    whole, rest = size // lanes * lanes, size % lanes
    lines = [
        "static void @(const float *restrict x, float *restrict y) {",
        f"  for (int r = 0; r < {rows}; r++, x += {x_step}, y += {y_step}) {{",
        "    v t = e_splat(-__builtin_inff()), s = {0};",
        f"    for (int i = 0; i < {whole}; i += LANES) t = e_max(t, LOADU(x + i));",
    ]
    if rest:
        lines.append(f"    t = e_max(t, e_loadn(x + {whole}, {rest}, -__builtin_inff()));")
    lines.append("    const float top = e_highest(t);")
    lines.append(f"    for (int i = 0; i < {whole}; i += LANES) {{")
    lines.append("      const v p = e_exp(LOADU(x + i) - top); s += p; STOREU(y + i, p);")
    lines.append("    }")
    if rest:
        lines.append(f"    {{ const v p = e_exp(e_loadn(x + {whole}, {rest}, top) - top);")
        lines.append(f"      e_storen(y + {whole}, p, {rest}); s += e_loadn(y + {whole}, {rest}, 0.0f); }}")
    lines.append("    const float inverse = 1.0f / e_sum(s);")
    lines.append(f"    for (int i = 0; i < {whole}; i += LANES) STOREU(y + i, LOADU(y + i) * inverse);")
    if rest:
        lines.append(f"    for (int i = {whole}; i < {size}; i++) y[i] *= inverse;")
    return "\n".join([*lines, "  }", "}", ""])


def print_norm(
    rows: int, size: int, x_step: int, y_step: int, *, epsilon: float, centred: bool, shifted: bool, lanes: int
) -> str:
    """static void @(x, gamma, [beta,] y): layer norm (`centred`) or RMS norm of rows of contiguous elements."""
    whole, rest = size // lanes * lanes, size % lanes
    arguments = "const float *restrict x, const float *restrict g, "
    arguments += "const float *restrict b, " if shifted else ""
    lines = [
        f"static void @({arguments}float *restrict y) {{",
        f"  for (int r = 0; r < {rows}; r++, x += {x_step}, y += {y_step}) {{",
        "    float mean = 0.0f;",
    ]

    def summed(value: str) -> list[str]:
        found = [f"      for (int i = 0; i < {whole}; i += LANES) {{ const v a = LOADU(x + i) - mean; s += {value}; }}"]
        if rest:
            found.append(f"      {{ const v a = e_loadn(x + {whole}, {rest}, mean) - mean; s += {value}; }}")
        return found

    if centred:
        lines += ["    {", "      v s = {0};", *summed("a"), f"      mean = e_sum(s) * {literal(1 / size)};", "    }"]
    lines += ["    v s = {0};", "    {", *summed("a * a"), "    }"]
    if not centred and rest:
        lines.append("    // Elements past the end are zero here, since the mean is.")
    power = f"e_sum(s) * {literal(1 / size)} + {literal(epsilon)}"
    lines.append(f"    const float scale = 1.0f / __builtin_sqrtf({power});")
    shift = " + LOADU(b + i)" if shifted else ""
    lines.append(
        f"    for (int i = 0; i < {whole}; i += LANES) "
        f"STOREU(y + i, (LOADU(x + i) - mean) * scale * LOADU(g + i){shift});"
    )
    if rest:
        tail = " + b[i]" if shifted else ""
        lines.append(f"    for (int i = {whole}; i < {size}; i++) y[i] = (x[i] - mean) * scale * g[i]{tail};")
    return "\n".join([*lines, "  }", "}", ""])
