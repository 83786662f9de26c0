"""Serving a 16-float network: latency and throughput of REST and gRPC, and what the parts of the pod add.

    python bench/serving.py [--json] [--seconds N] [--mlserver PYTHON]
    python bench/serving.py --soak MINUTES

Peers: the same pod asked for the original network (ONNX Runtime), and, where --mlserver names a Python that has it,
MLServer with the same network in ONNX Runtime. Everything is measured in one run, interleaved, over sockets of this
machine by one client that only writes and reads bytes. Times of a busy machine are not worth much; the ratios and the
processor time per request are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import select
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
import numpy as np
from ecompile_crds.routing import RoutingTable
from ecompile_workers.serving.adoption import Adopter
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.oip import inference_pb2 as pb
from ecompile_workers.serving.oip_grpc import SERVICE_NAME
from ecompile_workers.serving.pod import SWITCH_INTERVAL_SECONDS
from ecompile_workers.serving.routing import Identity
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.serving_soak import soak
from bench.serving_world import (
    INFER,
    INPUTS,
    KEY,
    MODEL,
    OUTPUTS,
    Process,
    grpc_echo,
    make_table,
    mlserver,
    pod,
    write_artifacts,
)

Rows = NDArray[np.float32]
Row = dict[str, object]
ROUNDS = 9
CALLS = 2000
CONNECTIONS = 16
CHANGES = 200
STARTS = 3
SHORT_ROUNDS = 100
"""For tails: what else the machine does must hit all alike."""


def post(x: Rows, *, neural: bool = False) -> bytes:
    """The bytes of a request."""
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]} | ({"parameters": {"path": "neural"}} if neural else {})).encode()
    head = (
        f"POST {INFER} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def read_answer(connection: socket.socket) -> bytes:
    """The body of one response."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0], received
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return body


def connect(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=30)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def ask_for(seconds: float, call: Callable[[], object]) -> list[float]:
    """Seconds of each call, one after the other."""
    times, end = [], time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        call()
        times.append(time.perf_counter() - start)
    return times


def interleaved(
    calls: Mapping[str, Callable[[], object]], seconds: float, *, rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Seconds of each call, in rounds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name] += ask_for(seconds / rounds, call)
    return times


def milliseconds(times: list[float], share: float = 0.5) -> float:
    return float(np.quantile(times, share)) * 1e3


def caller(stack: ExitStack, port: int, request: bytes) -> Callable[[], bytes]:
    """Sends the request on a connection of its own, and gives the answer's body."""
    connection = stack.enter_context(connect(port))

    def call() -> bytes:
        connection.sendall(request)
        return read_answer(connection)

    return call


def bench_rest(servers: dict[str, Process], x: Rows, seconds: float) -> list[Row]:
    """p50 on one held connection: compiled against neural, and against the peer."""
    ours = servers["ecompile"]
    with ExitStack() as stack:
        calls = {
            "compiled": caller(stack, ours.port, post(x)),
            "neural": caller(stack, ours.port, post(x, neural=True)),
        }
        if "mlserver" in servers:
            calls["MLServer"] = caller(stack, servers["mlserver"].port, post(x))
        outputs = {name: np.asarray(json.loads(call())["outputs"][0]["data"]) for name, call in calls.items()}
        times = interleaved(calls, seconds)
    name = "REST p50, one connection"
    found = []
    for peer in list(calls)[1:]:
        error = float(np.abs(outputs["compiled"] - outputs[peer]).max())
        described = "same pod, path neural" if peer == "neural" else peer
        found.append(row(name, milliseconds(times["compiled"]), described, milliseconds(times[peer]), "ms", error))
    return found


def throughput(server: Process, request: bytes, seconds: float) -> tuple[float, float]:
    """Requests per second on 16 connections, and microseconds of processor time per request. The client does little: it
    shares the cores."""
    answered = 0
    with ExitStack() as stack:
        poll = stack.enter_context(closing(select.epoll()))
        connections = {}
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(connect(server.port))
            connections[connection.fileno()] = connection
            poll.register(connection.fileno(), select.EPOLLIN)
            connection.sendall(request)
        before, start = server.cpu_seconds(), time.perf_counter()
        whole = b"HTTP/1.1 200 ", (b"}", b"}\n")
        while time.perf_counter() - start < seconds:
            for number, _ in poll.poll():
                connection = connections[number]
                received = connection.recv(65536)
                while not received.endswith(whole[1]):
                    received += connection.recv(65536)
                assert received.startswith(whole[0]), received
                connection.send(request)
                answered += 1
        used, taken = server.cpu_seconds() - before, time.perf_counter() - start
    return answered / taken, used / answered * 1e6


