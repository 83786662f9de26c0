"""`python bench/serving.py --soak MINUTES`: a pod at 70 % load with a routing change each second, every answer checked.

The load is an open loop: requests are sent when they are due, however slow the answers are. What it must show: no
failed request, no answer that is not the network's, changes acknowledged at once, resident memory that stays.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from ecompile_crds.routing import RouteMode, RoutingTable

from tests.component.serving_pod import FakeOperator, Pod, running_pod
from tests.unit.workers.serving.world import INPUTS, oracle, rows, table

MODEL_PATH = "/v2/models/digits/infer"
CONNECTIONS = 16
LOAD = 0.7
CALIBRATION_SECONDS = 10.0
WARM_UP_SECONDS = 60.0
"""Before memory is looked at: code and sessions are loaded, caches and arenas filled."""
MAX_DEVIATION = 1e-4
MOST_BEHIND_SECONDS = 1.0
"""What is later than this is not sent any more, but counted: the machine gives less than when the rate was chosen."""
REQUESTS = 512
"""Different inputs; every eighth is outside the module's guard."""


class Load:
    """A client with held connections, which checks every answer."""

    def __init__(self, port: int) -> None:
        inside, outside = rows(REQUESTS, seed=1), rows(REQUESTS, seed=2, scale=4.0)
        x = np.where(np.arange(REQUESTS)[:, None] % 64 == 63, outside, inside)
        self._expected = oracle(x)
        self._requests = [_request(each) for each in x]
        self._poll = select.epoll()
        self._connections: dict[int, socket.socket] = {}
        for _ in range(CONNECTIONS):
            made = socket.create_connection(("127.0.0.1", port), timeout=30)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[made.fileno()] = made
            self._poll.register(made.fileno(), select.EPOLLIN)
        self._free = deque(self._connections)
        self._sent: dict[int, tuple[int, float]] = {}
        self._next = 0
        self.answered = self.skipped = 0
        self.failed: list[str] = []
        self.wrong: list[float] = []
        self.seconds: list[float] = []
        self.paths: dict[str, int] = {}

    def run(self, seconds: float, *, rate: float | None, tick: Callable[[], None] = lambda: None) -> float:
        """Send `rate` requests per second (None: as many as are answered); the rate of answers. `tick` is called about
        once per millisecond."""
        before, start = self.answered, time.monotonic()
        due, ticked = start, start
        while (now := time.monotonic()) - start < seconds and not self.failed:
            if rate is not None and now - due > MOST_BEHIND_SECONDS:
                self.skipped += int((now - due) * rate)
                due = now
            while self._free and (rate is None or due <= now):
                self._send(self._free.popleft(), due if rate is not None else now)
                due += 1.0 / rate if rate is not None else 0.0
            wait = 0.001 if rate is None or not self._free else max(0.0, min(0.001, due - now))
            for number, _ in self._poll.poll(wait):
                self._receive(number)
            if now - ticked >= 0.001:
                ticked = now
                tick()
        while self._sent and not self.failed:
            for number, _ in self._poll.poll(30.0) or [(-1, 0)]:
                self._receive(number)
        return (self.answered - before) / (time.monotonic() - start)

    def _send(self, number: int, due: float) -> None:
        index = self._next
        self._next = (index + 1) % REQUESTS
        self._sent[number] = index, due
        self._connections[number].sendall(self._requests[index])

    def _receive(self, number: int) -> None:
        if number < 0:
            self.failed.append("no answer within 30 s")
            return
        received = self._connections[number].recv(65536)
        index, due = self._sent.pop(number)
        head, _, body = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or not body.endswith(b"}"):
            self.failed.append(repr(received[:300]))
            return
        answer: dict[str, Any] = orjson.loads(body)
        deviation = float(np.abs(np.asarray(answer["outputs"][0]["data"]) - self._expected[index]).max())
        if not deviation < MAX_DEVIATION:
            self.wrong.append(deviation)
        self.answered += 1
        if self.answered % 16 == 0:
            self.seconds.append(time.monotonic() - due)
            path = answer["parameters"]["path"]
            self.paths[path] = self.paths.get(path, 0) + 1
        self._free.append(number)

    def close(self) -> None:
        """Let go of the connections."""
        for each in self._connections.values():
            each.close()
        self._poll.close()


def _request(x: Any) -> bytes:
    tensor = {"name": "x", "shape": [1, INPUTS], "datatype": "FP32", "data": x.tolist()}
    body = orjson.dumps({"inputs": [tensor]})
    return b"POST %b HTTP/1.1\r\nhost: soak\r\ncontent-length: %d\r\n\r\n%b" % (MODEL_PATH.encode(), len(body), body)


