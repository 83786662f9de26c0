"""The command line of every component, for the whole cluster and for an API server alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .addresses import API_PORT, NODE, NODE_ADDRESS, SERVICE_RANGE
from .configuration import RECYCLER
from .paths import BIN, CONFIG, KEYS, STATE

ETCD_PORT, ETCD_PEER_PORT = 2379, 2380


@dataclass(frozen=True)
class Component:
    """One process of the cluster. Those that need the API are started once it answers."""

    name: str
    command: list[str]
    needs_api: bool = True


def etcd(data: Path, *, port: int, peer_port: int) -> Component:
    """Without fsync: the data is thrown away at the end anyway, and starting takes half the time."""
    command = [
        *(str(BIN / "etcd"), "--data-dir", str(data), "--unsafe-no-fsync", "--log-level", "warn"),
        *("--listen-client-urls", f"http://127.0.0.1:{port}"),
        *("--advertise-client-urls", f"http://127.0.0.1:{port}"),
        *("--listen-peer-urls", f"http://127.0.0.1:{peer_port}"),
        *("--auto-compaction-retention", "1h"),
    ]
    return Component("etcd", command, needs_api=False)


def api_server(keys: Path, *, etcd_port: int, port: int, bind: str, services: str, more: list[str]) -> Component:
    """Admission plugins are the default ones, and `more`. Tokens for any audience can be asked for and reviewed."""
    command = [
        str(BIN / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--secure-port={port}",
        f"--bind-address={bind}",
        f"--service-cluster-ip-range={services}",
        f"--tls-cert-file={keys}/server.crt",
        f"--tls-private-key-file={keys}/server.key",
        f"--client-ca-file={keys}/ca.crt",
        f"--token-auth-file={keys}/tokens.csv",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys}/sa.key",
        f"--service-account-signing-key-file={keys}/sa.key",
        "--profiling=false",
        *more,
    ]
    return Component("kube-apiserver", command, needs_api=False)


def cluster() -> list[Component]:
    """Everything that the node runs, in the order in which it is started."""
    server = api_server(
        KEYS,
        etcd_port=ETCD_PORT,
        port=API_PORT,
        bind="0.0.0.0",
        services=SERVICE_RANGE,
        more=[
            f"--advertise-address={NODE_ADDRESS}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--kubelet-client-certificate={KEYS}/kubelet-client.crt",
            f"--kubelet-client-key={KEYS}/kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
        ],
    )
    alone = ["--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false"]
    return [
        Component("containerd", ["containerd", "-c", f"{CONFIG}/containerd.toml"], needs_api=False),
        etcd(STATE / "etcd", port=ETCD_PORT, peer_port=ETCD_PEER_PORT),
        server,
        Component(
            "kube-controller-manager",
            [
                *(
                    f"{BIN}/kube-controller-manager",
                    f"--kubeconfig={CONFIG}/controller-manager.kubeconfig",
                    *alone,
                ),
                *("--use-service-account-credentials", "--kube-api-qps=500", "--kube-api-burst=1000"),
                *(f"--root-ca-file={KEYS}/ca.crt", f"--service-account-private-key-file={KEYS}/sa.key"),
                f"--pv-recycler-pod-template-filepath-hostpath={RECYCLER}",
            ],
        ),
        Component("kube-scheduler", [f"{BIN}/kube-scheduler", f"--kubeconfig={CONFIG}/scheduler.kubeconfig", *alone]),
        Component(
            "kubelet",
            [
                *(
                    f"{BIN}/kubelet",
                    f"--config={CONFIG}/kubelet.json",
                    f"--kubeconfig={CONFIG}/kubelet.kubeconfig",
                ),
                *(f"--hostname-override={NODE}", f"--node-ip={NODE_ADDRESS}"),
                *(f"--root-dir={STATE}/kubelet", f"--cert-dir={STATE}/kubelet/pki"),
            ],
        ),
        Component("kube-proxy", [f"{BIN}/kube-proxy", f"--config={CONFIG}/proxy.json"]),
        Component("coredns", [f"{BIN}/coredns", "-conf", f"{CONFIG}/Corefile"]),
    ]
