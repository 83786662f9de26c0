"""The process of a Job: what it leaves behind when it is stopped, and what it says it used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ecompile_crds.errors import Code
from ecompile_crds.jobs import JobResult
from ecompile_workers.jobs.cost import Meter, gpu_energy


def start(directory: Path, source: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A profile Job of this source."""
    message = directory / "termination-log"
    told = {
        "kind": "profile",
        "namespace": "default",
        "model": "net",
        "job": "net-profile",
        "life": "life1",
        "sourceUri": f"file://{source}",
        "calibrationUri": f"file://{directory}/none.npz",
        "artifactsUri": f"file://{directory}",
    }
    environ = {**os.environ, "ECO_JOB_INPUT": json.dumps(told), "ECO_TERMINATION_LOG": str(message)}
    process = subprocess.Popen(
        [sys.executable, "-m", "ecompile_workers.jobs"], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    return process, message


def test_a_job_on_a_node_that_goes_says_that_it_can_be_run_again(tmp_path: Path) -> None:
    """SIGTERM in the middle of reading its input; the file is a pipe whose other end is this test."""
    source = tmp_path / "model.onnx"
    os.mkfifo(source)
    process, message = start(tmp_path, source)
    writer = os.open(source, os.O_WRONLY)  # returns once the Job has opened its input
    try:
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=20)
    finally:
        os.close(writer)
        process.kill()
        process.communicate()
    result = JobResult.model_validate_json(message.read_text())
    assert result.failure is not None
    assert result.failure.code is Code.INTERRUPTED and result.failure.retryable
    assert status not in (0, 1, 2) and status > 0
    assert result.cost is not None and result.cost.cpu_seconds > 0


def test_a_run_is_measured_children_included() -> None:
    meter = Meter.start()
    before = meter.read()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    after = meter.read()
    assert after.cpu_seconds > before.cpu_seconds
    assert after.wall_seconds > before.wall_seconds
    assert after.peak_memory_bytes > 5 << 20


def test_gpus_are_measured_or_absent() -> None:
    energy = gpu_energy()
    cost = Meter.start().read()
    assert (cost.gpu_joules is None) is (energy == ())
    assert cost.gpu_seconds == 0 or energy