class Changes:
    """Sends another table each second, and knows when each was acknowledged."""

    def __init__(self, operator: FakeOperator, pod: Pod) -> None:
        self._operator = operator
        bundle = pod.world.bundle()
        route = pod.world.route
        self._routes = [
            route(RouteMode.SHADOW, compare=0.1, bundle=bundle),
            route(RouteMode.CANARY, weight=0.5, compare=0.1, bundle=bundle),
            route(RouteMode.COMPILED, compare=0.1, bundle=bundle),
            route(RouteMode.COMPILED, compare=0.01, bundle=bundle),
            route(RouteMode.NEURAL),
        ]
        self.sent: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def make(self, generation: int) -> RoutingTable:
        return table(generation, self._routes[generation % len(self._routes)])

    def __enter__(self) -> Changes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _work(self) -> None:
        generation = 1
        while not self._stop.wait(1.0):
            generation += 1
            self.sent[generation] = self._operator.send(self.make(generation))

    def seconds(self) -> list[float]:
        """From a change sent to the first report that has it, or a newer one, in force; infinite where none came."""
        reports = [(report.acknowledged_generation, at) for at, report in list(self._operator.reports)]
        found, position = [], 0
        for generation, sent in sorted(self.sent.items()):
            while position < len(reports) and reports[position][0] < generation:
                position += 1
            found.append((reports[position][1] if position < len(reports) else float("inf")) - sent)
        return found


def resident_bytes(pid: int) -> int:
    """Resident memory; 0 where the process has gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) << 10
    return 0


def descriptors(pid: int) -> int:
    """Open file descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def child_of(pid: int) -> int:
    """The comparing process; 0 where there is none."""
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    return next((int(each) for file in listed for each in file.read_text().split()), 0)


def soak(minutes: float) -> dict[str, Any]:
    """The figures; `failed` and `wrong` are for the reader to judge."""
    sys.setswitchinterval(0.0005)  # the operator is a thread of the client's process
    operator = FakeOperator()
    operator.start()
    samples: list[tuple[float, int, int, int]] = []
    with contextlib.closing(operator), running_pod(operator) as pod:
        changes = Changes(operator, pod)
        operator.send(changes.make(1))
        operator.wait_acknowledged(1)
        load = Load(pod.port)
        start = time.monotonic()
        most = load.run(CALIBRATION_SECONDS, rate=None)
        load.seconds.clear()

        def tick() -> None:
            if len(samples) * 5.0 <= time.monotonic() - start:
                pid = pod.process.pid
                child = child_of(pid)
                samples.append((time.monotonic() - start, resident_bytes(pid), resident_bytes(child), descriptors(pid)))

        with changes:
            rate = load.run(minutes * 60.0, rate=LOAD * most, tick=tick)
        time.sleep(1.5)
        acknowledged = changes.seconds()
        load.close()
        assert pod.process.poll() is None, pod.log
        with contextlib.closing(pod.client()) as client:
            client.request("GET", "/metrics")
            metrics = client.getresponse().read().decode()
        status = pod.stop()
    warm = [each for each in samples if each[0] > WARM_UP_SECONDS] or samples
    tenth = max(1, len(warm) // 10)
    first, last = (float(np.median([each[1] for each in part])) for part in (warm[:tenth], warm[-tenth:]))
    child_first, child_last = (float(np.median([each[2] for each in part])) for part in (warm[:tenth], warm[-tenth:]))
    return {
        "minutes": minutes,
        "answered": load.answered,
        "skipped": load.skipped,
        "failed": load.failed,
        "wrong": len(load.wrong),
        "most_per_second": round(most),
        "per_second": round(rate),
        "p50_ms": round(float(np.quantile(load.seconds, 0.5)) * 1e3, 3),
        "p99_ms": round(float(np.quantile(load.seconds, 0.99)) * 1e3, 3),
        "changes": len(acknowledged),
        "acknowledged_p50_ms": round(float(np.quantile(acknowledged, 0.5)) * 1e3, 2),
        "acknowledged_p99_ms": round(float(np.quantile(acknowledged, 0.99)) * 1e3, 2),
        "acknowledged_max_ms": round(max(acknowledged) * 1e3, 2),
        "resident_first_mb": round(first / 1e6, 1),
        "resident_last_mb": round(last / 1e6, 1),
        "comparing_first_mb": round(child_first / 1e6, 1),
        "comparing_last_mb": round(child_last / 1e6, 1),
        "descriptors": [warm[0][3], warm[-1][3]],
        "paths": load.paths,
        "exit_status": status,
        **{
            name: sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(f"{full} "))
            or sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(full + "{"))
            for name, full in (
                ("comparisons", "ecompile_serving_segment_comparisons_total"),
                ("dropped_comparisons", "ecompile_serving_segment_dropped_comparisons_total"),
                ("comparer_restarts", "ecompile_serving_comparer_restarts_total"),
                ("trips", "ecompile_serving_trips_total"),
            )
        },
    }
