"""Cases that the fuzzer (bench/fuzz_serving.py) kept, one of each behaviour, against a pod: none harms it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import grpc
import numpy as np
import orjson
import pytest
from ecompile_workers.serving.oip_grpc import SERVICE_NAME

from bench.fuzz_serving import Case, check_answers, exchange, fuzzed_pod, statuses
from tests.unit.workers.serving.world import oracle, rows

from .serving_pod import infer, outputs

pytestmark = pytest.mark.timeout(600)
CORPUS = orjson.loads((Path(__file__).parent / "corpus" / "serving.json").read_bytes())


def test_kept_cases_are_answered_as_they_were() -> None:
    """The same first status, no traceback, and a good request on a held connection is answered after each."""
    with fuzzed_pod() as pod, contextlib.closing(pod.client()) as held:
        for number, kept in enumerate(CORPUS["http"]):
            received = exchange(pod.port, Case(tuple(part.encode("latin1") for part in kept["parts"])))
            check_answers(received)
            before = orjson.loads(kept["behaviour"])[0]
            assert statuses(received)[:1] == before[:1], kept
            x = rows(1, seed=number)
            status, answer = infer(held, x)
            assert status == 200
            np.testing.assert_allclose(outputs(answer), oracle(x), atol=1e-4)
        with grpc.insecure_channel(f"127.0.0.1:{pod.grpc_port}") as channel:
            call = channel.unary_unary(
                f"/{SERVICE_NAME}/ModelInfer", request_serializer=bytes, response_deserializer=bytes
            )
            for kept in CORPUS["grpc"]:
                code = "OK"
                try:
                    call(bytes.fromhex(kept["message"]), timeout=30)
                except grpc.RpcError as error:
                    code = error.code().name
                assert kept["answer"].startswith(f"{code} "), kept
        assert "Traceback" not in pod.log
        assert pod.stop() == 0
