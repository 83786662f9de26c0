"""`ecompile emit`: folders of source code, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ecompile_crds.errors import DataError
from ecompile_workers.cli.emit import emit_command
from ecompile_workers.codegen.emit import Language
from ecompile_workers.ir.to_onnx import export

from ..networks import make_graph


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(export(make_graph([6, 8, 3])).SerializeToString())
    return path


def test_each_language_gets_a_folder(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "sources"
    assert emit_command(network, target, languages=list(Language), levels=["arm64"], as_json=True) == 0
    written = json.loads(capsys.readouterr().out)
    assert sorted(written) == [
        "c/arm64/module.c",
        "c/arm64/weights.bin",
        "python/model.py",
        "python/weights.bin",
        "rust/model.rs",
        "rust/weights.bin",
    ]
    assert {name: (target / name).stat().st_size for name in written} == written


@pytest.mark.parametrize(
    ("languages", "levels", "message"),
    [
        (["cobol"], None, "--languages: cobol is not one of c, rust, python"),
        (["c"], ["z80"], "--levels: z80 is not one of x86-64-v2"),
    ],
)
def test_unknown_names_are_refused(
    network: Path, tmp_path: Path, languages: list[str], levels: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        emit_command(network, tmp_path / "sources", languages=languages, levels=levels, as_json=False)
    assert not (tmp_path / "sources").exists()
