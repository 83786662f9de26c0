"""ONNX files that are broken, hostile or beyond us: each is refused with a sentence, or kept neural by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from ecompile_crds.errors import Code, ModelError
from ecompile_workers.codegen.support import obstacle
from ecompile_workers.ir import onnx_importer
from ecompile_workers.ir.graph import Op
from ecompile_workers.ir.interpreter import run
from ecompile_workers.ir.load import load_source, neural_segment
from ecompile_workers.ir.segments import split
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from .checks import onnx_runtime
from .onnx_cases import CASES, Model, normal


def dense(opset: int = 17) -> Model:
    return Model(shape=[3], opset=opset).constant("w", normal(3, 4)).node("MatMul", "x", "w")


def with_weight(value: Any, dtype: Any) -> onnx.ModelProto:
    model = Model(shape=[3], opset=17).constant("w", value, dtype)
    return model.node("MatMul", "x", "w").build()


def with_input(dims: list[Any], dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    model = dense().build()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", dtype, dims))
    return model


def two_inputs(x: list[Any], z: list[Any]) -> onnx.ModelProto:
    model = Model(shape=[3], opset=17, output=2).node("Add", "x", "z").build()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, x))
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, z))
    return model


def branch() -> onnx.ModelProto:
    def side(name: str) -> onnx.GraphProto:
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("Relu", ["x"], [name])], name, [], [info])

    model = Model(shape=[3], opset=17, output=2).constant("c", True, np.bool_)
    return model.node("If", "c", then_branch=side("a"), else_branch=side("b")).build()


def cut_off() -> onnx.ModelProto:
    model = dense().build()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    return model


def huge_constant() -> onnx.ModelProto:
    model = Model(shape=[3], opset=17, output=2).integers("s", [1 << 20, 1 << 20])
    return model.node("ConstantOfShape", "s", output="big").node("Add", "x", "big").build()


def merged_batch() -> onnx.ModelProto:
    return Model(shape=[4], opset=17, output=2).integers("s", [-1, 3]).node("Reshape", "x", "s").build()


def along_batch() -> onnx.ModelProto:
    return Model(shape=[4], opset=17).integers("a", [0]).node("ReduceMean", "x", axes=[0], keepdims=1).build()


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], Code, str]] = {
    "opset too new": (lambda: dense(26).build(), Code.MODEL_UNSUPPORTED, "opset 26 .* opset_version=21"),
    "opset too old": (lambda: dense(6).build(), Code.MODEL_UNSUPPORTED, "opset 6 is not supported"),
    "control flow": (branch, Code.MODEL_UNSUPPORTED, "operator If .* is control flow"),
    "custom domain": (
        lambda: Model(shape=[3], opset=17, output=2).node("Magic", "x", domain="acme").build(),
        Code.MODEL_UNSUPPORTED,
        "operator Magic is of the custom domain acme",
    ),
    "weights of NaN": (
        lambda: with_weight(np.full((3, 4), np.nan), np.float32),
        Code.MODEL_MALFORMED,
        "weight w has values that are not finite",
    ),
    "weights of infinity": (
        lambda: with_weight(np.full((3, 4), np.inf), np.float32),
        Code.MODEL_MALFORMED,
        "weight w has values that are not finite",
    ),
    "float64 weights": (
        lambda: with_weight(normal(3, 4), np.float64),
        Code.MODEL_UNSUPPORTED,
        "weight w is float64; only float32 .* Convert",
    ),
    "float16 weights": (
        lambda: with_weight(normal(3, 4), np.float16),
        Code.MODEL_UNSUPPORTED,
        "weight w is float16; only float32 .* Convert",
    ),
    "float64 input": (
        lambda: with_input(["batch", 3], TensorProto.DOUBLE),
        Code.MODEL_UNSUPPORTED,
        "input x is double",
    ),
    "two dynamic dimensions": (
        lambda: with_input(["batch", "width"]),
        Code.MODEL_UNSUPPORTED,
        "input x has a dynamic dimension besides the batch; fix",
    ),
    "an input without the batch": (
        lambda: two_inputs(["batch", 3], [1, 3]),
        Code.MODEL_UNSUPPORTED,
        "first dimension of every input must be the batch, but x has any, z has 1",
    ),
    "truncated weight": (cut_off, Code.MODEL_MALFORMED, "not a readable ONNX model"),
    "a constant of a terabyte": (huge_constant, Code.MODEL_UNSAFE, "too large to be folded"),
    "batch torn apart": (merged_batch, Code.MODEL_UNSUPPORTED, "Reshape .* does not fit"),
    "reduction over the batch": (along_batch, Code.MODEL_UNSUPPORTED, "ReduceMean .* works along the batch"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_with_a_sentence(name: str, tmp_path: Path) -> None:
    make, code, text = REFUSED[name]
    path = tmp_path / "net.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(ModelError, match=text) as caught:
        load_source(path)
    assert caught.value.code is code
    assert caught.value.message.startswith("net.onnx: ")


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(range(256)) * 4])
def test_foreign_bytes_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_source(path)
    assert caught.value.code is Code.MODEL_MALFORMED


def test_every_truncation_is_refused_or_read(tmp_path: Path) -> None:
    content = dense().build().SerializeToString()
    path = tmp_path / "net.onnx"
    for end in range(0, len(content) - 1, 3):
        path.write_bytes(content[:end])
        try:
            load_source(path)
        except ModelError as error:
            assert error.code in (Code.MODEL_MALFORMED, Code.MODEL_UNSUPPORTED)


MODELS = ("Conv", "LSTM", "LayerNormalization", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Where")


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=20, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
@given(data=st.data(), random=st.randoms(use_true_random=False))
def test_damaged_settings_are_refused_or_read(name: str, data: Any, random: Random) -> None:
    """Numbers, operands and weights exchanged at random: a graph or a ModelError, nothing else."""
    model = CASES[name](data.draw).build()
    node = random.choice(model.graph.node)
    match random.randrange(3):
        case 0 if node.attribute:
            attribute = random.choice(node.attribute)
            attribute.i = random.choice([-5, 0, 99, 1 << 40])
            attribute.ints[:] = [random.choice([0, -1, 7, 1 << 40]) for _ in range(random.randrange(5))]
        case 1 if model.graph.initializer:
            tensor = random.choice(model.graph.initializer)
            value = numpy_helper.to_array(tensor)
            shape = random.choice([(), (0,), (3,), (1, 2), (2, 2, 2)])
            tensor.CopyFrom(numpy_helper.from_array(np.resize(value, shape).astype(value.dtype), tensor.name))
        case _:
            node.input[random.randrange(len(node.input))] = random.choice([*node.input, "x", ""])
    with contextlib.suppress(ModelError):
        onnx_importer.import_model(model, name=name)


def external(tmp_path: Path, **changes: str) -> Path:
    """A model whose weight is kept in `weights.bin` beside it."""
    model = dense().build()
    tensor = model.graph.initializer[0]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    told = {"location": "weights.bin", "offset": "0", "length": "48", **changes}
    for key, value in told.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    graph = load_source(external(tmp_path)).graph
    np.testing.assert_array_equal(graph.nodes[0].constants["weight"], normal(3, 4))


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin", ""])
def test_external_data_outside_of_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    with pytest.raises(ModelError, match="outside of the model's folder") as caught:
        load_source(external(tmp_path, location=location))
    assert caught.value.code is Code.MODEL_UNSAFE


def test_external_data_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    path = external(tmp_path, location="link.bin")
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="outside of the model's folder"):
        load_source(path)


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"location": "gone.bin"}, Code.MODEL_MALFORMED, "gone.bin, which is missing"),
        ({"length": "4800"}, Code.MODEL_MALFORMED, "reaches past the end of weights.bin"),
        ({"offset": "-4"}, Code.MODEL_MALFORMED, "reaches past the end"),
        ({"offset": "many"}, Code.MODEL_MALFORMED, "unreadable place"),
    ],
)
def test_broken_external_data_is_refused(changes: dict[str, str], code: Code, text: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        load_source(external(tmp_path, **changes))
    assert caught.value.code is code


def test_external_data_above_two_gigabytes_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path, length=str(3 << 30))
    with (path.parent / "weights.bin").open("r+b") as file:
        file.truncate(3 << 30)  # sparse: takes no room on the disk
    with pytest.raises(ModelError, match="more than 2 GiB"):
        load_source(path)


def test_unknown_operator_stays_neural_alone(tmp_path: Path) -> None:
    model = Model(shape=[4], opset=17).constant("w", normal(4, 4))
    model.node("MatMul", "x", "w", output="a").node("Hardmax", "a", output="s").node("MatMul", "s", "w")
    path = tmp_path / "net.onnx"
    path.write_bytes(model.build().SerializeToString())
    source = load_source(path)
    assert source.graph.opaque_operators == ("Hardmax",)
    assert [n.op for n in source.graph.nodes] == [Op.GEMM, Op.OPAQUE, Op.GEMM]
    parts = split(source.graph, obstacle)
    assert [(p.compilable, p.reason) for p in parts] == [
        (True, ""),
        (False, "not compiled by this version: Hardmax"),
        (True, ""),
    ]
    x = normal(5, 4, seed=3)
    current = x
    for part in parts:
        current = onnx_runtime(neural_segment(source, part, len(parts)), current)
    np.testing.assert_allclose(current, onnx_runtime(source.neural, x), atol=1e-5)


def test_unknown_operator_with_several_results_is_named_once() -> None:
    model = Model(shape=[4], opset=17).integers("k", [2])
    model.node("TopK", "x", "k", output="v,i").node("Cast", "i", output="f", to=TensorProto.FLOAT)
    graph = onnx_importer.import_model(model.node("Add", "v", "f").build(), name="top")
    assert graph.opaque_operators == ("TopK",)
    assert [n.op for n in graph.nodes] == [Op.OPAQUE, Op.OPAQUE, Op.CAST, Op.ADD]


def test_written_batch_of_one_becomes_symbolic() -> None:
    model = Model(shape=[2, 3], opset=13, batch=1).integers("s", [1, 6]).node("Reshape", "x", "s").build()
    graph = onnx_importer.import_model(model, name="static")
    assert graph.output.shape == (6,)
    free = onnx_importer.with_dynamic_batch(model)
    assert onnx_runtime(free, normal(4, 2, 3)).shape == (4, 6)


def test_functions_of_the_model_are_inlined(tmp_path: Path) -> None:
    double = helper.make_function(
        "local", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model = Model(shape=[3], opset=17, output=2).node("Double", "x", domain="local").build()
    model.functions.append(double)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    assert [n.op for n in load_source(path).graph.nodes] == [Op.ADD]


def test_initializers_listed_as_inputs_are_weights() -> None:
    model = dense(8).build()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    assert onnx_importer.import_model(model, name="old").input.name == "x"


def test_names_of_the_source_may_be_any() -> None:
    model = Model(shape=[4], opset=17).constant("w", normal(4, 4)).node("Relu", "x", output="#1")
    model.node("LogSoftmax", "#1", output="#0", axis=1).node("MatMul", "#0", "w", output="y.0")
    graph = onnx_importer.import_model(model.node("LogSoftmax", "y.0", axis=1).build(), name="names")
    assert len(graph.tensors) == len(graph.nodes) + 1
    x = normal(2, 4, seed=1)
    np.testing.assert_allclose(run(graph, x), onnx_runtime(model.build(), x), atol=1e-5)


def test_masks_may_hold_infinity() -> None:
    model = Model(shape=[3], opset=17).constant("m", [0.0, -np.inf, 0.0]).node("Add", "x", "m").build()
    assert np.isinf(onnx_importer.import_model(model, name="mask").nodes[0].constants["b"]).any()


def test_sparse_weights_are_refused() -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "v"), numpy_helper.from_array(np.zeros(1, np.int64), "i"), [3]
    )
    graph = Model(shape=[3], opset=17).node("Constant", output="c", sparse_value=sparse).node("Add", "x", "c")
    with pytest.raises(ModelError, match="constant c is a sparse_value"):
        onnx_importer.import_model(graph.build(), name="sparse")
