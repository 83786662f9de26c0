"""Every operator as a small PyTorch function of one input with random shapes and settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from torch import Tensor, nn

Draw = Callable[[st.SearchStrategy[Any]], Any]


def few(examples: int) -> settings:
    """Always the same few examples: each one exports, imports or compiles a network."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


class Function(nn.Module):
    """A function as a module, with the layers that it uses."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.names = list(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(getattr(self, name) for name in self.names))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A module and the shape of its input without the batch."""

    module: nn.Module
    shape: tuple[int, ...]
    words: int = 0
    """Integers below this are the input, where it is not 0."""


def size(draw: Draw, low: int = 1, high: int = 5) -> int:
    return int(draw(st.integers(low, high)))


def shape(draw: Draw, low: int = 1, high: int = 4) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(1, 4), min_size=low, max_size=high)))


def elementwise(function: Callable[[Tensor], Tensor]) -> Callable[[Draw], Case]:
    return lambda draw: Case(module=Function(function), shape=shape(draw))


def matrix(function: Callable[[Tensor], Tensor]) -> Callable[[Draw], Case]:
    """For functions of at least two feature axes, the last one even."""
    return lambda draw: Case(module=Function(function), shape=(*shape(draw, 1, 2), 2 * size(draw, 1, 3)))


def group_norm(draw: Draw) -> Case:
    groups, each = size(draw, 1, 3), size(draw, 1, 3)
    layer = nn.GroupNorm(groups, groups * each, affine=draw(st.booleans()))
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return Case(module=layer, shape=(groups * each, size(draw, 2), *shape(draw, 0, 1)))


def transposed(make: Callable[..., nn.Module], space: int) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        groups, kernel, stride = size(draw, 1, 2), size(draw, 1, 3), size(draw, 1, 3)
        layer = make(
            groups * size(draw, 1, 2),
            groups * size(draw, 1, 2),
            kernel,
            stride=stride,
            padding=size(draw, 0, kernel - 1),
            output_padding=size(draw, 0, stride - 1),
            dilation=size(draw, 1, 2) if stride == 1 else 1,
            groups=groups,
            bias=draw(st.booleans()),
        )
        inputs = layer.in_channels
        assert isinstance(inputs, int)
        return Case(module=layer, shape=(inputs, *(size(draw, 3, 5) for _ in range(space))))

    return case


def linear(draw: Draw) -> Case:
    outer, m, n = shape(draw, 0, 2), size(draw), size(draw)
    return Case(module=nn.Linear(m, n, bias=draw(st.booleans())), shape=(*outer, m))


def conv(space: int) -> Callable[[Draw], Case]:
    def make(draw: Draw) -> Case:
        groups = size(draw, 1, 3)
        inputs, outputs = groups * size(draw, 1, 2), groups * size(draw, 1, 2)
        kernel, dilation = size(draw, 1, 3), size(draw, 1, 2)
        layer: Any = (nn.Conv1d, nn.Conv2d)[space - 1](
            inputs,
            outputs,
            kernel,
            stride=size(draw, 1, 2),
            dilation=dilation,
            padding=size(draw, 0, 2),
            groups=groups,
            bias=draw(st.booleans()),
        )
        return Case(module=layer, shape=(inputs, *(size(draw, 5, 8) for _ in range(space))))

    return make


def same_conv(draw: Draw) -> Case:
    layer = nn.Conv2d(2, 4, (size(draw, 1, 4), 3), padding="same", groups=2)
    return Case(module=layer, shape=(2, size(draw, 4, 6), size(draw, 4, 6)))


def depthwise(draw: Draw) -> Case:
    channels = size(draw, 2, 6)
    return Case(module=nn.Conv2d(channels, channels, 3, padding=1, groups=channels), shape=(channels, 5, 6))


def pool(make: Callable[..., nn.Module], *, space: int, dilated: bool) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        kernel = size(draw, 2, 3)
        settings: dict[str, Any] = {
            "stride": size(draw, 1, 3),
            "padding": size(draw, 0, 1),
            "ceil_mode": draw(st.booleans()),
        }
        if dilated:
            settings["dilation"] = size(draw, 1, 2)
        else:
            settings["count_include_pad"] = draw(st.booleans())
        return Case(
            module=make(kernel, **settings), shape=(size(draw, 1, 3), *(size(draw, 6, 9) for _ in range(space)))
        )

    return case


def adaptive(make: Callable[[Any], nn.Module]) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        target = size(draw, 1, 3)
        return Case(module=make((target, 1)), shape=(2, target * size(draw, 1, 3), size(draw, 2, 5)))

    return case


