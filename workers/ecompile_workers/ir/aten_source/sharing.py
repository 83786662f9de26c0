"""Which values of a program may share memory, so that operators that work in place can be read as pure functions."""

from __future__ import annotations

from typing import Any

from .program import Reference, Step

ATEN = "aten."
VIEWS = frozenset(
    {
        "alias", "chunk", "contiguous", "detach", "dropout", "expand", "expand_as", "feature_dropout", "flatten", "mT",
        "narrow", "permute", "reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "to",
        "transpose", "type_as", "unbind", "unflatten", "unsqueeze", "view",
    }
)  # fmt: skip
"""Operators whose result is, or may be, another look at their input."""


def base_name(target: str) -> tuple[str, bool]:
    """The operator without namespace, overload and the underscore of the form in place, and whether it had one."""
    name = target.removeprefix(ATEN).split(".")[0]
    in_place = target.startswith(ATEN) and name.endswith("_") and not name.endswith("__")
    return (name[:-1] if in_place else name), in_place


class Sharing:
    """Groups of values that may share memory."""

    def __init__(self) -> None:
        self._group: dict[str, str] = {}

    def _of(self, name: str) -> str:
        return self._group.get(name, name)

    def step(self, step: Step) -> tuple[str | None, set[str]]:
        """(value that a call changes in place, other values that it may change with it)."""
        name, in_place = base_name(step.target)
        source = next((v.name for v in step.arguments.values() if isinstance(v, Reference)), None)
        if source is None or not (in_place or name in VIEWS):
            return None, set()
        group = self._of(source)
        others = {n for n in self._group if self._group[n] == group} | {group}
        for output in _flat(step.outputs):
            self._group[output] = group
        return (source, others - {source}) if in_place else (None, set())


def _flat(outputs: tuple[Any, ...]) -> list[str]:
    return [n for output in outputs for n in (output if isinstance(output, tuple) else (output,))]
