"""Capture of a live PyTorch model: `with Capture(model, file): ...` records sampled calls of `model`.

Between two sampled calls nothing is attached to the model but one function in place of its `forward`, which counts
down: hooks on every layer would slow a small network by a tenth even when they do nothing. Hooks are there for sampled
calls only. Outputs are the model's own. One exception is PyTorch's: it does not use the fused path of
`nn.TransformerEncoder` in a call that has hooks, so such a call rounds differently.

This is the only file of the package that imports torch; import it where capture by hooks is asked for.
"""

from __future__ import annotations

import hashlib
import math
import platform
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from ecompile_crds.errors import Code, ModelError
from numpy.typing import NDArray
from torch import nn

from . import nfrtrace
from .hook_attention import AttentionMode, attached
from .nfrtrace import Kind
from .sampling import MAX_VALUES, Gaps, fingerprint, positions

Rows = NDArray[np.float32]
Places = NDArray[np.int64]
DEFAULT_RATE = 0.0005
"""One call in two thousand: a sampled call of a small network costs as much as ten others (`bench/trace.py`)."""
MAX_ROWS = 8
"""Rows recorded of a sampled call, drawn at random from its batch."""
ROOT = "."
"""Name of the model itself, where it has no layers in it, and of its outputs' probabilities."""
MAX_PROBABILITIES = 64
"""Of outputs with more, the largest are recorded, with their indices."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is recorded."""

    rate: float = DEFAULT_RATE
    """Share of calls."""
    seed: int = 0
    kinds: frozenset[Kind] = frozenset({Kind.ACTIVATION})
    max_rows: int = MAX_ROWS
    max_values: int = MAX_VALUES
    layers: frozenset[str] | None = None
    """Qualified names; None: every module that has no modules in it."""


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One sampled call."""

    batch: int
    rows: Places | None
    """Indices of the recorded rows; None: all."""
    fingerprints: tuple[str, ...]
    time_ns: int
    thread: int
    """The only one whose entries belong to the call; hooks see those of all."""


class Capture:
    """Attached from construction until `close`. Calls may come from several threads; their entries are not mixed."""

    def __init__(
        self,
        model: nn.Module,
        target: BinaryIO,
        settings: Settings | None = None,
        *,
        model_digest: str | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.settings = settings or Settings()
        _check(model, self.settings)
        self.skipped: set[str] = set()
        """Layers whose output has no axis of rows, so that nothing is recorded for them."""
        self._model, self._target, self._clock = model, target, clock
        self._digest = model_digest or state_digest(model)
        self._layers = _traced(model, self.settings)
        self._lock = threading.Lock()
        self._writer: nfrtrace.Writer | None = None
        self._places: dict[tuple[str, Kind, int], Places | None] = {}
        self._rng = np.random.default_rng([self.settings.seed, 1])
        self._gaps = Gaps(self.settings.rate, self.settings.seed)
        self._closed = False
        self._own = model.__dict__.get("forward")
        self._original: Callable[..., Any] = model.forward
        model.forward = self._counting()

    def _counting(self) -> Callable[..., Any]:
        """What stands in place of the model's `forward`: a closure, which costs half of what a method does."""
        original, sampled, draw = self._original, self._sampled, self._gaps.draw
        left = draw()

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left > 0:
                return original(*args, **kwargs)
            left = draw()
            return sampled(args, kwargs)

        return forward

    def _sampled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._lock:
            call = self._begin(args, kwargs)
        if call is None or torch.compiler.is_compiling():
            return self._original(*args, **kwargs)
        wanted = self.settings.kinds
        with ExitStack() as stack:
            for name, module in self._layers.items():
                if module is self._model:  # it runs already, and looks for hooks before it does
                    continue
                stack.callback(module.register_forward_hook(self._hook(name, call)).remove)
            if Kind.ATTENTION in wanted:
                mode = AttentionMode(lambda name, weights: self._record(name, Kind.ATTENTION, weights, call))
                stack.enter_context(attached(mode, self._model))
            result = self._original(*args, **kwargs)
        if ROOT in self._layers:
            self._hook(ROOT, call)(self._model, args, result)
        output = first_tensor(result)
        if Kind.PROBABILITY in wanted and output is not None:
            self._probabilities(output.detach(), call)
        return result

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
        """Which rows of a call are recorded; writes the header before the first one. None where there are no rows."""
        inputs = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor) and v.ndim > 0]
        if self._closed or not inputs or inputs[0].shape[0] == 0:
            return None
        batch, limit = inputs[0].shape[0], self.settings.max_rows
        rows = None if batch <= limit else np.sort(self._rng.choice(batch, limit, replace=False))
        kept = [_sampled_copy(v, (batch, v.numel() // batch), rows, None) for v in inputs if v.shape[0] == batch]
        if self._writer is None:
            self._writer = nfrtrace.Writer(self._target, self._header(inputs[0]))
        return _Call(
            batch=batch,
            rows=rows,
            fingerprints=tuple(fingerprint(*values) for values in zip(*kept, strict=True)),
            time_ns=self._clock(),
            thread=threading.get_ident(),
        )

    def _header(self, first: torch.Tensor | None) -> dict[str, Any]:
        shape = None if first is None else list(first.shape[1:])
        return {
            "modelDigest": self._digest,
            "input": {
                "name": "input",
                "shape": shape,
                "dtype": None if first is None else str(first.dtype).removeprefix("torch."),
            },
            "layers": list(self._layers),
            "kinds": sorted(self.settings.kinds),
            "seed": self.settings.seed,
            "rate": self.settings.rate,
            "hardware": platform.machine() if first is None else f"{platform.machine()} {first.device}",
            "framework": f"PyTorch {torch.__version__}",
        }

    def _hook(self, name: str, call: _Call) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            output = first_tensor(result)
            if output is None or threading.get_ident() != call.thread:
                return
            if Kind.ACTIVATION in self.settings.kinds:
                self._record(name, Kind.ACTIVATION, output.detach(), call)
            if Kind.GRADIENT in self.settings.kinds and output.requires_grad:
                output.register_hook(lambda g: self._record(name, Kind.GRADIENT, g, call))  # type: ignore[no-untyped-call]  # torch's

        return hook

    def _record(self, name: str, kind: Kind, values: torch.Tensor, call: _Call) -> None:
        """Copy what is sampled of `values` [batch, ...] at once: the model may overwrite them."""
        shape = tuple(values.shape)
        if not shape or shape[0] % call.batch or not values.is_floating_point():
            self.skipped.add(name)
            return
        # Rows that were unfolded into the first axis, as in [batch * steps, features], are put together again.
        row = shape[1:] if shape[0] == call.batch else (shape[0] // call.batch, *shape[1:])
        size = math.prod(row)
        key = (name, kind, size)
        if key not in self._places:
            limit, seed = self.settings.max_values, self.settings.seed
            self._places[key] = positions(f"{name}/{kind}", size, limit=limit, seed=seed)
        place = self._places[key]
        self._add(name, kind, row, _sampled_copy(values, (call.batch, size), call.rows, place), place, call)

    def _add(
        self, name: str, kind: Kind, shape: tuple[int, ...], kept: Rows, place: Places | None, call: _Call
    ) -> None:
        entry = nfrtrace.Entry(
            layer=name,
            kind=kind,
            fingerprints=call.fingerprints,
            shape=shape,
            values=kept,
            positions=place,
            time_ns=call.time_ns,
        )
        with self._lock:
            if self._writer is not None and not self._closed:
                self._writer.add(entry)

    def _probabilities(self, output: torch.Tensor, call: _Call) -> None:
        """Softmax over the last axis of the outputs [batch, ..., outputs], where they are not probabilities already."""
        if output.ndim < 2 or output.shape[0] != call.batch or not output.is_floating_point():
            self.skipped.add(ROOT)
            return
        kept = output.float()
        if call.rows is not None:
            kept = kept[torch.from_numpy(call.rows).to(output.device)]
        if not _is_distribution(kept):
            kept = kept.softmax(dim=-1)
        if kept.shape[-1] > MAX_PROBABILITIES:
            kept, tokens = kept.topk(MAX_PROBABILITIES, dim=-1)
            self._whole(ROOT, Kind.TOKEN, tokens.float(), call)
        self._whole(ROOT, Kind.PROBABILITY, kept, call)

    def _whole(self, name: str, kind: Kind, kept: torch.Tensor, call: _Call) -> None:
        """All of the rows [rows, ..., k]; of long sequences the last positions, as many as fit."""
        if kept.ndim > 2:
            kept = kept[:, -max(1, self.settings.max_values // kept.shape[-1]) :]
        values = _sampled_copy(kept, (kept.shape[0], kept[0].numel()), None, None)
        self._add(name, kind, tuple(kept.shape[1:]), values, None, call)

    def close(self) -> None:
        """Give the model its own `forward` back and complete the file; the file itself stays open."""
        self._detach()
        with self._lock:
            if not self._closed:
                self._closed = True
                writer = self._writer or nfrtrace.Writer(self._target, self._header(None))
                writer.close()

    def _detach(self) -> None:
        if self._own is None:
            self._model.__dict__.pop("forward", None)
        else:
            self._model.forward = self._own

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach in any case; after an error the file has no end mark, so that a reader knows of it."""
        if kind is None:
            self.close()
            return
        self._detach()
        with self._lock:
            self._closed = True
            if self._writer is not None:
                self._writer.flush()


def _check(model: nn.Module, settings: Settings) -> None:
    """Raises ModelError where the model cannot be traced, ValueError where a setting makes no sense."""
    if not 0.0 < settings.rate <= 1.0:
        raise ValueError(f"rate must be above 0 and at most 1, not {settings.rate}")
    if settings.max_rows < 1 or not 1 <= settings.max_values <= nfrtrace.MAX_BLOCK_BYTES // 8:
        raise ValueError("max_rows and max_values must be at least 1, and a row must fit a block")
    if isinstance(model, torch.jit.ScriptModule | torch._dynamo.eval_frame.OptimizedModule):
        raise ModelError(
            Code.MODEL_UNSUPPORTED,
            f"a {type(model).__name__} runs no hooks; capture the module that it was made from.",
        )
    unknown = sorted((settings.layers or frozenset()) - {name or ROOT for name, _ in model.named_modules()})
    if unknown:
        raise ModelError(Code.MODEL_UNSUPPORTED, f"the model has no layer {unknown[0]}.")


def _traced(model: nn.Module, settings: Settings) -> dict[str, nn.Module]:
    """Modules that are recorded, by qualified name."""
    if settings.layers is not None:
        return {name or ROOT: module for name, module in model.named_modules() if (name or ROOT) in settings.layers}
    whole = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    return {
        name or ROOT: module
        for name, module in model.named_modules()
        if name in whole or not (any(module.children()) or any(name.startswith(f"{w}." if w else "") for w in whole))
    }


def state_digest(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def first_tensor(value: Any) -> torch.Tensor | None:
    """The tensor that a module's result is, or the first one in it."""
    if isinstance(value, torch.Tensor):
        return value
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((found for found in map(first_tensor, members) if found is not None), None)


def _is_distribution(values: torch.Tensor) -> bool:
    sums = values.sum(dim=-1)
    return bool((values >= 0).all()) and bool(torch.allclose(sums, torch.ones_like(sums), atol=1e-4))


def _sampled_copy(values: torch.Tensor, shape: tuple[int, int], rows: Places | None, place: Places | None) -> Rows:
    """Our own float32 copy of `values`, seen as [batch, values]: of some rows, and some values of each.

    In numpy where the tensor is in its reach, because a call of torch costs several of numpy's.
    """
    values = values.detach()
    if values.device.type == "cpu" and values.dtype == torch.float32:
        flat: Any = values.numpy().reshape(shape)
        flat = flat.copy() if rows is None and place is None else flat if rows is None else flat[rows]
        return np.asarray(flat if place is None else flat[:, place])
    tensor = values.reshape(shape)
    if rows is not None:
        tensor = tensor[torch.from_numpy(rows).to(tensor.device)]
    if place is not None:
        tensor = tensor[:, torch.from_numpy(place).to(tensor.device)]
    return np.asarray(tensor.to("cpu", torch.float32, copy=True).numpy())
