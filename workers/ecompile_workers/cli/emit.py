"""`ecompile emit`: a network as source code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ecompile_crds.errors import Code, DataError, ModelError

from ..codegen.emit import Language, emit
from ..codegen.levels import LEVELS
from ..codegen.lowering.base import Unsupported
from ..ir.load import load_source
from .packages import write_bytes


def emit_command(
    source: Path, folder: Path, *, languages: Sequence[str], levels: Sequence[str] | None, as_json: bool
) -> int:
    """One folder per language below `folder`.

    Raises DataError where an option is wrong, ModelError where an operator cannot be written.
    """
    chosen = _known("--languages", languages, [language.value for language in Language])
    wanted = _known("--levels", levels or list(LEVELS), list(LEVELS))
    graph = load_source(source).graph
    written: dict[str, int] = {}
    for language in map(Language, chosen):
        try:
            files = emit(graph, language, levels=wanted)
        except Unsupported as error:
            raise ModelError(Code.MODEL_UNSUPPORTED, f"{source}: {language.value} cannot do {error}.") from error
        for name, content in files.items():
            write_bytes(folder / language.value / name, content)
            written[f"{language.value}/{name}"] = len(content)
    if as_json:
        print(json.dumps(written, indent=1))
    else:
        for name, size in written.items():
            print(f"{folder / name}: {size} bytes")
    return 0


def _known(option: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    """Each once, in order.

    Raises DataError where one is not known.
    """
    for name in given:
        if name not in known:
            raise DataError(Code.SPEC_INVALID, f"{option}: {name} is not one of {', '.join(known)}.")
    return list(dict.fromkeys(given))
