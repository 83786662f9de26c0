"""A real serving process, a fake operator on a real TLS port, and a client that never lets go of its connection."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ecompile_crds.control import control_pb2, control_pb2_grpc
from ecompile_crds.routing import RoutingTable

from tests.unit.workers.serving.world import (
    INPUTS,
    LIFE,
    MODEL,
    NAMESPACE,
    Rows,
    World,
    make_world,
    oracle,
    write_trust,
)

TOKEN = "a-projected-token"
SERVER_NAME = "operator.test"
WAIT_SECONDS = 90.0


def wait_until(condition: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Poll with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificate(*, valid: timedelta = timedelta(days=1)) -> tuple[bytes, bytes]:
    """Self-signed certificate and key, PEM; `valid` from now on."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + valid)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem_key = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), pem_key


class FakeOperator(control_pb2_grpc.ControlServicer):
    """Takes reports, sends tables; runs in a thread of its own and can be stopped and started on the same port."""

    def __init__(self, *, valid: timedelta = timedelta(days=1), token: str = "") -> None:
        """`valid`: how long its certificate is; `token`: the only one it takes, where given."""
        self.certificate, self._key = make_certificate(valid=valid)
        self._token = token
        self.port = free_port()
        self.reports: list[tuple[float, control_pb2.Report]] = []
        self.tokens: list[str] = []
        self._table: RoutingTable | None = None
        self._queues: set[asyncio.Queue[RoutingTable]] = set()
        self._loop = asyncio.new_event_loop()
        self._server: grpc.aio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(WAIT_SECONDS)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(WAIT_SECONDS)

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)

    async def _start(self) -> None:
        self._server = grpc.aio.server()
        control_pb2_grpc.add_ControlServicer_to_server(self, self._server)
        credentials = grpc.ssl_server_credentials([(self._key, self.certificate)])
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self._server.start()

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def Attach(  # the name is the RPC's
        self, request_iterator: AsyncIterator[control_pb2.Report], context: Any
    ) -> AsyncIterator[control_pb2.Routing]:
        self.tokens.append(dict(context.invocation_metadata())["authorization"])
        if self._token and self.tokens[-1] != f"Bearer {self._token}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not for this model")
        queue: asyncio.Queue[RoutingTable] = asyncio.Queue()
        self._queues.add(queue)
        if self._table is not None:
            queue.put_nowait(self._table)

        async def read() -> None:
            async for report in request_iterator:
                self.reports.append((time.monotonic(), report))

        reader = asyncio.create_task(read())
        try:
            while True:
                sent = await queue.get()
                yield control_pb2.Routing(
                    table_json=sent.model_dump_json(by_alias=True, exclude_defaults=True), generation=sent.generation
                )
        finally:
            self._queues.discard(queue)
            reader.cancel()

    async def Progress(  # the name is the RPC's
        self, request_iterator: AsyncIterator[control_pb2.JobProgress], context: Any
    ) -> control_pb2.ProgressSummary:
        """Not used by pods."""
        return control_pb2.ProgressSummary()

    def send(self, table: RoutingTable) -> float:
        """Send a table to whoever is attached or will be; the time it was sent."""

        def put() -> None:
            self._table = table
            for queue in self._queues:
                queue.put_nowait(table)

        self._loop.call_soon_threadsafe(put)
        return time.monotonic()

    @property
    def last(self) -> control_pb2.Report | None:
        return self.reports[-1][1] if self.reports else None

    def wait_acknowledged(self, generation: int) -> float:
        """Seconds at which the first report with this generation arrived."""

        def found() -> list[float]:
            return [at for at, r in list(self.reports) if r.acknowledged_generation == generation]

        wait_until(found, f"acknowledgement of generation {generation}")
        return found()[0]

    def wait_alert(self, kind: int) -> control_pb2.Alert:
        def found() -> list[control_pb2.Alert]:
            return [a for _, r in list(self.reports) for a in r.alerts if a.kind == kind]

        wait_until(found, f"an alert of kind {kind}")
        return found()[0]


@dataclass
class Pod:
    """A serving process."""

    world: World
    directory: Path
    port: int
    grpc_port: int
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def client(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)

    def status(self, path: str) -> int:
        """0 where nobody listens."""
        with contextlib.closing(self.client()) as client:
            try:
                client.request("GET", path)
                return client.getresponse().status
            except OSError:
                return 0

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log
        return self.status("/v2/health/ready") == 200

    def mount_table(self, table: RoutingTable) -> None:
        """As the kubelet does: the file is replaced."""
        target = self.directory / "routing" / "routing.json"
        target.parent.mkdir(exist_ok=True)
        temporary = target.with_suffix(".new")
        temporary.write_text(table.model_dump_json(by_alias=True, exclude_defaults=True))
        temporary.replace(target)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_SECONDS)


