"""Traffic against a serving Service: each answer is checked against ONNX Runtime on this machine."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Rows = NDArray[np.float32]


@dataclass
class Tally:
    """What happened to the requests."""

    sent: int = 0
    failed: int = 0
    wrong: int = 0
    paths: Counter[str] = field(default_factory=Counter)
    first_failure: str = ""


class Traffic:
    """Several connections that ask all the time, until stopped."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        model: str,
        neural: bytes,
        rows: Rows,
        connections: int = 3,
        pause_seconds: float = 0.01,
        tolerance: float = 1e-3,
    ) -> None:
        self._target = (host, port, f"/v2/models/{model}/infer")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(neural, options, providers=["CPUExecutionProvider"])
        self._input = session.get_inputs()[0].name
        self._session = session
        self._pause = pause_seconds
        self._tolerance = tolerance
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.tally = Tally()
        self._answers: dict[str, tuple[Rows, Rows]] = {}
        self.use(rows)
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(connections)]

    def use(self, rows: Rows) -> None:
        """Ask about these rows from now on."""
        expected = self._session.run(None, {self._input: rows})[0].reshape(len(rows), -1)
        self._answers = {"now": (rows, np.asarray(expected, dtype=np.float32))}

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def _run(self, number: int) -> None:
        rng = np.random.default_rng(number)
        connection = http.client.HTTPConnection(*self._target[:2], timeout=10)
        while not self._stop.is_set():
            rows, expected = self._answers["now"]
            index = int(rng.integers(len(rows)))
            body = json.dumps(
                {
                    "inputs": [
                        {
                            "name": self._input,
                            "datatype": "FP32",
                            "shape": [1, rows.shape[1]],
                            "data": rows[index].tolist(),
                        }
                    ]
                }
            )
            try:
                answer = self._ask(connection, body)
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                connection = http.client.HTTPConnection(*self._target[:2], timeout=10)
                try:
                    answer = self._ask(connection, body)
                except (OSError, http.client.HTTPException, ValueError) as again:
                    self._failed(f"{error!r}, then {again!r}")
                    time.sleep(0.1)
                    continue
            self._check(answer, expected[index])
            time.sleep(self._pause)

    def _ask(self, connection: http.client.HTTPConnection, body: str) -> dict[str, object]:
        connection.request("POST", self._target[2], body, {"content-type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}: {text[:200]!r}")
        answer: dict[str, object] = json.loads(text)
        return answer

    def _failed(self, why: str) -> None:
        with self._lock:
            self.tally.sent += 1
            self.tally.failed += 1
            self.tally.first_failure = self.tally.first_failure or why

    def _check(self, answer: dict[str, object], expected: Rows) -> None:
        outputs, parameters = answer["outputs"], answer["parameters"]
        assert isinstance(outputs, list) and isinstance(parameters, dict)
        got = np.asarray(outputs[0]["data"], dtype=np.float32)
        scale = float(np.abs(expected).max()) + 1e-6
        good = got.shape == expected.shape and float(np.abs(got - expected).max()) <= self._tolerance * scale
        with self._lock:
            self.tally.sent += 1
            self.tally.wrong += not good
            self.tally.paths[str(parameters["path"])] += 1
