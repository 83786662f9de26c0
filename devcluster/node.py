"""The whole cluster: up, down, and what is in between. Everything of it lives in namespaces of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from . import files, paths, pki
from .console import DevclusterError, run, say
from .paths import NAME, STATE

PID_FILE = STATE / "pid"
STOP_APISERVER = STATE / "stop-apiserver"
START_SECONDS = 90
"""A cluster that is not up by then will not come up; on a quiet machine it takes about ten seconds."""
VOLUMES = 8
HOST_LINK = f"{NAME[:8]}-host"


def require_root() -> None:
    """Raises DevclusterError where a cluster cannot run here."""
    if sys.platform != "linux":
        raise DevclusterError("the development cluster needs Linux; elsewhere use `make demo CLUSTER=kind`.")
    if os.geteuid() != 0:
        raise DevclusterError(
            "the development cluster needs root (namespaces, cgroups); run this with sudo, or use kind."
        )


def pid() -> int | None:
    """Process of the node as the host sees it, if it runs."""
    try:
        number = int(PID_FILE.read_text())
        command = Path(f"/proc/{number}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return number if b"node.sh" in command else None


def up() -> None:
    """Start the cluster, or say that it runs already.

    Raises DevclusterError where it does not come up; then nothing of it is left running.
    """
    require_root()
    if pid() is not None and ready():
        say(f"the cluster is up already; KUBECONFIG={paths.KUBECONFIG}")
        return
    clean_up(quiet=True)
    _write_files()
    _make_cgroups()
    _make_network()
    say("starting etcd, API server, controller manager, scheduler, kubelet, containerd, kube-proxy, CoreDNS")
    node = _start()
    PID_FILE.write_text(str(node.pid))
    try:
        _wait(node, "API server", ready)
        _wait(node, "node", _node_ready)
        _kubectl_apply(files.volumes(paths.VOLUMES, VOLUMES))
        _wait(node, "images", (STATE / "images-imported").exists)
        _wait(node, "default service account", _service_account)
    except DevclusterError:
        clean_up(quiet=True, keep_logs=True)
        raise
    say(f"up; KUBECONFIG={paths.KUBECONFIG}")


def _write_files() -> None:
    for directory in ("pki", "log", "cni", "etcd", "containerd", "kubelet"):
        (STATE / directory).mkdir(parents=True, exist_ok=True)
    STATE.chmod(0o755)
    pki.make_all(STATE / "pki", addresses=["127.0.0.1", paths.NODE_ADDRESS, paths.KUBERNETES_SERVICE])
    tokens = pki.Tokens(STATE / "pki", f"https://{paths.NODE_ADDRESS}:6443")
    tokens.kubeconfig(paths.KUBECONFIG, "admin", "system:masters")
    tokens.kubeconfig(STATE / "controller-manager.conf", "system:kube-controller-manager")
    tokens.kubeconfig(STATE / "scheduler.conf", "system:kube-scheduler")
    tokens.kubeconfig(STATE / "kubelet.conf", f"system:node:{paths.NODE}", "system:nodes")
    tokens.kubeconfig(STATE / "proxy.conf", "system:kube-proxy")
    tokens.kubeconfig(STATE / "coredns.conf", "coredns", "system:masters")
    (STATE / "containerd.toml").write_text(files.containerd(STATE))
    (STATE / "cni" / "10-bridge.conflist").write_text(files.cni())
    (STATE / "resolv.conf").write_text("")
    (STATE / "kubelet.yaml").write_text(files.kubelet(STATE))
    (STATE / "proxy.yaml").write_text(files.proxy(STATE))
    (STATE / "Corefile").write_text(files.corefile(STATE))
    for index in range(VOLUMES):
        _volume(f"standard-{index}")
    tiny = _volume("tiny-0")
    run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs", tiny], what="making the tiny volume")


def _volume(name: str) -> Path:
    directory = paths.VOLUMES / name
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)
    return directory


def _hierarchies() -> list[Path]:
    """Mounted cgroup hierarchies in which a group of ours can be made (v1, one each; v2, the root)."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [path for path in sorted(root.iterdir()) if path.is_dir() and (path / "cgroup.procs").exists()]


def _make_cgroups() -> None:
    for hierarchy in _hierarchies():
        group = hierarchy / NAME
        group.mkdir(exist_ok=True)
        if hierarchy.name == "cpuset":
            for name in ("cpus", "mems"):
                (group / f"cpuset.{name}").write_text((hierarchy / f"cpuset.{name}").read_text())


def _make_network() -> None:
    what = "making the cluster's network"
    for command in (
        ["ip", "netns", "add", NAME],
        ["ip", "link", "add", HOST_LINK, "type", "veth", "peer", "name", "eth0", "netns", NAME],
        ["ip", "addr", "add", f"{paths.HOST_ADDRESS}/30", "dev", HOST_LINK],
        ["ip", "link", "set", HOST_LINK, "up"],
        ["ip", "-n", NAME, "link", "set", "lo", "up"],
        ["ip", "-n", NAME, "addr", "add", f"{paths.NODE_ADDRESS}/30", "dev", "eth0"],
        ["ip", "-n", NAME, "link", "set", "eth0", "up"],
        ["ip", "-n", NAME, "route", "add", "default", "via", paths.HOST_ADDRESS],
        ["ip", "route", "add", paths.SERVICE_RANGE, "via", paths.NODE_ADDRESS],
        ["ip", "route", "add", paths.POD_RANGE, "via", paths.NODE_ADDRESS],
    ):
        run(command, what=what)


