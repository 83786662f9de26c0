"""`python -m ecompile_operator.selftest`: is the installation whole? Run by `helm test`, in a Pod of its own.

Each check does what a user or a pod would do, and says in a sentence what it found.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from ecompile_crds.control import control_pb2, control_pb2_grpc
from ecompile_crds.names import API_VERSION

from .kube.client import KubeClient, Manifest, find, load_configuration
from .kube.errors import KubeError, NotFound, Refused
from .kube.kinds import HYBRIDMODEL

CALL_SECONDS = 10.0
DECIDED_SECONDS = 60.0
POLL_SECONDS = 0.5
NAME = "ecompile-selftest"


class Broken(Exception):
    """A check failed; the message says what and where to look."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is tested."""

    control_address: str
    metrics_url: str
    namespace: str
    """Where a HybridModel may be made for a moment."""
    authority: bytes
    """PEM of the CA that signed the control stream's certificate."""


def probe(**spec: object) -> Manifest:
    """A HybridModel that asks for nothing: suspended from the start."""
    return {
        "apiVersion": API_VERSION,
        "kind": HYBRIDMODEL.kind,
        "metadata": {"name": NAME},
        "spec": {
            "suspend": True,
            "source": {"uri": "file:///artifacts/none.onnx"},
            "calibration": {"uri": "file:///artifacts/none.npz"},
            **spec,
        },
    }


async def control_stream(target: Target) -> str:
    """A leader answers under its own certificate, and lets nobody in without a token."""
    credentials = grpc.ssl_channel_credentials(root_certificates=target.authority)
    async with grpc.aio.secure_channel(target.control_address, credentials) as channel:
        stub = control_pb2_grpc.ControlStub(channel)
        call = stub.Attach(iter([control_pb2.Report()]), timeout=CALL_SECONDS, wait_for_ready=True)
        try:
            async for _ in call:
                raise Broken(f"control stream {target.control_address}: it let a caller without a token in")
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return "control stream: a leader answers, and refuses callers without a token"
            raise Broken(
                f"control stream {target.control_address}: {error.code().name}: {error.details()}. Does a replica lead "
                "(label ecompile.dev/leader), and does a NetworkPolicy let this Pod in?"
            ) from error
    raise Broken(f"control stream {target.control_address}: it ended without an answer")


async def metrics(target: Target) -> str:
    """The operator's metrics can be scraped."""

    def read() -> str:
        with urllib.request.urlopen(target.metrics_url, timeout=CALL_SECONDS) as answer:
            return str(answer.read().decode())

    try:
        text = await asyncio.to_thread(read)
    except OSError as error:
        raise Broken(f"metrics {target.metrics_url}: {error}. Is port 8080 open to this Pod?") from error
    if "ecompile_leader " not in text:
        raise Broken(f"metrics {target.metrics_url}: ecompile_leader is missing; is this the operator?")
    return "metrics: there"


async def definitions(target: Target, client: KubeClient) -> str:
    """The definitions in the cluster are those of this version: their rules refuse what they should."""
    wrong = probe(rollout={"steps": [{"mode": "canary"}]})
    try:
        await client.create(HYBRIDMODEL, target.namespace, wrong)
    except Refused as error:
        if "first step must be a shadow step" in str(error):
            return "definitions: a rollout without a shadow step is refused"
        raise Broken(f"HybridModel: refused for another reason than expected: {error}") from error
    except KubeError as error:
        raise Broken(f"HybridModel: {error}. Are the CRDs installed (crds.install)?") from error
    await _delete(client, target.namespace)
    raise Broken("HybridModel: a rollout without a shadow step was accepted; upgrade the CRDs (crds.install)")


async def decides(
    target: Target,
    client: KubeClient,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> str:
    """A HybridModel that is made is decided on, and gone when it is deleted."""
    started = clock()
    await _delete(client, target.namespace)
    try:
        await client.create(HYBRIDMODEL, target.namespace, probe())
        while True:
            found = await find(client, HYBRIDMODEL, target.namespace, NAME)
            status = (found or {}).get("status", {})
            if status.get("phase") == "Suspended":
                return f"operator: decided on a HybridModel after {clock() - started:.1f} s"
            if clock() - started > DECIDED_SECONDS:
                raise Broken(
                    f"operator: HybridModel {target.namespace}/{NAME} was not decided on in {DECIDED_SECONDS:.0f} s. "
                    "See the operator's log; is this namespace among watchNamespaces?"
                )
            await sleep(POLL_SECONDS)
    except KubeError as error:
        raise Broken(f"operator: {error}") from error
    finally:
        await _delete(client, target.namespace)


async def _delete(client: KubeClient, namespace: str) -> None:
    try:
        await client.delete(HYBRIDMODEL, namespace, NAME)
    except NotFound:
        return


async def run(target: Target, client: KubeClient, say: Callable[[str], None]) -> int:
    """All checks, also after one that failed. Returns how many failed."""
    failed = 0
    for check in (control_stream(target), metrics(target), definitions(target, client), decides(target, client)):
        try:
            say(f"ok    {await check}")
        except Broken as error:
            failed += 1
            say(f"FAIL  {error}")
    return failed


async def _main() -> int:
    environ = os.environ
    target = Target(
        control_address=environ["ECO_CONTROL_ADDRESS"],
        metrics_url=environ["ECO_METRICS_URL"],
        namespace=environ["ECO_TEST_NAMESPACE"],
        authority=Path(environ["ECO_CA_FILE"]).read_bytes(),
    )
    async with KubeClient(load_configuration()) as client:
        return await run(target, client, lambda text: print(text, flush=True))


def main() -> None:
    """Exit status 0 where every check passed."""
    try:
        failed = asyncio.run(_main())
    except (KeyError, OSError) as error:
        print(f"selftest: {error}; the chart sets the variables and mounts the CA.", file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
