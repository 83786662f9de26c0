"""One step of LSTM and GRU, elementwise, after the matrix products. Gates lie `pitch` floats apart, whole vectors each.

Equations: torch.nn.LSTM and torch.nn.GRU; `ir/operators/recurrent.py` has them.
"""

from __future__ import annotations

from .maps import literal


def _over(size: int, lanes: int, body: str, stores: dict[str, str]) -> str:
    """`body` for each vector i, then `stores` (pointer -> value), exactly `size` elements of each."""
    whole, rest = size // lanes * lanes, size % lanes
    lines = []
    if whole:
        full = " ".join(f"STOREU({pointer} + i, {value});" for pointer, value in stores.items())
        lines.append(f"  for (int i = 0; i < {whole}; i += LANES) {{ {body} {full} }}")
    if rest:
        part = " ".join(f"e_storen({pointer} + i, {value}, {rest});" for pointer, value in stores.items())
        lines.append(f"  {{ const int i = {whole}; {body} {part} }}")
    return "\n".join([*lines, "}", ""])


def print_lstm_step(size: int, pitch: int, *, lanes: int) -> str:
    """static void @(gates, c, h): c = f c + i g, h = o tanh(c); gates i, f, g, o before their activations."""
    head = "static void @(const float *restrict g, float *restrict c, float *restrict h) {\n"
    body = (
        f"const v f = e_sigmoid(LOADU(g + i + {pitch})) * LOADU(c + i); "
        f"const v t = f + e_sigmoid(LOADU(g + i)) * e_tanh(LOADU(g + i + {2 * pitch})); "
        f"const v y = e_sigmoid(LOADU(g + i + {3 * pitch})) * e_tanh(t);"
    )
    return head + _over(size, lanes, body, {"c": "t", "h": "y"})


def print_gru_step(size: int, pitch: int, *, reset_after: bool, lanes: int) -> str:
    """static void @(a, b, [n,] before, h): h = n + z (before - n).

    a: gates r, z, n of the input; b: those of the state. n = tanh(a_n + r b_n) with `reset_after`; otherwise b has r
    and z only and n = tanh(a_n + `n`), where `n` is what the recurrent matrix makes of r times the state.
    """
    extra = "" if reset_after else "const float *restrict c, "
    head = "static void @(const float *restrict a, const float *restrict b, "
    head += f"{extra}const float *restrict before, float *restrict h) {{\n"
    new = f"e_sigmoid(LOADU(a + i) + LOADU(b + i)) * LOADU(b + i + {2 * pitch})" if reset_after else "LOADU(c + i)"
    body = (
        f"const v n = e_tanh(LOADU(a + i + {2 * pitch}) + {new}); "
        f"const v z = e_sigmoid(LOADU(a + i + {pitch}) + LOADU(b + i + {pitch})); "
        "const v y = n + z * (LOADU(before + i) - n);"
    )
    return head + _over(size, lanes, body, {"h": "y"})


def print_reset(size: int, *, lanes: int) -> str:
    """static void @(a, b, before, y): y = r before, with r = sigma(a + b)."""
    head = "static void @(const float *restrict a, const float *restrict b, "
    head += "const float *restrict before, float *restrict y) {\n"
    body = "const v r = e_sigmoid(LOADU(a + i) + LOADU(b + i)) * LOADU(before + i);"
    return head + _over(size, lanes, body, {"y": "r"})


def print_lookup(ids: int, id_step: int, words: int, width: int, y_step: int) -> str:
    """static void @(ids, table, y): rows of a table [words, width]. An id that is no row of it gives not-a-number."""
    return f"""\
static void @(const float *restrict ids, const float *restrict table, float *restrict y) {{
  for (int i = 0; i < {ids}; i++, ids += {id_step}, y += {y_step}) {{
    const int known = (*ids >= 0.0f) & (*ids < {literal(words)});
    const float *row = table + (long)(known ? *ids : 0.0f) * {width};
    for (int k = 0; k < {width}; k++) y[k] = known ? row[k] : __builtin_nanf("");
  }}
}}
"""