def batch_norm(draw: Draw) -> Case:
    rank = size(draw, 0, 2)
    channels = size(draw)
    layer: Any = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[rank](channels, affine=draw(st.booleans()))
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    return Case(module=layer, shape=(channels, *(size(draw, 2, 4) for _ in range(rank))))


def layer_norm(make: Callable[..., nn.Module]) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        outer, inner = shape(draw, 0, 2), tuple(n + 1 for n in shape(draw, 1, 2))
        layer = make(inner, elementwise_affine=draw(st.booleans()))
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        return Case(module=layer, shape=(*outer, *inner))

    return case


def softmax(function: Callable[..., Tensor]) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        sizes = shape(draw)
        axis = draw(st.integers(1, len(sizes)))
        return Case(module=Function(lambda x: function(x, dim=axis)), shape=sizes)

    return case


def reduction(function: Callable[..., Tensor]) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        sizes = shape(draw)
        axes = draw(st.sets(st.integers(1, len(sizes)), min_size=1, max_size=len(sizes)))
        keep = draw(st.booleans())
        return Case(module=Function(lambda x: function(x, dim=sorted(axes), keepdim=keep)), shape=sizes)

    return case


def broadcast(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Draw], Case]:
    """With a constant of a shape that broadcasts, or with a part of the input."""

    def case(draw: Draw) -> Case:
        sizes = shape(draw, 1, 3)
        other = tuple(n if draw(st.booleans()) else 1 for n in sizes)[size(draw, 0, len(sizes) - 1) :]
        constant = torch.rand(other) + 0.5
        match draw(st.sampled_from(["right", "left", "both", "part"])):
            case "right":
                return Case(module=Function(lambda x: function(x, constant)), shape=sizes)
            case "left":
                return Case(module=Function(lambda x: function(constant, x)), shape=sizes)
            case "both":
                return Case(module=Function(lambda x: function(x, torch.sigmoid(x) + 0.5)), shape=sizes)
            case _:
                return Case(module=Function(lambda x: function(x, x[:, :1].abs() + 0.5)), shape=sizes)

    return case


def permute(draw: Draw) -> Case:
    sizes = shape(draw, 1, 4)
    order = [0, *draw(st.permutations(range(1, len(sizes) + 1)))]
    return Case(module=Function(lambda x: x.permute(order)), shape=sizes)


def cut(draw: Draw) -> Case:
    a, b, step = size(draw, 0, 3), size(draw, 4, 6), size(draw, 1, 3)
    return Case(module=Function(lambda x: x[:, a:b:step, ..., -2:]), shape=(6, *shape(draw, 0, 1), 3))


def pad(draw: Draw) -> Case:
    widths = [draw(st.integers(-1, 2)) for _ in range(4)]
    mode = draw(st.sampled_from(["constant", "reflect", "replicate"]))
    if mode != "constant":
        widths = [abs(w) for w in widths]
    return Case(module=Function(lambda x: F.pad(x, widths, mode=mode)), shape=(2, 4, 5))


def embedding(draw: Draw) -> Case:
    words = size(draw, 3, 9)
    return Case(module=nn.Embedding(words, size(draw)), shape=shape(draw, 1, 2), words=words)


def padded_words(draw: Draw) -> Case:
    """Attention where word 0 is not seen: comparisons, truth values and masks of them."""

    def function(ids: Tensor, table: nn.Embedding) -> Tensor:
        x = table(ids)
        seen = (ids != 0)[:, None, :] | (torch.arange(4)[:, None] == torch.arange(4))
        return F.scaled_dot_product_attention(x, x, x, attn_mask=seen) * (ids > 1).unsqueeze(-1).float()

    return Case(module=Function(function, table=nn.Embedding(5, 6)), shape=(4,), words=5)


def attention(draw: Draw) -> Case:
    heads, steps, width = size(draw, 1, 3), size(draw, 1, 4), size(draw, 1, 4)
    kind = draw(st.sampled_from(["plain", "causal", "mask", "scale"]))
    mask = torch.randn(steps, steps)

    def function(x: Tensor) -> Tensor:
        q, k, v = x.unbind(1)
        choices: dict[str, dict[str, Any]] = {
            "plain": {},
            "causal": {"is_causal": True},
            "mask": {"attn_mask": mask},
            "scale": {"scale": 0.3},
        }
        settings = choices[kind]
        return F.scaled_dot_product_attention(q, k, v, **settings)

    return Case(module=Function(function), shape=(3, heads, steps, width))