def _start() -> subprocess.Popen[bytes]:
    script = Path(__file__).parent / "node.sh"
    env = {
        **os.environ,
        "STATE": str(STATE),
        "BIN": str(paths.BIN),
        "IMAGES": str(paths.IMAGES),
        "NAME": NAME,
        "NODE": paths.NODE,
        "NODE_ADDRESS": paths.NODE_ADDRESS,
        "SERVICE_RANGE": paths.SERVICE_RANGE,
        "DNS_ADDRESS": paths.DNS_ADDRESS,
    }
    command = ["nsenter", f"--net=/run/netns/{NAME}", "unshare", "-m", "-p", "-u", "-i", "--fork", "--kill-child"]
    with (STATE / "log" / "node.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--mount-proc", "bash", str(script)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait(node: subprocess.Popen[bytes], what: str, condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if node.poll() is not None:
            raise DevclusterError(f"the node ended while waiting for the {what}; its logs are in {paths.LOGS}.")
        if time.monotonic() > deadline:
            raise DevclusterError(f"the {what} was not ready after {START_SECONDS} s; see the logs in {paths.LOGS}.")
        time.sleep(0.1)
    say(f"{what} ready")


def ready() -> bool:
    """Whether the API server answers."""
    return api_answers(f"https://{paths.NODE_ADDRESS}:6443", STATE / "pki" / "ca.crt")


def api_answers(server: str, ca: Path) -> bool:
    """Whether an API server says that it is ready."""
    try:
        context = ssl.create_default_context(cafile=str(ca))
        with urllib.request.urlopen(f"{server}/readyz", context=context, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run kubectl against this cluster."""
    command = [paths.BIN / "kubectl", "--kubeconfig", paths.KUBECONFIG, *arguments]
    return run(command, what=f"kubectl {arguments[0]}", stdin=stdin)


def _kubectl_apply(text: str) -> None:
    kubectl("apply", "--server-side", "-f", "-", stdin=text)


def _node_ready() -> bool:
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    try:
        return kubectl("get", "node", paths.NODE, "-o", path) == "True"
    except DevclusterError:
        return False


def _service_account() -> bool:
    with contextlib.suppress(DevclusterError):
        kubectl("get", "serviceaccount", "default")
        return True
    return False


def down() -> None:
    """End everything and leave nothing behind."""
    require_root()
    clean_up(quiet=False)


def clean_up(*, quiet: bool, keep_logs: bool = False) -> None:
    """Kill what runs, remove mounts, network and cgroups, whatever state a killed cluster left them in."""
    running = pid()
    if running is not None:
        if not quiet:
            say("stopping the cluster")
        _kill_tree(running)
    _kill_members()
    subprocess.run(["ip", "netns", "del", NAME], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", HOST_LINK], capture_output=True, check=False)
    _unmount(STATE)
    _remove_cgroups()
    if STATE.exists():
        for entry in STATE.iterdir():
            if keep_logs and entry.name == "log":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        if not keep_logs:
            shutil.rmtree(STATE, ignore_errors=True)
    if not quiet:
        say("down; nothing of the cluster is left")


def _kill_tree(number: int) -> None:
    """Kill the node's first process; `--kill-child` and the PID namespace take the rest with it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{number}").exists() and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(number, os.WNOHANG)
        if Path(f"/proc/{number}/stat").exists():
            fields = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)
            if fields[1].split()[0] == "Z":
                return
        time.sleep(0.05)


def _kill_members() -> None:
    """Kill every process that is still in one of our cgroups."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        members: set[int] = set()
        for hierarchy in _hierarchies():
            for listing in (hierarchy / NAME).rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    members.update(int(line) for line in listing.read_text().split() if int(line) > 0)
        members.discard(os.getpid())
        if not members:
            return
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        time.sleep(0.1)


def _unmount(root: Path) -> None:
    for _ in range(5):
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        ours = [m for m in mounts if m == str(root) or m.startswith(f"{root}/")]
        if not ours:
            return
        for mount in reversed(ours):
            subprocess.run(["umount", "-l", mount], capture_output=True, check=False)


def _remove_cgroups() -> None:
    deadline = time.monotonic() + 10
    for hierarchy in _hierarchies():
        group = hierarchy / NAME
        while group.exists() and time.monotonic() < deadline:
            for directory in sorted((p for p in group.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
                with contextlib.suppress(OSError):
                    directory.rmdir()
            with contextlib.suppress(OSError):
                group.rmdir()
            if group.exists():
                time.sleep(0.1)


def pause_api() -> None:
    """Stop the API server until `resume_api`: a fault for tests."""
    STOP_APISERVER.touch()
    subprocess.run(["pkill", "-9", "-f", f"{paths.BIN}/kube-apiserver "], check=False)


def resume_api() -> None:
    """Let the API server start again, and wait for it."""
    STOP_APISERVER.unlink(missing_ok=True)
    deadline = time.monotonic() + 60
    while not ready():
        if time.monotonic() > deadline:
            raise DevclusterError(f"the API server did not come back; see {paths.LOGS}/kube-apiserver.log.")
        time.sleep(0.1)


def inside(command: list[str | Path], *, what: str, stdin: str | None = None) -> str:
    """Run a command in the node's namespaces."""
    outer = pid()
    if outer is None:
        raise DevclusterError("no cluster is running; start one with `make cluster-up`.")
    children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    enter = ["nsenter", "-t", children[0] if children else str(outer), "-m", "-n", "-p", "-u", "-i", "--"]
    return run([*enter, *command], what=what, stdin=stdin)
