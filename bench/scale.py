"""The operator at size: `python bench/scale.py --models 5000`, on an API server and etcd started for it.

Drives the real operator process with N HybridModels, 4N CompiledModules and 4N control streams; Jobs and Pods are
objects whose status this program plays. Prints a table, or JSON with `--json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from ecompile_operator.kube.client import KubeClient, Manifest
from ecompile_operator.kube.kinds import HYBRIDMODEL, JOB

from bench.scale_fleet import in_parallel, namespaces, populate, template
from devcluster import paths
from devcluster.api import ApiServer, free_ports

ROOT = Path(__file__).parents[1]
SYSTEM = "ecompile-system"
SEGMENTS = 4
PODS = 4
LIMIT_SECONDS = 1800.0


@dataclass
class Figures:
    """What is printed; times in seconds."""

    models: int = 0
    streams: int = 0
    populate_seconds: float = 0.0
    restart_seconds: float = 0.0
    attach_seconds: float = 0.0
    memory_mb: float = 0.0
    memory_peak_mb: float = 0.0
    memory_with_streams_mb: float = 0.0
    idle_cpu_percent: float = 0.0
    idle_cpu_with_streams_percent: float = 0.0
    idle_writes: float = 0.0
    alone_p50: float = 0.0
    alone_p99: float = 0.0
    burst: int = 0
    burst_p50: float = 0.0
    burst_p99: float = 0.0
    graceful: float = 0.0
    killed: float = 0.0
    notes: list[str] = field(default_factory=list)


GOALS = {
    "memory_mb": "400",
    "memory_with_streams_mb": "400",
    "restart_seconds": "30",
    "idle_cpu_percent": "10",
    "idle_cpu_with_streams_percent": "10",
    "idle_writes": "0",
    "alone_p99": "1",
    "burst_p99": "5",
    "graceful": "5",
    "killed": "20",
}


class OperatorProcess:
    """One operator process and what it says of itself."""

    def __init__(self, server: ApiServer, name: str, log: Path) -> None:
        self.metrics_port, self.control_port = free_ports(2)
        self.started_at = time.monotonic()
        self.name = name
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ecompile_operator"],
                env={
                    **os.environ,
                    "KUBECONFIG": str(server.kubeconfig),
                    "PYTHONPATH": f"{ROOT / 'crds'}:{ROOT / 'operator'}",
                    "POD_NAME": name,
                    "ECO_NAMESPACE": SYSTEM,
                    # What the template was made with, so that Deployments are as they should be.
                    "ECO_WORKER_IMAGE": "worker:1",
                    "ECO_CONTROL_PORT": str(self.control_port),
                    "ECO_METRICS_PORT": str(self.metrics_port),
                    "ECO_HEALTH_PORT": "0",
                    "ECO_LOG_LEVEL": "WARNING",
                },
                stdout=sink,
                stderr=sink,
            )

    def metric(self, name: str, *labels: str) -> float:
        """Sum of a metric's samples with these labels (`name="value"`); 0 where it is not there yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0.0
        values = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        wanted = [(key, value) for key, value in values if key.split("{")[0] == name]
        return sum(float(value) for key, value in wanted if all(label in key for label in labels))

    def writes(self) -> float:
        """Requests so far that change something. Not counted: the Lease, and questions about tokens."""
        return sum(
            self.metric("ecompile_api_requests_total", f'verb="{verb}"')
            - self.metric("ecompile_api_requests_total", f'verb="{verb}"', 'resource="leases"')
            - self.metric("ecompile_api_requests_total", f'verb="{verb}"', 'resource="tokenreviews"')
            for verb in ("create", "update", "patch", "delete")
        )

    def memory_mb(self, what: str = "VmRSS") -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def cpu_seconds(self) -> float:
        parts = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")

    def until(self, what: str, look: object, *, seconds: float = LIMIT_SECONDS) -> float:
        """Seconds since the start of the process when `look()` first is true."""
        assert callable(look)
        deadline = time.monotonic() + seconds
        while not look():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"bench: {self.name}: {what} did not come within {seconds:.0f} s")
            time.sleep(0.1)
        return time.monotonic() - self.started_at

    def settled(self, models: int) -> bool:
        """All models were decided on, and nothing waits."""
        return self.metric("ecompile_models_decided") >= models and self.metric("ecompile_queue_depth") == 0

    def is_standby(self) -> bool:
        """Everything was read; it could lead at once."""
        return self.metric("ecompile_standby_ready") == 1

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def kubectl(server: ApiServer, *arguments: str) -> None:
    command = [str(paths.BIN / "kubectl"), "--kubeconfig", str(server.kubeconfig), *arguments]
    subprocess.run(command, check=True, capture_output=True)


