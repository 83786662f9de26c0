"""From a network to one file: made, refused where damaged, checked, run."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ecompile_crds.errors import DataError, EcompileError, ModelError
from ecompile_crds.hybridmodel import Distill
from ecompile_workers.cli import main as command_line
from ecompile_workers.hybrid import HybridSession, Package, compile, read_package
from ecompile_workers.hybrid.checks import verify
from ecompile_workers.ir.to_onnx import export

from ..networks import make_graph

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
POLICY = Distill.model_validate({"targets": ["x86-64-v2"], "minSpeedup": 1.0})
ROWS = np.random.default_rng(0).normal(size=(300, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "net.onnx"
    path.write_bytes(export(make_graph([24, 32, 5])).SerializeToString())
    return path


@pytest.fixture(scope="module")
def package(network: Path) -> Package:
    return compile(network, ROWS, POLICY, held_out=ROWS[::-1], key=KEY)


def with_file(package: Package, name: str, content: bytes | None) -> bytes:
    """The package with one file replaced or left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package.content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.namelist():
            if entry != name:
                new.writestr(entry, old.read(entry))
            elif content is not None:
                new.writestr(entry, content)
    return buffer.getvalue()


def test_package_tells_what_became_of_each_segment(package: Package) -> None:
    (segment,) = package.manifest.segments
    assert segment.outcome == "compiled" and segment.strategy == "exact"
    assert segment.speedup is not None and segment.speedup > 1
    assert segment.evidence is not None and segment.evidence.samples == 300
    assert package.bundle(segment).levels == ("x86-64-v2",)
    assert "trace.nfrtrace" not in package.files, "recorded inputs do not leave"


def test_equal_input_gives_equal_modules(package: Package, network: Path) -> None:
    again = compile(network, ROWS, POLICY, held_out=ROWS[::-1], key=KEY)
    (name,) = [name for name in package.files if name.endswith(".eco")]
    assert again.files[name] == package.files[name]


def test_session_equals_onnx_runtime_inside_and_outside_of_the_guard(package: Package, network: Path) -> None:
    session = HybridSession(package)
    x = np.concatenate([ROWS[:3], ROWS[3:6] * 50, ROWS[6:9]])
    expected = onnxruntime.InferenceSession(network.read_bytes()).run(None, {"x": x})[0]
    np.testing.assert_allclose(session.run(x), expected, rtol=1e-4, atol=1e-4)
    assert session.compiled_rows == 0
    session.run(ROWS[:7])
    assert session.compiled_rows == 7


def test_rows_of_another_shape_are_refused(package: Package) -> None:
    with pytest.raises(DataError, match=r"rows have shape \(7,\), but the network takes x \(24,\) per row"):
        HybridSession(package).run(np.zeros((2, 7), np.float32))


@pytest.mark.parametrize("name", ["package.json", "plan.json", "model.onnx", "modules/segment-0.eco", "signing.pub"])
def test_every_file_is_covered_by_the_signature(package: Package, name: str) -> None:
    other = Ed25519PrivateKey.generate().public_key()
    for content in (package.files[name][:-1] + b"~", None):
        with pytest.raises(ModelError):
            read_package(with_file(package, name, content))
    with pytest.raises(ModelError, match="not signed by a trusted key"):
        read_package(package.content, [other])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"x" * 1000])
def test_what_is_no_zip_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match="not a readable zip file"):
        read_package(content)


def test_all_claims_hold_against_its_network(package: Package, network: Path) -> None:
    claims = list(verify(package, network))
    assert [claim.holds for claim in claims] == [True] * 7
    assert claims[-1].text.endswith("the libraries are what the segment compiles to")


def test_another_network_is_named(package: Package, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(export(make_graph([24, 32, 5], seed=1)).SerializeToString())
    claims = list(verify(package, other))
    assert claims[-1].holds is False and claims[-1].text == "made from other.onnx"


def test_synthetic_calibration_is_said(network: Path) -> None:
    made = compile(network, policy=Distill.model_validate({"targets": ["x86-64-v2"], "minSpeedup": 100.0}))
    assert made.manifest.synthetic_calibration
    (segment,) = made.manifest.segments
    assert segment.outcome == "neural" and "does not pay" in segment.reason
    x = ROWS[:4]
    expected = onnxruntime.InferenceSession(network.read_bytes()).run(None, {"x": x})[0]
    np.testing.assert_array_equal(HybridSession(made).run(x), expected)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ecompile", *arguments])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    return int(str(ended.value.code))


def test_commands(
    network: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, x, y = str(tmp_path / "net.eco"), tmp_path / "x.npy", tmp_path / "y.npy"
    np.savez(tmp_path / "rows.npz", inputs=ROWS)
    np.save(x, ROWS[:5])
    options = ["--calibration", str(tmp_path / "rows.npz"), "--targets", "x86-64-v2"]
    assert run(monkeypatch, "compile", str(network), *options, "-o", made) == 0
    assert "segment-0: compiled" in capsys.readouterr().out
    assert run(monkeypatch, "inspect", made, "--json") == 0
    assert '"outcome": "compiled"' in capsys.readouterr().out
    assert run(monkeypatch, "verify", made, "--source", str(network)) == 0
    assert run(monkeypatch, "run", made, "--input", str(x), "-o", str(y)) == 0
    assert "5 answered by compiled code" in capsys.readouterr().out
    expected = onnxruntime.InferenceSession(network.read_bytes()).run(None, {"x": ROWS[:5]})[0]
    np.testing.assert_allclose(np.load(y), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [(["--min-speedup", "1000"], "--min-speedup: Input should be less"), (["--targets", "vax"], "--targets: ")],
)
def test_bad_options_are_named(
    network: Path,
    option: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "compile", str(network), *option) != 0
    assert sentence in capsys.readouterr().err


def test_failed_compile_leaves_no_file(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "rows.npz", inputs=np.zeros((4, 7), np.float32))
    made = tmp_path / "net.eco"
    status = run(monkeypatch, "compile", str(network), "--calibration", str(tmp_path / "rows.npz"), "-o", str(made))
    assert status != 0 and not made.exists()
    assert "rows have shape (7,)" in capsys.readouterr().err


def test_disk_that_is_full_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ecompile_workers.cli import packages
    from ecompile_workers.data import store

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", refuse)
    with pytest.raises(EcompileError, match="No space left"):
        packages.write_bytes(tmp_path / "a.eco", b"content")
    assert list(tmp_path.iterdir()) == []