def multihead(draw: Draw) -> Case:
    """Sequence first inside, heads merged with the batch."""
    heads = size(draw, 1, 3)
    layer = nn.MultiheadAttention(2 * heads, heads, batch_first=True)
    call: Callable[..., Tensor] = lambda x, a: a(x, x, x, need_weights=False)[0]  # noqa: E731  # one expression
    return Case(module=Function(call, attention=layer), shape=(size(draw), 2 * heads))


def recurrent(make: Callable[..., nn.Module]) -> Callable[[Draw], Case]:
    """Output and final states of several layers in both directions, or steps first."""

    def case(draw: Draw) -> Case:
        steps, inputs, hidden = size(draw, 1, 4), size(draw, 1, 4), size(draw, 1, 3)
        first = draw(st.booleans())
        layer = make(
            inputs,
            hidden,
            num_layers=size(draw, 1, 2),
            bidirectional=draw(st.booleans()),
            bias=draw(st.booleans()),
            batch_first=first,
        )

        def function(x: Tensor, layer: nn.Module) -> Tensor:
            y, states = layer(x if first else x.transpose(0, 1))
            finals = states if isinstance(states, tuple) else (states,)
            y = y if first else y.transpose(0, 1)
            return torch.cat([y.flatten(1), *(s.transpose(0, 1).flatten(1) for s in finals)], 1)

        return Case(module=Function(function, layer=layer), shape=(steps, inputs))

    return case


def cells(make: Callable[..., nn.Module]) -> Callable[[Draw], Case]:
    """An unrolled loop that starts from zeros."""

    def case(draw: Draw) -> Case:
        inputs, hidden = size(draw), size(draw)
        layer = make(inputs, hidden)

        def function(x: Tensor, layer: nn.Module) -> Tensor:
            state: Any = None
            for step in range(x.shape[1]):
                state = layer(x[:, step], state)
            found: Tensor = state[0] + state[1] if isinstance(state, tuple) else state
            return found

        return Case(module=Function(function, layer=layer), shape=(size(draw, 1, 3), inputs))

    return case


def token(x: Tensor, table: nn.Embedding) -> Tensor:
    """A constant row in front of every sequence."""
    return torch.cat([table.weight[:1].expand(x.shape[0], 1, -1), x], 1)


