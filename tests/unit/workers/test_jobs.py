"""The three Jobs as functions, and each bad input as a sentence."""

from __future__ import annotations

import errno
import json
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from ecompile_crds.errors import Code, EcompileError
from ecompile_workers.data import store
from ecompile_workers.ir.attributes import Reduction
from ecompile_workers.ir.graph import DType, Graph, Node, Op, Tensor
from ecompile_workers.ir.to_onnx import export
from ecompile_workers.jobs.__main__ import run
from ecompile_workers.jobs.profile import profile
from ecompile_workers.trace import nfrtrace

from .networks import make_context, make_graph, write_digits_like


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_digits_like(tmp_path)
    return tmp_path


def whole_life(root: Path) -> tuple[str, str, str]:
    profile = run(make_context(root), index=0).profile
    assert profile is not None
    distill = run(make_context(root, kind="distill", planUri=profile.plan_uri, segments=(0,)), index=0).distill
    assert distill is not None and distill.pays, distill
    assert distill.bundle_uri and distill.bundle_digest
    return profile.plan_uri, distill.bundle_uri, distill.bundle_digest


def test_profile_distill_validate(root: Path) -> None:
    plan, uri, digest = whole_life(root)
    told = {"kind": "validate", "planUri": plan, "segment": 0, "bundleUri": uri, "bundleDigest": digest}
    report = run(make_context(root, **told), index=0).validation
    assert report is not None and report.passed, report
    assert report.test_inputs == 1000 and report.ood_inputs >= 100
    assert report.delta is not None and report.delta < 1e-5
    written = root / "default" / "net" / "life1" / "validate"
    assert sorted(path.suffix for path in written.iterdir()) == [".html", ".json", ".txt"]
    told = json.loads((written / "segment-0-1.json").read_text())
    assert told["guard"]["outside_answered"] == 0 and told["guard"]["inside"]["answered"] == 32
    folder = root / "default" / "net" / "life1" / "profile"
    header, records = nfrtrace.read((folder / "trace.nfrtrace").read_bytes())
    assert len(list(records)) == header["recordCount"] > 0
    assert json.loads((folder / "stability.nfrsg").read_text())["units"] == 32


FAIR = {"fairness": {"groups": ["a", "b"]}}


def write_groups(root: Path, groups: list[object]) -> None:
    path = root / "net" / "held_out.npz"
    data = dict(np.load(path))
    np.savez(path, **data, groups=np.resize(np.array(groups), len(data["inputs"])))


def test_groups_are_compared_where_the_spec_asks_for_it(root: Path) -> None:
    write_groups(root, ["a", "b", "b"])
    plan, uri, digest = whole_life(root)
    told = {"kind": "validate", "planUri": plan, "segment": 0, "bundleUri": uri, "bundleDigest": digest}
    report = run(make_context(root, **told, equivalence=FAIR), index=0).validation
    assert report is not None and report.passed, report
    written = json.loads((root / "default/net/life1/validate/segment-0-1.json").read_text())
    assert [group["group"] for group in written["groups"]["groups"]] == ["a", "b"]
    reference = json.loads((root / "default/net/life1/profile/plan.json").read_text())["segments"][0]["reference"]
    assert (root / "default/net/life1/profile" / reference["path"]).exists()


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [(None, "it has no array named groups"), (["a"], "no row is in group 'b'"), ([1.5], "it must name the group")],
)
def test_data_without_the_groups_that_are_asked_for_are_refused_early(
    root: Path, groups: list[object] | None, sentence: str
) -> None:
    if groups is not None:
        write_groups(root, groups)
    with pytest.raises(EcompileError, match=sentence):
        profile(make_context(root, equivalence=FAIR))


