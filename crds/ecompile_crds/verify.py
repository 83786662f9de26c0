"""Are the generated files current? `python -m ecompile_crds.verify` from the repository root; ends with 1 if not."""

from __future__ import annotations

import sys
from pathlib import Path

from .reference import pages
from .schema import definitions, render

ROOT = Path(__file__).parents[2]


def stale(root: Path) -> list[str]:
    """Generated files that differ from what the types say now."""
    wanted: dict[Path, str] = {}
    for name, definition in definitions().items():
        wanted[root / "crds" / name] = render(definition)
        wanted[root / "charts" / "ecompile" / "files" / name] = render(definition)
    for name, text in pages().items():
        wanted[root / "docs" / "reference" / name] = text
    return [
        str(path.relative_to(root)) for path, text in wanted.items() if not path.exists() or path.read_text() != text
    ]


if __name__ == "__main__":
    found = stale(ROOT)
    for path in found:
        print(f"{path} is not current: run `make generate` and commit the result.", file=sys.stderr)
    raise SystemExit(1 if found else 0)
