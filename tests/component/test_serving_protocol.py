"""Clients of others against a pod, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ecompile_crds.routing import RouteMode

from tests.unit.workers.serving.world import make_world, rows, table

from .serving_pod import WAIT_SECONDS, Pod, infer, started, wait_until

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def promoted(tmp_path: Path) -> Iterator[Pod]:
    """A pod without an operator, whose mounted table promotes the module."""
    world = make_world(tmp_path / "artifacts")
    with started(world, tmp_path, None, mounted=table(3, world.route(RouteMode.COMPILED))) as pod:
        wait_until(pod.ready, "readiness")
        yield pod


def raw(pod: Pod, content: bytes) -> bytes:
    """What the pod answers to these bytes; empty where it closes the connection without a word."""
    with socket.create_connection(("127.0.0.1", pod.port), timeout=WAIT_SECONDS) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def test_unchanged_tritonclient_works_over_rest_and_grpc(tmp_path: Path) -> None:
    """JSON and binary tensors, synchronous and asynchronous."""
    with promoted(tmp_path) as pod:
        command = [sys.executable, "-m", "tests.component.triton_client", str(pod.port), str(pod.grpc_port)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in pod.log


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /v2/" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["binary", "version", "half body", "negative length", "bad chunk", "long path", "http2"],
)
def test_garbage_on_the_socket_harms_nobody_else(tmp_path: Path, content: bytes) -> None:
    """The pod answers with an error or closes; the next client is served."""
    with promoted(tmp_path) as pod, contextlib.closing(pod.client()) as client:
        answer = raw(pod, content)
        assert not answer.startswith(b"HTTP/1.1 2")
        assert infer(client, rows(1))[0] == 200
        assert "Traceback" not in pod.log