def test_one_file_holds_both_splits(root: Path) -> None:
    calibration, other = (np.random.default_rng(seed).normal(size=(300, 16)).astype(np.float32) for seed in (1, 2))
    np.savez(root / "net" / "both.npz", inputs=calibration, x_test=other)
    uri = "file:///artifacts/net/both.npz"
    context = make_context(root, calibrationUri=uri, heldOutUri=uri)
    inputs = (Tensor(name="x", shape=(16,)),)
    np.testing.assert_array_equal(context.calibration(inputs), calibration)
    np.testing.assert_array_equal(context.held_out(inputs), other)
    assert run(context, index=0).profile is not None


@pytest.mark.parametrize("name", ["", "#inputs"])
def test_calibration_is_refused_as_held_out_data(root: Path, name: str) -> None:
    np.savez(root / "net" / "one.npz", inputs=np.random.default_rng(1).normal(size=(300, 16)).astype(np.float32))
    uri = "file:///artifacts/net/one.npz"
    with pytest.raises(EcompileError, match=r"spec.heldOut .*its rows are those of spec.calibration"):
        run(make_context(root, calibrationUri=uri, heldOutUri=f"{uri}{name}"), index=0)


def test_running_a_job_again_gives_the_same_results(root: Path) -> None:
    first, second = run(make_context(root), index=0), run(make_context(root), index=0)
    assert first == second


def test_altered_bundle_is_a_verdict(root: Path) -> None:
    plan, uri, digest = whole_life(root)
    path = root / uri.removeprefix("file:///artifacts/")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    told = {"kind": "validate", "planUri": plan, "segment": 0, "bundleUri": uri, "bundleDigest": digest}
    report = run(make_context(root, **told), index=0).validation
    assert report is not None and not report.passed and report.code is Code.BUNDLE_ALTERED


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"sourceUri": "file:///artifacts/none.onnx"}, Code.DATA_MISSING, "spec.source.*does not exist"),
        ({"sourceUri": "file:///artifacts/bad.onnx"}, Code.MODEL_MALFORMED, "bad.onnx: not a readable ONNX model"),
        ({"sourceUri": "ftp://x/y"}, Code.URI_UNSUPPORTED, "scheme 'ftp' is not supported"),
        ({"sourceDigest": "sha256:" + "0" * 64}, Code.DATA_DIGEST_MISMATCH, "spec.source.*has digest"),
        ({"calibrationUri": "file:///artifacts/shape.npz"}, Code.DATA_SHAPE, r"rows have shape \(7,\)"),
        ({"calibrationUri": "file:///artifacts/nan.npz"}, Code.DATA_NOT_FINITE, "row 0 has a value"),
        ({"calibrationUri": "file:///artifacts/empty.npz"}, Code.DATA_EMPTY, "no rows"),
        ({"calibrationUri": "file:///artifacts/text.npz"}, Code.DATA_MALFORMED, "not numeric"),
        ({"calibrationUri": "file:///artifacts/bad.onnx"}, Code.DATA_MALFORMED, "not a readable .npz"),
    ],
)
def test_bad_input_is_named(root: Path, changes: dict[str, str], code: Code, text: str) -> None:
    (root / "bad.onnx").write_bytes(b"this is not a network")
    np.savez(root / "shape.npz", inputs=np.zeros((10, 7), np.float32))
    np.savez(root / "nan.npz", inputs=np.full((10, 16), np.nan, np.float32))
    np.savez(root / "empty.npz", inputs=np.zeros((0, 16), np.float32))
    np.savez(root / "text.npz", inputs=np.array([["a"] * 16]))
    with pytest.raises(EcompileError, match=text) as caught:
        run(make_context(root, **changes), index=0)
    assert caught.value.code is code


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (self.path, 0o700)


