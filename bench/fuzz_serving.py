"""Fuzz a serving pod over its sockets: requests of a grammar, mutated, over HTTP and gRPC.

    python bench/fuzz_serving.py [--minutes N] [--seed N] [--corpus FILE]

After each case: the process lives; no answer says 500 or holds a traceback, and none is logged; a good request on a
held connection is answered rightly at once. At the end: no descriptor more, and memory that stays. `--corpus` keeps one
case, the shortest, of each different behaviour; tests/component/test_serving_corpus.py replays them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).parents[1]))
from ecompile_crds.routing import RouteMode
from ecompile_workers.serving.oip import inference_pb2 as pb
from ecompile_workers.serving.oip_grpc import SERVICE_NAME

from bench.serving_soak import descriptors, resident_bytes
from tests.component.serving_pod import Pod, infer, outputs, started, wait_until
from tests.unit.workers.serving.world import INPUTS, make_world, oracle, rows, table

ANSWER_SECONDS = 20.0
"""A case that is not answered or closed by then is a finding."""
MAX_CASE_BYTES = 3000
"""Longer cases are not kept."""
ALLOWED = frozenset(range(200, 500)) | {503}
"""503: loading or draining. Any other status above 499 is a finding."""
GRPC_ALLOWED = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
GROWTH = 1.05
"""Resident memory at the end against that after the first tenth of the cases."""


class Finding(Exception):
    """A case that the pod must not answer so."""


@dataclass(frozen=True)
class Case:
    """Bytes sent in parts, one write each, on a connection of its own; then the sending half is closed."""

    parts: tuple[bytes, ...]

    @property
    def size(self) -> int:
        return sum(len(part) for part in self.parts)


NUMBERS = ["0", "1", "-1", "0.5", "1e3", "1e39", "-1e39", "1e400", "1E-400", "4.9e-324", "9" * 40]
NO_NUMBERS = ["-0", "01", "1.", ".5"]
ODD = ["NaN", "Infinity", "nan", "null", "true", "false", '""', '"1"', "[]", "{}", "[[]]", '"\\ud800"', '"\\u0000"']
NAMES = ['"x"', '"y"', '"X"', '""', "null", "7", '"' + "x" * 300 + '"', '"\\u0000"', '"\u00e9"']
DATATYPES = ['"FP32"', '"FP64"', '"INT8"', '"UINT64"', '"FP16"', '"BOOL"', '"BYTES"', '"fp32"', "1", "null"]
PATHS = [
    "/v2/models/digits/infer",
    "/v2/models/digits/versions/life-a/infer",
    "/v2/models/digits/versions/9/infer",
    "/v2/models/other/infer",
    "/v2/models/digits",
    "/v2/models/digits/ready",
    "/v2/models/%64igits/infer",
    "/v2/models/digits/infer?x=1",
    "/v2/models//infer",
    "/v2/health/ready",
    "/v2/health/live",
    "/v2",
    "/metrics",
    "/",
    "//",
    "*",
    "http://a/v2",
    "/../../etc/passwd",
    "/v2/models/" + "a" * 400,
]
SHAPES = ["[1]", "[]", "[1,16,1]", "[-1,16]", "[1.0,16]", "[true,16]", "16", "[[1],16]", "[9223372036854775807,16]"]
SHAPES += ["[1e30,16]", '["1",16]', "null", "[0,16]", f"[{10**30},16]"]
PARAMETERS = ['{"path":"neural"}', '{"path":"x"}', '{"explain":true}', '{"explain":1}', "[]", "7", "null"]
PARAMETERS += ['{"binary_data_output":true}', '{"binary_data_output":"yes"}']
OUTPUTS = ['[{"name":"h1"}]', '[{"name":"z"}]', "[]", "7", "[7]", '[{"name":"h1"},{"name":"h1"}]']
OUTPUTS += ['[{"name":"h1","parameters":{"binary_data":true}}]', '[{"name":"h1","parameters":{"classification":3}}]']
TOKENS = [b"\r\n", b"\n", b"\r\n\r\n", b"\0", b'"', b"{", b"}", b",", b":", b" ", b"\xff", b"1e9"]
CHUNK_ENDS = [b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"ZZ\r\n", b"", b"fffffffffffffffff\r\n"]
METHODS = ["POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "post", "BREW", "PATCH"]
HEADERS = [
    "content-type: application/json",
    "content-type: application/octet-stream",
    "inference-header-content-length: 0",
    "inference-header-content-length: 20",
    "inference-header-content-length: 99999999999999",
    "inference-header-content-length: -1",
    "inference-header-content-length: a",
    "content-encoding: gzip",
    "content-encoding: identity",
    "transfer-encoding: chunked",
    "transfer-encoding: identity",
    "transfer-encoding: gzip, chunked",
    "content-length: 5",
    "content-length: -5",
    "content-length: 99999999999999999999",
    "content-length: 17000000",
    "content-length: +5",
    "content-length: 5, 5",
    "expect: 100-continue",
    "expect: nonsense",
    "connection: close",
    "connection: keep-alive, upgrade",
    "upgrade: websocket",
    "upgrade: h2c",
    "host: b",
    "x-long: " + "a" * 3000,
    "x-odd: \x01\x7f",
    "no colon",
    " folded: yes",
    ": empty",
    "authorization: Bearer wrong",
    "accept: text/html",
    "x-\u00ff: 1",
]


class Grammar:
    """Draws cases."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def case(self) -> Case:
        """One or more requests in a row, perhaps mutated, perhaps in pieces."""
        draw = self._draw
        content = b"".join(self._request() for _ in range(draw.choice([1, 1, 1, 2, 3])))
        if draw.random() < 0.4:
            for _ in range(draw.choice([1, 1, 2, 8])):
                content = self._mutated(content)
        cuts = sorted(draw.sample(range(len(content) + 1), min(len(content), draw.choice([0, 0, 0, 1, 3]))))
        parts = tuple(content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True))
        return Case(tuple(part for part in parts if part) or (b"\r\n",))

    def message(self) -> bytes:
        """A gRPC request, perhaps mutated."""
        draw = self._draw
        message = pb.ModelInferRequest(model_name=draw.choice(["digits", "digits", "digits", "other", ""]))
        message.model_version = draw.choice(["", "", "life-a", "9"])
        message.id = draw.choice(["", "a", "\u0000"])
        count = draw.choice([1, 1, 2, 7])
        for _ in range(draw.choice([1, 1, 1, 0, 2])):
            name = draw.choice(["x", "x", "x", "y", ""])
            kind = draw.choice(["FP32", "FP32", "INT8", "FP16", "FP99", ""])
            shapes = [[INPUTS], [], [-1, INPUTS], [1 << 62, INPUTS], [0, 0]]
            shape = draw.choice([[count, INPUTS]] * 3 + shapes)
            tensor = message.inputs.add(name=name, datatype=kind, shape=shape)
            if draw.random() < 0.4:
                tensor.contents.fp32_contents.extend([float(draw.choice(["nan", "1", "inf", "3"]))] * INPUTS * count)
            if draw.random() < 0.2:
                tensor.contents.bytes_contents.append(b"a")
        if draw.random() < 0.7:
            message.raw_input_contents.append(draw.randbytes(draw.choice([4, 4, 2, 8, 0]) * INPUTS * count))
        if draw.random() < 0.2:
            message.outputs.add(name=draw.choice(["h1", "y"]))
        if draw.random() < 0.3:
            parameter = message.parameters[draw.choice(["path", "explain", "other"])]
            match draw.randrange(4):
                case 0:
                    parameter.string_param = draw.choice(["neural", "x"])
                case 1:
                    parameter.bool_param = True
                case 2:
                    parameter.int64_param = 7
        content = message.SerializeToString()
        while content and draw.random() < 0.3:
            content = self._mutated(content)
        return content

    def _request(self) -> bytes:
        draw = self._draw
        infer_path = draw.random() < 0.7
        method = draw.choice(["POST"] if draw.random() < 0.8 else METHODS)
        path = PATHS[0] if infer_path else draw.choice(PATHS)
        version = draw.choice(["1.1"] * 12 + ["1.0", "0.9", "2.0", "1.11", "x"])
        body = self._body()
        headers = ["host: a", *draw.sample(HEADERS, draw.choice([0, 0, 0, 1, 1, 2]))]
        if draw.random() < 0.85:
            headers.append(f"content-length: {len(body) + draw.choice([0] * 12 + [1, -1])}")
        if draw.random() < 0.15:
            headers.append(f"inference-header-content-length: {draw.randrange(len(body) + 2)}")
        head = "\r\n".join([f"{method} {path} HTTP/{version}", *headers, "", ""]).encode("latin1")
        return head + (self._chunked(body) if "transfer-encoding: chunked" in headers else body)

    def _chunked(self, body: bytes) -> bytes:
        at = self._draw.randrange(len(body) + 1)
        parts = [part for part in (body[:at], body[at:]) if part]
        end = self._draw.choice(CHUNK_ENDS)
        return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end

    def _body(self) -> bytes:
        draw = self._draw
        kind = draw.random()
        if kind < 0.05:
            return draw.randbytes(draw.randrange(200))
        if kind < 0.08:
            return b"[" * draw.choice([10, 2000]) + b"]" * draw.choice([0, 10, 2000])
        count = draw.choice([1, 1, 1, 2, 64])
        fields = {
            "name": draw.choice(NAMES) if draw.random() < 0.1 else '"x"',
            "datatype": draw.choice(DATATYPES) if draw.random() < 0.15 else '"FP32"',
            "shape": self._shape(count),
            "data": self._data(count),
        }
        if draw.random() < 0.15:
            size = draw.choice(["64", "-1", "1e3", '"a"', str(64 * count)])
            fields["parameters"] = f'{{"binary_data_size":{size}}}'
            if draw.random() < 0.8:
                fields.pop("data")
        if draw.random() < 0.1:
            fields.pop(draw.choice(sorted(fields)))
        tensor = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
        top = {"inputs": f"[{tensor}]" if draw.random() < 0.9 else draw.choice([tensor, f"[{tensor},{tensor}]", "[1]"])}
        if draw.random() < 0.15:
            top["id"] = draw.choice(['"7"', "7", "null", '"\\u2028"', "[]"])
        if draw.random() < 0.15:
            top["parameters"] = draw.choice(PARAMETERS)
        if draw.random() < 0.1:
            top["outputs"] = draw.choice(OUTPUTS)
        body = ("{" + ",".join(f'"{name}":{value}' for name, value in top.items()) + "}").encode("utf8")
        return body + draw.randbytes(draw.choice([0] * 8 + [64, 64 * count, 3]))

    def _shape(self, count: int) -> str:
        if self._draw.random() < 0.85:
            return f"[{count},{INPUTS}]"
        return self._draw.choice(SHAPES)

    def _data(self, count: int) -> str:
        draw = self._draw
        values = [draw.choice(NUMBERS[:7]) for _ in range(INPUTS * count)]
        if draw.random() < 0.15:
            values[draw.randrange(len(values))] = draw.choice([*NUMBERS, *NO_NUMBERS, *ODD])
        if draw.random() < 0.08:
            values.pop()
        if draw.random() < 0.1:
            step = draw.choice([INPUTS, 3])
            return "[" + ",".join(f"[{','.join(values[i : i + step])}]" for i in range(0, len(values), step)) + "]"
        return "[" + ",".join(values) + "]" if draw.random() < 0.95 else draw.choice(ODD)

    def _mutated(self, content: bytes) -> bytes:
        draw = self._draw
        at = draw.randrange(len(content)) if content else 0
        match draw.randrange(6):
            case 0:
                return content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
            case 1:
                return content[:at] + content[at + draw.choice([1, 4, 40]) :]
            case 2:
                return content[:at] + draw.randbytes(draw.choice([1, 3])) + content[at:]
            case 3:
                return content[:at]
            case 4:
                return content[:at] + content[at : at + 30] * draw.choice([2, 20]) + content[at + 30 :]
            case _:
                token = draw.choice(TOKENS)
                return content[:at] + token + content[at:]


