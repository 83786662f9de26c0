"""What bench/serving.py measures: a 16-64-8 network as a plan and a signed bundle, and processes that serve it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ecompile_crds.plan import Plan, PlanFile, PlanSegment, PlanTensor
from ecompile_crds.routing import RouteMode, RoutingTable, SegmentRoute
from ecompile_workers.codegen.abi import GuardBox
from ecompile_workers.codegen.bundle import write_bundle
from ecompile_workers.codegen.compile import compile_graph
from ecompile_workers.codegen.levels import cpu_levels
from ecompile_workers.ir.graph import Graph, Node, Op, Tensor
from ecompile_workers.ir.to_onnx import export

INPUTS, HIDDEN, OUTPUTS = 16, 64, 8
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MODEL = "bench"
INFER = f"/v2/models/{MODEL}/infer"
START_SECONDS = 120.0


def make_graph() -> Graph:
    """16 -> 64 -> 8, ReLU between."""
    rng = np.random.default_rng(0)

    def gemm(source: str, name: str, inputs: int, outputs: int) -> Node:
        weight = (rng.normal(size=(inputs, outputs)) / np.sqrt(inputs)).astype(np.float32)
        constants = {"weight": weight, "bias": rng.normal(size=outputs).astype(np.float32)}
        return Node(op=Op.GEMM, inputs=(source,), output=Tensor(name=name, shape=(outputs,)), constants=constants)

    first, last = gemm("x", "z", INPUTS, HIDDEN), gemm("h", "y", HIDDEN, OUTPUTS)
    relu = Node(op=Op.RELU, inputs=("z",), output=Tensor(name="h", shape=(HIDDEN,)))
    return Graph(input=Tensor(name="x", shape=(INPUTS,)), output=last.output, nodes=(first, relu, last))


def write_artifacts(directory: Path) -> RoutingTable:
    """Plan, network, signed bundle, trust; the table that promotes the bundle, also as the mounted one."""
    graph = make_graph()

    def put(name: str, content: bytes) -> PlanFile:
        (directory / name).write_bytes(content)
        return PlanFile(path=name, digest=f"sha256:{sha256(content).hexdigest()}")

    neural = put("model.onnx", export(graph).SerializeToString())
    x, y = PlanTensor(name="x", shape=(INPUTS,)), PlanTensor(name="y", shape=(OUTPUTS,))
    segment = PlanSegment(index=0, name="segment-0", compilable=True, input=x, output=y, neural=neural)
    plan = Plan(
        namespace="bench",
        model=MODEL,
        life="1",
        source_digest=neural.digest,
        source_format="onnx",
        input=x,
        output=y,
        neural=neural,
        graph=put("graph.zip", b""),
        segments=(segment,),
    )
    put("plan.json", plan.model_dump_json(by_alias=True).encode())
    bound = np.full(INPUTS, 10.0, dtype=np.float32)
    guard = GuardBox(lower=-bound, upper=bound)
    code = compile_graph(graph, guard, levels=cpu_levels()[:1])
    meta = {"segment": 0, "sourceDigest": neural.digest}
    bundle = put("segment-0.eco", write_bundle(graph=graph, compiled=code, guard=guard, meta=meta, key=KEY))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (directory / "signing.pub").write_bytes(KEY.public_key().public_bytes(serialization.Encoding.PEM, spki))
    table = make_table(directory, bundle.digest, generation=1)
    (directory / "routing.json").write_text(table.model_dump_json(by_alias=True))
    return table


def make_table(directory: Path, digest: str, *, generation: int, compare: float = 0.0) -> RoutingTable:
    """The module in mode compiled."""
    route = SegmentRoute(
        segment=0,
        mode=RouteMode.COMPILED,
        compare=compare,
        module="bench-0",
        bundle_uri=f"file://{directory}/segment-0.eco",
        bundle_digest=digest,
    )
    return RoutingTable(model=MODEL, namespace="bench", life="1", generation=generation, segments=(route,))


@dataclass(frozen=True)
class Process:
    """A server on this machine."""

    pid: int
    port: int
    grpc_port: int

    def cpu_seconds(self) -> float:
        """Time that it has used on a processor."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def pod(directory: Path, *, routing: Path) -> Iterator[Process]:
    """A serving pod with the table in `routing`, ready."""
    environment = {
        "ECO_NAMESPACE": "bench",
        "ECO_MODEL": MODEL,
        "ECO_LIFE": "1",
        "ECO_PLAN_URI": f"file://{directory}/plan.json",
        "ECO_TRUST_DIR": str(directory),
        "ECO_ROUTING_DIR": str(routing),
        "ECO_STATE_DIR": str(routing / "state"),
    }
    port, grpc_port = free_port(), free_port()
    environment |= {"ECO_PORT": str(port), "ECO_GRPC_PORT": str(grpc_port)}
    with running([sys.executable, "-m", "ecompile_workers.serving"], environment, port, grpc_port) as process:
        yield process


MLSERVER_RUNTIME = """
import os
import numpy, onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Onnx(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ["BENCH_ONNX"], options)
        self._name = self._session.get_inputs()[0].name
        return True

    async def predict(self, payload):
        x = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        y = self._session.run(None, {self._name: numpy.asarray(x, dtype=numpy.float32)})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
"""


@contextlib.contextmanager
def mlserver(directory: Path, python: Path) -> Iterator[Process]:
    """MLServer with the same network in ONNX Runtime, one process, as its documentation has a custom runtime."""
    home = directory / "mlserver"
    home.mkdir()
    (home / "onnx_runtime.py").write_text(MLSERVER_RUNTIME)
    (home / "model-settings.json").write_text(json.dumps({"name": MODEL, "implementation": "onnx_runtime.Onnx"}))
    port, grpc_port = free_port(), free_port()
    settings = {"http_port": port, "grpc_port": grpc_port, "metrics_port": free_port(), "parallel_workers": 0}
    (home / "settings.json").write_text(json.dumps(settings | {"debug": False, "host": "127.0.0.1"}))
    environment = {"BENCH_ONNX": str(directory / "model.onnx"), "PYTHONPATH": str(home)}
    command = [str(python.parent / "mlserver"), "start", str(home)]
    with running(command, environment, port, grpc_port) as process:
        yield process


GRPC_ECHO = """
import asyncio, sys
import grpc, uvloop

async def echo(content, context):
    return content

async def main():
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(echo)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    server.add_insecure_port("127.0.0.1:" + sys.argv[1])
    await server.start()
    await server.wait_for_termination()

uvloop.run(main())
"""


@contextlib.contextmanager
def grpc_echo() -> Iterator[Process]:
    """The least that a method of grpc.aio does."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", GRPC_ECHO, str(port)])
    try:
        yield Process(process.pid, 0, port)
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], port: int, grpc_port: int) -> Iterator[Process]:
    """A server that is ready; ended afterwards."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_ready(port, process)
        yield Process(process.pid, port, grpc_port)
    finally:
        process.terminate()
        process.wait(60)


def wait_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    """Poll readiness with a deadline."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as client:
            try:
                client.request("GET", "/v2/health/ready")
                if client.getresponse().status == 200:
                    return
            except OSError:
                pass
        time.sleep(0.05)
    raise TimeoutError(f"the server on port {port} is not ready after {START_SECONDS:.0f} s, or has ended")
