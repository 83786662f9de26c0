"""`ecompile trace` and `ecompile detect` as a user gives them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ecompile_crds.errors import DataError, ModelError, ResourceError
from ecompile_workers.cli.main import parser
from ecompile_workers.trace import nfrtrace

from tests.unit.workers.networks import write_digits_like

LIVE = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))

def words():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Flatten(), torch.nn.Linear(56, 4))

def nothing():
    return 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_digits_like(tmp_path)
    monkeypatch.chdir(tmp_path / "net")
    return tmp_path / "net"


def run(*words: str) -> int:
    arguments = parser().parse_args(words)
    status: int = arguments.function(arguments)
    return status


def test_network_is_traced_and_its_trace_analysed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trace", "model.onnx", "--calibration", "calibration.npz", "--rate", "0.5", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    header, records = nfrtrace.read((folder / "model.nfrtrace").read_bytes())
    assert told["records"] == header["recordCount"] == len(list(records)) > 300
    assert run("detect", "model.nfrtrace") == 0
    assert "It proves nothing" in capsys.readouterr().out
    assert json.loads((folder / "model.nfrsg").read_text())["modelDigest"] == header["modelDigest"]


@pytest.mark.parametrize("method", ["dbscan", "k-means"])
def test_network_is_analysed(folder: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    command = ("detect", "model.onnx", "--calibration", "calibration.npz", "--method", method, "-o", "found.nfrsg")
    assert run(*command, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["units"] == 32 and told["grouping"]["method"] == method and len(told["top"]) == 32
    assert (folder / "found.nfrsg").exists()


def test_live_model_is_traced_with_gradients_and_probabilities(folder: Path) -> None:
    (folder / "live_dense.py").write_text(LIVE)
    kinds = ("--kinds", "activation", "gradient", "probability")
    assert run("trace", "live_dense:net", "--calibration", "calibration.npz", "--rate", "1", *kinds) == 0
    _, records = nfrtrace.read((folder / "net.nfrtrace").read_bytes())
    found = list(records)
    assert {r.kind for r in found} == {nfrtrace.Kind(k) for k in kinds[1:]}
    assert sum(r.kind is nfrtrace.Kind.PROBABILITY for r in found) == 400


def test_whole_numbers_reach_a_live_model_as_such(folder: Path) -> None:
    (folder / "live_words.py").write_text(LIVE)
    np.savez(folder / "words.npz", inputs=np.random.default_rng(0).integers(0, 50, size=(40, 7)))
    assert run("trace", "live_words:words", "--calibration", "words.npz", "--rate", "1") == 0
    header, _ = nfrtrace.read((folder / "words.nfrtrace").read_bytes())
    assert header["input"] == {"name": "input", "shape": [7], "dtype": "int64"}


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (("trace", "none.onnx", "--calibration", "calibration.npz"), DataError, "none.onnx does not exist"),
        (("trace", "model.onnx", "--calibration", "none.npz"), DataError, "none.npz does not exist; put"),
        (("trace", "live_bad:nothing", "--calibration", "calibration.npz"), ModelError, "not a torch.nn.Module"),
        (("trace", "live_bad:other", "--calibration", "calibration.npz"), ModelError, "give module:function"),
        (("trace", "model.onnx", "--calibration", "calibration.npz", "-o", "model.onnx/x"), ResourceError, "written"),
        (("detect", "none.nfrtrace"), DataError, "cannot be read"),
        (("detect", "calibration.npz", "--calibration", "calibration.npz"), ModelError, "not supported"),
    ],
)
def test_bad_input_is_named(folder: Path, words: tuple[str, ...], error: type[Exception], text: str) -> None:
    (folder / "live_bad.py").write_text(LIVE)
    with pytest.raises(error, match=text):
        run(*words)


def test_missing_choices_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("detect", "model.onnx") == 2
    assert run("trace", "model.onnx", "--calibration", "calibration.npz", "--kinds", "gradient") == 2
    told = capsys.readouterr().err
    assert "--calibration rows.npz" in told and "module:function" in told
    with pytest.raises(SystemExit):
        run("trace", "model.onnx", "--calibration", "calibration.npz", "--rate", "0")


def test_trace_that_was_cut_off_is_analysed_with_a_word(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("trace", "model.onnx", "--calibration", "calibration.npz", "--rate", "1")
    content = (folder / "model.nfrtrace").read_bytes()
    (folder / "cut.nfrtrace").write_bytes(content[: -nfrtrace.HEAD.size - 1] + content[-nfrtrace.HEAD.size :])
    (folder / "whole.nfrtrace").write_bytes(content[: -nfrtrace.HEAD.size])
    assert run("detect", "whole.nfrtrace") == 0
    assert "ends without its end mark" in capsys.readouterr().err
    assert run("detect", "cut.nfrtrace") == 0
    assert "cut off or damaged" in capsys.readouterr().err