def normalized(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


CASES: dict[str, Callable[[Draw], Case]] = {
    "linear": linear,
    "matmul": matrix(lambda x: x @ x.transpose(-1, -2)),
    "matmul_constant": matrix(lambda x: torch.ones(3, x.shape[-2]) @ x),
    "matmul_broadcast": matrix(lambda x: x[:, :1] @ x.transpose(-1, -2) if x.dim() == 3 else x @ x.mT),
    "embedding": embedding,
    "padded_words": padded_words,
    "attention": attention,
    "multihead": multihead,
    "conv1d": conv(1),
    "conv2d": conv(2),
    "conv_same": same_conv,
    "depthwise": depthwise,
    "max_pool1d": pool(nn.MaxPool1d, space=1, dilated=True),
    "max_pool2d": pool(nn.MaxPool2d, space=2, dilated=True),
    "avg_pool1d": pool(nn.AvgPool1d, space=1, dilated=False),
    "avg_pool2d": pool(nn.AvgPool2d, space=2, dilated=False),
    "adaptive_avg_pool": adaptive(nn.AdaptiveAvgPool2d),
    "adaptive_max_pool": adaptive(nn.AdaptiveMaxPool2d),
    "batch_norm": batch_norm,
    "layer_norm": layer_norm(nn.LayerNorm),
    "rms_norm": layer_norm(nn.RMSNorm),
    "relu": elementwise(torch.relu),
    "leaky_relu": elementwise(lambda x: F.leaky_relu(x, 0.2)),
    "prelu": lambda draw: Case(module=nn.PReLU(3, 0.3), shape=(3, *shape(draw, 0, 2))),
    "sigmoid": elementwise(torch.sigmoid),
    "tanh": elementwise(torch.tanh),
    "gelu": elementwise(F.gelu),
    "gelu_tanh": elementwise(lambda x: F.gelu(x, approximate="tanh")),
    "silu": elementwise(F.silu),
    "softplus": elementwise(F.softplus),
    "elu": elementwise(lambda x: F.elu(x, 0.7)),
    "selu": elementwise(F.selu),
    "celu": elementwise(lambda x: F.celu(x, 0.6)),
    "mish": elementwise(F.mish),
    "softsign": elementwise(F.softsign),
    "group_norm": group_norm,
    "instance_norm": lambda draw: Case(
        module=nn.InstanceNorm2d(3, affine=draw(st.booleans())), shape=(3, size(draw, 2), size(draw, 2))
    ),
    "upsample": lambda draw: Case(
        module=nn.Upsample(scale_factor=size(draw, 2, 3)), shape=(size(draw), size(draw), size(draw))
    ),
    "conv_transpose1d": transposed(nn.ConvTranspose1d, 1),
    "conv_transpose2d": transposed(nn.ConvTranspose2d, 2),
    "hardswish": elementwise(F.hardswish),
    "hardsigmoid": elementwise(F.hardsigmoid),
    "relu6": elementwise(F.relu6),
    "clamp": elementwise(lambda x: x.clamp(-0.5, 0.7)),
    "clamp_min": elementwise(lambda x: x.clamp(min=0.1)),
    "neg": elementwise(torch.neg),
    "abs": elementwise(torch.abs),
    "sqrt": elementwise(lambda x: (x.abs() + 0.1).sqrt()),
    "rsqrt": elementwise(lambda x: (x.abs() + 0.1).rsqrt()),
    "exp": elementwise(torch.exp),
    "log": elementwise(lambda x: (x.abs() + 0.1).log()),
    "erf": elementwise(torch.erf),
    "square": elementwise(torch.square),
    "power": elementwise(lambda x: x.abs() ** 1.5),
    "scalars": elementwise(lambda x: 1.0 - (2.0 * x - 0.5) / 3.0),
    "alpha": elementwise(lambda x: torch.add(x, x.tanh(), alpha=0.5)),
    "add": broadcast(torch.add),
    "sub": broadcast(torch.sub),
    "mul": broadcast(torch.mul),
    "div": broadcast(torch.div),
    "pow": broadcast(lambda a, b: (a.abs() + 0.1) ** b),
    "minimum": broadcast(torch.minimum),
    "maximum": broadcast(torch.maximum),
    "where": broadcast(lambda a, b: torch.where(a > b, a, b * 2)),
    "comparisons": broadcast(lambda a, b: ((a <= b) & (a != b) | ~(a >= b)).float() + (a < b).float()),
    "masked_fill": elementwise(lambda x: x.masked_fill(x > 0.2, -1.0)),
    "softmax": softmax(torch.softmax),
    "log_softmax": softmax(torch.log_softmax),
    "mean": reduction(torch.mean),
    "sum": reduction(torch.sum),
    "amax": reduction(torch.amax),
    "amin": reduction(torch.amin),
    "max_values": elementwise(lambda x: x.max(1).values),
    "norm": matrix(normalized),
    "reshape": matrix(lambda x: x.reshape(x.shape[0], -1, 2)),
    "flatten": elementwise(lambda x: x.flatten(1)),
    "unflatten": matrix(lambda x: x.unflatten(-1, (-1, 2))),  # type: ignore[no-untyped-call]  # untyped upstream
    "squeeze": lambda draw: Case(module=Function(lambda x: x.squeeze(2).unsqueeze(1)), shape=(size(draw), 1, 2)),
    "expand": lambda draw: Case(module=Function(lambda x: x.expand(-1, 3, -1)), shape=(1, size(draw))),
    "permute": permute,
    "batch_second": matrix(lambda x: torch.tanh(x.transpose(0, 1)).transpose(0, 1)),
    "batch_merged": matrix(lambda x: torch.relu(x.reshape(-1, x.shape[-1])).reshape(x.shape)),
    "concat": matrix(lambda x: torch.cat([x, x * 2, torch.ones(x.shape)], -1)),
    "token": lambda draw: Case(module=Function(token, table=nn.Embedding(2, 3)), shape=(size(draw), 3)),
    "stack": elementwise(lambda x: torch.stack([x, x + 1], 1)),
    "slice": cut,
    "select": matrix(lambda x: x[:, -1]),
    "index": matrix(lambda x: x[..., torch.tensor([1, 0, 1])]),
    "flip": matrix(lambda x: x.flip(1, -1)),
    "split": matrix(lambda x: torch.cat(torch.split(x, 1, -1)[::-1], -1)),
    "chunk": matrix(lambda x: x.chunk(2, -1)[0] * x.chunk(2, -1)[1]),
    "pad": pad,
    "lstm": recurrent(nn.LSTM),
    "gru": recurrent(nn.GRU),
    "lstm_cell": cells(nn.LSTMCell),
    "gru_cell": cells(nn.GRUCell),
}