def exchange(port: int, case: Case) -> bytes:
    """Everything that the pod answers."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
        with contextlib.suppress(OSError):  # the pod may have closed the connection already
            for part in case.parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
    return received


VALUES = re.compile(r"'[^']*'|-?[0-9][0-9.e+-]*|\[[^]]*\]")
STATUS = re.compile(rb"HTTP/1\.[01] (\d\d\d) ")


def statuses(received: bytes) -> list[int]:
    """Of each answer."""
    return [int(each) for each in STATUS.findall(received)]


def behaviour(received: bytes) -> str:
    """The same for cases that were answered for the same reason: statuses, and sentences without their values."""
    sentences = re.findall(r'"error":"((?:[^"\\]|\\.)*)"', received.decode("latin1"))
    return json.dumps([statuses(received), sorted({VALUES.sub("_", each) for each in sentences})])


def check_answers(received: bytes) -> None:
    """Raises Finding where an answer is one that must not be."""
    bad = [each for each in statuses(received) if each not in ALLOWED and each != 100]
    if bad or b"Traceback" in received or b"/site-packages/" in received:
        raise Finding(f"answered {bad or received[:300]!r}")
    if received and not STATUS.match(received):
        raise Finding(f"not HTTP: {received[:200]!r}")


class Fuzzer:
    """One pod, many cases."""

    def __init__(self, pod: Pod, seed: int) -> None:
        self._pod = pod
        self._grammar = Grammar(random.Random(seed))
        self._held = pod.client()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{pod.grpc_port}")
        self._call = self._channel.unary_unary(
            f"/{SERVICE_NAME}/ModelInfer", request_serializer=bytes, response_deserializer=bytes
        )
        self.kept: dict[str, Case] = {}
        self.messages: dict[str, bytes] = {}
        self.cases = 0

    def http(self) -> None:
        """One case over HTTP."""
        case = self._grammar.case()
        try:
            received = exchange(self._pod.port, case)
            check_answers(received)
            self._good()
        except (Finding, OSError, TimeoutError, AssertionError) as error:
            raise Finding(f"{error!r}\nparts: {case.parts!r}\nlog: {self._pod.log[-2000:]}") from error
        kind = behaviour(received)
        if case.size <= MAX_CASE_BYTES and (kind not in self.kept or case.size < self.kept[kind].size):
            self.kept[kind] = case

    def grpc(self) -> None:
        """One message over gRPC."""
        message = self._grammar.message()
        try:
            self._call(message, timeout=ANSWER_SECONDS)
            code, detail = grpc.StatusCode.OK, ""
        except grpc.RpcError as error:
            code, detail = error.code(), error.details() or ""
        if code not in GRPC_ALLOWED or "Traceback" in detail:
            raise Finding(f"gRPC answered {code} {detail}\nmessage: {message!r}")
        self._good()
        kind = f"{code.name} {VALUES.sub('_', detail)}"
        if len(message) <= MAX_CASE_BYTES and (kind not in self.messages or len(message) < len(self.messages[kind])):
            self.messages[kind] = message

    def grpc_socket(self) -> None:
        """Bytes that are no HTTP/2 on gRPC's port."""
        preface = random.choice([b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
        with contextlib.suppress(OSError):
            exchange(self._pod.grpc_port, Case((preface, *self._grammar.case().parts)))
        self._good()

    def _good(self) -> None:
        """A good request right after."""
        self.cases += 1
        x = rows(1, seed=self.cases % 50)
        status, answer = infer(self._held, x)
        if status != 200 or not np.allclose(outputs(answer), oracle(x), atol=1e-4):
            raise Finding(f"a good request is answered {status} {answer}")
        if self._pod.process.poll() is not None:
            raise Finding("the pod has ended")

    def run(self, seconds: float, tick: Callable[[], None]) -> None:
        """Cases for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(8):
                self.http()
            self.grpc()
            self.grpc()
            if self.cases % 7 == 0:
                self.grpc_socket()
            tick()

    def close(self) -> None:
        self._held.close()
        self._channel.close()


@contextlib.contextmanager
def fuzzed_pod() -> Iterator[Pod]:
    """A pod without an operator, whose mounted table promotes the module."""
    with tempfile.TemporaryDirectory() as name:
        world = make_world(Path(name) / "artifacts")
        mounted = table(3, world.route(RouteMode.COMPILED, compare=0.1))
        with started(world, Path(name), None, mounted=mounted) as pod:
            wait_until(pod.ready, "readiness")
            yield pod


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, help="write the cases kept to this file")
    arguments = parser.parse_args()
    samples: list[tuple[int, int]] = []
    with fuzzed_pod() as pod, contextlib.closing(Fuzzer(pod, arguments.seed)) as fuzzer:
        start = time.monotonic()

        def tick() -> None:
            if len(samples) * 2.0 <= time.monotonic() - start:
                samples.append((resident_bytes(pod.process.pid), descriptors(pod.process.pid)))

        fuzzer.run(arguments.minutes * 60.0, tick)
        time.sleep(1.0)
        samples.append((resident_bytes(pod.process.pid), descriptors(pod.process.pid)))
        assert "Traceback" not in pod.log, pod.log
        assert pod.stop() == 0
    first, last = samples[len(samples) // 10], samples[-1]
    print(f"{fuzzer.cases} cases, {len(fuzzer.kept)} behaviours over HTTP, {len(fuzzer.messages)} over gRPC")
    print(f"resident memory {first[0] / 1e6:.1f} to {last[0] / 1e6:.1f} MB, descriptors {first[1]} to {last[1]}")
    tenths = samples[:: max(1, len(samples) // 10)]
    print("resident memory on the way:", " ".join(f"{each[0] / 1e6:.1f}" for each in tenths))
    if arguments.corpus is not None:
        kept = [
            {"behaviour": kind, "parts": [part.decode("latin1") for part in case.parts]}
            for kind, case in sorted(fuzzer.kept.items())
        ]
        told = [{"answer": kind, "message": each.hex()} for kind, each in sorted(fuzzer.messages.items())]
        arguments.corpus.write_bytes(orjson.dumps({"http": kept, "grpc": told}, option=orjson.OPT_INDENT_2) + b"\n")
    assert last[1] <= first[1] + 2, "descriptors leak"
    assert last[0] <= GROWTH * first[0], "memory grows"
    return 0


if __name__ == "__main__":
    sys.exit(main())
