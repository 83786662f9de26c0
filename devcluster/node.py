"""The whole cluster: up, down, and what is in between. Everything of it lives in namespaces of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import cgroups, configuration, images, namespaces, network, pki, teardown, volumes
from .addresses import KUBERNETES_SERVICE, NAME, NODE, NODE_ADDRESS, SERVER
from .console import DevclusterError, run, say
from .init import HIDDEN
from .kubeconfig import Users
from .lock import exclusive
from .packages import SYSTEM_PATH
from .paths import BIN, CACHE, CONFIG, KEYS, KUBECONFIG, LOGS, PAUSED, PID_FILE, STATE
from .readiness import api_answers, wait_until

START_SECONDS = 120
"""A cluster that is not up by then will not come up; on a quiet machine it takes less than ten seconds."""
API_SECONDS = 60
API_COMPONENT = "kube-apiserver"


def require_root() -> None:
    """Raises DevclusterError where a cluster cannot run here."""
    if sys.platform != "linux":
        raise DevclusterError("the development cluster needs Linux; elsewhere use kind.")
    if os.geteuid() != 0:
        raise DevclusterError(
            "the development cluster needs root, for namespaces and control groups: run this with sudo, or use kind."
        )
    for directory in (STATE, CACHE):
        if any(directory.is_relative_to(hidden) for hidden in HIDDEN):
            raise DevclusterError(f"{directory} cannot be used: the node has its own {', '.join(HIDDEN)}.")


def is_running() -> bool:
    """Whether the node's process 1 is there."""
    outermost = teardown.node_process()
    return outermost is not None and teardown.init_process(outermost) is not None


def ready() -> bool:
    """Whether the API server answers."""
    return api_answers(SERVER, KEYS / "ca.crt")


def up() -> None:
    """Start the cluster, or say that it is up already.

    Raises DevclusterError where it does not come up; then nothing of it is left but its logs.
    """
    require_root()
    with exclusive(NAME):
        _check_ours()
        if is_running() and _comes_back():
            say(f"the cluster is up already; KUBECONFIG={KUBECONFIG}")
            return
        teardown.tear_down()
        try:
            _start()
        except BaseException:
            teardown.tear_down(keep_logs=True)
            raise
    say(f"up; KUBECONFIG={KUBECONFIG}")


def down() -> None:
    """End everything and leave nothing behind."""
    require_root()
    with exclusive(NAME):
        _check_ours()
        say("ending the cluster" if is_running() else "no cluster is running; removing what is left of one")
        teardown.tear_down()
    say("down; nothing of the cluster is left")


def _check_ours() -> None:
    """What is about to be killed and deleted must be this cluster's.

    Raises DevclusterError where it is not.
    """
    network.check_owner()
    if STATE.exists() and any(STATE.iterdir()) and not KEYS.is_dir() and not LOGS.is_dir():
        raise DevclusterError(f"{STATE} has files in it that are not a cluster's; set ECO_CLUSTER_DIR to an empty one.")


def _comes_back() -> bool:
    """Whether a running node's API server answers, or does so when it is not paused any more."""
    if ready():
        return True
    try:
        resume_api()
    except DevclusterError as error:
        say(f"{error} Starting anew.")
        return False
    return True


def _start() -> None:
    _write_files()
    cgroups.make()
    if not network.NAMESPACES_MOUNT.is_mount():
        teardown.MADE_NETNS_MOUNT.touch()
    network.make()
    say("starting containerd, etcd, API server, controller manager, scheduler, kubelet, kube-proxy, CoreDNS")
    process = _spawn()
    PID_FILE.write_text(f"{process.pid}\n")
    with ThreadPoolExecutor(max_workers=1) as pool:
        importing = pool.submit(images.load_all, gone=lambda: process.poll() is not None)
        _wait(process, "API server", ready)
        _wait(process, "node", _node_ready)
        kubectl("apply", "--server-side", "-f", "-", stdin=volumes.manifests())
        _wait(process, "default service account", _service_account)
        say(f"{importing.result()} images imported")


def _write_files() -> None:
    for directory in (CONFIG, LOGS, PAUSED, STATE / "etcd", STATE / "kubelet", STATE / "containerd"):
        directory.mkdir(parents=True, exist_ok=True)
    pki.make_all(KEYS, addresses=["127.0.0.1", NODE_ADDRESS, KUBERNETES_SERVICE])
    users = Users(KEYS, SERVER)
    users.add(KUBECONFIG, "admin", "system:masters")
    users.add(CONFIG / "controller-manager.kubeconfig", "system:kube-controller-manager")
    users.add(CONFIG / "scheduler.kubeconfig", "system:kube-scheduler")
    users.add(CONFIG / "kubelet.kubeconfig", f"system:node:{NODE}", "system:nodes")
    users.add(CONFIG / "proxy.kubeconfig", "system:kube-proxy")
    users.add(CONFIG / "coredns.kubeconfig", "coredns", "system:masters")
    configuration.write_all()
    volumes.make_directories()


def _spawn() -> subprocess.Popen[bytes]:
    """Start process 1. Its parent, `unshare`, is outside the PID namespace and ends with it."""
    namespaces = ["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    env = {
        "PATH": SYSTEM_PATH,
        "HOME": str(Path.home()),  # names and addresses depend on it
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "ECO_CACHE_DIR": str(CACHE),
        "ECO_CLUSTER_DIR": str(STATE),
    }
    with (LOGS / "init.log").open("ab") as log:
        return subprocess.Popen(
            [
                *("nsenter", f"--net={network.NAMESPACE}", "unshare", *namespaces),
                *(sys.executable, "-m", "devcluster.init"),
            ],
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes], what: str, condition: Callable[[], bool]) -> None:
    def holds() -> bool:
        if process.poll() is not None:
            raise DevclusterError(f"the node ended while waiting for the {what}; its logs are in {LOGS}.")
        return condition()

    wait_until(
        holds,
        seconds=START_SECONDS,
        otherwise=lambda: f"the {what} was not ready after {START_SECONDS} s; the logs are in {LOGS}.",
    )
    say(f"{what} ready")


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run kubectl against this cluster."""
    command = [BIN / "kubectl", "--kubeconfig", KUBECONFIG, *arguments]
    return run(command, what=f"kubectl {arguments[0]}", stdin=stdin)


def inside(command: Sequence[str | Path], *, what: str) -> str:
    """Run a command in the node's namespaces and return its output."""
    return namespaces.capture(command, what=what)


def _node_ready() -> bool:
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    with contextlib.suppress(DevclusterError):
        return kubectl("get", "node", NODE, "-o", path) == "True"
    return False


def _service_account() -> bool:
    with contextlib.suppress(DevclusterError):
        kubectl("get", "serviceaccount", "default")
        return True
    return False


def pause_api() -> None:
    """Kill the API server, keep all else, until `resume_api`: a fault for tests. Returns once it is gone."""
    namespaces.require_running()
    (PAUSED / API_COMPONENT).touch()
    wait_until(lambda: not ready(), seconds=API_SECONDS, otherwise=lambda: "the API server does not end.")


def resume_api() -> None:
    """Have the API server started again, and wait until it answers."""
    namespaces.require_running()
    (PAUSED / API_COMPONENT).unlink(missing_ok=True)
    log = LOGS / f"{API_COMPONENT}.log"
    wait_until(ready, seconds=API_SECONDS, otherwise=lambda: f"the API server did not come back; see {log}.")
