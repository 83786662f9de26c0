"""A network of words, a mask and numbers from file to package: calibration by name, guard, validation, run, CLI."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from ecompile_crds.errors import DataError
from ecompile_crds.hybridmodel import Distill
from ecompile_workers.cli import main as command_line
from ecompile_workers.hybrid import HybridSession, Package, compile
from ecompile_workers.hybrid.checks import verify
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

WORDS, LENGTH = 50, 6
POLICY = Distill.model_validate({"targets": ["x86-64-v2"]})


def data(rows: int, seed: int) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(seed)
    return {
        "words": rng.integers(0, WORDS, (rows, LENGTH)),
        "mask": rng.random((rows, LENGTH)) < 0.7,
        "numbers": rng.normal(size=(rows, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    shapes = {"table": (WORDS, 8), "w": (11, 16), "v": (16, 2)}
    weights = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gather", ["table", "words"], ["found"]),
        helper.make_node("Cast", ["mask"], ["there"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["there", "axis"], ["wide"]),
        helper.make_node("Mul", ["found", "wide"], ["kept"]),
        helper.make_node("ReduceMean", ["kept"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Concat", ["mean", "numbers"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "v"], ["score"]),
    ]
    inputs = [
        helper.make_tensor_value_info("words", TensorProto.INT64, ["batch", LENGTH]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, ["batch", LENGTH]),
        helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["batch", 3]),
    ]
    outputs = [
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 2]),
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", 16]),
    ]
    weights.append(numpy_helper.from_array(np.array([2], np.int64), "axis"))
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    folder = tmp_path_factory.mktemp("several")
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "net.onnx")
    np.savez(folder / "calibration.npz", **data(400, 1))  # type: ignore[arg-type]  # arrays by name
    return folder / "net.onnx"


@pytest.fixture(scope="module")
def package(network: Path) -> Package:
    return compile(network, network.with_name("calibration.npz"), POLICY)


def test_whole_network_is_compiled_and_its_claims_hold(package: Package, network: Path) -> None:
    (segment,) = package.manifest.segments
    assert segment.outcome == "compiled", segment.reason
    assert [claim.text for claim in verify(package, network) if claim.holds is False] == []
    assert [(t.name, t.datatype) for t in package.plan.network_inputs] == [
        ("words", "INT64"),
        ("mask", "BOOL"),
        ("numbers", "FP32"),
    ]


def test_outputs_by_name_equal_onnx_runtime(package: Package, network: Path) -> None:
    session, inputs = HybridSession(package), data(64, 2)
    found = session.run_named(inputs)
    theirs = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    for name, expected in zip(("score", "hidden"), theirs.run(["score", "hidden"], inputs), strict=True):
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
    assert session.compiled_rows > 32


def test_a_word_that_does_not_exist_is_not_answered_by_the_module(package: Package) -> None:
    (segment,) = package.manifest.segments
    module = package.bundle(segment).load(["x86-64-v2"])
    row = np.zeros((1, 2 * LENGTH + 3), np.float32)
    assert module(row)[0] == 0
    for word in (WORDS, -1):
        row[0, 3] = word
        assert module(row)[0] != 0


def test_the_network_itself_refuses_such_a_word(package: Package) -> None:
    inputs = data(2, 4)
    inputs["words"][1, 2] = WORDS
    with pytest.raises(DataError, match=r"the network computes nothing of these inputs: .*indices element out of data"):
        HybridSession(package).run_named(inputs)


def test_missing_input_is_named(package: Package) -> None:
    inputs = data(3, 3)
    del inputs["mask"]
    with pytest.raises(DataError, match="no array named mask; the network takes words, mask, numbers"):
        HybridSession(package).run_named(inputs)
    with pytest.raises(DataError, match="same number of rows, but words has 3, mask has 2, numbers has 3"):
        HybridSession(package).run_named({**data(3, 3), "mask": data(2, 3)["mask"]})


def test_commands(
    package: Package,
    network: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ecompile", *arguments])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        return int(str(ended.value.code))

    file, rows = tmp_path / "net.eco", str(network.with_name("calibration.npz"))
    file.write_bytes(package.content)
    assert run("run", str(file), "--input", rows, "-o", str(tmp_path / "y.npy")) == 0
    with np.load(tmp_path / "y.npz") as written:
        assert {name: written[name].shape for name in written.files} == {"score": (400, 2), "hidden": (400, 16)}
    assert run("bench", str(file), "--against", "onnxruntime") == 2
    assert "input words takes whole numbers of a meaning: give rows with --input" in capsys.readouterr().err
    assert run("compile", str(network), "-o", str(tmp_path / "x.eco")) == 11
    assert "give calibration rows with --calibration" in capsys.readouterr().err
    assert not (tmp_path / "x.eco").exists()
