"""Attention weights of a running PyTorch model, however it computes attention.

A fused attention never has its weights in memory, so they are computed beside it, for a sampled call only; the model's
own result is used as it is. Seen are `scaled_dot_product_attention`, `nn.MultiheadAttention`, and a softmax over the
last axis of four ([batch, heads, queries, keys], as attention written by hand).
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Found = Callable[[str, torch.Tensor], None]
"""(name of the module, weights [batch, heads, queries, keys])"""
SOFTMAXES = (functional.softmax, torch.softmax, torch.Tensor.softmax)
MULTI_HEAD = inspect.signature(functional.multi_head_attention_forward)


class AttentionMode(TorchFunctionMode):
    """While it is active in a thread, `found` gets the weights of each attention that the thread computes."""

    def __init__(self, found: Found) -> None:
        super().__init__()
        self.running: list[str] = []
        """Names of the modules that run, the innermost last."""
        self._found = found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        if func is functional.scaled_dot_product_attention:
            self._tell(product_weights(*args, **named))
        elif func is functional.multi_head_attention_forward:
            self._tell(multi_head_weights(*args, **named))
        elif func in SOFTMAXES and isinstance(result, torch.Tensor) and result.ndim == 4:
            axis = named.get("dim", args[1] if len(args) > 1 else None)
            if axis in (-1, 3):
                self._tell(result.detach())
        return result

    def _tell(self, weights: torch.Tensor) -> None:
        self._found(self.running[-1] if self.running else ".", weights)


@contextmanager
def attached(mode: AttentionMode, model: nn.Module) -> Iterator[None]:
    """The mode, active and told which module of `model` runs."""
    handles, thread = [], threading.get_ident()
    for name, module in model.named_modules():
        if module is model:  # it runs already
            continue

        def enter(module: nn.Module, args: Any, name: str = name) -> None:
            if threading.get_ident() == thread:
                mode.running.append(name)

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            if threading.get_ident() == thread:
                mode.running.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def product_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """softmax(scale Q K^T + mask) [..., queries, keys], without dropout (Vaswani and others, arXiv:1706.03762)."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    scores = query @ key.transpose(-2, -1) * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(dim=-1)


@torch.no_grad()
def multi_head_weights(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Weights [batch, heads, queries, keys] for the arguments of `multi_head_attention_forward`, without dropout."""
    told = MULTI_HEAD.bind(*args, **kwargs).arguments
    told.update(need_weights=True, average_attn_weights=False, training=False)
    if told.get("is_causal") and told.get("attn_mask") is None:
        told["is_causal"] = False
    _, weights = functional.multi_head_attention_forward(**told)
    assert weights is not None, "they are asked for"
    return weights if weights.ndim == 4 else weights[None]
