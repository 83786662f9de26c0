"""A network as source code: C with vectors, Rust or Python. Each language's files stand alone."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from ..ir.graph import Graph
from .abi import GuardBox
from .c_printer import print_c
from .kernels.prelude import WEIGHTS_FILE
from .levels import LEVELS
from .loops.python import print_python
from .loops.rust import print_rust
from .loops.translate import translate


class Language(StrEnum):
    """What can be written."""

    C = "c"
    RUST = "rust"
    PYTHON = "python"


LARGEST = float(np.finfo(np.float32).max)


def emit(graph: Graph, language: Language, *, levels: Sequence[str] = ()) -> dict[str, bytes]:
    """Content of each file by its path. C: one folder per level; its guard refuses what is not finite.

    Raises Unsupported naming an operator that cannot be written.
    """
    if language is Language.C:
        reach = np.full(graph.input.size, LARGEST, np.float32)
        files: dict[str, bytes] = {}
        for level in levels:
            printed = print_c(graph, GuardBox(lower=-reach, upper=reach), LEVELS[level])
            files[f"{level}/module.c"] = printed.source.encode()
            files[f"{level}/{WEIGHTS_FILE}"] = printed.weights
        return files
    loops = translate(graph)
    weights = {WEIGHTS_FILE: loops.blob.content()}
    match language:
        case Language.RUST:
            return {"model.rs": print_rust(graph, loops).encode(), **weights}
        case Language.PYTHON:
            return {"model.py": print_python(graph, loops).encode(), **weights}
