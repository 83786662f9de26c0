"""Simulated control streams for bench/scale.py: a process that attaches every serving Pod of the fleet, over few
connections, with each Pod's own token; reports at the pace that the operator asks for."""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import grpc
from ecompile_crds.control import control_pb2, control_pb2_grpc
from ecompile_crds.names import LABEL_LIFE, LABEL_MODEL, REPORT_PACE_KEY, TLS_SECRET
from ecompile_operator.kube.client import KubeClient, Manifest
from ecompile_operator.kube.kinds import POD, SECRET
from kubernetes import config as kube_config
from kubernetes.client import Configuration

from bench.scale_fleet import TokenSigner

CHANNELS = 16
SYSTEM = "ecompile-system"
ATTACHING = 64
"""Streams that are being opened at a time."""


class Pod:
    """One stream: acknowledges what it is sent, and says that all is well."""

    def __init__(self, manifest: Manifest, token: str) -> None:
        meta = manifest["metadata"]
        self._report = control_pb2.Report(
            namespace=meta["namespace"],
            model=meta["labels"][LABEL_MODEL],
            pod=meta["name"],
            life=meta["labels"][LABEL_LIFE],
        )
        for segment in range(4):
            self._report.counters.add(segment=segment, requests=0)
        self._token = token
        self._pace = 1.0
        self._news = asyncio.Event()

    async def run(self, stub: control_pb2_grpc.ControlStub, opening: asyncio.Semaphore) -> None:
        """Stay attached."""
        while True:
            try:
                await self._attach(stub, opening)
            except grpc.RpcError:
                await asyncio.sleep(random.uniform(0.5, 2.0))

    async def _attach(self, stub: control_pb2_grpc.ControlStub, opening: asyncio.Semaphore) -> None:
        metadata = (("authorization", f"Bearer {self._token}"),)
        async with opening:
            call: Any = stub.Attach(self._reports(), metadata=metadata)  # type: ignore[arg-type]  # stubs know the synchronous API only
            headers = await call.initial_metadata()
        self._pace = float(next((v for k, v in headers or () if k == REPORT_PACE_KEY), "1"))
        async for message in call:
            self._report.acknowledged_generation = message.generation
            self._news.set()

    async def _reports(self) -> AsyncIterator[control_pb2.Report]:
        yield self._report
        await asyncio.sleep(random.uniform(0.0, self._pace))
        while True:
            self._news.clear()
            yield self._report
            try:
                await asyncio.wait_for(self._news.wait(), self._pace)
            except TimeoutError:
                continue


async def main(arguments: argparse.Namespace) -> None:
    configuration = Configuration()
    kube_config.load_kube_config(config_file=arguments.kubeconfig, client_configuration=configuration)  # type: ignore[no-untyped-call]  # untyped upstream
    signer = TokenSigner(arguments.key)
    pods: list[Pod] = []
    async with KubeClient(configuration) as client:
        secret = await client.get(SECRET, SYSTEM, TLS_SECRET)
        accounts = await client.request("GET", "/api/v1/serviceaccounts")
        uids = {a["metadata"]["namespace"]: a["metadata"]["uid"] for a in accounts["items"]}
        async for page in client.pages(POD, None, labels="app.kubernetes.io/component=serving"):
            for pod in page.items:
                meta = pod["metadata"]
                token = signer.sign(
                    namespace=meta["namespace"],
                    account_uid=uids[meta["namespace"]],
                    pod=meta["name"],
                    pod_uid=meta["uid"],
                )
                pods.append(Pod(pod, token))
    authority = base64.b64decode(secret["data"]["ca.crt"])
    credentials = grpc.ssl_channel_credentials(root_certificates=authority)
    options = [("grpc.use_local_subchannel_pool", 1)]
    stubs = [
        control_pb2_grpc.ControlStub(grpc.aio.secure_channel(f"localhost:{arguments.port}", credentials, options))
        for _ in range(CHANNELS)
    ]
    opening = asyncio.Semaphore(ATTACHING)
    chosen = pods[: arguments.count]
    print(f"bench: {len(chosen)} streams to open", file=sys.stderr)
    tasks = [asyncio.create_task(pod.run(stubs[i % CHANNELS], opening)) for i, pod in enumerate(chosen)]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--key", type=Path, required=True)
    asyncio.run(main(parser.parse_args()))
