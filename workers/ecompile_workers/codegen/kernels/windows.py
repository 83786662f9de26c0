"""Depthwise convolution and pooling over channels-last images, in vectors of channels."""

from __future__ import annotations

from dataclasses import dataclass

from .maps import literal

POSITIONS = 4
"""Output columns of a depthwise convolution that are worked on at a time."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Two spatial dimensions; steps in floats."""

    height: int
    width: int
    """Of the output."""
    x_steps: tuple[int, int]
    """From one element to the next below, and to the right."""
    y_steps: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int] = (1, 1)
    channels: int


def print_depthwise(window: Window, *, activation: str, residual: tuple[int, int] | None, lanes: int) -> str:
    """static void @(x, w, b, [residual,] y). Weights [taps, padded channels]; x has its padding around it."""
    vectors = -(-window.channels // lanes)
    padded = vectors * lanes
    argument = "const float *restrict r, " if residual else ""
    step = ", r += LANES" if residual else ""
    lines = [
        "static void @(const float *restrict x, const float *restrict w, const float *restrict b, "
        f"{argument}float *restrict y) {{",
        f"  for (int c = 0; c < {vectors}; c++, x += LANES, w += LANES, b += LANES, y += LANES{step})",
        f"  for (int o = 0; o < {window.height}; o++) {{",
        f"    const float *xi = x + (long)o * {window.strides[0] * window.x_steps[0]};",
        f"    float *yi = y + (long)o * {window.y_steps[0]};",
    ]
    if residual:
        lines.append(f"    const float *ri = r + (long)o * {residual[0]};")
    whole, rest = divmod(window.width, POSITIONS)
    along = window.strides[1] * window.x_steps[1]
    if whole:
        steps = f"xi += {POSITIONS * along}, yi += {POSITIONS * window.y_steps[1]}"
        steps += f", ri += {POSITIONS * residual[1]}" if residual else ""
        lines.append(f"    for (int i = 0; i < {whole}; i++, {steps}) {{")
        lines += [*_columns(window, POSITIONS, padded, activation, residual), "    }"]
    if rest:
        lines += ["    {", *_columns(window, rest, padded, activation, residual), "    }"]
    return "\n".join([*lines, "  }", "}", ""])


def _columns(window: Window, count: int, padded: int, activation: str, residual: tuple[int, int] | None) -> list[str]:
    along = window.strides[1] * window.x_steps[1]
    lines = [f"      v a{m} = LOAD(b);" for m in range(count)]
    for row in range(window.kernel[0]):
        for column in range(window.kernel[1]):
            tap = row * window.kernel[1] + column
            place = row * window.dilations[0] * window.x_steps[0] + column * window.dilations[1] * window.x_steps[1]
            lines.append(f"      {{ const v u = LOAD(w + {tap * padded});")
            lines += [f"        a{m} += u * LOADU(xi + {m * along + place});" for m in range(count)]
            lines.append("      }")
    for m in range(count):
        total = f"a{m} + LOADU(ri + {m * residual[1]})" if residual else f"a{m}"
        lines.append(f"      STOREU(yi + {m * window.y_steps[1]}, {activation.format(total)});")
    return lines


def _taps(name: str, start: str, step: int, reach: int, size: int) -> list[str]:
    """A window's first place `s`, and its first (`0`) and past its last (`1`) inside of an axis of `size`."""
    inside = f"{name}s + (-{name}s + {step - 1}) / {step} * {step}"
    return [
        f"    const int {name}s = {start}, {name}0 = {name}s < 0 ? {inside} : {name}s;",
        f"    const int {name}1 = {name}s + {reach} < {size} ? {name}s + {reach} : {size};",
    ]


def print_pool(
    window: Window,
    *,
    size: tuple[int, int],
    begin: tuple[int, int],
    end: tuple[int, int],
    average: bool,
    count_padding: bool,
    lanes: int,
) -> str:
    """static void @(x, y). x has no padding around it: windows are cut at its borders."""
    (kh, kw), (dh, dw) = window.kernel, window.dilations
    reach = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
    start = literal(0.0 if average else float("-inf"))
    lines = [
        "static void @(const float *restrict x, float *restrict y) {",
        f"  for (int o = 0; o < {window.height}; o++) {{",
        *_taps("h", f"o * {window.strides[0]} - {begin[0]}", dh, reach[0], size[0]),
        f"    for (int i = 0; i < {window.width}; i++) {{",
        *_taps("w", f"i * {window.strides[1]} - {begin[1]}", dw, reach[1], size[1]),
    ]
    if average:
        bounds = [n + e for n, e in zip(size, end, strict=True)] if count_padding else list(size)
        first = ("hs", "ws") if count_padding else ("h0", "w0")
        for name, begun, span, bound, step in zip(("h2", "w2"), first, reach, bounds, (dh, dw), strict=True):
            last = f"{name[0]}s + {span}"
            taps = f"(({last} < {bound} ? {last} : {bound}) - {begun} + {step - 1}) / {step}"
            lines.append(f"      const int {name} = {taps};")
        lines.append("      const float scale = 1.0f / (float)(h2 * w2);")
    whole = window.channels // lanes * lanes
    value = "t * scale" if average else "t"
    combine = "t + {}" if average else "e_max(t, {})"

    def block(load: str, store: str) -> list[str]:
        return [
            f"        v t = e_splat({start});",
            f"        for (int h = h0; h < h1; h += {dh}) for (int w = w0; w < w1; w += {dw}) {{",
            f"          const float *xc = x + (long)h * {window.x_steps[0]} + (long)w * {window.x_steps[1]} + c;",
            f"          t = {combine.format(load)};",
            "        }",
            f"        {store}",
        ]

    place = f"y + (long)o * {window.y_steps[0]} + (long)i * {window.y_steps[1]} + c"
    if whole:
        lines.append(f"      for (int c = 0; c < {whole}; c += LANES) {{")
        lines += [*block("LOADU(xc)", f"STOREU({place}, {value});"), "      }"]
    if window.channels > whole:
        rest = window.channels - whole
        lines.append(f"      {{ const int c = {whole};")
        lines += [*block(f"e_loadn(xc, {rest}, 0.0f)", f"e_storen({place}, {value}, {rest});"), "      }"]
    return "\n".join([*lines, "    }", "  }", "}", ""])