@contextlib.asynccontextmanager
async def client_of(server: ApiServer) -> AsyncIterator[KubeClient]:
    from kubernetes import config as kube_config
    from kubernetes.client import Configuration

    configuration = Configuration()
    kube_config.load_kube_config(config_file=str(server.kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]  # untyped upstream
    async with KubeClient(configuration) as client:
        yield client


async def apply_to_job(client: KubeClient, names: Sequence[str], *, width: int) -> list[float]:
    """Seconds from the creation of each HybridModel to its first Job, by one watch."""
    namespace = "arrivals"
    await namespaces(client, [namespace])
    _, version = await client.list(JOB, namespace)
    sent: dict[str, float] = {}
    took: dict[str, float] = {}

    async def look() -> None:
        watch = client.watch(JOB, namespace, labels="", resource_version=version, timeout_seconds=300)
        async for type_, job in watch:
            if type_ != "ADDED":
                continue
            name = job["metadata"]["labels"]["ecompile.dev/model"]
            took.setdefault(name, time.monotonic() - sent.get(name, time.monotonic()))
            if set(names) <= set(took):
                return

    looking = asyncio.create_task(look())
    await asyncio.sleep(0.2)

    async def one(name: str) -> None:
        sent[name] = time.monotonic()
        await client.create(HYBRIDMODEL, namespace, arrival(namespace, name))
        while width == 1 and name not in took:
            await asyncio.sleep(0.005)

    await in_parallel(names, one, width=width)
    async with asyncio.timeout(LIMIT_SECONDS):
        await looking
    return [took[name] for name in names]


def arrival(namespace: str, name: str) -> Manifest:
    return {
        "apiVersion": HYBRIDMODEL.api_version,
        "kind": HYBRIDMODEL.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "source": {"uri": "file:///artifacts/net.onnx"},
            "calibration": {"uri": "file:///artifacts/data.npz"},
        },
    }


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


@contextlib.contextmanager
def streams_of(server: ApiServer, operator: OperatorProcess, count: int) -> Iterator[None]:
    """Simulated control streams in a process of their own."""
    command = [
        *(sys.executable, str(ROOT / "bench" / "scale_streams.py")),
        *("--kubeconfig", str(server.kubeconfig), "--port", str(operator.control_port), "--count", str(count)),
        *("--key", str(server.directory / "pki" / "sa.key")),
    ]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def idle(operator: OperatorProcess, seconds: float) -> tuple[float, float]:
    """CPU in percent of a core and writes, over a time in which nothing changes; the Lease is not counted."""
    cpu, writes, began = operator.cpu_seconds(), operator.writes(), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return 100 * (operator.cpu_seconds() - cpu) / took, operator.writes() - writes


def fill(server: ApiServer, models: int) -> float:
    """The fleet, written; seconds that it took, 0 where it is there already."""
    definitions = ROOT / "charts/ecompile/files"
    kubectl(server, "apply", "--server-side", "-f", str(definitions))
    kubectl(server, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    found = template(segments=SEGMENTS, pods=PODS)
    began = time.monotonic()

    async def write() -> int:
        async with client_of(server) as client:
            page = await client.request("GET", HYBRIDMODEL.path(None), query={"limit": "1"})
            start = len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))
            await namespaces(client, [SYSTEM])
            if start >= models:
                return 0
            for kind in ("hybridmodels", "compiledmodules"):
                patch = json.dumps([{"op": "remove", "path": "/spec/versions/0/subresources"}])
                kubectl(server, "patch", "crd", f"{kind}.ecompile.dev", "--type=json", "-p", patch)
            await asyncio.sleep(5)  # until the API server serves the definitions as they are now
            for first in range(start, models, 500):
                last = min(first + 500, models)
                await populate(client, found, range(first, last))
                print(f"bench: {last} models written, {time.monotonic() - began:.0f} s", file=sys.stderr)
            kubectl(server, "apply", "--server-side", "--force-conflicts", "-f", str(definitions))
            await asyncio.sleep(5)
            return models - start

    return time.monotonic() - began if asyncio.run(write()) else 0.0


