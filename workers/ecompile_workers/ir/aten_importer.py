"""From an exported ATen program to our graph, whether it was read from a file or made of a live module."""

from __future__ import annotations

from typing import Any

import numpy as np
from ecompile_crds.errors import Code, ModelError

from .aten_source import dense, elementwise, recurrent, shaping
from .aten_source.call import Call, Converter
from .aten_source.folding import fold
from .aten_source.program import CONTROL_FLOW, Program, Reference, Step
from .aten_source.sharing import ATEN, Sharing, base_name
from .graph import Graph
from .importing.builder import Builder
from .importing.values import WRONG_FORM, Constant, Flow, Unsupported, Value, fixed

CONVERTERS: dict[str, Converter] = {
    **elementwise.CONVERTERS,
    **dense.CONVERTERS,
    **shaping.CONVERTERS,
    **recurrent.CONVERTERS,
}
SYMBOLIC = "_operator."


def import_program(program: Program) -> Graph:
    """The graph of a program.

    Raises ModelError saying what is not supported, or what is wrong with a weight, and what to do.
    """
    return _Importer(program).run()


class _Importer:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._sharing = Sharing()
        self._stale: set[str] = set()
        self._builder = Builder(program.name, program.sources, static_batch=program.static_batch)
        self._values: dict[str, Any] = dict(self._builder.flows)
        for name, (value, label) in program.constants.items():
            if value.dtype.kind == "f" and np.isnan(value).any():
                raise ModelError(
                    Code.MODEL_MALFORMED,
                    f"{program.name}: weight {label} has values that are not finite; the training diverged or the "
                    "file is damaged.",
                )
            self._values[name] = fixed(value, label)

    def run(self) -> Graph:
        for step in self._program.steps:
            if any(step.target.endswith(f"higher_order.{name}") for name in CONTROL_FLOW):
                raise ModelError(
                    Code.MODEL_UNSUPPORTED,
                    f"{self._program.name}: operator {step.target} is control flow, which is not supported; export "
                    "the model with the branch or loop unrolled.",
                )
            if not step.outputs:
                continue
            try:
                self._step(step)
            except ModelError as error:
                where = "" if self._program.name in error.message else f"{self._program.name}: "
                raise ModelError(error.code, f"{where}{error.message}") from error
        return self._builder.graph({name: self._resolved(Reference(name)) for name in self._program.outputs})

    def _step(self, step: Step) -> None:
        arguments = {name: self._resolved(value) for name, value in step.arguments.items()}
        changed, stale = self._sharing.step(step)
        self._builder.begin(step.target)
        try:
            found = self._converted(step, arguments)
            named = dict(_paired(step.outputs, found if isinstance(found, tuple) else (found,)))
        except Unsupported as error:
            self._opaque(step, arguments, str(error))
            return
        except WRONG_FORM as error:
            raise ModelError(
                Code.MODEL_MALFORMED,
                f"{self._program.name}: operator {step.target} has arguments that do not fit it ({error}); the model "
                "is damaged or of an unknown version.",
            ) from error
        self._values.update(self._builder.finish(named))
        if changed is not None:
            # The value under its old name is the new one; other looks at its memory would need the same change.
            self._values[changed] = self._values[str(step.outputs[0])]
            self._stale |= stale

    def _resolved(self, argument: Any) -> Any:
        if isinstance(argument, Reference):
            if argument.name in self._stale:
                raise ModelError(
                    Code.MODEL_UNSUPPORTED,
                    f"{self._program.name}: {argument.name} is used after an operator changed its memory in place; "
                    "use the form of that operator that returns a new tensor.",
                )
            if argument.name not in self._values:
                raise ModelError(
                    Code.MODEL_MALFORMED,
                    f"{self._program.name}: {argument.name} is used but never computed, or is a result that is not "
                    "supported.",
                )
            return self._values[argument.name]
        return tuple(self._resolved(a) for a in argument) if isinstance(argument, tuple) else argument

    def _converted(self, step: Step, arguments: dict[str, Any]) -> Any:
        target = step.target
        name = target if target.startswith(SYMBOLIC) else base_name(target)[0]
        if not _flows(tuple(arguments.values())):
            return fold(name, arguments)
        convert = CONVERTERS.get(name) if target.startswith(ATEN) else None
        if convert is None:
            raise Unsupported("not known")
        return convert(Call(builder=self._builder, target=name, arguments=arguments))

    def _opaque(self, step: Step, arguments: dict[str, Any], reason: str) -> None:
        flows = _flows(tuple(arguments.values()))
        names = [n for output in step.outputs for n in (output if isinstance(output, tuple) else (output,))]
        if not flows or any(n not in self._program.tensors for n in names):
            raise ModelError(
                Code.MODEL_UNSUPPORTED,
                f"{self._program.name}: operator {step.target} ({', '.join(names)}) is not supported: {reason}; "
                "express it by other operators.",
            )
        outputs = [self._program.tensors[n] for n in names]
        for flow in self._builder.opaque(flows, outputs, reason):
            self._values[flow.tensor.name] = flow


def _flows(arguments: tuple[Any, ...]) -> list[Flow]:
    """All tensors among arguments that depend on the input, those in lists included."""
    found: list[Flow] = []
    for argument in arguments:
        if isinstance(argument, Flow):
            found.append(argument)
        elif isinstance(argument, tuple):
            found += _flows(argument)
    return found


def _paired(outputs: tuple[Any, ...], found: tuple[Any, ...]) -> list[tuple[str, Value]]:
    """Names with values; results that are not available are left out.

    Raises Unsupported where there are not as many values as names.
    """
    if len(outputs) == 1 and isinstance(outputs[0], tuple):
        outputs = outputs[0]
    if len(outputs) > len(found):
        raise Unsupported("another number of results than expected")
    pairs = []
    for name, value in zip(outputs, found, strict=False):
        if isinstance(value, Flow | Constant):
            pairs.append((name, value))
    return pairs
