"""Progress of a Job to the operator. Never fails the Job: without an operator it only logs."""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
from ecompile_crds.control import control_pb2, control_pb2_grpc
from ecompile_crds.jobs import JobInput
from ecompile_crds.names import CLIENT_PATH

from ..serving.client_certificate import client_certificate

HEARTBEAT_SECONDS = 5.0
CLIENT = Path(CLIENT_PATH)


def log(message: str, **fields: object) -> None:
    """One JSON line on standard output."""
    entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "message": message, **fields}
    print(json.dumps(entry, default=str), flush=True)


class Reporter:
    """Sends progress in the background."""

    def __init__(
        self, job: JobInput, *, address: str, ca: Path, token: Path, index: int, client: Path = CLIENT
    ) -> None:
        self._job = job
        self._index = index
        self._address, self._ca, self._token, self._client = address, ca, token, client
        self._steps: queue.Queue[control_pb2.JobProgress | None] = queue.Queue(maxsize=100)
        self._last: control_pb2.JobProgress | None = None
        if address:
            threading.Thread(target=self._run, daemon=True).start()

    def __call__(self, step: str, fraction: float) -> None:
        """Report a step and how far the Job is, 0..1."""
        log("progress", step=step, fraction=round(fraction, 3))
        self._last = control_pb2.JobProgress(
            namespace=self._job.namespace,
            model=self._job.model,
            job=self._job.job,
            index=self._index,
            step=step,
            fraction=fraction,
        )
        with contextlib.suppress(queue.Full):
            self._steps.put_nowait(self._last)

    def _messages(self) -> Iterator[control_pb2.JobProgress]:
        while True:
            try:
                message = self._steps.get(timeout=HEARTBEAT_SECONDS)
            except queue.Empty:
                message = self._last
            if message is not None:
                yield message

    def _run(self) -> None:
        while True:
            try:
                certificate, key = client_certificate(self._client)
                credentials = grpc.ssl_channel_credentials(self._ca.read_bytes(), key, certificate)
                metadata = (("authorization", f"Bearer {self._token.read_text().strip()}"),)
                with grpc.secure_channel(self._address, credentials) as channel:
                    control_pb2_grpc.ControlStub(channel).Progress(self._messages(), metadata=metadata)
            except (grpc.RpcError, OSError) as error:
                print(f"progress not sent: {type(error).__name__}", file=sys.stderr)
            time.sleep(2.0)
