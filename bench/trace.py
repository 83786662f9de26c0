"""What capture of a live PyTorch model costs at the default rate: `python bench/trace.py [--json] [--rate R]`.

The same network runs with and without capture, in turns, on one thread; CPU time of the thread, so that other work on
the machine does not count. `ratio` is time without capture / with it: 0.97 is an overhead of 3 %. `max_error` is of a
call that is sampled.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from dataclasses import asdict, dataclass, replace

import torch
from ecompile_workers.trace.hooks import DEFAULT_RATE, Capture, Settings
from ecompile_workers.trace.nfrtrace import Kind
from torch import nn

BATCHES = (1, 64)
CHUNKS = 60
"""Turns per network."""
MIN_SAMPLED = 20
"""Sampled calls to expect in a measurement, so that their cost is in it and not left to chance."""
MIN_SECONDS = 2.0
MAX_SECONDS = 15.0
"""Of either: a slow network is sampled less often than `MIN_SAMPLED` in it, which matters less to it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; times in microseconds per call."""

    name: str
    batch: int
    ours: float
    peer: str
    peer_value: float
    unit: str
    ratio: float
    max_error: float


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Seeded networks with the shape of one row: dense, convolution and attention."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    image = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    block = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return {"digits": (dense, (64,)), "image": (image, (3, 16, 16)), "block": (block, (32, 64))}


def seconds(model: nn.Module, x: torch.Tensor, calls: int) -> float:
    """CPU time of this thread for so many calls."""
    start = time.thread_time()
    for _ in range(calls):
        model(x)
    return time.thread_time() - start


def measure(name: str, model: nn.Module, x: torch.Tensor, rate: float) -> Row:
    """Both in turns, after a warm-up; activations and probabilities are captured."""
    plain, traced = model.eval(), copy.deepcopy(model).eval()
    calls = 8
    while True:
        total = seconds(plain, x, calls) * CHUNKS
        if total >= MAX_SECONDS or (total >= MIN_SECONDS and calls * CHUNKS * rate >= MIN_SAMPLED):
            break
        calls *= 2
    settings = Settings(rate=rate, kinds=frozenset({Kind.ACTIVATION, Kind.PROBABILITY}))
    with tempfile.TemporaryFile() as file, Capture(traced, file, replace(settings, rate=1.0)):
        error = float((plain(x) - traced(x)).abs().max())
    with tempfile.TemporaryFile() as file, Capture(traced, file, settings):
        spent = [0.0, 0.0]
        for turn in range(CHUNKS):
            pair = ((0, plain), (1, traced)) if turn % 2 == 0 else ((1, traced), (0, plain))
            for index, each in pair:
                spent[index] += seconds(each, x, calls)
    without, ours = (1e6 * value / (calls * CHUNKS) for value in spent)
    return Row(
        name=name,
        batch=len(x),
        ours=round(ours, 2),
        peer="without capture",
        peer_value=round(without, 2),
        unit="us",
        ratio=round(without / ours, 4),
        max_error=error,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rate", type=float, default=DEFAULT_RATE)
    parser.add_argument("--only", nargs="+", choices=tuple(networks()), default=tuple(networks()))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with torch.no_grad():
        for name in arguments.only:
            model, shape = networks()[name]
            for batch in BATCHES:
                rows.append(measure(name, model, torch.randn(batch, *shape), arguments.rate))
                if not arguments.json:
                    row = rows[-1]
                    overhead = 100 * (row.ours / row.peer_value - 1)
                    print(
                        f"{row.name:<8} batch {row.batch:<3} {row.ours:>9} us, without capture {row.peer_value:>9} us: "
                        f"{overhead:+.2f} %, outputs differ by {row.max_error:.1e}"
                    )
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
