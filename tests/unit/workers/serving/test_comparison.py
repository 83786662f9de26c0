"""The comparison queue cannot slow or fail a request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from ecompile_workers.equivalence.metrics import row_delta
from ecompile_workers.serving.comparison import Comparison, ThreadComparer, relative_error

from .world import Rows, rows


def job(neural: Callable[[Rows], Rows]) -> Comparison:
    module = SimpleNamespace(run=lambda x, y: 0, outputs=rows(1).shape[1], proves=lambda x: False)
    path = type("Path", (), {"reference": None, "__call__": lambda self, x: neural(x)})()
    return Comparison(SimpleNamespace(), module, path, rows(1), rows(1), True)  # type: ignore[arg-type]  # not used here


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_full_queue_drops_at_once() -> None:
    """While a comparison hangs, submitting never waits."""
    release = threading.Event()

    def slow(x: Rows) -> Rows:
        release.wait(10)
        return x

    comparer = ThreadComparer(capacity=4)
    comparer.start()
    start = time.monotonic()
    accepted = [comparer.submit(job(slow)) for _ in range(100)]
    assert time.monotonic() - start < 1.0
    assert 4 <= sum(accepted) <= 5
    release.set()
    wait_until(lambda: comparer.idle)
    comparer.stop()


def test_exception_is_a_result() -> None:
    """The thread lives on."""

    def broken(x: Rows) -> Rows:
        raise RuntimeError("boom")

    comparer = ThreadComparer()
    comparer.start()
    comparer.submit(job(broken))
    comparer.submit(job(lambda x: x))
    wait_until(lambda: comparer.idle)
    assert "boom" in comparer.results[0].fault
    assert comparer.results[1].delta == 0.0
    comparer.stop()


def test_relative_error_is_the_one_of_validation() -> None:
    """So that driftLimit and maxRelativeError mean the same."""
    y, z = rows(20), rows(20) + np.float32(0.01)
    assert relative_error(y, z) == pytest.approx(float(row_delta(y, z).mean()))


def test_rows_without_a_finite_original_are_left_out() -> None:
    """The network itself gave no number to compare with."""
    y, z = rows(2), rows(2)
    y[0, 0] = np.nan
    assert relative_error(y, z) == 0.0
    y[1, 0] = np.inf
    assert relative_error(y, z) is None