def test_hostile_pt2_is_never_unpickled(shared_models: Path, root: Path) -> None:
    source = zipfile.ZipFile(shared_models / "mlp" / "digits.pt2")
    witness = root / "ran"
    with zipfile.ZipFile(root / "hostile.pt2", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("sample_inputs/model.pt"):
                content = pickle.dumps(Payload(str(witness)))
            target.writestr(name, content)
    np.savez(root / "digits.npz", inputs=np.random.default_rng(0).random((50, 64)).astype(np.float32))
    changes = {
        "sourceUri": "file:///artifacts/hostile.pt2",
        "sourceFormat": "pt2",
        "calibrationUri": "file:///artifacts/digits.npz",
        "heldOutUri": None,
    }
    assert run(make_context(root, **changes), index=0).profile is not None
    assert not witness.exists()


def test_pickled_weights_are_refused(shared_models: Path, root: Path) -> None:
    source = zipfile.ZipFile(shared_models / "mlp" / "digits.pt2")
    with zipfile.ZipFile(root / "pickled.pt2", "w") as target:
        for name in source.namelist():
            content = source.read(name).replace(b'"use_pickle": false', b'"use_pickle": true')
            target.writestr(name, content)
    with pytest.raises(EcompileError, match="pickled") as caught:
        run(make_context(root, sourceUri="file:///artifacts/pickled.pt2", sourceFormat="pt2"), index=0)
    assert caught.value.code is Code.MODEL_UNSAFE


def test_full_disk_leaves_nothing_half_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EcompileError, match="no space left") as caught:
        store.write(f"file://{root}/out/file.bin", b"x" * 100)
    assert caught.value.code is Code.STORAGE_FULL and caught.value.retryable
    assert not list((root / "out").iterdir())


def test_network_of_words_is_compiled_whole(root: Path) -> None:
    """Integers go in; the guard's box ends with the last word."""
    rng = np.random.default_rng(0)
    table = {"weight": rng.normal(size=(50, 16)).astype(np.float32)}
    mean = Tensor(name="mean", shape=(16,))
    dense = make_graph([16, 32, 4])
    words = Tensor(name="words", shape=(7,), dtype=DType.INT64)
    nodes = (
        Node(op=Op.EMBEDDING, inputs=("words",), output=Tensor(name="looked_up", shape=(7, 16)), constants=table),
        Node(op=Op.REDUCE_MEAN, inputs=("looked_up",), output=mean, attributes=Reduction(axes=(0,), keep=False)),
        replace(dense.nodes[0], inputs=("mean",)),
        *dense.nodes[1:],
    )
    graph = Graph(input=words, output=dense.output, nodes=nodes)
    (root / "net" / "model.onnx").write_bytes(export(graph).SerializeToString())
    for name in ("calibration", "held_out"):
        np.savez(root / "net" / f"{name}.npz", inputs=rng.integers(0, 50, size=(200, 7)))
    profile = run(make_context(root), index=0).profile
    assert profile is not None
    assert [s.compilable for s in profile.segments] == [True]
    told = {"kind": "distill", "planUri": profile.plan_uri, "segments": (0,)}
    distill = run(make_context(root, **told), index=0).distill
    assert distill is not None and distill.pays, distill


def with_unknown_operator() -> bytes:
    """An operator that we do not have, then a matrix layer."""
    weight = onnx.numpy_helper.from_array(np.eye(8, 3, dtype=np.float32), "w")
    nodes = [
        onnx.helper.make_node("LpNormalization", ["x"], ["a"], axis=1),
        onnx.helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", 8), ("y", 3))
    )
    graph = onnx.helper.make_graph(nodes, "net", [x], [y], [weight])
    content: bytes = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return content


def test_unknown_operators_stay_neural(root: Path) -> None:
    np.savez(root / "rows.npz", inputs=np.random.default_rng(0).random((20, 8)).astype(np.float32))
    (root / "unknown.onnx").write_bytes(with_unknown_operator())
    changes = {
        "sourceUri": "file:///artifacts/unknown.onnx",
        "calibrationUri": "file:///artifacts/rows.npz",
        "heldOutUri": None,
    }
    profile = run(make_context(root, **changes), index=0).profile
    assert profile is not None
    assert [s.compilable for s in profile.segments] == [False, True]
    assert "LpNormalization" in profile.segments[0].reason
