"""An unchanged tritonclient against a pod: `python -m tests.component.triton_client HTTP_PORT GRPC_PORT`.

A process of its own, because tritonclient brings gevent and messages of its own with it. Ends with 1 and a sentence
where anything is not as a Triton server would have it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.unit.workers.serving.world import LIFE, MODEL, oracle, rows


def make_input(module: Any, *, binary: bool = True) -> Any:
    """Three rows for the client of the given module."""
    made = module.InferInput("x", [3, 16], "FP32")
    if module is tritonclient.http:
        made.set_data_from_numpy(rows(3), binary_data=binary)
    else:
        made.set_data_from_numpy(rows(3))
    return made


def check_result(result: Any) -> None:
    """The rows are those of the network."""
    np.testing.assert_allclose(result.as_numpy("h1"), oracle(rows(3)), atol=1e-5)


def check_health(client: Any) -> None:
    """Live, ready, and described."""
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, LIFE)


def check_http(port: int) -> None:
    """JSON and binary in, JSON and binary out, parameters, errors."""
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}") as client:
        check_health(client)
        assert client.get_server_metadata()["name"] == "ecompile"
        assert client.get_model_metadata(MODEL)["inputs"][0]["shape"] == [-1, 16]
        for binary_in in (True, False):
            tensor = make_input(tritonclient.http, binary=binary_in)
            check_result(client.infer(MODEL, [tensor]))
            for binary_out in (True, False):
                wanted = [tritonclient.http.InferRequestedOutput("h1", binary_data=binary_out)]
                check_result(client.infer(MODEL, [tensor], outputs=wanted, request_id="7"))
        tensor = make_input(tritonclient.http)
        told = client.infer(MODEL, [tensor], parameters={"path": "neural"}).get_response()["parameters"]
        assert told["segments"] == "0:neural:requested", told
        check_result(client.async_infer(MODEL, [tensor]).get_result())
        refused("http", lambda: client.infer("other", [tensor]), "not served here")


def check_grpc(port: int) -> None:
    """The same over gRPC."""
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        check_health(client)
        assert client.get_server_metadata().name == "ecompile"
        assert list(client.get_model_metadata(MODEL).inputs[0].shape) == [-1, 16]
        tensor = make_input(tritonclient.grpc)
        check_result(client.infer(MODEL, [tensor]))
        wanted = [tritonclient.grpc.InferRequestedOutput("h1")]
        answer = client.infer(MODEL, [tensor], outputs=wanted, parameters={"path": "neural"}, request_id="7")
        check_result(answer)
        assert answer.get_response().parameters["segments"].string_param == "0:neural:requested"
        refused("grpc", lambda: client.infer("other", [tensor]), "not served here")


async def check_grpc_aio(port: int) -> None:
    """Many at once on one connection."""
    async with tritonclient.grpc.aio.InferenceServerClient(f"127.0.0.1:{port}") as client:
        tensor = make_input(tritonclient.grpc)
        for result in await asyncio.gather(*[client.infer(MODEL, [tensor]) for _ in range(50)]):
            check_result(result)


def refused(protocol: str, call: Any, sentence: str) -> None:
    """The client's own exception, with our sentence."""
    try:
        call()
    except InferenceServerException as error:
        assert sentence in str(error), error
    else:
        raise AssertionError(f"{protocol}: not refused")


def main() -> int:
    http_port, grpc_port = (int(text) for text in sys.argv[1:])
    check_http(http_port)
    check_grpc(grpc_port)
    asyncio.run(check_grpc_aio(grpc_port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
