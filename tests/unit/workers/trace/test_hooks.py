"""Capture of live PyTorch models: what is recorded is what the model computed, and the model stays as it was."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from ecompile_crds.errors import ModelError
from ecompile_workers.trace import nfrtrace
from ecompile_workers.trace.hooks import Capture, Settings
from ecompile_workers.trace.nfrtrace import Kind, Record
from ecompile_workers.trace.sampling import fingerprint
from torch import nn
from torch.nn import functional

ALL = Settings(rate=1.0, kinds=frozenset(Kind))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))


def records(target: io.BytesIO, kind: Kind, layer: str) -> list[Record]:
    _, found = nfrtrace.read(target.getvalue())
    return [r for r in found if r.kind is kind and r.layer == layer]


def test_activations_are_those_of_the_model() -> None:
    model, x, target = mlp(), torch.randn(3, 4), io.BytesIO()
    expected = model[0](x).detach().numpy()
    with Capture(model, target, Settings(rate=1.0)), torch.no_grad():
        y = model(x)
    found = records(target, Kind.ACTIVATION, "0")
    np.testing.assert_array_equal([r.values for r in found], expected)
    np.testing.assert_array_equal([r.values for r in records(target, Kind.ACTIVATION, "2")], y.numpy())
    assert [r.fingerprint for r in found] == [fingerprint(row) for row in x.numpy()]


def test_gradients_are_those_of_the_loss() -> None:
    model, x, target = mlp(), torch.randn(2, 4), io.BytesIO()
    with Capture(model, target, ALL):
        (model(x) ** 2).sum().backward()
    y = model(x).detach()
    np.testing.assert_allclose([r.values for r in records(target, Kind.GRADIENT, "2")], 2 * y.numpy(), rtol=1e-6)
    assert len(records(target, Kind.GRADIENT, "0")) == 2


def test_outputs_and_gradients_do_not_change() -> None:
    x = torch.randn(5, 4)
    plain, traced = mlp(), mlp()
    plain(x).sum().backward()
    with Capture(traced, io.BytesIO(), ALL):
        y = traced(x)
        y.sum().backward()
    assert torch.equal(y, plain(x))
    for ours, theirs in zip(traced.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad)


def test_model_is_as_before_after_closing() -> None:
    model = mlp()
    with Capture(model, io.BytesIO(), ALL):
        model(torch.randn(1, 4))
    assert "forward" not in model.__dict__
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("causal", [False, True])
def test_weights_of_fused_attention(causal: bool) -> None:
    class Net(nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(q, q, q, is_causal=causal)

    q, target = torch.randn(2, 3, 5, 8), io.BytesIO()
    with Capture(Net(), target, ALL) as capture:
        capture._model(q)
    (first, _) = records(target, Kind.ATTENTION, ".")
    assert first.shape == (3, 5, 5)
    np.testing.assert_allclose(first.values.sum(axis=-1), 1.0, rtol=1e-5)
    expected = functional.scaled_dot_product_attention(q, q, q, is_causal=causal)[0]
    np.testing.assert_allclose(torch.from_numpy(first.values) @ q[0], expected, atol=1e-5)


def test_weights_of_multi_head_attention_and_of_a_transformer() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    x, target = torch.randn(2, 6, 16), io.BytesIO()
    with torch.no_grad():
        expected = layer(x)
        with Capture(layer, target, ALL):
            y = layer(x)
        weights = layer.self_attn(x, x, x, need_weights=True, average_attn_weights=False)[1]
    found = records(target, Kind.ATTENTION, "self_attn")
    np.testing.assert_allclose([r.values for r in found], weights.numpy(), atol=1e-6)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), atol=1e-5)
    assert records(target, Kind.ACTIVATION, "self_attn")[0].shape == (6, 16)


def test_weights_of_attention_written_by_hand() -> None:
    class Net(nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return (q @ q.mT).softmax(dim=-1) @ q

    target = io.BytesIO()
    with Capture(nn.Sequential(Net()), target, ALL) as capture:
        capture._model(torch.randn(2, 3, 5, 8))
    assert records(target, Kind.ATTENTION, "0")[0].shape == (3, 5, 5)


def test_probabilities_of_outputs_and_of_tokens() -> None:
    few, many = io.BytesIO(), io.BytesIO()
    x = torch.randn(2, 4)
    with Capture(mlp(), few, ALL) as capture:
        y = capture._model(x)
    probabilities = [r.values for r in records(few, Kind.PROBABILITY, ".")]
    np.testing.assert_allclose(probabilities, y.softmax(-1).detach(), rtol=1e-6)
    with Capture(nn.Linear(4, 1000), many, ALL) as capture:
        y = capture._model(x)
    found, tokens = records(many, Kind.PROBABILITY, "."), records(many, Kind.TOKEN, ".")
    assert found[0].shape == (64,) and np.all(np.diff(found[0].values) <= 0)
    assert [int(r.values[0]) for r in tokens] == y.argmax(dim=-1).tolist()


def test_rate_and_seed_choose_the_calls() -> None:
    def times(seed: int) -> list[int | None]:
        model, target, calls = mlp(), io.BytesIO(), iter(range(1000))
        with Capture(model, target, Settings(rate=0.1, seed=seed), clock=lambda: next(calls)), torch.no_grad():
            for _ in range(500):
                model(torch.zeros(1, 4))
        return [r.time_ns for r in records(target, Kind.ACTIVATION, "0")]

    assert times(1) == times(1) and 25 < len(times(1)) < 80
    assert len({len(times(seed)) for seed in range(4)}) > 1


def test_rows_and_values_are_bounded() -> None:
    model, target = nn.Sequential(nn.Linear(4, 5000)), io.BytesIO()
    settings = Settings(rate=1.0, max_rows=2, max_values=100)
    x = torch.randn(64, 4)
    with Capture(model, target, settings), torch.no_grad():
        y = model(x)
    found = records(target, Kind.ACTIVATION, "0")
    assert len(found) == 2 and all(r.positions is not None and len(r.values) == 100 for r in found)
    row = next(i for i in range(64) if fingerprint(x[i].numpy()) == found[0].fingerprint)
    np.testing.assert_array_equal(found[0].values, y[row].numpy()[found[0].positions])


def test_rows_unfolded_into_the_first_axis_are_put_together_and_others_are_named() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.total = nn.Linear(4, 2), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total(x.sum())
            return self.inner(x.reshape(-1, 4)).reshape(len(x), -1)

    target = io.BytesIO()
    with Capture(Steps(), target, Settings(rate=1.0)) as capture:
        capture._model(torch.randn(3, 5, 4))
    assert [r.shape for r in records(target, Kind.ACTIVATION, "inner")] == [(5, 2)] * 3
    assert capture.skipped == {"total"}


def test_threads_do_not_mix_their_entries() -> None:
    model, target = mlp(), io.BytesIO()
    rows = torch.randn(200, 4)
    with Capture(model, target, Settings(rate=1.0)), torch.no_grad():

        def work(part: torch.Tensor) -> None:
            with torch.no_grad():
                for row in part:
                    model(row[None])

        threads = [threading.Thread(target=work, args=(part,)) for part in rows.split(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with torch.no_grad():
        expected = {fingerprint(row.numpy()): model[0](row).numpy() for row in rows}
    found = records(target, Kind.ACTIVATION, "0")
    assert len(found) == 200
    for record in found:
        np.testing.assert_allclose(record.values, expected[record.fingerprint], atol=1e-6)


def test_failure_of_the_model_leaves_a_file_that_says_so() -> None:
    target = io.BytesIO()
    model = mlp()
    with pytest.raises(RuntimeError), Capture(model, target, Settings(rate=1.0)):
        model(torch.randn(1, 4))
        model(torch.randn(1, 5))
    found = nfrtrace.open_trace(io.BytesIO(target.getvalue()))
    assert found.problem is not None and len(list(found.records())) >= 3
    assert "forward" not in model.__dict__ and not model[0]._forward_hooks


def test_process_that_is_killed_leaves_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "killed.nfrtrace"
    code = (
        "import os, sys, torch\n"
        "from ecompile_workers.trace.hooks import Capture, Settings\n"
        "model = torch.nn.Linear(64, 4096)\n"
        "Capture(model, open(sys.argv[1], 'wb'), Settings(rate=1.0))\n"
        "with torch.no_grad():\n"
        "    for _ in range(100): model(torch.randn(8, 64))\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    with path.open("rb") as source:
        found = nfrtrace.open_trace(source)
        assert found.problem is not None
        assert len(list(found.records())) == found.record_count >= 400


def test_models_without_hooks_are_refused() -> None:
    with pytest.raises(ModelError, match="runs no hooks"):
        Capture(torch.compile(mlp()), io.BytesIO())  # type: ignore[arg-type]  # what a caller may do
    with pytest.raises(ModelError, match="no layer 9"):
        Capture(mlp(), io.BytesIO(), Settings(layers=frozenset({"9"})))
    with pytest.raises(ValueError, match="rate"):
        Capture(mlp(), io.BytesIO(), Settings(rate=0.0))


def test_only_the_hooks_import_torch() -> None:
    code = (
        "import sys, ecompile_workers.trace.capture, ecompile_workers.trace.stability, ecompile_workers.cli.main\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
