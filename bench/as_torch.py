"""A graph of ours as a PyTorch module, for compilers that start there. Operators of the measured networks only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ecompile_crds.errors import Code, ModelError
from ecompile_workers.codegen.steps import fold
from ecompile_workers.ir.attributes import Convolution, Pool, Reduction
from ecompile_workers.ir.graph import Graph, Node, Op
from ecompile_workers.ir.load import load_source
from torch import Tensor, nn

Function = Callable[..., Tensor]


def module_of(path: Path) -> nn.Module:
    """Flat rows [1, inputs] -> outputs.

    Raises ModelError where an operator is not written here.
    """
    return Network(fold(load_source(path).graph))


class Network(nn.Module):
    """The nodes of a graph, one after the other."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.functions = [_function(node) for node in graph.nodes]
        for index, node in enumerate(graph.nodes):
            for name, value in node.constants.items():
                value = value.T if node.op is Op.GEMM and name == "weight" else value
                self.register_buffer(f"{name}_{index}", torch.from_numpy(np.ascontiguousarray(value)))

    def forward(self, x: Tensor) -> Tensor:
        values = {self.graph.input.name: x.reshape(x.shape[0], *self.graph.input.shape)}
        for index, (node, function) in enumerate(zip(self.graph.nodes, self.functions, strict=True)):
            operands = [values[name] for name in node.inputs]
            known = {name: getattr(self, f"{name}_{index}") for name in node.constants}
            values[node.output.name] = function(*operands, **known)
        return values[self.graph.output.name]


def _function(node: Node) -> Function:
    attributes = node.attributes
    match node.op:
        case Op.GEMM:
            return lambda x, weight, bias: F.linear(x, weight, bias)
        case Op.RELU:
            return torch.relu
        case Op.SOFTMAX:
            return lambda x: torch.softmax(x, dim=-1)
        case Op.RESHAPE:
            return lambda x: x.reshape(x.shape[0], *node.output.shape)
        case Op.ADD | Op.SUB:
            sign = 1 if node.op is Op.ADD else -1
            return lambda *parts, **known: _sum(node, sign, parts, known)
        case Op.CONV:
            assert isinstance(attributes, Convolution)
            settings = attributes
            pads = [p for b, e in zip(settings.begin[::-1], settings.end[::-1], strict=True) for p in (b, e)]
            return lambda x, weight, bias: F.conv2d(
                F.pad(x, pads), weight, bias, settings.strides, 0, settings.dilations, settings.groups
            )
        case Op.AVERAGE_POOL:
            assert isinstance(attributes, Pool)
            kernel, strides = attributes.kernel, attributes.strides
            return lambda x: F.avg_pool2d(x, kernel, strides)
        case Op.REDUCE_MEAN:
            assert isinstance(attributes, Reduction)
            axes = [axis if axis < 0 else axis + 1 for axis in attributes.axes]
            keep = attributes.keep
            return lambda x: x.mean(dim=axes, keepdim=keep)
        case Op.TRANSPOSE:
            order = [0, *(i + 1 for i in attributes.order)]  # type: ignore[attr-defined]  # Order
            return lambda x: x.permute(order)
    raise ModelError(Code.MODEL_UNSUPPORTED, f"{node.op} is not written for PyTorch here")


def _sum(node: Node, sign: int, parts: tuple[Tensor, ...], known: dict[str, Tensor]) -> Tensor:
    flowing = iter(parts)
    a, b = (known[side] if side in known else next(flowing) for side in ("a", "b"))
    return a + sign * b