def infer(client: http.client.HTTPConnection, x: Rows, **parameters: str) -> tuple[int, dict[str, Any]]:
    """One request for rows [rows, 16]."""
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    body = json.dumps({"inputs": [tensor], "parameters": parameters})
    client.request("POST", f"/v2/models/{MODEL}/infer", body, {"content-type": "application/json"})
    response = client.getresponse()
    return response.status, json.loads(response.read())


def outputs(answer: dict[str, Any]) -> Rows:
    (output,) = answer["outputs"]
    return np.reshape(np.asarray(output["data"], dtype=np.float32), output["shape"])


@dataclass
class Stream:
    """Requests without pause on held connections, each answer checked against the oracle."""

    pod: Pod
    scale: float = 1.0
    threads: int = 2
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: list[float] = field(default_factory=list)
    paths: set[tuple[int, str]] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Stream:
        self._workers = [threading.Thread(target=self._work, args=(n,)) for n in range(self.threads)]
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for worker in self._workers:
            worker.join(WAIT_SECONDS)

    def _work(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        with contextlib.closing(self.pod.client()) as client:
            while not self._stop.is_set():
                x = np.clip(rng.normal(size=(1, INPUTS)), -3.9, 3.9).astype(np.float32) * np.float32(self.scale)
                try:
                    status, answer = infer(client, x)
                except (OSError, http.client.HTTPException) as error:
                    self.failed.append(repr(error))
                    return
                if status != 200:
                    self.failed.append(f"{status} {answer}")
                    continue
                deviation = float(np.abs(outputs(answer) - oracle(x)).max())
                if not deviation < 1e-4:
                    self.wrong.append(deviation)
                self.paths.add((answer["parameters"]["generation"], answer["parameters"]["path"]))
                self.answered += 1

    def wait_answered(self, more: int) -> None:
        """Until so many more requests were answered."""
        target = self.answered + more
        wait_until(lambda: self.answered >= target or self.failed, f"{more} more answers")


@contextlib.contextmanager
def running_pod(
    operator: FakeOperator | None = None, *, mounted: RoutingTable | None = None, segments: int = 1, **environment: str
) -> Iterator[Pod]:
    """A pod that is ready."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        world = make_world(directory / "artifacts", segments=segments)
        with started(world, directory, operator, mounted=mounted, **environment) as pod:
            wait_until(pod.ready, "readiness")
            yield pod


@contextlib.contextmanager
def started(
    world: World,
    directory: Path,
    operator: FakeOperator | None,
    *,
    mounted: RoutingTable | None = None,
    **environment: str,
) -> Iterator[Pod]:
    """A process that has just been started."""
    trust = directory / "trust"
    write_trust(trust)
    (directory / "token").write_text(TOKEN)
    if operator is not None:
        (trust / "ca.crt").write_bytes(operator.certificate)
    port, grpc_port = free_port(), free_port()
    env = {
        **os.environ,
        "ECO_NAMESPACE": NAMESPACE,
        "ECO_MODEL": MODEL,
        "ECO_LIFE": LIFE,
        "ECO_PLAN_URI": world.plan_uri,
        "ECO_ARTIFACTS_URI": world.uri(""),
        "ECO_CONTROL_ADDRESS": f"127.0.0.1:{operator.port}" if operator is not None else "",
        "ECO_CONTROL_SERVER_NAME": SERVER_NAME,
        "ECO_PORT": str(port),
        "ECO_GRPC_PORT": str(grpc_port),
        "POD_NAME": "digits-0",
        "ECO_TRUST_DIR": str(trust),
        "ECO_TOKEN_FILE": str(directory / "token"),
        "ECO_ROUTING_DIR": str(directory / "routing"),
        "ECO_STATE_DIR": str(directory / "state"),
        **environment,
    }
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "ecompile_workers.serving"], env=env, stderr=log)
    pod = Pod(world=world, directory=directory, port=port, grpc_port=grpc_port, process=process)
    if mounted is not None:
        pod.mount_table(mounted)
    try:
        yield pod
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(WAIT_SECONDS)
