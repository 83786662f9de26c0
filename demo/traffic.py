"""Traffic on connections that stay open; each answer is checked against ONNX Runtime in this process."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Rows = NDArray[np.float32]
ANSWER_SECONDS = 10.0
KEPT_LATENCIES = 20_000


@dataclass
class Tally:
    """What happened to the requests. `failed`: no right answer after one more try on a new connection."""

    sent: int = 0
    failed: int = 0
    wrong: int = 0
    reconnected: int = 0
    """Connections that broke or were refused and were made anew; 0 while no pod comes or goes."""
    paths: Counter[str] = field(default_factory=Counter)
    first_failure: str = ""
    latencies: dict[str, list[float]] = field(default_factory=dict)
    """Seconds by path, seen from here."""

    def median_ms(self, path: str) -> float | None:
        """Median latency in milliseconds of the answers that took `path`."""
        found = self.latencies.get(path)
        return float(np.median(found)) * 1e3 if found else None


@dataclass(frozen=True)
class Question:
    """A request's bytes and the answers that are right."""

    body: bytes
    right: tuple[Rows, ...]


class Oracle:
    """Right answers: those of the original network, or of any of several while the source is being changed."""

    def __init__(self, *networks: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._sessions = [
            onnxruntime.InferenceSession(each, options, providers=["CPUExecutionProvider"]) for each in networks
        ]

    def questions(self, rows: Rows) -> list[Question]:
        """One request a row, in Open Inference Protocol v2."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        answers = []
        for session in self._sessions:
            name = session.get_inputs()[0].name
            answers.append(np.asarray(session.run(None, {name: rows})[0], dtype=np.float32).reshape(len(rows), -1))
        name = self._sessions[0].get_inputs()[0].name
        made = []
        for index, row in enumerate(rows):
            tensor = {"name": name, "datatype": "FP32", "shape": [1, len(row)], "data": row.tolist()}
            made.append(Question(json.dumps({"inputs": [tensor]}).encode(), tuple(each[index] for each in answers)))
        return made


class Broken(Exception):
    """A connection broke, or the answer was not 200."""


class Traffic:
    """Asks all the time until left: `with Traffic(...) as traffic:`. Its connections live in a thread of their own."""

    def __init__(
        self,
        *,
        targets: Sequence[tuple[str, int]],
        model: str,
        oracle: Oracle,
        rows: Rows,
        connections: int = 4,
        pause_seconds: float = 0.015,
        tolerance: float = 1e-3,
    ) -> None:
        self._targets = targets
        self._path = f"/v2/models/{model}/infer"
        self._oracle = oracle
        self._connections = connections
        self._pause = pause_seconds
        self._tolerance = tolerance
        self._stopping = False
        self._questions = oracle.questions(rows)
        self.tally = Tally()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask_all()), daemon=True)

    def use(self, rows: Rows, oracle: Oracle | None = None) -> None:
        """Ask about these rows from now on."""
        self._oracle = oracle or self._oracle
        self._questions = self._oracle.questions(rows)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join(timeout=2 * ANSWER_SECONDS)

    async def _ask_all(self) -> None:
        await asyncio.gather(*(self._ask_on_one(number) for number in range(self._connections)))

    async def _ask_on_one(self, number: int) -> None:
        rng = np.random.default_rng(number)
        target = self._targets[number % len(self._targets)]
        connection = Connection(*target)
        while not self._stopping:
            question = self._questions[int(rng.integers(len(self._questions)))]
            started = time.monotonic()
            self.tally.sent += 1
            try:
                answer = await self._ask_twice(connection, question.body)
            except Broken as error:
                self.tally.failed += 1
                self.tally.first_failure = self.tally.first_failure or str(error)
                await asyncio.sleep(0.1)
                continue
            self._check(answer, question, time.monotonic() - started)
            await asyncio.sleep(self._pause)
        connection.close()

    async def _ask_twice(self, connection: Connection, body: bytes) -> dict[str, object]:
        """As clients do: a request that cannot be sent or answered on an open connection is sent on a new one, once."""
        try:
            return await connection.ask(self._path, body)
        except Broken as first:
            self.tally.reconnected += 1
            connection.close()
            try:
                return await connection.ask(self._path, body)
            except Broken as second:
                connection.close()
                raise Broken(f"{first}, then {second}") from second

    def _check(self, answer: dict[str, object], question: Question, seconds: float) -> None:
        outputs, parameters = answer["outputs"], answer["parameters"]
        assert isinstance(outputs, list) and isinstance(parameters, dict)
        got = np.asarray(outputs[0]["data"], dtype=np.float32)
        self.tally.wrong += not any(self._equal(got, right) for right in question.right)
        path = str(parameters["path"])
        self.tally.paths[path] += 1
        kept = self.tally.latencies.setdefault(path, [])
        if len(kept) < KEPT_LATENCIES:
            kept.append(seconds)

    def _equal(self, got: Rows, right: Rows) -> bool:
        if got.shape != right.shape:
            return False
        scale = float(np.abs(right).max()) + 1e-6
        return float(np.abs(got - right).max()) <= self._tolerance * scale


class Connection:
    """One HTTP/1.1 connection that is kept, and made when it is needed."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, body: bytes) -> dict[str, object]:
        """POST JSON; raises Broken where there is no answer with status 200."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._ask(path, body)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            raise Broken(f"{type(error).__name__}: {error}") from error

    async def _ask(self, path: str, body: bytes) -> dict[str, object]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        head = f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self.close()
        if status.split()[1] != "200":
            raise Broken(f"{status}: {content[:200].decode(errors='replace')}")
        answer: dict[str, object] = json.loads(content)
        return answer

    def close(self) -> None:
        """Close it; the next request makes a new one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
