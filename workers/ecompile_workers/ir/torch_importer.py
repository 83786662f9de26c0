"""From a live `torch.nn.Module` or `torch.export.ExportedProgram` to our graph. The only file of the IR with torch."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ecompile_crds.errors import Code, ModelError

from .aten_importer import import_program
from .aten_source.program import DTYPES, SCALAR_NAMES, Program, Reference, Step
from .graph import DType, Graph, Tensor
from .importing.builder import common_batch
from .importing.values import AnyArray


def import_module(module: torch.nn.Module, *examples: torch.Tensor, name: str = "module") -> Graph:
    """The graph of a module in evaluation mode, for inputs like `examples` [rows, ...] with any number of rows.

    Raises ModelError where torch cannot export it or an operator is not supported.
    """
    batch = torch.export.Dim("batch")
    rows = tuple(each if each.shape[0] > 1 else torch.cat([each, each]) for each in examples)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            exported = torch.export.export(module, rows, dynamic_shapes=tuple({0: batch} for _ in rows))
    except Exception as error:  # torch raises many kinds, some of them internal
        line = str(error).strip().splitlines()
        raise ModelError(
            Code.MODEL_UNSUPPORTED,
            f"{name}: torch cannot export the module with a symbolic batch: {line[0] if line else error!r}",
        ) from error
    finally:
        module.train(was_training)
    return import_exported(exported, name=name)


def import_exported(exported: torch.export.ExportedProgram, *, name: str = "program") -> Graph:
    """The graph of an exported program.

    Raises ModelError saying what is not supported and what to do.
    """
    return import_program(program_of(exported, name=name))


def program_of(exported: torch.export.ExportedProgram, *, name: str) -> Program:
    """The same program as plain data.

    Raises ModelError where it has state, or an input or output that is no tensor.
    """
    signature = exported.graph_signature
    outputs = signature.user_outputs
    if len(outputs) != len(signature.output_specs) or not all(isinstance(each, str) for each in outputs):
        raise ModelError(Code.MODEL_UNSUPPORTED, f"{name}: outputs that are no tensors, or state, are not supported.")
    nodes = {node.name: node for node in exported.graph.nodes}
    tensors = {n: t for n, node in nodes.items() if (t := _tensor(node)) is not None}
    sources = [tensors.get(str(each)) for each in signature.user_inputs]
    known = tuple(source for source in sources if source is not None)
    if len(known) < len(sources) or not known or (len(known) == 1 and known[0].dtype is DType.BOOL):
        raise ModelError(
            Code.MODEL_UNSUPPORTED,
            f"{name}: an input is not float32 or int64 with fixed sizes behind the batch; fix them when exporting.",
        )
    calls = [node for node in exported.graph.nodes if node.op == "call_function"]
    names = _Names(calls)
    batches = {source.name: nodes[source.name].meta["val"].shape[0] for source in known}
    return Program(
        name=name,
        sources=known,
        static_batch=common_batch(batches, name=name),
        constants=_constants(exported),
        steps=tuple(_step(node, names) for node in calls if node.target is not operator.getitem),
        outputs=tuple(names.of(str(each)) for each in outputs),
        tensors={names.of(n): replace(t, name=names.of(n)) for n, t in tensors.items()},
    )


def _tensor(node: Any) -> Tensor | None:
    """What a node returns, where it is one tensor with fixed sizes behind the batch."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not value.shape:
        return None
    dtype = DTYPES.get(SCALAR_NAMES.get(str(value.dtype).removeprefix("torch."), 0))
    if dtype is None or not all(isinstance(n, int) for n in value.shape[1:]):
        return None
    return Tensor(name=node.name, shape=tuple(int(n) for n in value.shape[1:]), dtype=dtype)


def _constants(exported: torch.export.ExportedProgram) -> dict[str, tuple[AnyArray, str]]:
    signature = exported.graph_signature
    named = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    found: dict[str, tuple[AnyArray, str]] = {}
    for argument, key in named.items():
        value = exported.state_dict.get(key, exported.constants.get(key))
        if isinstance(value, torch.Tensor):
            if value.dtype is torch.bfloat16:
                value = value.to(torch.float16)  # refused by name where it is used, as any float16
            found[argument] = (np.ascontiguousarray(value.detach().cpu().numpy()), key)
    return found


class _Names:
    """Names of results; those of a call with several are the names of the `getitem` nodes that take them."""

    def __init__(self, nodes: Iterable[Any]) -> None:
        self._alias: dict[str, str] = {}
        for node in nodes:
            if node.target is operator.getitem:
                self._alias[node.name] = f"{node.args[0].name}.{node.args[1]}"

    def outputs(self, node: Any) -> tuple[str, ...]:
        value = node.meta.get("val")
        if isinstance(value, list | tuple):
            return tuple(f"{node.name}.{index}" for index in range(len(value)))
        return (node.name,)

    def argument(self, value: Any) -> Any:
        """An argument as plain data; devices, layouts and the like are left out."""
        if isinstance(value, torch.fx.Node):
            return Reference(self.of(value.name))
        if isinstance(value, list | tuple):
            return tuple(self.argument(each) for each in value)
        if isinstance(value, torch.dtype):
            return SCALAR_NAMES.get(str(value).removeprefix("torch."), 0)
        return value if isinstance(value, bool | int | float | str) else None

    def of(self, name: str) -> str:
        return self._alias.get(name, name)


def _step(node: Any, names: _Names) -> Step:
    """One call, its arguments named by the operator's schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        target, parameters = f"_operator.{getattr(node.target, '__name__', node.target)}", ["a", "b", "c"]
    else:
        target, parameters = str(node.target), [a.name for a in schema.arguments]
    arguments = {**dict(zip(parameters, node.args, strict=False)), **node.kwargs}
    quiet = schema is not None and not schema.returns
    return Step(
        target=target,
        arguments={key: names.argument(value) for key, value in arguments.items()},
        outputs=() if quiet else names.outputs(node),
    )