def bench_throughput(servers: dict[str, Process], x: Rows, seconds: float) -> list[Row]:
    """Interleaved rounds, medians."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in servers if name not in ("compared", "again")}
    for _ in range(3):
        for name in measured:
            measured[name].append(throughput(servers[name], post(x), seconds / 3))
    rates = {name: statistics.median(rate for rate, _ in values) for name, values in measured.items()}
    costs = {name: statistics.median(cost for _, cost in values) for name, values in measured.items()}
    peer = "MLServer" if "mlserver" in servers else "none"
    rate, cost = rates.get("mlserver", 0.0), costs.get("mlserver", 0.0)
    return [
        row(f"REST throughput, {CONNECTIONS} connections", rates["ecompile"], peer, rate, "requests/s", 0.0, more=True),
        row(f"REST processor time, {CONNECTIONS} connections", costs["ecompile"], peer, cost, "us/request", 0.0),
        row(
            "REST, one core of the server's own: 1 / processor time",
            1e6 / costs["ecompile"],
            peer,
            1e6 / cost if cost else 0.0,
            "requests/s",
            0.0,
            more=True,
        ),
    ]


def bench_grpc(server: Process, echo: Process, x: Rows, seconds: float) -> list[Row]:
    """p50 of a synchronous Python client on one channel, compiled against neural and against a method of grpc.aio that
    gives back the bytes it gets."""
    with (
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        grpc.insecure_channel(f"127.0.0.1:{echo.grpc_port}") as bare,
    ):
        stub = channel.unary_unary(
            f"/{SERVICE_NAME}/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

        def caller(*, neural: bool) -> Callable[[], pb.ModelInferResponse]:
            message = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[x.tobytes()])
            message.inputs.add(name="x", datatype="FP32", shape=list(x.shape))
            if neural:
                message.parameters["path"].string_param = "neural"

            def call() -> pb.ModelInferResponse:
                answer: pb.ModelInferResponse = stub(message, timeout=30)
                return answer

            return call

        calls = {"compiled": caller(neural=False), "neural": caller(neural=True)}
        raw = [np.frombuffer(call().raw_output_contents[0], "<f4") for call in calls.values()]
        echoed = bare.unary_unary(f"/{SERVICE_NAME}/ModelInfer", request_serializer=bytes, response_deserializer=bytes)
        times = interleaved({**calls, "empty": lambda: echoed(x.tobytes(), timeout=30)}, seconds)
    error = float(np.abs(raw[0] - raw[1]).max())
    name, ours = "gRPC p50, one channel, Python client included", milliseconds(times["compiled"])
    return [
        row(name, ours, "same pod, path neural", milliseconds(times["neural"]), "ms", error),
        row(name, ours, "an empty method of grpc.aio", milliseconds(times["empty"]), "ms", 0.0),
    ]


def bench_start(directory: Path) -> Row:
    """From the start of the process to ready, module loaded."""
    times = []
    for _ in range(STARTS):
        start = time.perf_counter()
        with pod(directory, routing=directory):
            times.append(time.perf_counter() - start)
    return row("start to ready, median of three", statistics.median(times), "slowest", max(times), "s", 0.0)


def bench_bridge(directory: Path, table: RoutingTable, x: Rows) -> Row:
    """infer and settle of the bridge against the module alone: processor time, medians of rounds."""
    with closing(LocalPod(f"file://{directory}/plan.json", keys=[KEY.public_key()])) as local:
        local.adopt(table)
        bridge = local.bridge
        module = bridge.state.segments[0].module
        assert module is not None
        y = np.empty((1, OUTPUTS), dtype=np.float32)
        calls: dict[str, Callable[[], object]] = {
            "bridge": lambda: bridge.settle(bridge.infer(x)),
            "module": lambda: module.run(x, y),
        }
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                start = time.thread_time()
                for _ in range(CALLS):
                    call()
                samples[name].append((time.thread_time() - start) / CALLS * 1e6)
        error = float(np.abs(bridge.infer(x).y - bridge.infer(x, neural_only=True).y).max())
    ours, peer = (statistics.median(samples[name]) for name in calls)
    return row("bridge, one row, processor time", ours, "module called directly", peer, "us", error)


def bench_shadow(servers: dict[str, Process], x: Rows, seconds: float) -> list[Row]:
    """p99 of REST requests with 10 % compared off the request path, against none compared; and what two pods that do
    the same differ by, on this machine."""
    with ExitStack() as stack:
        names = ("compared", "ecompile", "again")
        calls = {name: caller(stack, servers[name].port, post(x)) for name in names}
        times = interleaved(calls, 2 * seconds, rounds=SHORT_ROUNDS)
    compared, peer, again = (milliseconds(times[name], 0.99) for name in names)
    return [
        row("REST p99, 10 % compared", compared, "nothing compared", peer, "ms", 0.0),
        row("REST p99, nothing compared, another pod", again, "nothing compared", peer, "ms", 0.0),
    ]


def bench_adoption(directory: Path, table: RoutingTable, x: Rows) -> Row:
    """From a table received to acknowledged, module loaded already, while requests are answered between; p99."""
    digest = table.segments[0].bundle_digest
    assert digest is not None

    async def measure(local: LocalPod) -> list[float]:
        acknowledged = asyncio.Event()
        identity = Identity(namespace="bench", model=MODEL, life="1")
        adopter = Adopter(local.bridge, local.modules, identity, changed=acknowledged.set)
        times = []
        for generation in range(2, CHANGES + 2):
            changed = make_table(directory, digest, generation=generation, compare=0.05)
            acknowledged.clear()
            start = time.perf_counter()
            adopter.offer(changed)
            while not acknowledged.is_set():
                local.infer(x)
                await asyncio.sleep(0)
            times.append(time.perf_counter() - start)
            assert local.bridge.state.generation == generation
        await adopter.close()
        return times

    with closing(LocalPod(f"file://{directory}/plan.json", keys=[KEY.public_key()])) as local:
        local.adopt(table)
        times = asyncio.run(measure(local))
    return row("routing change to acknowledged, p99", milliseconds(times, 0.99), "p50", milliseconds(times), "ms", 0.0)


def row(
    name: str, ours: float, peer: str, peer_value: float, unit: str, max_error: float, *, more: bool = False
) -> Row:
    """One line of the table; a ratio above 1 means that we are better (`more`: where more is better)."""
    ratio = (ours / peer_value if more else peer_value / ours) if peer_value else None
    return {
        "name": name,
        "batch": 1,
        "ours": round(ours, 4),
        "peer": peer,
        "peer_value": round(peer_value, 4),
        "unit": unit,
        "ratio": round(ratio, 3) if ratio is not None else None,
        "max_error": max_error,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--mlserver", type=Path, help="a Python that has mlserver and onnxruntime")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="only this: 70 % load, a routing change a second")
    arguments = parser.parse_args()
    if arguments.soak is not None:
        print(json.dumps(soak(arguments.soak), indent=1))
        return 0
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    x = np.random.default_rng(1).normal(size=(1, INPUTS)).astype(np.float32)
    seconds = arguments.seconds
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        table = write_artifacts(directory)
        digest = table.segments[0].bundle_digest or ""
        for name in ("compared", "again"):
            (directory / name).mkdir()
        (directory / "again" / "routing.json").write_bytes((directory / "routing.json").read_bytes())
        compared = make_table(directory, digest, generation=1, compare=0.1).model_dump_json(by_alias=True)
        (directory / "compared" / "routing.json").write_text(compared)
        servers = {
            "ecompile": stack.enter_context(pod(directory, routing=directory)),
            "compared": stack.enter_context(pod(directory, routing=directory / "compared")),
            "again": stack.enter_context(pod(directory, routing=directory / "again")),
        }
        if arguments.mlserver is not None:
            servers["mlserver"] = stack.enter_context(mlserver(directory, arguments.mlserver))
        rows = [
            *bench_rest(servers, x, seconds),
            *bench_throughput(servers, x, seconds),
            *bench_grpc(servers["ecompile"], stack.enter_context(grpc_echo()), x, seconds),
            bench_bridge(directory, table, x),
            *bench_shadow(servers, x, seconds),
            bench_adoption(directory, table, x),
            bench_start(directory),
        ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    print("| what | ours | peer | ratio | max error |\n| --- | --- | --- | --- | --- |")
    for each in rows:
        peer = f"{each['peer']}: {each['peer_value']} {each['unit']}"
        print(
            f"| {each['name']} | {each['ours']} {each['unit']} | {peer} | {each['ratio']} | {each['max_error']:.1e} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
