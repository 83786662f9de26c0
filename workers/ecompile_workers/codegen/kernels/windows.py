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
    """static void @(x, y). x has no padding around it: windows are cut at its borders. Dilation 1."""
    (kh, kw), (sh, sw) = window.kernel, window.strides
    start = literal(0.0 if average else float("-inf"))
    lines = [
        "static void @(const float *restrict x, float *restrict y) {",
        f"  for (int o = 0; o < {window.height}; o++) {{",
        f"    const int hs = o * {sh} - {begin[0]}, h0 = hs < 0 ? 0 : hs;",
        f"    const int h1 = hs + {kh} < {size[0]} ? hs + {kh} : {size[0]};",
        f"    for (int i = 0; i < {window.width}; i++) {{",
        f"      const int ws = i * {sw} - {begin[1]}, w0 = ws < 0 ? 0 : ws;",
        f"      const int w1 = ws + {kw} < {size[1]} ? ws + {kw} : {size[1]};",
    ]
    if average and count_padding:
        bottom, right = size[0] + end[0], size[1] + end[1]
        lines.append(f"      const int h2 = hs + {kh} < {bottom} ? hs + {kh} : {bottom};")
        lines.append(f"      const int w2 = ws + {kw} < {right} ? ws + {kw} : {right};")
        lines.append("      const float scale = 1.0f / (float)((h2 - hs) * (w2 - ws));")
    elif average:
        lines.append("      const float scale = 1.0f / (float)((h1 - h0) * (w1 - w0));")
    whole = window.channels // lanes * lanes
    value = "t * scale" if average else "t"
    combine = "t + {}" if average else "e_max(t, {})"

    def block(load: str, store: str) -> list[str]:
        return [
            f"        v t = e_splat({start});",
            "        for (int h = h0; h < h1; h++) for (int w = w0; w < w1; w++) {",
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
