"""Configuration files of the node's components, as text. JSON where YAML is read: it is YAML, and quotes itself."""

from __future__ import annotations

import json

from .addresses import DNS_ADDRESS, DOMAIN, NAME, NODE, POD_RANGE
from .packages import CNI_PLUGINS
from .paths import CONFIG, KEYS, STATE

PAUSE_IMAGE = "ecompile.local/pause:1"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
"""In the node's own /run, which the host does not see."""
RECYCLER = CONFIG / "recycler.json"


def write_all() -> None:
    """Write them where `components` expects them."""
    contents = {
        "containerd.toml": containerd(),
        "cni/10-bridge.conflist": cni(),
        "kubelet.json": kubelet(),
        "proxy.json": proxy(),
        "Corefile": corefile(),
        "resolv.conf": "",
        RECYCLER.name: recycler(),
    }
    for name, text in contents.items():
        path = CONFIG / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def containerd() -> str:
    """Its own root, state and socket; snapshotters that need other file systems are off."""
    return f"""version = 2
root = "{STATE}/containerd/root"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{STATE}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE_IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{CONFIG}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def cni() -> str:
    """A bridge with addresses handed out on this node; no masquerading, for there is nowhere else to go."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": "/run/cni-addresses",
            "ranges": [[{"subnet": POD_RANGE}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return _json({"cniVersion": "1.0.0", "name": NAME, "plugins": [bridge, ports]})


def kubelet() -> str:
    """Without systemd, on cgroup v1 or v2, under a cgroup of its own; image garbage is never collected."""
    return _json(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "0.0.0.0",
            "failCgroupV1": False,
            "failSwapOn": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{NAME}",
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(KEYS / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "clusterDomain": DOMAIN,
            "clusterDNS": [DNS_ADDRESS],
            "resolvConf": str(CONFIG / "resolv.conf"),
            "makeIPTablesUtilChains": False,
            "podLogsDir": "/var/log/pods",
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "200Mi"},
            "enforceNodeAllocatable": ["pods"],
            "kubeAPIQPS": 500,
            "kubeAPIBurst": 1000,
            "nodeStatusUpdateFrequency": "10s",
            "nodeStatusReportFrequency": "5m",
            "syncFrequency": "10s",
            "configMapAndSecretChangeDetectionStrategy": "Watch",
            "serializeImagePulls": False,
            "registerNode": True,
            "shutdownGracePeriod": "0s",
        }
    )


def proxy() -> str:
    """iptables mode, in the node's network namespace. Connection tracking limits stay as they are: they are global."""
    return _json(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(CONFIG / "proxy.kubeconfig")},
            "mode": "iptables",
            "clusterCIDR": POD_RANGE,
            "hostnameOverride": NODE,
            "bindAddress": "0.0.0.0",
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "iptables": {"minSyncPeriod": "0s", "localhostNodePorts": False},
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        }
    )


def corefile() -> str:
    """Names of the cluster are answered, all others do not exist: the cluster has no way out."""
    return f"""{DOMAIN}:53 {{
  bind {DNS_ADDRESS}
  errors
  cache 5
  kubernetes {DOMAIN} {{
    kubeconfig {CONFIG}/coredns.kubeconfig
  }}
}}
.:53 {{
  bind {DNS_ADDRESS}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""


def recycler() -> str:
    """The pod that empties a released volume; the controller manager sets which one."""
    container = {
        "name": "empty",
        "image": PAUSE_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["empty", "/volume"],
        "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
    }
    return _json(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "recycler", "namespace": "kube-system"},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "containers": [container],
                "volumes": [{"name": "volume", "hostPath": {"path": "set by the controller manager"}}],
            },
        }
    )


def _json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"