def measure(server: ApiServer, arguments: argparse.Namespace, log: Path) -> Figures:
    figures = Figures(models=arguments.models, burst=arguments.burst)
    figures.populate_seconds = fill(server, arguments.models)
    if arguments.fill_only:
        return figures
    if figures.populate_seconds:
        # The first start finds a new signing key and image settings, and writes what differs; the second is measured.
        first = OperatorProcess(server, "first", log)
        try:
            first.until("first start", functools.partial(first.settled, arguments.models))
            print(f"bench: first start {time.monotonic() - first.started_at:.0f} s", file=sys.stderr)
        finally:
            first.stop()
    run = int(time.time())  # names, so that a server that stays can be measured again
    main = OperatorProcess(server, "main", log)
    other = None
    try:
        figures.restart_seconds = main.until("restart", lambda: main.settled(arguments.models))
        print(f"bench: restart {figures.restart_seconds:.1f} s, writes {main.writes():.0f}", file=sys.stderr)
        figures.memory_mb, figures.memory_peak_mb = main.memory_mb(), main.memory_mb("VmHWM")
        time.sleep(arguments.settle)
        figures.idle_cpu_percent, figures.idle_writes = idle(main, arguments.idle)
        print(f"bench: {figures}", file=sys.stderr)

        async def arrivals() -> None:
            async with client_of(server) as client:
                alone = await apply_to_job(client, [f"alone-{run}-{i}" for i in range(arguments.alone)], width=1)
                burst = await apply_to_job(client, [f"burst-{run}-{i}" for i in range(arguments.burst)], width=32)
                figures.alone_p50, figures.alone_p99 = statistics.median(alone), quantile(alone, 0.99)
                figures.burst_p50, figures.burst_p99 = statistics.median(burst), quantile(burst, 0.99)

        asyncio.run(arrivals())
        print(f"bench: {figures}", file=sys.stderr)
        for how in ("graceful", "killed"):
            other = OperatorProcess(server, f"other-{how}", log)
            other.until("standby", functools.partial(other.is_standby))
            setattr(figures, how, handover(server, main, f"after-{how}-{run}", kill=how == "killed"))
            main, other = other, None
            print(f"bench: {figures}", file=sys.stderr)
            main.until("calm", functools.partial(main.settled, arguments.models))
        if arguments.streams:
            figures.streams = arguments.streams_of or PODS * arguments.models
            began = time.monotonic()
            with streams_of(server, main, figures.streams):
                main.until("streams", lambda: main.metric("ecompile_attached_pods") >= figures.streams)
                figures.attach_seconds = time.monotonic() - began
                main.until("calm", lambda: main.settled(arguments.models))
                time.sleep(arguments.settle)
                figures.memory_with_streams_mb = main.memory_mb()
                cpu, writes = idle(main, arguments.idle)
                figures.idle_cpu_with_streams_percent = cpu
                figures.idle_writes = max(figures.idle_writes, writes)
    finally:
        main.stop()
        if other is not None:
            other.stop()
    return figures


def handover(server: ApiServer, leader: OperatorProcess, name: str, *, kill: bool) -> float:
    """Seconds from the end of the leader to the Job of a model that is created at that moment."""
    leader.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)

    async def wait() -> float:
        async with client_of(server) as client:
            return (await apply_to_job(client, [name], width=1))[0]

    took = asyncio.run(wait())
    leader.process.wait()
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=5000)
    parser.add_argument("--burst", type=int, default=500)
    parser.add_argument("--alone", type=int, default=100)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds over which the calm is measured")
    parser.add_argument("--settle", type=float, default=20.0, help="seconds before it")
    parser.add_argument("--streams-of", type=int, help="control streams; all serving Pods' where not given")
    parser.add_argument("--no-streams", dest="streams", action="store_false")
    parser.add_argument("--directory", type=Path, help="of an API server that stays and keeps its fleet")
    parser.add_argument("--fill-only", action="store_true", help="only write the fleet")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ecompile-bench-")))
        log = scratch / "operator.log"
        if arguments.directory is None:
            server = stack.enter_context(ApiServer(scratch / "api"))
        else:
            server = ApiServer(arguments.directory)
            if not server.kubeconfig.exists():
                server.start()
        try:
            figures = measure(server, arguments, log)
        finally:
            if log.exists():
                print("\n".join(log.read_text().splitlines()[-5:]), file=sys.stderr)
    if arguments.json:
        print(json.dumps(asdict(figures)))
    else:
        print("| what | measured | goal |\n| --- | --- | --- |")
        for name, value in asdict(figures).items():
            if isinstance(value, int | float):
                print(f"| {name.replace('_', ' ')} | {value:.2f} | {GOALS.get(name, '')} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
