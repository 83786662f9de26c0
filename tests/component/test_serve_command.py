"""`ecompile serve` as a process: no cluster, no operator."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.unit.workers.serving.world import make_world, oracle, rows, write_trust

from .serving_pod import WAIT_SECONDS, free_port, infer, outputs, wait_until


def test_bundle_and_network_are_served_on_this_machine(tmp_path: Path) -> None:
    """Ready, right, compiled; Ctrl-C ends it in order."""
    world = make_world(tmp_path / "world")
    write_trust(tmp_path / "keys")
    source = world.directory / "digits.onnx"
    (world.directory / "model.onnx").rename(source)
    uri, _ = world.bundle(sourceDigest=f"sha256:{hashlib.sha256(source.read_bytes()).hexdigest()}")
    port = free_port()
    command = [sys.executable, "-m", "ecompile_workers.cli.main", "serve", uri.removeprefix("file://")]
    command += ["--source", str(source), "--key", str(tmp_path / "keys" / "signing.pub"), "--port", str(port)]
    command += ["--grpc-port", str(free_port()), "--artifacts", str(tmp_path / "artifacts")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env=os.environ)
    try:

        def ready() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as client:
                try:
                    client.request("GET", "/v2/health/ready")
                    return client.getresponse().status == 200
                except OSError:
                    return False

        wait_until(ready, "readiness")
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as client:
            status, answer = infer(client, rows(2))
            assert (status, answer["parameters"]["path"]) == (200, "compiled")
            np.testing.assert_allclose(outputs(answer), oracle(rows(2)), atol=1e-5)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_SECONDS) == 0
        assert "Traceback" not in (tmp_path / "log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(WAIT_SECONDS)
