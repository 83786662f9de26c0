"""Labels that come later: what was right, joined by the request's id with what was answered, counted by path.

A pod remembers its newest answers only, and only where spec.serving.feedback asks for it. Behind a Service the label of
a request may reach another pod: a client that sends back `path` and `prediction` as well needs no memory at all.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import orjson
from ecompile_crds.errors import Code, DataError

from .protocol import Answer, InferRequest, show

MOST_AT_ONCE = 10_000
PATHS = frozenset({"compiled", "neural", "mixed"})

RenderedT = TypeVar("RenderedT")


@dataclass(frozen=True, slots=True)
class Known:
    """An answer, as far as a label can be compared with it."""

    path: str
    prediction: int | None
    """The class of the only row; None for several rows, or a single output."""


class Feedback:
    """Of one pod. Answers are remembered from any thread."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._lock = threading.Lock()
        self.counts: dict[tuple[str, bool], int] = {}
        """By path, and whether the answer was right."""
        self.unmatched = 0

    def remembering(
        self, render: Callable[[InferRequest, Answer], RenderedT]
    ) -> Callable[[InferRequest, Answer], RenderedT]:
        """`render`, that remembers the answers of requests that have an id."""

        def remember(request: InferRequest, answer: Answer) -> RenderedT:
            if request.identifier:
                self.remember(request.identifier, answer)
            return render(request, answer)

        return remember

    def remember(self, identifier: str, answer: Answer) -> None:
        """An answer was given; the oldest is forgotten where there are too many."""
        y = answer.y
        prediction = int(np.argmax(y)) if y.shape[0] == 1 and y.shape[1] > 1 else None
        with self._lock:
            self._known[identifier] = Known(answer.outcome.path, prediction)
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)

    def take(self, body: bytes) -> tuple[int, int]:
        """Count feedback: `{"feedback": [{"id", "label" or "correct", and perhaps "path" and "prediction"}, ...]}`.
        Returns how many were counted, and how many could not be joined. An id counts once.

        Raises DataError naming the field at fault; then none was counted.
        """
        judged = []
        for position, entry in enumerate(_entries(body)):
            judged.append(_parse(entry, f"feedback[{position}]"))
        matched = 0
        for identifier, label, correct, told in judged:
            with self._lock:
                known = self._known.pop(identifier, None) or told
            if known is None or (correct is None and known.prediction is None):
                self.unmatched += 1
                continue
            right = correct if correct is not None else label == known.prediction
            key = (known.path, right)
            self.counts[key] = self.counts.get(key, 0) + 1
            matched += 1
        return matched, len(judged) - matched


def _entries(body: bytes) -> list[Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DataError(Code.REQUEST_INVALID, f"the request body is not JSON: {error}.") from error
    entries = document.get("feedback") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries or len(entries) > MOST_AT_ONCE:
        raise DataError(
            Code.REQUEST_INVALID,
            f"the body must be an object with a list named feedback, of 1 to {MOST_AT_ONCE} entries.",
        )
    return entries


def _parse(entry: Any, where: str) -> tuple[str, int | None, bool | None, Known | None]:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not entry["id"]:
        raise DataError(Code.REQUEST_INVALID, f"{where}.id must be the id of a request, a string.")
    label, correct, path, prediction = (entry.get(name) for name in ("label", "correct", "path", "prediction"))
    if (label is None) == (correct is None):
        raise DataError(Code.REQUEST_INVALID, f"{where} must have either label (a class) or correct (true or false).")
    if correct is not None and not isinstance(correct, bool):
        raise DataError(Code.REQUEST_INVALID, f"{where}.correct is {show(correct)}; it must be true or false.")
    for name, value in (("label", label), ("prediction", prediction)):
        if value is not None and (type(value) is not int or value < 0):
            raise DataError(Code.REQUEST_INVALID, f"{where}.{name} is {show(value)}; it must be the number of a class.")
    if path is not None and path not in PATHS:
        raise DataError(Code.REQUEST_INVALID, f"{where}.path is {show(path)}; use {', '.join(sorted(PATHS))}.")
    return entry["id"], label, correct, Known(path, prediction) if path is not None else None
